import { effect, signal, untracked } from "@preact/signals";
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type Chart, type Job, post, postBlob, Refusal, save } from "../api";
import { draw } from "../charts";
import { watch } from "../data";
import { ABLATION } from "../examples";
import type { Item } from "../plan";
import { analyses, changeItem, describe, focus, focused, items, jobs, layerCount, layerOf, maxKl, mode, prompt, shown, sweepRequests, tab, vectors } from "../state";
import { Progress } from "./dialog";
import { Sweep } from "./sweep";

interface Kind {
  id: string;
  name: string;
  question: string;
  /** What helps to read it. */
  how: string;
}

export const KINDS: Kind[] = [
  { id: "dose", name: "Dose", question: "How strong?", how: "Orange is how far the model moves towards the words below at each strength. It means something where it leaves the grey band: that is what random directions of the same length do. Below is what it costs: how far all other predictions drift." },
  { id: "map", name: "Layers", question: "Which layer?", how: "Each cell is one layer and strength. Press a cell to use that setting. A strong effect at a low cost beats the strongest effect." },
  { id: "tokens", name: "Tokens", question: "Where in the text does it show?", how: "The steered text, read back by the unsteered model: how far each token leans along the direction. The first token is an outlier in most models and sets no colours." },
  { id: "lens", name: "Words", question: "Which words does it write?", how: "The direction sent straight to the vocabulary. Bars that do not reach the dashed line are no more than a random direction would do." },
  { id: "geometry", name: "Geometry", question: "Are the examples apart?", how: "Every example this direction came from, in the plane in which they vary most. Move the layer: the two kinds should come apart." },
  { id: "probes", name: "Probes", question: "Where does the model know?", how: "A linear probe tries to tell held-out examples apart at each layer. Only what lies above the shuffled labels is knowledge." },
  { id: "cosines", name: "Likeness", question: "Are two directions the same?", how: "Cosines between all directions. Two that are alike cannot be steered apart; near zero is what chance gives." },
  { id: "heads", name: "Heads", question: "Which heads matter?", how: "Each attention head is switched off in turn; colour is how much of the answer is lost. Far from all others is what counts." },
];

interface Found {
  chart: Chart | null;
  error: string | null;
  code: string | null;
  busy: boolean;
  path: string;
  body: Record<string, unknown>;
}

const found = signal<Found>({ chart: null, error: null, code: null, busy: false, path: "", body: {} });
const labLayer = signal<number | null>(null);
const ablation = signal<string | null>(null);
const value = signal<"effect" | "kl">("effect");

const layer = (): number | null => {
  if (labLayer.value !== null) return labLayer.value;
  const own = items.value.find((one) => one.vector === focused.value);
  const there = describe(focused.value)?.layers ?? [];
  return (own && layerOf(own)) ?? there[Math.floor(there.length / 2)] ?? null;
};

/** What a chart is asked for; null when there is nothing to ask. */
function question(): [string, Record<string, unknown>] | null {
  const vector = focused.value;
  const sweep = vector ? analyses.value[vector]?.bands[0] : undefined;
  if (tab.value === "cosines") return vectors.value.length ? ["cosines", { layer: layer() }] : null;
  if (tab.value === "heads") return ablation.value ? ["heads", { ablation: ablation.value }] : null;
  if (!vector) return null;
  if (tab.value === "dose") {
    const swept = analyses.value[vector]?.bands.map((band) => band.layer) ?? [];
    const at = layer();
    return sweep ? ["dose-response", { vector, max_kl: maxKl.value, ...(at !== null && swept.includes(at) ? { layer: at } : { layer: swept[0] }) }] : null;
  }
  if (tab.value === "map") return sweep ? ["heatmap", { vector, max_kl: maxKl.value, value: value.value }] : null;
  if (tab.value === "tokens") {
    const text = shown.value[1].state === "done" ? shown.value[1].text : "";
    const read = mode.value === "text"
      ? { text: prompt.value + text }
      : { messages: [{ role: "user", content: prompt.value }, ...(text ? [{ role: "assistant", content: text }] : [])] };
    return prompt.value && text ? ["token-projections", { vector, layer: layer(), ...read }] : null;
  }
  if (["probes", "geometry"].includes(tab.value) && !analyses.value[vector]?.has_pairs) return null;
  if (tab.value === "probes") return ["probes", { vector }];
  if (tab.value === "geometry") return ["geometry", { vector, layer: layer() }];
  return ["lens", { vector, layer: layer(), k: 12 }];
}

let asked = "";
let control: AbortController | null = null;
let started = false;

/** Ask for the chart that the lab shows, whenever what it depends on has changed. */
export function keepCharting(): void {
  if (started) return;
  started = true;
  let timer: ReturnType<typeof setTimeout> | undefined;
  effect(() => {
    const wanted = question();
    // another sweep of the same vector is another chart of the same request
    const sweep = focused.value ? analyses.value[focused.value]?.sweeps[0] : null;
    const key = JSON.stringify([wanted, sweep]);
    clearTimeout(timer);
    if (key === asked) return;
    timer = setTimeout(() => void untracked(() => fetchChart(wanted, key)), 150);
  });
}

