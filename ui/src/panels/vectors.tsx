import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { remove, upload } from "../api";
import { refreshVectors } from "../data";
import { type Item, layersOf, OPERATIONS, type Operation, POSITIONS, VALUE_OF } from "../plan";
import { analyses, changeItem, colour, describe, focus, items, jobs, layerCount, vectors } from "../state";
import { Progress } from "./dialog";
import { NumberField } from "./field";
import { Sweep } from "./sweep";
import { Track } from "./track";

/** The left column. */
export function Vectors(props: { extract: () => void }): JSX.Element {
  return (
    <section class="vectors" aria-labelledby="vectors-title">
      <header>
        <h2 id="vectors-title">Directions</h2>
        <button type="button" class="small" onClick={props.extract}>New direction</button>
      </header>
      <p class="lead">A direction is what differs inside the model between two kinds of text. Push along it, and the model writes more like one of them. Blue on a slider: how far that goes before the rest of its writing suffers.</p>
      {items.value.length === 0 && (
        <div class="empty">
          <p><strong>No directions yet.</strong> Write a few sentences of one kind, and a few of the opposite. The difference is your first direction.</p>
          <button type="button" class="primary" onClick={props.extract}>Make one from examples</button>
        </div>
      )}
      <ul class="cards">{items.value.map((one) => <Card key={one.vector} one={one} />)}</ul>
      <Upload />
    </section>
  );
}

function Card({ one }: { one: Item }): JSX.Element {
  const [sweeping, setSweeping] = useState(false);
  const described = describe(one.vector);
  const analysis = analyses.value[one.vector];
  const under = Object.values(jobs.value).find(
    (job) => job.kind === "sweep" && job.request?.vector === one.vector && (job.status === "running" || job.status === "queued"),
  );
  const change = (more: Partial<Item>) => changeItem(one.vector, more);
  const last = Object.values(jobs.value).filter((job) => job.kind === "sweep" && job.request?.vector === one.vector).at(-1);
  return (
    <li class={`card${one.on ? " on" : ""}`}>
      <div class="top">
        <label class="switch">
          <input type="checkbox" role="switch" checked={one.on} onChange={(event) => change({ on: event.currentTarget.checked })} />
          <span>{one.vector}</span>
        </label>
        <label class="strength">
          <span class="hidden">{`Strength of ${one.vector} as a number`}</span>
          <NumberField step="0.1" value={one.strength} change={(strength) => change({ strength, on: true })} />
        </label>
      </div>
      <Track item={one} analysis={analysis} busy={under ? <Progress job={under} doing="measuring" /> : null} sweep={() => setSweeping(true)} change={(strength) => change({ strength, on: true })} />
      {last?.status === "failed" && <p class="warn" role="alert">It could not be measured: {last.error?.message}</p>}
      <p class="facts">
        {whereOf(one, described?.layer ?? null)}
        {qualityOf(one.vector)}
      </p>
      <details>
        <summary>Layers, tokens, operation, condition</summary>
        <Details one={one} change={change} />
        <div class="row">
          <button type="button" class="small" onClick={() => setSweeping(true)}>Measure the band</button>
          <button type="button" class="small" aria-pressed={colour.value === one.vector} onClick={() => (colour.value = colour.value === one.vector ? null : one.vector)}>Colour tokens</button>
          <button type="button" class="small" onClick={() => (focus.value = one.vector)}>Study in the lab</button>
          <Delete name={one.vector} />
        </div>
      </details>
      {sweeping && <Sweep item={one} close={() => setSweeping(false)} />}
    </li>
  );
}

function whereOf(one: Item, chosen: number | null): string {
  if (one.layers.trim()) return `At layer ${one.layers}`;
  return chosen === null ? "Name a layer below" : `At layer ${chosen}, its own choice`;
}

function qualityOf(name: string): string {
  const described = describe(name);
  const layer = items.value.find((one) => one.vector === name)?.layers.trim() || described?.layer;
  const found = described?.quality?.layers[String(layer)];
  if (!found) return "";
  const percent = (value: number) => `${Math.round(value * 100)}%`;
  const control = found.shuffled == null ? "" : ` (${percent(found.shuffled)} by chance)`;
  return `, where it tells held-out examples apart ${percent(found.accuracy)} of the time${control}`;
}

