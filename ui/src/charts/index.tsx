import type { JSX } from "preact";
import type { Chart } from "../api";
import { CosineMatrix, Heatmap } from "./grids";
import { DoseResponse, ProbeCurve } from "./lines";
import { GeometryChart } from "./points";
import { LensTable, TokenProjections } from "./tokens";

/** A chart of the API, drawn. Each mark has the API's own numbers in its `data-*` attributes. */
export function draw(chart: Chart, pick?: (row: number, column: number) => void): JSX.Element {
  const given = chart.arguments as any;
  switch (chart.chart) {
    case "dose_response": return <DoseResponse {...given} />;
    case "heatmap": return <Heatmap {...given} {...(pick ? { pick, action: "Use this layer and strength" } : {})} />;
    case "token_projections": return <TokenProjections {...given} />;
    case "lens_table": return <LensTable {...given} />;
    case "geometry": return <GeometryChart {...given} />;
    case "probe_curve": return <ProbeCurve {...given} />;
    case "cosine_matrix": return <CosineMatrix {...given} />;
    default: return <p class="warn">This page cannot draw {chart.chart}.</p>;
  }
}
