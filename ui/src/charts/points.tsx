import type { JSX } from "preact";
import { Drawing, LEFT, Legend, Panel, right } from "./parts";
import { axis, exact, shown } from "./scale";

export interface Geometry {
  positive: [number, number][];
  negative: [number, number][];
  explained?: [number, number] | null;
  names?: [string, string];
  title?: string;
}

/** The two classes of examples in the plane in which they vary most, both axes to one scale. */
export function GeometryChart({ positive, negative, explained, names = ["positive", "negative"], title = "Geometry" }: Geometry): JSX.Element {
  const points = [...positive, ...negative];
  const RIGHT = right();
  const rough = { x: axis(points.map(([x]) => x), LEFT, RIGHT), y: axis(points.map(([, y]) => y), 1, 0) };
  const scale = Math.min((RIGHT - LEFT) / (rough.x.high - rough.x.low), 360 / (rough.y.high - rough.y.low));
  const height = Math.max(150, (rough.y.high - rough.y.low) * scale);
  const widen = ({ low, high }: { low: number; high: number }, room: number): [number, number] => {
    const spare = (room / scale - (high - low)) / 2;
    return [low - spare, high + spare];
  };
  const top = 26;
  const x = axis(widen(rough.x, RIGHT - LEFT), LEFT, RIGHT, 0);
  const y = axis(widen(rough.y, height), top + height, top, 0);
  const share = (i: 0 | 1) => (explained ? ` (${Math.round(explained[i] * 100)}% of variance)` : "");
  const mean = (of: [number, number][], i: 0 | 1) => of.reduce((sum, point) => sum + point[i], 0) / of.length;
  return (
    <>
      <Legend entries={[["dot positive", names[0]], ["ring negative", names[1]], ["cross", "class mean"]]} />
      <Drawing kind="geometry" height={top + height + 44} title={title} said={`${positive.length} ${names[0]} and ${negative.length} ${names[1]} points`}>
        <Panel x={x} y={y} top={top} bottom={top + height} name={`principal component 2${share(1)}`} />
        {negative.map(([a, b], i) => <circle key={i} class="ring negative" cx={x.at(a)} cy={y.at(b)} r={3.6} data-group={names[1]} data-x={exact(a)} data-y={exact(b)}><title>{`${names[1]}: ${shown(a)}, ${shown(b)}`}</title></circle>)}
        {positive.map(([a, b], i) => <circle key={i} class="dot positive" cx={x.at(a)} cy={y.at(b)} r={4} data-group={names[0]} data-x={exact(a)} data-y={exact(b)}><title>{`${names[0]}: ${shown(a)}, ${shown(b)}`}</title></circle>)}
        {([[names[1], negative], [names[0], positive]] as const).map(([name, of]) => of.length > 0 && (
          <g key={name} transform={`translate(${x.at(mean(of, 0)).toFixed(2)} ${y.at(mean(of, 1)).toFixed(2)})`}>
            <path class="cross under" d="M-7 0H7M0 -7V7" /><path class="cross" d="M-7 0H7M0 -7V7" data-mean={name} data-x={exact(mean(of, 0))} data-y={exact(mean(of, 1))} />
          </g>
        ))}
        <text class="soft middle" x={(LEFT + RIGHT) / 2} y={top + height + 38}>{`principal component 1${share(0)}`}</text>
      </Drawing>
    </>
  );
}
