import type { JSX } from "preact";
import type { Analysis, Band } from "../api";
import { shown } from "../charts/scale";
import type { Item } from "../plan";
import { layerOf, sweepRequests } from "../state";

export interface Measured {
  band: Band | null;
  /** Why there is none. */
  why: "unswept" | "layer" | "layers" | "other" | null;
}

/** The band of strengths that was measured for what an item does; only for exactly that. */
export function measured(one: Item, analysis: Analysis | undefined): Measured {
  const sweep = analysis?.bands[0]?.sweep;
  if (!analysis || !sweep) return { band: null, why: "unswept" };
  const request = sweepRequests.value[sweep];
  const same =
    request && request.operation === one.operation && (request.positions ?? "") === one.positions && (request.unit ?? "") === one.unit && !one.when;
  if (!same) return { band: null, why: "other" };
  const layer = layerOf(one);
  if (layer === null) return { band: null, why: "layers" };
  const band = analysis.bands.find((other) => other.layer === layer) ?? null;
  return { band, why: band ? null : "layer" };
}

const WHY = {
  unswept: "Nobody has measured yet how far this can go.",
  layer: "This layer has not been measured.",
  layers: "Several layers together have not been measured.",
  other: "This combination has not been measured.",
};

/** How far a slider goes: at least to 3, and past what was measured and what is set. */
export function reachOf(one: Item, band: Band | null): number {
  return Math.max(3, Math.ceil(Math.abs(one.strength)), Math.ceil(Math.max(Math.abs(band?.low ?? 0), band?.high ?? 0) * 1.25));
}

export function Track(props: {
  item: Item; analysis: Analysis | undefined; change: (strength: number) => void; sweep: () => void; busy: JSX.Element | null;
}): JSX.Element {
  const { item: one, analysis } = props;
  const { band, why } = measured(one, analysis);
  const reach = reachOf(one, band);
  const at = (value: number) => `${(((value + reach) / (2 * reach)) * 100).toFixed(2)}%`;
  const outside = band !== null && (one.strength < band.low || one.strength > band.high);
  const id = `band-${one.vector}`;
  return (
    <div class={`track${one.on ? "" : " off"}`}>
      <div class="rail" aria-hidden="true">
        <i class="base" />
        {band && <i class="band" data-low={band.low} data-high={band.high} style={{ left: at(band.low), right: `calc(100% - ${at(band.high)})` }} />}
        <i class="fill" style={one.strength < 0 ? { left: at(one.strength), right: "50%" } : { left: "50%", right: `calc(100% - ${at(one.strength)})` }} />
        <i class="zero" />
      </div>
      <input
        type="range" min={-reach} max={reach} step={0.1} value={one.strength} aria-label={`Strength of ${one.vector}`} aria-describedby={id}
        onInput={(event) => props.change(Number(event.currentTarget.value))}
      />
      <div class="ends" aria-hidden="true"><span>{shown(-reach)}</span><span>0</span><span>{shown(reach)}</span></div>
      <p id={id} class={`caption${outside ? " warn" : ""}`}>
        {props.busy ?? (band ? (
          <>
            {outside && <strong>Outside of the measured band. </strong>}
            {band.low === 0 && band.high === 0
              ? "At this layer, no strength that was tried stays within the budget"
              : `${shown(band.low)} to ${shown(band.high)} stays within the budget`}
            {": "}KL ≤ {shown(analysis!.max_kl)}
            {band.repetition ? ` and repetition ≤ ${shown(analysis!.max_repetition)}` : " (repetition not measured at this layer)"}
            , on {band.prompts} {band.prompts === 1 ? "prompt" : "prompts"}.
          </>
        ) : (
          <>
            {WHY[why!]}{" "}
            <button type="button" class="link" onClick={props.sweep}>Measure the band</button>
          </>
        ))}
      </p>
    </div>
  );
}
