import type { JSX } from "preact";
import { Drawing, Legend, Scale } from "./parts";
import { centreOf, exact, shades, shown, visible, width } from "./scale";

export interface Projected {
  tokens: string[];
  values: number[];
  classes?: [number, number] | null;
  title?: string;
}

const LETTER = 8.45;
const LINE = 30;

/** A text whose tokens are coloured by their projection. The first, an outlier in most models, sets no colours. */
export function TokenProjections({ tokens, values, classes, title = "Projection by token" }: Projected): JSX.Element {
  const centre = centreOf(classes);
  const WIDTH = width.value;
  const shade = shades(values.length > 1 ? values.slice(1) : values, centre);
  let x = 6;
  let y = 10;
  const placed = tokens.map((token) => {
    const text = token.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "\u00a0");
    const width = Math.max(5, text.length * LETTER);
    if (x > 6 && x + width > WIDTH - 6) [x, y] = [6, y + LINE];
    const place = { text, width, x, y };
    x += width + 1.5;
    if (token.endsWith("\n")) [x, y] = [6, y + LINE];
    return place;
  });
  const reach = Math.max(...values.slice(1).map((value) => Math.abs(value - centre)), 1e-9);
  return (
    <>
      <Drawing kind="token-projections" height={y + LINE + 8} title={title} said={`${tokens.length} tokens, from ${shown(Math.min(...values))} to ${shown(Math.max(...values))}`}>
        {placed.map((place, i) => {
          const { kind, share } = shade(values[i]!);
          return (
            <g key={i}>
              <rect class={`cell ${kind}`} x={place.x} y={place.y} width={place.width} height={LINE - 6} rx={3} fill-opacity={(0.85 * share).toFixed(3)} data-position={i} data-token={tokens[i]} data-value={exact(values[i]!)}>
                <title>{`${JSON.stringify(tokens[i])} at position ${i}: ${shown(values[i]!, 4)}`}</title>
              </rect>
              <text class={`mono ${share > 0.8 ? "on" : ""}`} x={place.x} y={place.y + 17} textLength={place.width} lengthAdjust="spacingAndGlyphs" pointer-events="none">{place.text}</text>
            </g>
          );
        })}
      </Drawing>
      <Scale low={shown(centre - reach)} high={shown(centre + reach)} middle={classes ? `examples average ${shown(classes[0])} (negative) and ${shown(classes[1])} (positive)` : "projection"} />
    </>
  );
}

export interface Lens {
  boosted: [string, number][];
  suppressed: [string, number][];
  control?: number | null;
  value_label?: string;
  title?: string;
  subtitle?: string;
}

/** The tokens a direction boosts and those it suppresses. */
export function LensTable({ boosted, suppressed, control, value_label = "logit", title = "Tokens" }: Lens): JSX.Element {
  const all = [...boosted, ...suppressed].map(([, value]) => value);
  const reach = Math.max(...all.map(Math.abs), Math.abs(control ?? 0), 1e-12);
  const rows = Math.max(boosted.length, suppressed.length);
  const column = (width.value - 24) / 2;
  const sides = [["boosted", boosted, "positive", 0], ["suppressed", suppressed, "negative", column + 24]] as const;
  return (
    <>
      <Legend entries={control != null ? [["rule", `${shown(control)}: no token of 95% of random directions goes further`]] : []} />
      <Drawing kind="lens-table" height={30 + rows * 22} title={title} said={`${boosted.length} boosted and ${suppressed.length} suppressed tokens`}>
        {sides.map(([side, listed, kind, left]) => {
          const start = left + (width.value < 500 ? 76 : 104);
          const room = column - (start - left) - 44;
          return (
            <g key={side}>
              <text class="strong" x={left} y={14}>{side === "boosted" ? "made likelier" : "made rarer"}</text>
              {listed.map(([token, value], rank) => (
                <g key={rank}>
                  <text class="mono" x={left} y={38 + rank * 22}>{visible(token).slice(0, width.value < 500 ? 9 : 12)}</text>
                  <rect class={`bar ${kind}`} x={start} y={27 + rank * 22} width={Math.max(0.5, (Math.abs(value) / reach) * room)} height={14} rx={2} data-side={side} data-rank={rank} data-token={token} data-value={exact(value)}>
                    <title>{`${JSON.stringify(token)}: ${shown(value, 4)} ${value_label}`}</title>
                  </rect>
                  <text class="soft end" x={left + column} y={38 + rank * 22}>{value.toFixed(2).replace("-", "−")}</text>
                </g>
              ))}
              {control != null && listed.length > 0 && <path class="rule" d={`M${start + (Math.abs(control) / reach) * room},24V${28 + listed.length * 22}`} data-control={exact(control)} />}
            </g>
          );
        })}
      </Drawing>
    </>
  );
}