function Details({ one, change }: { one: Item; change: (more: Partial<Item>) => void }): JSX.Element {
  const most = layerCount.value - 1;
  const bad = one.layers.trim() !== "" && one.layers.trim() !== "all" && !layersOf(one.layers);
  const named = VALUE_OF[one.operation];
  const chosen = describe(one.vector)?.layer;
  return (
    <div class="fields">
      <label>
        <span>Layers, 0 to {most}</span>
        <input
          type="text" inputMode="numeric" value={one.layers} placeholder={chosen == null ? "such as 6 or 6-8" : `${chosen}, or 6-8`} aria-invalid={bad}
          onInput={(event) => change({ layers: event.currentTarget.value })}
        />
      </label>
      <label>
        <span>Tokens</span>
        <select value={one.positions} onChange={(event) => change({ positions: event.currentTarget.value })}>
          <option value="">as usual for the operation</option>
          {Object.entries(POSITIONS).map(([value, text]) => <option key={value} value={value}>{text}</option>)}
        </select>
      </label>
      <label>
        <span>Operation</span>
        <select
          value={one.operation}
          onChange={(event) => {
            const operation = event.currentTarget.value as Operation;
            change({ operation, ...(operation === "ablate" && !one.layers ? { layers: "all" } : {}) });
          }}
        >
          {Object.entries(OPERATIONS).map(([value, text]) => <option key={value} value={value}>{text}</option>)}
        </select>
      </label>
      {named && (
        <label>
          <span>{{ value: "Value of the projection", alpha: "Share of the way, 0 to 1", angle: "Angle to it, in radians" }[named]}</span>
          <NumberField step="0.1" value={one.value} change={(value) => change({ value })} />
        </label>
      )}
      {one.operation === "add" && (
        <label>
          <span>One unit of strength is</span>
          <select value={one.unit} onChange={(event) => change({ unit: event.currentTarget.value as Item["unit"] })}>
            <option value="">the vector as it is stored</option>
            <option value="norm">the length of a usual activation</option>
            <option value="gap">the gap between the examples</option>
          </select>
        </label>
      )}
      <fieldset>
        <legend>
          <label class="check">
            <input
              type="checkbox" checked={one.when !== null}
              onChange={(event) => change({ when: event.currentTarget.checked ? { vector: one.vector, layer: chosen ?? 0, side: "above", value: 0 } : null })}
            />
            <span>Only if the prompt leans a way</span>
          </label>
        </legend>
        {one.when && (
          <div class="fields">
            <label>
              <span>towards</span>
              <select value={one.when.vector} onChange={(event) => change({ when: { ...one.when!, vector: event.currentTarget.value } })}>
                {vectors.value.map((other) => <option key={other.name} value={other.name}>{other.name}</option>)}
              </select>
            </label>
            <label>
              <span>read at layer</span>
              <NumberField min={0} max={most} value={one.when.layer} change={(layer) => change({ when: { ...one.when!, layer: Math.round(layer) } })} />
            </label>
            <label>
              <span>cosine</span>
              <select value={one.when.side} onChange={(event) => change({ when: { ...one.when!, side: event.currentTarget.value as "above" | "below" } })}>
                <option value="above">above</option>
                <option value="below">below</option>
              </select>
            </label>
            <label>
              <span>threshold</span>
              <NumberField step="0.05" value={one.when.value} change={(value) => change({ when: { ...one.when!, value } })} />
            </label>
          </div>
        )}
      </fieldset>
    </div>
  );
}

function Delete({ name }: { name: string }): JSX.Element {
  const [sure, setSure] = useState(false);
  if (!sure) return <button type="button" class="small" onClick={() => setSure(true)}>Delete…</button>;
  return (
    <button
      type="button" class="small danger" onBlur={() => setSure(false)}
      onClick={async () => {
        await remove(`/v1/vectors/${encodeURIComponent(name)}`);
        await refreshVectors();
      }}
    >
      {`Delete ${name} for good`}
    </button>
  );
}

function Upload(): JSX.Element {
  const [said, setSaid] = useState<string | null>(null);
  return (
    <p class="upload">
      <label class="link">
        Open a vector file
        <input
          type="file" accept=".safetensors" class="hidden"
          onChange={async (event) => {
            const file = event.currentTarget.files?.[0];
            event.currentTarget.value = "";
            if (!file) return;
            const name = file.name.replace(/\.safetensors$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "") || "vector";
            try {
              await upload(`/v1/vectors/${name}`, file);
              await refreshVectors(name);
              setSaid(null);
            } catch (error) {
              setSaid(error instanceof Error ? error.message : String(error));
            }
          }}
        />
      </label>
      {said && <span class="warn" role="alert">{said}</span>}
    </p>
  );
}
