import { batch } from "@preact/signals";
import type { JSX } from "preact";
import { shades, shown as written } from "../charts/scale";
import { goOn, run, startOver } from "../run";
import { colour, empty, mode, model, presets, prompt, settings, shown, type Side, sides, turns, vectors } from "../state";
import { NumberField } from "./field";

/** The middle: one prompt, two answers. */
export function Compare(): JSX.Element {
  const chat = mode.value === "chat";
  const answered = shown.value.every((one) => one.state === "done");
  return (
    <section class="compare" aria-labelledby="compare-title">
      <header>
        <h2 id="compare-title">The same model, twice</h2>
        <p class="lead">Left as it is; right while a direction inside it is being pushed. Same prompt, same seed. Move a slider, and only the right side changes.</p>
      </header>
      <form class="ask" onSubmit={(event) => { event.preventDefault(); void run(true); }}>
        <div class="modes" role="radiogroup" aria-label="What the prompt is">
          {(["text", "chat"] as const).map((one) => (
            <label key={one} class={mode.value === one ? "on" : ""} hidden={one === "chat" && model.value?.chat === false}>
              <input
                type="radio" name="mode" checked={mode.value === one}
                onChange={() => batch(() => { mode.value = one; turns.value = []; shown.value = [empty(), empty()]; })}
              />
              {one === "text" ? "Continue a text" : "Have a conversation"}
            </label>
          ))}
        </div>
        <label class="prompt">
          <span class="hidden">{chat ? "Your message" : "The text to continue"}</span>
          <textarea
            id="prompt" rows={2} value={prompt.value} placeholder={chat ? "Say something…" : "Begin a text…"}
            onInput={(event) => (prompt.value = event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key === "Enter" && (event.ctrlKey || event.metaKey || (chat && !event.shiftKey))) {
                event.preventDefault();
                void run(true);
              }
            }}
          />
        </label>
        <div class="row">
          <button type="submit" class="primary">Run both</button>
          {chat && answered && <button type="button" onClick={() => { goOn(); document.querySelector<HTMLElement>(".prompt textarea")?.focus(); }}>Reply</button>}
          {turns.value.length > 0 && <button type="button" onClick={startOver}>Start over</button>}
          <Knobs />
        </div>
      </form>
      <div class="columns">
        <Column index={0} />
        <Column index={1} />
      </div>
      <Colours />
    </section>
  );
}

function Knobs(): JSX.Element {
  const { max_tokens, temperature, seed } = settings.value;
  const change = (more: Partial<typeof settings.value>) => (settings.value = { ...settings.value, ...more });
  return (
    <div class="knobs">
      <label><span>Tokens</span><NumberField min={1} max={4096} value={max_tokens} change={(value) => change({ max_tokens: Math.round(value) })} /></label>
      <label><span>Temperature</span><NumberField min={0} max={5} step="0.1" value={temperature} change={(value) => change({ temperature: value })} /></label>
      <label><span>Seed</span><NumberField min={0} max={2 ** 31 - 1} value={seed} change={(value) => change({ seed: Math.round(value) })} /></label>
    </div>
  );
}

const NAMES = ["Left", "Right"] as const;

