import { describe, expect, it } from "vitest";
import { interventionOf, item, itemOf, layersOf, specOf, told } from "./plan";

describe("layers as people write them", () => {
  it.each([
    ["8", [8]],
    ["6, 8", [6, 8]],
    ["6-8", [6, 7, 8]],
    ["8 6-7, 7", [6, 7, 8]],
    ["", null],
    ["eight", null],
    ["8-6", null],
    ["-1", null],
    ["0-999999", null],
  ])("%j", (text, layers) => expect(layersOf(text)).toEqual(layers));
});

describe("an intervention", () => {
  it("says no more than it has to", () => {
    expect(interventionOf(item("happy"))).toEqual({ vector: "happy", strength: 1 });
  });
  it("takes the number that its operation needs, and a unit only where there is one", () => {
    const clamp = item("happy", { operation: "clamp", value: 3, unit: "norm", layers: "4" });
    expect(interventionOf(clamp)).toEqual({ vector: "happy", strength: 1, layers: [4], operation: "clamp", value: 3 });
    expect(interventionOf(item("happy", { operation: "rotate", value: 0.5 }))).toMatchObject({ angle: 0.5 });
    expect(interventionOf(item("happy", { operation: "affine", value: 1 }))).toMatchObject({ alpha: 1 });
    expect(interventionOf(item("happy", { unit: "norm" }))).toMatchObject({ unit: "norm" });
  });
  it("takes all layers", () => expect(interventionOf(item("x", { layers: "all" })).layers).toBe("all"));

  const whole = [
    item("happy", { on: true, strength: -1.5, layers: "6, 7", positions: "all", unit: "gap" }),
    item("formal", { on: true, operation: "ablate", layers: "all" }),
    item("formal", { on: true, operation: "clamp", value: 2, when: { vector: "happy", layer: 3, side: "below", value: -0.2 } }),
  ];
  it.each(whole)("is read back as it was: $operation", (one) => expect(itemOf(interventionOf(one))).toEqual(one));

  it.each([{ vector: "x", strength: [1, 2] }, { operation: "erase", eraser: "x" }, {}])(
    "is refused where the sliders cannot say it: %j",
    (said) => expect(itemOf(said)).toBeNull(),
  );
});

it("only what is on, and does something, steers", () => {
  expect(specOf([item("a"), item("b", { on: true, strength: 0 })])).toBeNull();
  const spec = specOf([item("a"), item("b", { on: true, strength: 2 })]);
  expect(spec).toEqual({ interventions: [{ vector: "b", strength: 2 }] });
});

it("is told in one line", () => {
  expect(told([item("a", { on: true, layers: "8" }), item("b")])).toBe("a × 1 at layer 8");
});
