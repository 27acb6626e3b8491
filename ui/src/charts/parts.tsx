// What the charts share.

import type { ComponentChildren, JSX } from "preact";
import { type Axis, exact, shown, ticks, width } from "./scale";

export const LEFT = 52;
export const right = () => width.value - 14;

/** The drawing; a screen reader says its title and description. */
export function Drawing(props: {
  kind: string; height: number; title: string; said: string; children: ComponentChildren; active?: boolean;
}): JSX.Element {
  // an image has no parts that a keyboard could reach, so one with cells to press is a group
  return (
    <svg
      class="chart" viewBox={`0 0 ${width.value} ${props.height}`} role={props.active ? "group" : "img"}
      aria-label={`${props.title}. ${props.said}`} data-chart={props.kind}
    >
      {props.children}
    </svg>
  );
}

export function Panel(props: { x: Axis; y: Axis; top: number; bottom: number; name: string; x_ticks?: number[]; labels?: boolean }): JSX.Element {
  const { x, y, top, bottom, labels = true } = props;
  const down = ticks(y, Math.max(3, Math.round((bottom - top) / 38)));
  const across = props.x_ticks ?? ticks(x, 9);
  const RIGHT = right();
  return (
    <g>
      <text class="soft" x={LEFT - 40} y={top - 10}>{props.name}</text>
      {down.map((value) => (
        <g key={value}>
          <line class="grid" x1={LEFT} x2={RIGHT} y1={y.at(value)} y2={y.at(value)} />
          <text class="soft end" x={LEFT - 8} y={y.at(value) + 4}>{shown(value)}</text>
        </g>
      ))}
      {across.map((value) => (
        <g key={value}>
          <line class="axis" x1={x.at(value)} x2={x.at(value)} y1={bottom} y2={bottom + 4} />
          {labels && <text class="soft middle" x={x.at(value)} y={bottom + 18}>{shown(value)}</text>}
        </g>
      ))}
      {y.low < 0 && y.high > 0 && <line class="axis" x1={LEFT} x2={RIGHT} y1={y.at(0)} y2={y.at(0)} />}
      {x.low < 0 && x.high > 0 && <line class="grid" x1={x.at(0)} x2={x.at(0)} y1={top} y2={bottom} />}
      <line class="axis" x1={LEFT} x2={RIGHT} y1={bottom} y2={bottom} />
    </g>
  );
}

const path = (points: [number, number][]) => `M${points.map(([a, b]) => `${a.toFixed(2)},${b.toFixed(2)}`).join("L")}`;

/** The area between lows and highs. */
export function BandArea(props: { x: Axis; y: Axis; at: number[]; band: [number, number][]; kind: string; name: string }): JSX.Element {
  const { x, y, at, band } = props;
  const upper = at.map((value, i): [number, number] => [x.at(value), y.at(band[i]![1])]);
  const lower = at.map((value, i): [number, number] => [x.at(value), y.at(band[i]![0])]).reverse();
  return (
    <path
      class={`area ${props.kind}`} d={`${path([...upper, ...lower])}Z`} data-series={props.name} data-x={exact(at)}
      data-low={exact(band.map(([low]) => low))} data-high={exact(band.map(([, high]) => high))}
    >
      <title>{props.name}</title>
    </path>
  );
}

/** A line with a dot for each value. */
export function Series(props: {
  x: Axis; y: Axis; at: number[]; values: number[]; intervals?: [number, number][] | null; kind: string; name: string;
  x_name: string; dashed?: boolean;
}): JSX.Element {
  const { x, y, at, values, intervals } = props;
  const points = at.map((value, i): [number, number] => [x.at(value), y.at(values[i]!)]);
  return (
    <g>
      {intervals && <BandArea x={x} y={y} at={at} band={intervals} kind={props.kind} name={`${props.name}: 95% interval`} />}
      <path class={`line ${props.kind}${props.dashed ? " dashed" : ""}`} d={path(points)} data-series={props.name} />
      {points.map(([cx, cy], i) => {
        const between = intervals?.[i];
        return (
          <circle
            key={i} class={props.kind} cx={cx} cy={cy} r={props.dashed ? 2.2 : 3.4} data-series={props.name}
            data-x={exact(at[i]!)} data-y={exact(values[i]!)} data-low={between && exact(between[0])}
            data-high={between && exact(between[1])}
          >
            <title>
              {`${props.name}: ${props.x_name} ${shown(at[i]!)}, ${shown(values[i]!)}`}
              {between ? `, 95% interval ${shown(between[0])} to ${shown(between[1])}` : ""}
            </title>
          </circle>
        );
      })}
    </g>
  );
}

/** What the marks mean, in words beside them; outside of the drawing, where it may wrap. */
export function Legend(props: { entries: [string, string][] }): JSX.Element {
  return (
    <ul class="legend">
      {props.entries.map(([kind, text]) => (
        <li key={text}><i class={kind} aria-hidden="true" />{text}</li>
      ))}
    </ul>
  );
}

/** The scale of colours of a diverging chart. */
export function Scale(props: { low: string; middle?: string; high: string; one?: boolean }): JSX.Element {
  return (
    <p class="scale">
      <span>{props.low}</span><i class={props.one ? "one" : ""} aria-hidden="true" /><span>{props.high}</span>
      {props.middle && <span class="soft">{props.middle}</span>}
    </p>
  );
}
