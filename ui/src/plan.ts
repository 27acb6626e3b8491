// What the sliders say, as the spec that the server takes.

export const OPERATIONS = {
  add: "add: push along the direction",
  ablate: "ablate: remove the direction",
  clamp: "clamp: hold the projection at a value",
  affine: "affine: move the projection to a class mean",
  rotate: "rotate: turn towards it, keeping the norm",
} as const;
export type Operation = keyof typeof OPERATIONS;

export const POSITIONS = {
  "last+generation": "from the last prompt token on",
  generation: "generated tokens only",
  last: "the last prompt token only",
  prompt: "the prompt only",
  all: "every token",
} as const;

export interface Condition {
  vector: string;
  layer: number;
  side: "above" | "below";
  value: number;
}

/** One vector of the left column. */
export interface Item {
  vector: string;
  on: boolean;
  strength: number;
  layers: string;
  operation: Operation;
  /** Empty for the operation's own. */
  positions: string;
  unit: "" | "norm" | "gap";
  value: number;
  when: Condition | null;
}

export const item = (vector: string, more: Partial<Item> = {}): Item => ({
  vector, on: false, strength: 1, layers: "", operation: "add", positions: "", unit: "", value: 0, when: null, ...more,
});

/** The key of the number that an operation takes besides the strength. */
export const VALUE_OF: Partial<Record<Operation, string>> = { clamp: "value", affine: "alpha", rotate: "angle" };

/** Layers as people write them ("8", "6, 8", "6-10") as numbers; null for none or nonsense. */
export function layersOf(text: string): number[] | null {
  const found = new Set<number>();
  for (const part of text.split(/[,\s]+/).filter(Boolean)) {
    const range = /^(\d+)(?:[-–](\d+))?$/.exec(part);
    if (!range) return null;
    const first = Number(range[1]);
    const last = range[2] === undefined ? first : Number(range[2]);
    if (last < first || last - first > 1000) return null;
    for (let layer = first; layer <= last; layer++) found.add(layer);
  }
  return found.size ? [...found].sort((a, b) => a - b) : null;
}

export function interventionOf(one: Item): Record<string, unknown> {
  const found: Record<string, unknown> = { vector: one.vector, strength: one.strength };
  const layers = one.layers.trim() === "all" ? "all" : layersOf(one.layers);
  if (layers) found.layers = layers;
  if (one.operation !== "add") found.operation = one.operation;
  const named = VALUE_OF[one.operation];
  if (named) found[named] = one.value;
  if (one.positions) found.positions = one.positions;
  if (one.unit && one.operation === "add") found.unit = one.unit;
  if (one.when) found.when = { vector: one.when.vector, layer: one.when.layer, [one.when.side]: one.when.value };
  return found;
}

export interface Spec {
  interventions: Record<string, unknown>[];
}

export const specOf = (items: Item[]): Spec | null => {
  const acting = items.filter((one) => one.on && one.strength !== 0);
  return acting.length ? { interventions: acting.map(interventionOf) } : null;
};

/** The item that a spec's intervention says, as far as the sliders can say it. */
export function itemOf(said: Record<string, any>): Item | null {
  if (typeof said.vector !== "string" || Array.isArray(said.strength)) return null;
  const operation = (said.operation ?? "add") as Operation;
  if (!(operation in OPERATIONS)) return null;
  const layers = Array.isArray(said.layers) ? said.layers.join(", ") : String(said.layers ?? "");
  const named = VALUE_OF[operation];
  const when = said.when
    ? {
        vector: said.when.vector, layer: said.when.layer,
        side: "above" in said.when ? ("above" as const) : ("below" as const),
        value: said.when.above ?? said.when.below,
      }
    : null;
  return item(said.vector, {
    on: true, strength: said.strength ?? 1, layers, operation, positions: said.positions ?? "", unit: said.unit ?? "",
    value: named ? (said[named] ?? 0) : 0, when,
  });
}

/** In one line, for people: "happy ×1 at layer 8". */
export function told(items: Item[]): string {
  const acting = items.filter((one) => one.on && one.strength !== 0);
  return acting.map((one) => `${one.vector} × ${one.strength}${one.layers ? ` at layer ${one.layers}` : ""}`).join(", ");
}
