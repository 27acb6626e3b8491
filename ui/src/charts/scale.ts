// Axes, ticks, numbers for people, and the scale of colours.

import { signal } from "@preact/signals";

/** How wide the drawings are, in their own units: narrow on a phone, so that their letters stay as large. */
export const width = signal(640);

export interface Axis {
  low: number;
  high: number;
  at: (value: number) => number;
}

/** A range of numbers laid over a stretch of the drawing, with some room around them. */
export function axis(values: number[], start: number, end: number, room = 0.06): Axis {
  const least = Math.min(...values);
  const most = Math.max(...values);
  const margin = (most - least) * room || Math.abs(least) * room || 0.5;
  const [low, high] = [least - margin, most + margin];
  return { low, high, at: (value) => start + ((value - low) / (high - low)) * (end - start) };
}

/** Round values within an axis. */
export function ticks({ low, high }: { low: number; high: number }, most: number, whole = false): number[] {
  const span = high - low;
  if (!(span > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(span / most));
  let step = [1, 2, 5, 10, 20].map((factor) => factor * power).find((one) => span / one <= most) ?? 20 * power;
  if (whole) step = Math.max(1, step);
  const found: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) found.push(i * step + 0);
  return found;
}

/** A number for people: so many significant digits, with a true minus. */
export function shown(value: number, digits = 3): string {
  if (value === 0) return "0";
  const text = Math.abs(value) >= 1e5 || Math.abs(value) < 1e-4 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  return text.replace(/-/g, "−");
}

/** A value as a `data-*` attribute, from which the same number is read back; several are joined by commas. */
export const exact = (value: number | number[]): string => (Array.isArray(value) ? value.join(",") : String(value));

export interface Shade {
  kind: "positive" | "negative";
  share: number;
}

/** Numbers as colours: one on either side of a centre, the stronger the further. */
export function shades(values: number[], centre = 0, reach?: number | null): (value: number) => Shade {
  const far = reach || Math.max(0, ...values.map((value) => Math.abs(value - centre))) || 1;
  return (value) => {
    const share = Math.max(-1, Math.min(1, (value - centre) / far));
    return { kind: share > 0 ? "positive" : "negative", share: Math.abs(share) };
  };
}

/** From the lowest number, without colour, to the highest. */
export function sequential(values: number[], reach?: number | null): (value: number) => Shade {
  const low = Math.min(...values);
  const span = reach || Math.max(...values) - low || 1;
  return (value) => ({ kind: "negative", share: Math.max(0, Math.min(1, (value - low) / span)) });
}

/** A token with its white space made visible. */
export const visible = (token: string): string =>
  token.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍");

export const centreOf = (classes: [number, number] | null | undefined): number =>
  classes ? (classes[0] + classes[1]) / 2 : 0;