async function fetchChart(wanted: ReturnType<typeof question>, key: string): Promise<void> {
  asked = key;
  control?.abort();
  if (!wanted) {
    found.value = { chart: null, error: null, code: null, busy: false, path: "", body: {} };
    return;
  }
  control = new AbortController();
  const path = `/v1/charts/${wanted[0]}`;
  const same = found.value.path === path;
  found.value = { ...(same ? found.value : { chart: null }), error: null, code: null, busy: true, path, body: wanted[1] };
  try {
    const chart = await post<Chart>(path, wanted[1], control.signal);
    found.value = { chart, error: null, code: null, busy: false, path, body: wanted[1] };
  } catch (error) {
    if ((error as Error).name === "AbortError") return;
    const message = error instanceof Error ? error.message : String(error);
    found.value = { chart: null, error: message, code: error instanceof Refusal ? error.code : null, busy: false, path, body: wanted[1] };
  }
}

/** Below: eight charts, each for a decision. */
export function Lab(): JSX.Element {
  useEffect(keepCharting, []);
  const kind = KINDS.find((one) => one.id === tab.value) ?? KINDS[0]!;
  const move = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? KINDS.length - 1 : by === undefined ? null : (KINDS.indexOf(kind) + by + KINDS.length) % KINDS.length;
    if (to === null) return;
    event.preventDefault();
    tab.value = KINDS[to]!.id;
    document.getElementById(`tab-${KINDS[to]!.id}`)?.focus();
  };
  return (
    <section class="lab" aria-labelledby="lab-title">
      <header>
        <h2 id="lab-title">The lab</h2>
        {vectors.value.length > 0 && (
          <label>
            <span>about</span>
            <select value={focused.value ?? ""} onChange={(event) => { focus.value = event.currentTarget.value; labLayer.value = null; }}>
              {vectors.value.map((one) => <option key={one.name} value={one.name}>{one.name}</option>)}
            </select>
          </label>
        )}
      </header>
      <div class="tabs" role="tablist" aria-label="Charts" onKeyDown={move}>
        {KINDS.map((one) => (
          <button key={one.id} type="button" role="tab" id={`tab-${one.id}`} aria-selected={one === kind} aria-controls="lab-panel" tabIndex={one === kind ? 0 : -1} onClick={() => (tab.value = one.id)}>{one.name}</button>
        ))}
      </div>
      <div class="panel" role="tabpanel" id="lab-panel" aria-labelledby={`tab-${kind.id}`} aria-busy={found.value.busy}>
        <div class="words">
          <h3>{kind.question}</h3>
          <p>{kind.how}</p>
          {["dose", "map"].includes(kind.id) && <Words />}
          <Controls kind={kind.id} />
          <Save kind={kind.id} />
        </div>
        <figure>
          <Drawn kind={kind.id} />
        </figure>
      </div>
    </section>
  );
}

/** The words whose log-probability a sweep measured. */
function Words(): JSX.Element | null {
  const request = sweepRequests.value[analyses.value[focused.value ?? ""]?.sweeps[0] ?? ""];
  if (!found.value.chart || !request) return null;
  const listed = (words: string[]) => words.map((word) => word.trim()).join(", ");
  return <p class="soft named">Towards {listed(request.positive)}; away from {listed(request.negative)}.</p>;
}

function Drawn({ kind }: { kind: string }): JSX.Element {
  const { chart, error, busy, code } = found.value;
  if (error && code !== "not_measured") return <p class="warn" role="alert">{error}</p>;
  if (!chart) return busy ? <p class="empty soft" role="status">Reading…</p> : <Nothing kind={kind} />;
  const pick = kind === "map" ? (i: number, j: number) => use(chart, i, j) : undefined;
  return (
    <>
      <figcaption>{String(chart.arguments.title ?? "")}{chart.arguments.subtitle ? <small>{chart.arguments.subtitle}</small> : null}</figcaption>
      {draw(chart, pick)}
    </>
  );
}

/** Set what a cell of the map says. */
function use(chart: Chart, i: number, j: number): void {
  const name = focused.value;
  const sweep = name ? analyses.value[name]?.bands[0]?.sweep : undefined;
  if (!name || !sweep) return;
  const request = sweepRequests.value[sweep] ?? {};
  const more: Partial<Item> = {
    on: true, layers: String(chart.arguments.rows[i]), strength: Number(chart.arguments.columns[j]),
    operation: request.operation ?? "add", positions: request.positions ?? "", unit: request.unit ?? "", when: null,
  };
  labLayer.value = null;
  changeItem(name, more);
}

