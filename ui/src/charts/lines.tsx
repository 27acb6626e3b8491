import type { JSX } from "preact";
import { BandArea, Drawing, LEFT, Legend, Panel, right, Series } from "./parts";
import { axis, exact, shown, ticks } from "./scale";

type Interval = [number, number];

export interface Dose {
  strengths: number[];
  effects: number[];
  intervals?: Interval[] | null;
  random?: Interval[] | null;
  kl?: number[] | null;
  max_kl?: number | null;
  y_label?: string;
  kl_label?: string;
  title?: string;
}

/** Effect against strength, with what random directions do, and below it what it costs. */
export function DoseResponse(props: Dose): JSX.Element {
  const { strengths, effects, intervals, random, kl, max_kl } = props;
  const RIGHT = right();
  const x = axis(strengths, LEFT, RIGHT, 0.03);
  const extent = [0, ...effects, ...(random ?? []).flat(), ...(intervals ?? []).flat()];
  const y = axis(extent, 236, 26);
  const spent = axis([0, ...(kl ?? []), ...(max_kl ? [max_kl] : [])], 366, 276);
  const entries: [string, string][] = [["line positive", "this vector"]];
  if (intervals) entries.push(["area positive", "95% interval"]);
  if (random) entries.push(["area control", "95% of random directions of the same length"]);
  if (kl && max_kl) entries.push(["rule", `budget: KL ${shown(max_kl)}`]);
  const low = shown(Math.min(...effects));
  const high = shown(Math.max(...effects));
  return (
    <>
      <Legend entries={entries} />
      <Drawing kind="dose-response" height={kl ? 408 : 276} title={props.title ?? "Dose and response"} said={`Effect from ${low} to ${high} at ${strengths.length} strengths`}>
        <Panel x={x} y={y} top={26} bottom={236} name={props.y_label ?? "effect (nats)"} labels={!kl} />
        {random && <BandArea x={x} y={y} at={strengths} band={random} kind="control" name="95% of random directions" />}
        <Series x={x} y={y} at={strengths} values={effects} intervals={intervals ?? null} kind="positive" name="effect" x_name="strength" />
        {kl && (
          <>
            <Panel x={x} y={spent} top={276} bottom={366} name={props.kl_label ?? "cost: KL (nats per token)"} />
            {max_kl && (
              <path class="rule" d={`M${LEFT},${spent.at(max_kl)}H${RIGHT}`} data-budget={exact(max_kl)}><title>{`budget ${shown(max_kl)}`}</title></path>
            )}
            <Series x={x} y={spent} at={strengths} values={kl} kind="negative" name="KL" x_name="strength" />
          </>
        )}
        <text class="soft middle" x={(LEFT + RIGHT) / 2} y={kl ? 402 : 270}>strength</text>
      </Drawing>
    </>
  );
}

export interface Probe {
  layers: number[];
  accuracy: number[];
  intervals?: Interval[] | null;
  shuffled?: number[] | null;
  best?: number | null;
  majority?: number | null;
  title?: string;
}

/** Held-out accuracy by layer, with its interval and the same on shuffled labels. */
export function ProbeCurve(props: Probe): JSX.Element {
  const { layers, accuracy, intervals, shuffled, best, majority } = props;
  const RIGHT = right();
  const x = axis(layers, LEFT, RIGHT, 0.03);
  const y = axis([1, ...accuracy, ...(shuffled ?? []), ...(intervals ?? []).flat(), ...(majority ? [majority] : [])], 236, 26);
  const entries: [string, string][] = [["line positive", "held-out accuracy"]];
  if (intervals) entries.push(["area positive", "95% interval"]);
  if (shuffled) entries.push(["line control dashed", "shuffled labels"]);
  if (majority) entries.push(["rule", `largest class: ${shown(majority)}`]);
  const at = best == null ? -1 : layers.indexOf(best);
  return (
    <>
      <Legend entries={entries} />
      <Drawing kind="probe-curve" height={278} title={props.title ?? "Linear probe by layer"} said={`${layers.length} layers, accuracy ${shown(Math.min(...accuracy))} to ${shown(Math.max(...accuracy))}`}>
        <Panel x={x} y={y} top={26} bottom={236} name="accuracy" x_ticks={ticks(x, 13, true)} />
        {majority != null && (
          <path class="rule" d={`M${LEFT},${y.at(majority)}H${RIGHT}`} data-majority={exact(majority)}><title>{`largest class: ${shown(majority)}`}</title></path>
        )}
        {shuffled && <Series x={x} y={y} at={layers} values={shuffled} kind="control" name="shuffled labels" x_name="layer" dashed />}
        <Series x={x} y={y} at={layers} values={accuracy} intervals={intervals ?? null} kind="positive" name="held out" x_name="layer" />
        {at >= 0 && <circle class="mark" cx={x.at(best!)} cy={y.at(accuracy[at]!)} r={7} data-best={exact(best!)} data-y={exact(accuracy[at]!)}><title>{`best: layer ${best}`}</title></circle>}
        <text class="soft middle" x={(LEFT + RIGHT) / 2} y={272}>layer</text>
      </Drawing>
    </>
  );
}
