// Generates what the two columns show, and reads it back for its colours.

import { batch, effect } from "@preact/signals";
import { type Chart, post, Refusal, stream } from "./api";
import {
  colour, empty, items, layerOf, mode, model, prompt, remember, saved, settings, shown, type Shown, type Side, sides,
  steering, toHash, turns,
} from "./state";
import { told } from "./plan";

export interface Asked {
  path: string;
  body: Record<string, unknown>;
}

/** What a conversation or a text sends for one column. */
export function inputOf(side: Side, index: 0 | 1): { prompt: string } | { messages: { role: string; content: string }[] } {
  const system = side.kind === "system" ? side.text.trim() : "";
  if (mode.value === "text") return { prompt: system ? `${system}\n${prompt.value}` : prompt.value };
  const before = turns.value.flatMap((turn) => [
    { role: "user", content: turn.user },
    { role: "assistant", content: turn.answers[index] },
  ]);
  return {
    messages: [
      ...(system ? [{ role: "system", content: system }] : []),
      ...before,
      { role: "user", content: prompt.value },
    ],
  };
}

/** The steering of one column, in any form that the server takes. */
export function steeringOf(side: Side): unknown {
  if (side.kind === "plan") return steering.value;
  if (side.kind === "preset") return side.name;
  if (side.kind === "tokens") return side.text.split(/\s+/).filter(Boolean);
  return null;
}

export function requestOf(side: Side, index: 0 | 1): Asked {
  const { max_tokens, temperature, seed } = settings.value;
  const name = model.value?.id;
  const body: Record<string, unknown> = { ...inputOf(side, index), max_tokens, seed };
  if (name) body.model = side.kind === "preset" ? `${name}:${side.name}` : name;
  if (temperature > 0) body.temperature = temperature;
  if (side.kind !== "preset") body.steering = steeringOf(side);
  return { path: mode.value === "chat" ? "/v1/chat/completions" : "/v1/completions", body };
}

const running: [AbortController | null, AbortController | null] = [null, null];

export function change(index: 0 | 1, more: Partial<Shown>): void {
  const next: [Shown, Shown] = [...shown.value];
  next[index] = { ...next[index], ...more };
  shown.value = next;
}

/** Generate what is not there yet; `again` also what is. */
export async function run(again = false): Promise<void> {
  if (!prompt.value.trim() || !model.value) return;
  await Promise.all(([0, 1] as const).map((index) => runSide(index, again)));
  const [left, right] = shown.value;
  if (left.state === "done" && right.state === "done") {
    const hash = toHash(saved());
    remember({
      when: Date.now(), hash, prompt: prompt.value, texts: [left.text, right.text],
      said: told(items.value) || "nothing steers",
    });
  }
}

async function runSide(index: 0 | 1, again: boolean): Promise<void> {
  const asked = requestOf(sides.value[index], index);
  const key = JSON.stringify(asked);
  const now = shown.value[index];
  if (!again && now.key === key && now.state !== "failed" && now.state !== "idle") return;
  running[index]?.abort();
  const control = new AbortController();
  running[index] = control;
  // the text stays until the first token of the new one, so that a moving slider does not make the page blink
  change(index, { state: "waiting", error: null, key });
  try {
    let text = "";
    let applied: Shown["applied"] = null;
    for await (const chunk of stream(asked.path, { ...asked.body, stream: true }, control.signal)) {
      if (chunk.error) throw new Refusal(500, chunk.error.code, chunk.error.message);
      const choice = chunk.choices[0];
      if (!choice) continue;
      text += choice.text ?? choice.delta?.content ?? "";
      applied = choice.steering?.interventions ?? applied;
      change(index, { text, state: "streaming", tokens: null, applied });
    }
    change(index, { text, state: "done", applied, tokens: null });
    await colourSide(index);
  } catch (error) {
    if (control.signal.aborted) return;
    change(index, { ...empty(), state: "failed", key, error: error instanceof Error ? error.message : String(error) });
  }
}

/** Read a column's text without steering, and take the projection of each token of its answer. */
export async function colourSide(index: 0 | 1): Promise<void> {
  const { text, key, state } = shown.value[index];
  const name = colour.value;
  if (!name || state !== "done" || !text) {
    if (shown.value[index].tokens) change(index, { tokens: null });
    return;
  }
  const input = inputOf(sides.value[index], index);
  const read =
    "prompt" in input
      ? { text: input.prompt + text }
      : { messages: [...input.messages, { role: "assistant", content: text }] };
  try {
    const own = items.value.find((one) => one.vector === name);
    const layer = own ? layerOf(own) : null;
    const chart = await post<Chart>("/v1/charts/token-projections", { vector: name, layer, ...read });
    if (shown.value[index].key !== key || colour.value !== name) return;
    const { tokens, values, classes } = chart.arguments;
    change(index, { tokens: within(tokens, values, text), classes: classes ?? null });
  } catch {
    change(index, { tokens: null });
  }
}

/** The tokens that make up an answer, of those of the whole text; null if they do not spell it. */
export function within(tokens: string[], values: number[], answer: string): Shown["tokens"] {
  const start = tokens.join("").lastIndexOf(answer);
  if (start < 0 || !answer) return null;
  const found: { text: string; value: number }[] = [];
  let at = 0;
  tokens.forEach((token, i) => {
    const from = Math.max(at, start);
    const to = Math.min(at + token.length, start + answer.length);
    if (to > from) found.push({ text: token.slice(from - at, to - at), value: values[i] ?? 0 });
    at += token.length;
  });
  return found;
}

/** Keep the question and its answers, and ask the next one. */
export function goOn(): void {
  batch(() => {
    turns.value = [...turns.value, { user: prompt.value, answers: [shown.value[0].text, shown.value[1].text] }];
    prompt.value = "";
    shown.value = [empty(), empty()];
  });
}

export function startOver(): void {
  batch(() => {
    turns.value = [];
    shown.value = [empty(), empty()];
  });
}

/** Run anew, a moment after what is asked for has changed. */
export function keepRunning(wait = 220): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let first = true;
  effect(() => {
    // everything that a request depends on
    JSON.stringify([requestOf(sides.value[0], 0), requestOf(sides.value[1], 1)]);
    clearTimeout(timer);
    timer = setTimeout(() => void run(), first ? 0 : wait);
    first = false;
  });
  let was: unknown = colour.peek();
  effect(() => {
    if (colour.value === was) return;
    was = colour.value;
    for (const index of [0, 1] as const) void colourSide(index);
  });
  effect(() => {
    globalThis.history.replaceState(null, "", toHash(saved()));
  });
}