function Nothing({ kind }: { kind: string }): JSX.Element {
  const [sweeping, setSweeping] = useState(false);
  const one = items.value.find((item) => item.vector === focused.value);
  const under = Object.values(jobs.value).find((job) => job.kind === "sweep" && job.request?.vector === one?.vector && ["queued", "running"].includes(job.status));
  if (kind === "heads") return <Ablation />;
  if (!one) return <p class="empty">Make a direction first; then there is something to study.</p>;
  if (kind === "tokens") return <p class="empty">Run a prompt above; its steered text is shown here token by token.</p>;
  if (under) return <div class="empty"><Progress job={under} doing="measuring" /></div>;
  if (kind === "dose" || kind === "map") {
    return (
      <div class="empty">
        <p><strong>{one.vector} has not been measured yet.</strong> A sweep tries layers and strengths, and compares each with random directions: so you know which setting works, and what it breaks.</p>
        <button type="button" class="primary" onClick={() => setSweeping(true)}>Measure it</button>
        {sweeping && <Sweep item={one} close={() => setSweeping(false)} />}
      </div>
    );
  }
  return <p class="empty">The examples that {one.vector} was made from are not on this server. Make it here, and they are.</p>;
}

function Controls({ kind }: { kind: string }): JSX.Element | null {
  const at = layer();
  const swept = (focused.value && analyses.value[focused.value]?.bands.map((band) => band.layer)) || [];
  const choices = kind === "dose" ? swept : Array.from({ length: layerCount.value }, (_, i) => i);
  if (kind === "map") {
    return (
      <label>
        <span>Show</span>
        <select value={value.value} onChange={(event) => (value.value = event.currentTarget.value as "effect" | "kl")}>
          <option value="effect">effect on the named words</option>
          <option value="kl">cost (KL)</option>
        </select>
      </label>
    );
  }
  if (kind === "heads") return ablation.value ? <button type="button" class="small" onClick={() => (ablation.value = null)}>Ask another question</button> : null;
  if (kind === "probes" || !choices.length) return null;
  const index = Math.max(0, choices.indexOf(at ?? -1));
  return (
    <label class="scrub">
      <span>Layer {choices[index]}</span>
      <input type="range" min={0} max={choices.length - 1} step={1} value={index} aria-label="Layer of the chart" aria-valuetext={`layer ${choices[index]}`} onInput={(event) => (labLayer.value = choices[Number(event.currentTarget.value)] ?? null)} />
    </label>
  );
}

function Save({ kind }: { kind: string }): JSX.Element | null {
  const { chart, path, body } = found.value;
  if (!chart) return null;
  return (
    <p class="row">
      <button type="button" class="small" onClick={async () => save(`${kind}.svg`, await postBlob(path, { ...body, format: "svg" }))}>Save figure</button>
      <button type="button" class="small" onClick={() => save(`${kind}.json`, JSON.stringify(chart, null, 2), "application/json")}>Save numbers</button>
    </p>
  );
}

/** Asks for what a study of heads needs. */
function Ablation(): JSX.Element {
  const demo = vectors.value.some((one) => one.model === "demo");
  const [prompts, setPrompts] = useState(demo ? ABLATION.prompts.join("\n") : "");
  const [target, setTarget] = useState(demo ? ABLATION.target.trim() : "");
  const [foil, setFoil] = useState(demo ? ABLATION.foil.trim() : "");
  const [failed, setFailed] = useState<string | null>(null);
  const under = Object.values(jobs.value).find((job) => job.kind === "ablation" && ["queued", "running"].includes(job.status));
  const start = async () => {
    try {
      const asked = prompts.split("\n").map((line) => line.trim()).filter(Boolean);
      const job = await post<Job>("/v1/ablations", { prompts: asked, target: ` ${target.trim()}`, foil: ` ${foil.trim()}`, mode: asked.length > 1 ? "mean" : "zero" });
      setFailed(null);
      watch(job, (ended) => {
        if (ended.status === "succeeded") ablation.value = ended.id;
        else setFailed(ended.error?.message ?? "it was cancelled");
      });
    } catch (error) {
      setFailed(error instanceof Error ? error.message : String(error));
    }
  };
  if (under) return <div class="empty"><Progress job={under} doing="switching off" /></div>;
  return (
    <form class="empty" onSubmit={(event) => { event.preventDefault(); void start(); }}>
      <p><strong>Switch off every attention head in turn</strong>, and see which of them the answer hangs on.</p>
      <label class="wide"><span>Prompts, one a line</span><textarea rows={3} required value={prompts} onInput={(event) => setPrompts(event.currentTarget.value)} /></label>
      <div class="two">
        <label><span>Word that should follow</span><input type="text" required value={target} onInput={(event) => setTarget(event.currentTarget.value)} /></label>
        <label><span>and not</span><input type="text" required value={foil} onInput={(event) => setFoil(event.currentTarget.value)} /></label>
      </div>
      {failed && <p class="warn" role="alert">{failed}</p>}
      <button type="submit" class="primary">Switch them off</button>
    </form>
  );
}
