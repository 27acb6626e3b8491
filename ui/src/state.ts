// All that the page remembers, and its form in the URL.

import { computed, signal } from "@preact/signals";
import type { Analysis, Applied, Described, Job, Model } from "./api";
import { type Item, interventionOf, itemOf, specOf } from "./plan";

export type Mode = "text" | "chat";

/** What one of the two columns runs. */
export type Side =
  | { kind: "plain" }
  | { kind: "plan" }
  | { kind: "preset"; name: string }
  | { kind: "system"; text: string }
  | { kind: "tokens"; text: string };

export interface Settings {
  max_tokens: number;
  temperature: number;
  seed: number;
}

/** A question and what either side answered. */
export interface Turn {
  user: string;
  answers: [string, string];
}

export interface Shown {
  text: string;
  state: "idle" | "waiting" | "streaming" | "done" | "failed";
  error: string | null;
  applied: Applied[] | null;
  /** The request that gave this text; the same request is not sent again. */
  key: string;
  /** Where the answer ended: its tokens and their projections, once known. */
  tokens: { text: string; value: number }[] | null;
  classes: [number, number] | null;
}

export const empty = (): Shown => ({
  text: "", state: "idle", error: null, applied: null, key: "", tokens: null, classes: null,
});

export const model = signal<Model | null>(null);
export const vectors = signal<Described[]>([]);
export const presets = signal<string[]>([]);
export const analyses = signal<Record<string, Analysis>>({});
/** The requests of the sweeps that bands come from, by the sweep's id. */
export const sweepRequests = signal<Record<string, Record<string, any>>>({});
export const jobs = signal<Record<string, Job>>({});
export const problem = signal<string | null>(null);
/** Whether the server wants a key first. */
export const locked = signal(false);

export const mode = signal<Mode>("text");
export const prompt = signal("I think the movie was");
export const turns = signal<Turn[]>([]);
export const items = signal<Item[]>([]);
export const sides = signal<[Side, Side]>([{ kind: "plain" }, { kind: "plan" }]);
export const settings = signal<Settings>({ max_tokens: 24, temperature: 0, seed: 0 });
export const colour = signal<string | null>(null);
export const shown = signal<[Shown, Shown]>([empty(), empty()]);
export const tab = signal("dose");
export const maxKl = signal(0.1);
export const maxRepetition = signal(0.2);

export const layerCount = computed(
  () => model.value?.n_layers ?? Math.max(0, ...vectors.value.flatMap((one) => one.layers)) + (vectors.value.length ? 1 : 0),
);

/** The vector that the lab is about: the first that acts, else the first there is. */
export const focus = signal<string | null>(null);
export const focused = computed(() => {
  const there = (name: string | null | undefined) => vectors.value.some((one) => one.name === name);
  if (there(focus.value)) return focus.value;
  return items.value.find((one) => one.on && there(one.vector))?.vector ?? vectors.value[0]?.name ?? null;
});

export function changeItem(name: string, more: Partial<Item>): void {
  items.value = items.value.map((one) => (one.vector === name ? { ...one, ...more } : one));
}

export const describe = (name: string | null) => vectors.value.find((one) => one.name === name) ?? null;

/** The one layer at which an item acts, if it is one. */
export function layerOf(one: Item): number | null {
  const said = Number(one.layers.trim() || Number.NaN);
  if (Number.isInteger(said)) return said;
  return one.layers.trim() === "" ? (describe(one.vector)?.layer ?? null) : null;
}

// -- the URL --------------------------------------------------------------------------------------------------------

export interface Saved {
  mode: Mode;
  prompt: string;
  turns: Turn[];
  items: Item[];
  sides: [Side, Side];
  settings: Settings;
  colour: string | null;
  tab: string;
}

export const saved = (): Saved => ({
  mode: mode.value, prompt: prompt.value, turns: turns.value, items: items.value, sides: sides.value,
  settings: settings.value, colour: colour.value, tab: tab.value,
});

