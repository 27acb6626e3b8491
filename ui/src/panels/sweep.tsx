import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { type Job, post } from "../api";
import { watch } from "../data";
import { interventionOf, type Item, layersOf } from "../plan";
import { analyses, layerOf, maxKl, prompt, sweepRequests } from "../state";
import { Dialog } from "./dialog";

const lines = (text: string) => text.split("\n").map((line) => line.trim()).filter(Boolean);
/** Words as the model writes them after a text: with the space before them. */
const words = (text: string) => text.split(/[,\n]+/).map((word) => word.trim()).filter(Boolean).map((word) => ` ${word}`);

/** Asks for what a sweep needs, and starts it. */
export function Sweep({ item: one, close }: { item: Item; close: () => void }): JSX.Element {
  // what was asked of this direction before, so that its bands can be compared
  const before = sweepRequests.value[analyses.value[one.vector]?.sweeps[0] ?? ""];
  const named = (said: string[] | undefined) => (said ?? []).map((word) => word.trim()).join(", ");
  const [prompts, setPrompts] = useState((before?.prompts ?? [prompt.value]).join("\n"));
  const [positive, setPositive] = useState(named(before?.positive));
  const [negative, setNegative] = useState(named(before?.negative));
  const [strengths, setStrengths] = useState("-3, -2, -1, 0, 1, 2, 3");
  const [layers, setLayers] = useState(one.layers && one.layers !== "all" ? one.layers : "auto");
  const [random, setRandom] = useState(50);
  const [failed, setFailed] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);

  const start = async () => {
    setBusy(true);
    setFailed(null);
    const layer = layerOf(one);
    const { operation = "add", positions, unit, value, alpha, angle } = interventionOf(one);
    try {
      const job = await post<Job>("/v1/sweeps", {
        vector: one.vector, prompts: lines(prompts), positive: words(positive), negative: words(negative),
        layers: layers.trim() === "auto" ? "auto" : layersOf(layers), random,
        strengths: strengths.split(/[,\s]+/).filter(Boolean).map(Number), max_kl: maxKl.value, operation,
        repetition: layer === null ? [] : [layer],
        ...(positions ? { positions } : {}), ...(unit ? { unit } : {}), ...(value !== undefined ? { value } : {}),
        ...(alpha !== undefined ? { alpha } : {}), ...(angle !== undefined ? { angle } : {}),
      });
      watch(job);
      close();
    } catch (error) {
      setFailed(error instanceof Error ? error.message : String(error));
      setBusy(false);
    }
  };

  return (
    <Dialog title={`How far can ${one.vector} go?`} close={close} lead="Tries every layer and strength below on your prompts: how much it moves the words you name, what it changes besides (KL), and what random directions of the same length do.">
      <form onSubmit={(event) => { event.preventDefault(); void start(); }}>
        <label class="wide"><span>Prompts, one a line</span><textarea rows={5} required value={prompts} onInput={(event) => setPrompts(event.currentTarget.value)} /></label>
        <div class="two">
          <label><span>Words it should make likelier</span><input type="text" required value={positive} placeholder="great, wonderful" onInput={(event) => setPositive(event.currentTarget.value)} /></label>
          <label><span>Words it should make rarer</span><input type="text" required value={negative} placeholder="awful, terrible" onInput={(event) => setNegative(event.currentTarget.value)} /></label>
        </div>
        <div class="three">
          <label><span>Strengths</span><input type="text" required value={strengths} onInput={(event) => setStrengths(event.currentTarget.value)} /></label>
          <label><span>Layers</span><input type="text" required value={layers} onInput={(event) => setLayers(event.currentTarget.value)} /></label>
          <label><span>Random directions</span><input type="number" min={0} max={1000} value={random} onInput={(event) => setRandom(Number(event.currentTarget.value))} /></label>
        </div>
        {failed && <p class="warn" role="alert">{failed}</p>}
        <footer><button type="submit" class="primary" disabled={busy}>Measure</button><span class="soft">It runs on the server; you can go on meanwhile.</span></footer>
      </form>
    </Dialog>
  );
}
