// What is fetched when the page opens, and again when something has changed.

import { batch } from "@preact/signals";
import { type Analysis, type Described, follow, get, type Job, type Model, Refusal } from "./api";
import { item, itemOf, type Item } from "./plan";
import {
  analyses, colour, describe, fromHash, items, jobs, locked, maxKl, maxRepetition, mode, model, presets, problem, prompt,
  restore, settings, sweepRequests, vectors,
} from "./state";

interface Listed<T> {
  data: T[];
}

/** Fetch what there is, and `begin` as soon as a prompt can be run. */
export async function open(begun: () => void): Promise<void> {
  try {
    const [models, found, stored] = await Promise.all([
      get<Listed<Model>>("/v1/models"),
      get<Listed<Described>>("/v1/vectors"),
      get<Listed<{ name: string; steering: { interventions: Record<string, any>[] } }>>("/v1/presets"),
    ]);
    const preset = new Map(stored.data.map((one) => [one.name, one.steering.interventions]));
    batch(() => {
      model.value = models.data.find((one) => one.preset === null) ?? null;
      presets.value = models.data.flatMap((one) => one.preset ?? []);
      const usable = found.data.filter((one) => one.fits && one.type === "SteeringVector");
      vectors.value = usable;
      items.value = ordered(usable).map((one) => begin(one, preset.get(one.name)));
      const asked = fromHash(location.hash);
      if (asked) restore(asked);
      else first();
    });
    begun();
    for (const job of (await get<Listed<Job>>("/v1/jobs")).data) {
      if (job.status === "queued" || job.status === "running") watch(job);
    }
    await Promise.all(vectors.value.map((one) => analyse(one.name)));
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) locked.value = true;
    else problem.value = String(error instanceof Error ? error.message : error);
  }
}

/** Those that begin with a preset first: they are known to do something. */
const ordered = (found: Described[]) =>
  [...found].sort((a, b) => Number(b.name === "happy") - Number(a.name === "happy"));

function begin(one: Described, preset: Record<string, any>[] | undefined): Item {
  const only = preset?.length === 1 ? itemOf(preset[0]!) : null;
  return only && only.vector === one.name ? { ...only, on: false } : fresh(one);
}

/** A direction that nobody has set yet: at its chosen layer; made from too few examples to have one, in the middle. */
const fresh = (one: Described): Item =>
  item(one.name, one.layer == null ? { layers: String(one.layers[Math.floor(one.layers.length / 2)] ?? "") } : {});

/** The first screen: a difference, not a form. */
function first(): void {
  const name = items.value[0]?.vector;
  if (name) {
    items.value = items.value.map((one) => ({ ...one, on: one.vector === name }));
    colour.value = name;
  }
  mode.value = "text";
  prompt.value = model.value?.id === "demo" ? "I think the movie was" : "Let me tell you how today went.";
  settings.value = { max_tokens: 24, temperature: 0, seed: 0 };
}

export async function analyse(name: string): Promise<void> {
  try {
    const query = `max_kl=${maxKl.value}&max_repetition=${maxRepetition.value}`;
    const found = await get<Analysis>(`/v1/vectors/${encodeURIComponent(name)}/analysis?${query}`);
    for (const id of found.sweeps.slice(0, 1)) {
      if (sweepRequests.value[id]) continue;
      const job = await get<Job>(`/v1/jobs/${id}`);
      sweepRequests.value = { ...sweepRequests.value, [id]: job.request ?? {} };
    }
    analyses.value = { ...analyses.value, [name]: found };
  } catch {
    // the card says that nothing is known; whoever asks for a chart is told why
  }
}

export async function refreshVectors(act?: string): Promise<void> {
  const found = await get<Listed<Described>>("/v1/vectors");
  const usable = found.data.filter((one) => one.fits && one.type === "SteeringVector");
  batch(() => {
    vectors.value = usable;
    const kept = items.value.filter((one) => usable.some((other) => other.name === one.vector));
    const known = new Set(kept.map((one) => one.vector));
    items.value = [...usable.filter((one) => !known.has(one.name)).map(fresh), ...kept].map((one) =>
      one.vector === act ? { ...one, on: true } : one,
    );
  });
  const names = await get<Listed<Model>>("/v1/models");
  presets.value = names.data.flatMap((one) => one.preset ?? []);
  await Promise.all(vectors.value.map((one) => analyse(one.name)));
}

/** Follow a job, and take in what it has found. */
export function watch(job: Job, ended?: (job: Job) => void): void {
  jobs.value = { ...jobs.value, [job.id]: job };
  follow(job.id, (now) => {
    jobs.value = { ...jobs.value, [job.id]: now };
    if (now.status === "succeeded") {
      if (now.kind === "extraction") void refreshVectors(now.result?.vector);
      if (now.kind === "sweep" && describe(now.request?.vector)) void analyse(now.request!.vector);
    }
    if (["succeeded", "failed", "cancelled"].includes(now.status)) ended?.(now);
  });
}