function Column({ index }: { index: 0 | 1 }): JSX.Element {
  const side = sides.value[index];
  const one = shown.value[index];
  const change = (next: Side) => {
    const both: [Side, Side] = [...sides.value];
    both[index] = next;
    sides.value = both;
  };
  const busy = one.state === "waiting" || one.state === "streaming";
  const steered = side.kind !== "plain" && side.kind !== "system";
  return (
    <article class={`column${steered ? " steered" : ""}`} aria-busy={busy} data-side={index === 0 ? "left" : "right"} data-state={one.state}>
      <header>
        <label>
          <span class="hidden">{`${NAMES[index]} column`}</span>
          <select
            value={side.kind === "preset" ? `preset:${side.name}` : side.kind}
            onChange={(event) => {
              const kind = event.currentTarget.value;
              if (kind.startsWith("preset:")) change({ kind: "preset", name: kind.slice(7) });
              else if (kind === "system") change({ kind, text: "Be cheerful." });
              else if (kind === "tokens") change({ kind, text: vectors.value[0] ? `${vectors.value[0].name}:1` : "" });
              else change({ kind: kind as "plain" | "plan" });
            }}
          >
            <option value="plain">Unsteered</option>
            <option value="plan">Steered by the sliders</option>
            {presets.value.map((name) => <option key={name} value={`preset:${name}`}>{`Preset ${name}`}</option>)}
            <option value="tokens">Another plan</option>
            <option value="system">A system prompt instead</option>
          </select>
        </label>
        {busy && <span class="dots" role="status"><span class="hidden">writing</span></span>}
      </header>
      {side.kind === "system" && (
        <label class="wide"><span>System prompt</span><input type="text" value={side.text} onInput={(event) => change({ kind: "system", text: event.currentTarget.value })} /></label>
      )}
      {side.kind === "tokens" && (
        <label class="wide"><span>Plan: name:strength@layers, separated by spaces</span><input type="text" spellcheck={false} value={side.text} onInput={(event) => change({ kind: "tokens", text: event.currentTarget.value })} /></label>
      )}
      {turns.value.map((turn, i) => (
        <div key={i} class="turn"><p class="user">{turn.user}</p><p>{turn.answers[index]}</p></div>
      ))}
      {one.error ? (
        <p class="warn" role="alert">{one.error}</p>
      ) : (
        <p class="answer" aria-live="polite" data-answer={one.text}>
          {mode.value === "chat" ? <span class="user">{prompt.value}</span> : <span class="given">{prompt.value}</span>}
          {one.tokens ? <Coloured index={index} /> : <span class="said">{one.text}</span>}
          {one.state === "done" && one.text === "" && <span class="soft"> (it ended at once, without a word)</span>}
        </p>
      )}
      <p class="applied">{appliedOf(index)}</p>
    </article>
  );
}

function Coloured({ index }: { index: 0 | 1 }): JSX.Element {
  const one = shown.value[index];
  // colours compare the two texts: without one in the middle of both, a whole text would have one colour
  const both = shown.value.flatMap((other) => other.tokens ?? []).map((token) => token.value).sort((a, b) => a - b);
  const shade = shades(both, both[Math.floor(both.length / 2)]);
  return (
    <span class="said">
      {one.tokens!.map((token, i) => {
        const { kind, share } = shade(token.value);
        return (
          <span key={i}>
            {/^\s*/.exec(token.text)![0]}
            <span class={`token ${kind}`} title={`${written(token.value)} on ${colour.value}`} data-value={token.value} style={{ "--share": `${Math.round(share * 46)}%` }}>{token.text.trimStart()}</span>
          </span>
        );
      })}
    </span>
  );
}

function appliedOf(index: 0 | 1): string {
  const one = shown.value[index];
  const side = sides.value[index];
  if (one.state !== "done") return "";
  if (side.kind === "system") return "Not steered: told.";
  if (!one.applied?.length) return side.kind === "plain" ? "The model as it is." : "Nothing steers: switch a direction on.";
  const parts = one.applied.map((item) => {
    if (item.condition === false) return `${item.vector}: its condition did not hold, so it did nothing`;
    const { prompt: before, generation } = item.tokens;
    const touched = `${before} of the prompt and ${generation} written`;
    return `${item.operation} ${item.vector} × ${Array.isArray(item.strength) ? "a schedule" : written(item.strength)} at layer ${item.layers.join(", ")}: touched ${touched}`;
  });
  return `${parts.join("; ")} tokens.`;
}

function Colours(): JSX.Element | null {
  if (!vectors.value.length) return null;
  return (
    <div class="colours">
      <label>
        <span>Colour each word by its leaning on</span>
        <select value={colour.value ?? ""} onChange={(event) => (colour.value = event.currentTarget.value || null)}>
          <option value="">nothing</option>
          {vectors.value.map((one) => <option key={one.name} value={one.name}>{one.name}</option>)}
        </select>
      </label>
      {colour.value && <p class="scale"><span>{`away from ${colour.value}`}</span><i aria-hidden="true" /><span>{`towards ${colour.value}`}</span><span class="soft">against the middle of both texts, as the unsteered model reads them</span></p>}
    </div>
  );
}
