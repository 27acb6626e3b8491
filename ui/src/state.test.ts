import { beforeEach, expect, it } from "vitest";
import { item } from "./plan";
import { fromHash, history, items, layerOf, mode, prompt, remember, restore, type Saved, settings, sides, toHash, turns, vectors } from "./state";

const STATE: Saved = {
  mode: "chat", prompt: "Was it & is it 100% ünïque?", turns: [{ user: "Hi #1", answers: ["a", "b=c"] }],
  items: [item("happy", { on: true, strength: 0.5, layers: "8" })], sides: [{ kind: "system", text: "Be kind; be + brief" }, { kind: "tokens", text: "happy:1@8" }],
  settings: { max_tokens: 40, temperature: 0.7, seed: 3 }, colour: "happy", tab: "lens",
};

beforeEach(() => {
  items.value = [];
  history.value = [];
});

it("comes back from its URL", () => expect(fromHash(toHash(STATE))).toEqual(STATE));

it("has nothing to say where the URL says nothing", () => {
  expect(fromHash("")).toBeNull();
  expect(fromHash("#elsewhere")).toBeNull();
});

it("leaves out what cannot be read", () => {
  const found = fromHash('#prompt=x&steer={"a":1&sides=[{"kind":"evil"},{}]&turns=[1,{"user":"u"}]&tokens=1e9&temperature=nan&seed=-4');
  expect(found).toEqual({ mode: "text", prompt: "x", turns: [], settings: { max_tokens: 4096, temperature: 0, seed: 0 }, colour: null, tab: "dose" });
});

it("keeps vectors that it does not speak of, and does not let them act", () => {
  items.value = [item("happy"), item("formal", { on: true, strength: 2 })];
  restore(STATE);
  expect(items.value).toEqual([STATE.items[0], item("formal", { strength: 2 })]);
  expect([mode.value, prompt.value, turns.value, sides.value, settings.value]).toEqual([STATE.mode, STATE.prompt, STATE.turns, STATE.sides, STATE.settings]);
});

it("knows the one layer of an item", () => {
  vectors.value = [{ name: "happy", layer: 10 } as any];
  expect(layerOf(item("happy", { layers: "8" }))).toBe(8);
  expect(layerOf(item("happy"))).toBe(10);
  expect(layerOf(item("happy", { layers: "7-8" }))).toBeNull();
  expect(layerOf(item("other"))).toBeNull();
});

it("remembers each setting once, the latest first, and not for ever", () => {
  for (let i = 0; i < 60; i++) remember({ when: i, hash: `#${i % 55}`, prompt: "", texts: ["", ""], said: "" });
  expect(history.value).toHaveLength(50);
  expect(history.value[0]!.hash).toBe("#4");
  expect(new Set(history.value.map((one) => one.hash)).size).toBe(50);
});
