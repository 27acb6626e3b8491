import { describe, expect, it } from "vitest";
import { events } from "./api";
import { axis, exact, sequential, shades, shown, ticks, visible } from "./charts/scale";
import { columnsOf, curveOf } from "./panels/extract";
import { measured, reachOf } from "./panels/track";
import { item } from "./plan";
import { within } from "./run";
import { sweepRequests, vectors } from "./state";

describe("events", () => {
  it("come out whole, and leave the rest", () => {
    expect(events('data: {"a":1}\n\nevent: x\ndata: {"b":2}\n\ndata: {"c"')).toEqual({ documents: [{ a: 1 }, { b: 2 }], left: 'data: {"c"', ended: false });
  });
  it("end, and heartbeats say nothing", () => {
    expect(events(": alive\n\ndata: [DONE]\n\n")).toEqual({ documents: [], left: "", ended: true });
  });
});

describe("numbers for people", () => {
  it.each([[0, "0"], [-0, "0"], [-1.23456, "−1.23"], [1000, "1000"], [1e-6, "1.00e−6"], [0.1 + 0.2, "0.3"]])("%d is %s", (value, text) => expect(shown(value)).toBe(text));
  it("are read back exactly from the data of a mark", () => {
    for (const value of [0.1 + 0.2, -12.304977309405638, 1e-17, 5]) expect(Number(exact(value))).toBe(value);
    expect(exact([1, 0.5])).toBe("1,0.5");
  });
  it("have round ticks", () => {
    expect(ticks({ low: -0.1, high: 1.04 }, 5)).toEqual([0, 0.5, 1]);
    expect(ticks({ low: -0.4, high: 12.4 }, 13, true)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  });
  it("lie on an axis with some room", () => {
    const found = axis([0, 10], 100, 0, 0.1);
    expect([found.at(0), found.at(5), found.at(10)].map((value) => Math.round(value * 100) / 100)).toEqual([91.67, 50, 8.33]);
  });
});

describe("colours", () => {
  it("diverge from a centre", () => {
    const shade = shades([0, 3], 1);
    expect(shade(3)).toEqual({ kind: "positive", share: 1 });
    expect(shade(0)).toEqual({ kind: "negative", share: 0.5 });
    expect(shade(1).share).toBe(0);
  });
  it("begin at the lowest number if they are of one kind", () => {
    const shade = sequential([2, 4]);
    expect([2, 3, 4].map((value) => shade(value).share)).toEqual([0, 0.5, 1]);
  });
});

it("white space is seen", () => expect(visible(" a\n")).toBe("␣a⏎"));

describe("the tokens of an answer", () => {
  it("are those at the end of the text, cut where it begins", () => {
    expect(within(["<s>", "It", " was", " fi", "ne"], [9, 1, 2, 3, 4], "s fine")).toEqual([{ text: "s", value: 2 }, { text: " fi", value: 3 }, { text: "ne", value: 4 }]);
  });
  it("may stand before the end of a conversation", () => {
    expect(within(["<u>", "Hi", "<a>", "Yo", "</s>"], [0, 1, 2, 3, 4], "Yo")).toEqual([{ text: "Yo", value: 3 }]);
  });
  it("are none if they do not spell it", () => expect(within(["\ufffd", "\ufffd"], [1, 2], "é")).toBeNull());
});

describe("two columns from a file", () => {
  it("JSON lines", () => expect(columnsOf("a.jsonl", '{"positive":"p","negative":"n"}\n{"positive":"q","negative":"m"}\n')).toEqual([["p", "q"], ["n", "m"]]));
  it("CSV with a header, in any order, and quotes", () => expect(columnsOf("a.csv", 'negative,positive\n"no, ""never""",yes\n')).toEqual([["yes"], ['no, "never"']]));
  it("tabs without a header", () => expect(columnsOf("a.tsv", "p\tn\nq\tm")).toEqual([["p", "q"], ["n", "m"]]));
});

describe("the band of a slider", () => {
  vectors.value = [{ name: "happy", layer: 8 } as any];
  sweepRequests.value = { job: { operation: "add", positions: null, unit: null } };
  const analysis = { bands: [{ layer: 8, low: -1, high: 2, sweep: "job" }] } as any;
  it("is what was measured at that layer", () => expect(measured(item("happy"), analysis).band?.high).toBe(2));
  it.each([
    [{}, undefined, "unswept"],
    [{ layers: "7" }, analysis, "layer"],
    [{ layers: "7-8" }, analysis, "layers"],
    [{ operation: "ablate" as const }, analysis, "other"],
    [{ positions: "all" }, analysis, "other"],
    [{ unit: "norm" as const }, analysis, "other"],
    [{ when: { vector: "happy", layer: 1, side: "above" as const, value: 0 } }, analysis, "other"],
  ])("is not what was measured of something else: %j", (more, given, why) => {
    expect(measured(item("happy", more), given)).toEqual({ band: null, why });
  });
  it("lies within the slider", () => {
    expect(reachOf(item("happy"), { low: -6, high: 1 } as any)).toBe(8);
    expect(reachOf(item("happy", { strength: 4.2 }), null)).toBe(5);
  });
});

it("a curve of quality is drawn only where all of it was measured", () => {
  const row = { accuracy: 0.9, accuracy_interval: [0.8, 1] as [number, number], auroc: 1, shuffled: null };
  expect(curveOf({ folds: 5, layers: { "10": row, "2": row } })).toEqual({ layers: [2, 10], accuracy: [0.9, 0.9], intervals: [[0.8, 1], [0.8, 1]], shuffled: null });
  expect(curveOf({ folds: 5, layers: {} })).toBeNull();
  expect(curveOf(null)).toBeNull();
});