export function toHash(state: Saved): string {
  const said = new URLSearchParams();
  if (state.mode === "chat") said.set("mode", "chat");
  said.set("prompt", state.prompt);
  if (state.turns.length) said.set("turns", JSON.stringify(state.turns));
  said.set("steer", JSON.stringify(state.items.filter((one) => one.on).map(interventionOf)));
  const sides = state.sides;
  if (sides[0].kind !== "plain" || sides[1].kind !== "plan") said.set("sides", JSON.stringify(sides));
  said.set("tokens", String(state.settings.max_tokens));
  if (state.settings.temperature) said.set("temperature", String(state.settings.temperature));
  if (state.settings.seed) said.set("seed", String(state.settings.seed));
  if (state.colour) said.set("colour", state.colour);
  if (state.tab !== "dose") said.set("lab", state.tab);
  return `#${said}`;
}

const number = (text: string | null, otherwise: number, low: number, high: number) => {
  const found = Number(text ?? Number.NaN);
  return Number.isFinite(found) ? Math.min(high, Math.max(low, found)) : otherwise;
};

const parsed = (text: string | null): any => {
  try {
    return text === null ? null : JSON.parse(text);
  } catch {
    return null;
  }
};

const KINDS = ["plain", "plan", "preset", "system", "tokens"];
const isSide = (side: any): side is Side =>
  typeof side === "object" && side !== null && KINDS.includes(side.kind) &&
  [side.name, side.text].every((one) => one === undefined || typeof one === "string");

/** What a URL says; null if it says nothing. What cannot be read is left out: anybody may have written the link. */
export function fromHash(hash: string): Partial<Saved> | null {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  if (!said.has("prompt") && !said.has("steer")) return null;
  const found: Partial<Saved> = { mode: said.get("mode") === "chat" ? "chat" : "text" };
  found.prompt = said.get("prompt") ?? "";
  const steer = parsed(said.get("steer"));
  if (Array.isArray(steer)) {
    found.items = steer.filter((one) => one && typeof one === "object").flatMap((one) => itemOf(one) ?? []);
  }
  const turns = parsed(said.get("turns"));
  const isTurn = (one: any) => typeof one?.user === "string" && one.answers?.length === 2 &&
    one.answers.every((answer: any) => typeof answer === "string");
  if (Array.isArray(turns)) found.turns = turns.filter(isTurn);
  const sides = parsed(said.get("sides"));
  if (Array.isArray(sides) && sides.length === 2 && sides.every(isSide)) found.sides = sides as [Side, Side];
  found.settings = {
    max_tokens: Math.round(number(said.get("tokens"), 24, 1, 4096)),
    temperature: number(said.get("temperature"), 0, 0, 5),
    seed: Math.round(number(said.get("seed"), 0, 0, 2 ** 31 - 1)),
  };
  found.colour = said.get("colour");
  found.tab = said.get("lab") ?? "dose";
  return found;
}

/** Put a saved state on the page. Vectors that it does not speak of are kept, and do not act. */
export function restore(state: Partial<Saved>): void {
  if (state.mode) mode.value = state.mode;
  if (state.prompt !== undefined) prompt.value = state.prompt;
  turns.value = state.turns ?? [];
  if (state.items) {
    const given = new Map(state.items.map((one) => [one.vector, one]));
    const kept = items.value.map((one) => given.get(one.vector) ?? { ...one, on: false });
    const known = new Set(items.value.map((one) => one.vector));
    items.value = [...kept, ...state.items.filter((one) => !known.has(one.vector))];
  }
  sides.value = state.sides ?? [{ kind: "plain" }, { kind: "plan" }];
  if (state.settings) settings.value = state.settings;
  colour.value = state.colour ?? null;
  if (state.tab) tab.value = state.tab;
}

export const steering = computed(() => specOf(items.value));

// -- what was run before ----------------------------------------------------------------------------------------------

export interface Remembered {
  when: number;
  hash: string;
  prompt: string;
  texts: [string, string];
  said: string;
}

const HISTORY = "steersman.history";
const LONGEST = 50;

export const history = signal<Remembered[]>(read());

function read(): Remembered[] {
  try {
    const found = JSON.parse(localStorage.getItem(HISTORY) ?? "[]");
    return Array.isArray(found) ? found.filter((one) => typeof one?.hash === "string") : [];
  } catch {
    return [];
  }
}

export function remember(one: Remembered): void {
  history.value = [one, ...history.value.filter((other) => other.hash !== one.hash)].slice(0, LONGEST);
  keep();
}

export function forget(): void {
  history.value = [];
  keep();
}

function keep(): void {
  try {
    localStorage.setItem(HISTORY, JSON.stringify(history.value));
  } catch {
    // a private window: the history lasts as long as the page
  }
}
