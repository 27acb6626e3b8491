import type { JSX } from "preact";
import { useRef } from "preact/hooks";
import { Drawing, Scale } from "./parts";
import { exact, sequential, shades, shown, width } from "./scale";

export interface Heat {
  values: (number | null)[][];
  rows: (string | number)[];
  columns: (string | number)[];
  kind?: "diverging" | "sequential";
  centre?: number;
  reach?: number | null;
  row_label?: string;
  column_label?: string;
  value_label?: string;
  chosen?: [number, number] | null;
  title?: string;
}

const minus = (label: string | number) => String(label).replace(/^-/, "−");

/** Numbers as colours. With `pick`, each cell can be pressed, and reached by the arrow keys. */
export function Heatmap(props: Heat & { pick?: (row: number, column: number) => void; action?: string }): JSX.Element {
  const { values, rows, columns, pick } = props;
  const { row_label = "layer", column_label = "strength", value_label = "effect", chosen } = props;
  const group = useRef<SVGGElement>(null);
  const measured = values.flat().filter((value): value is number => value !== null);
  const one = props.kind === "sequential";
  const shade = one ? sequential(measured, props.reach) : shades(measured, props.centre ?? 0, props.reach);
  const left = 58;
  const wide = Math.min(84, (width.value - left - 10) / columns.length);
  const tall = Math.max(16, Math.min(30, 420 / rows.length));
  const top = 22;
  const bottom = top + rows.length * tall;
  const start = chosen ?? [0, 0];

  const move = (event: KeyboardEvent, i: number, j: number) => {
    const by = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (by) {
      event.preventDefault();
      const next = group.current?.querySelector<SVGElement>(`[data-i="${i + by[0]!}"][data-j="${j + by[1]!}"]`);
      if (!next) return;
      for (const cell of group.current!.querySelectorAll("[tabindex]")) cell.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      pick?.(i, j);
    }
  };

  return (
    <>
      <Drawing kind="heatmap" height={bottom + 42} title={props.title ?? "Heat map"} active={!!pick} said={`${rows.length} by ${columns.length}, ${value_label} from ${shown(Math.min(...measured))} to ${shown(Math.max(...measured))}`}>
        <text class="soft end" x={left - 8} y={14}>{row_label}</text>
        <g ref={group}>
          {values.map((row, i) =>
            row.map((value, j) => {
              const colour = value === null ? null : shade(value);
              const facts = `${row_label} ${minus(rows[i]!)}, ${column_label} ${minus(columns[j]!)}: ${value === null ? "not measured" : shown(value)}`;
              const isChosen = chosen?.[0] === i && chosen[1] === j;
              const active = pick && value !== null
                ? {
                    role: "button", "aria-label": `${facts}${isChosen ? ", the best within the budget" : ""}. ${props.action ?? "Use it"}`,
                    tabindex: start[0] === i && start[1] === j ? 0 : -1, onClick: () => pick(i, j),
                    onKeyDown: (event: KeyboardEvent) => move(event, i, j), "data-i": i, "data-j": j,
                  }
                : {};
              return (
                <rect
                  key={`${i},${j}`} class={`cell ${colour?.kind ?? "none"}${pick ? " press" : ""}`}
                  x={left + j * wide + 0.75} y={top + i * tall + 0.75} width={wide - 1.5} height={tall - 1.5} rx={2.5}
                  fill-opacity={colour ? (0.04 + 0.96 * colour.share).toFixed(3) : 0} data-row={String(rows[i])} data-column={String(columns[j])}
                  data-value={value === null ? "" : exact(value)} data-chosen={isChosen ? "true" : undefined} {...(active as object)}
                >
                  <title>{facts}</title>
                </rect>
              );
            }),
          )}
        </g>
        {chosen && <rect class="mark" x={left + chosen[1] * wide - 0.5} y={top + chosen[0] * tall - 0.5} width={wide + 1} height={tall + 1} rx={4} />}
        {rows.map((row, i) => <text key={i} class="soft end" x={left - 8} y={top + (i + 0.5) * tall + 4}>{minus(row)}</text>)}
        {columns.map((column, j) => <text key={j} class="soft middle" x={left + (j + 0.5) * wide} y={bottom + 16}>{minus(column)}</text>)}
        <text class="soft middle" x={left + (columns.length * wide) / 2} y={bottom + 34}>{column_label}</text>
      </Drawing>
      <Scale
        low={shown(one ? Math.min(...measured) : (props.centre ?? 0) - Math.max(...measured.map((value) => Math.abs(value - (props.centre ?? 0)))))}
        high={shown(one ? Math.max(...measured) : (props.centre ?? 0) + Math.max(...measured.map((value) => Math.abs(value - (props.centre ?? 0)))))}
        middle={`${value_label}${chosen ? "; outlined: the best within the budget" : ""}`} one={one}
      />
    </>
  );
}

export interface Cosines {
  names: string[];
  values: number[][];
  random_sd?: number | null;
  title?: string;
}

const shortened = (name: string, most: number) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

/** How alike directions are, each with each. */
export function CosineMatrix({ names, values, random_sd, title = "Cosine similarity" }: Cosines): JSX.Element {
  const shade = shades([], 0, 1);
  const left = 110;
  const wide = Math.min(96, (width.value - left - 10) / names.length);
  const tall = Math.min(56, wide);
  const bottom = 8 + names.length * tall;
  return (
    <>
      <Drawing kind="cosine-matrix" height={bottom + 26} title={title} said={`${names.length} directions`}>
        {values.map((row, i) =>
          row.map((value, j) => {
            const { kind, share } = shade(value);
            return (
              <g key={`${i},${j}`}>
                <rect class={`cell ${kind}`} x={left + j * wide + 1} y={8 + i * tall + 1} width={wide - 2} height={tall - 2} rx={3} fill-opacity={(0.03 + 0.97 * share).toFixed(3)} data-row={names[i]} data-column={names[j]} data-value={exact(value)}>
                  <title>{`${names[i]} and ${names[j]}: ${shown(value)}`}</title>
                </rect>
                {wide > 34 && <text class={`middle ${share > 0.6 ? "on" : ""}`} x={left + (j + 0.5) * wide} y={8 + (i + 0.5) * tall + 4} pointer-events="none">{value.toFixed(2).replace("-", "−")}</text>}
              </g>
            );
          }),
        )}
        {names.map((name, i) => <text key={name} class="end" x={left - 10} y={8 + (i + 0.5) * tall + 4}>{shortened(name, 14)}<title>{name}</title></text>)}
        {names.map((name, j) => <text key={name} class="middle" x={left + (j + 0.5) * wide} y={bottom + 18}>{shortened(name, Math.max(3, Math.floor(wide / 7.5)))}<title>{name}</title></text>)}
      </Drawing>
      <Scale low="−1 opposite" high="1 the same" middle={random_sd ? `random directions: 0 ± ${shown(2 * random_sd)}` : ""} />
    </>
  );
}
