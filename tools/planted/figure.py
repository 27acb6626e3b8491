"""The study as a figure: how p-values are spread with and without a planted direction, and the shares beside what they
should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy import stats

from steersman.charts.layout import Axis, Panel, Sign, Ticks, band_sign, data_of, headline, legend, line_sign, rule_sign
from steersman.charts.svg import MARGIN, SMALL, WIDTH, Drawing

HEIGHT, ROW = 230.0, 42.0
LEFT = MARGIN + 34.0


def draw(summary: dict[str, Any], with_one: Sequence[float], without: Sequence[float], steps: int) -> str:
    """The figure as SVG.

    Args:
        summary: of :func:`tools.planted.study.summary`.
        with_one, without: the p-values of models with and without a planted direction.
        steps: a p-value is a multiple of one over this.
    """
    drawing = Drawing()
    count = len(without)
    entries: list[tuple[Sign, str]] = [
        (line_sign("s1"), f"{len(with_one)} models with a planted direction"),
        (line_sign("s0"), f"{count} models without"),
        (rule_sign("ink", "4 3"), "uniform"),
        (band_sign("control", 0.44), "where 95% of uniform samples stay (Kolmogorov-Smirnov)"),
    ]
    top = legend(drawing, headline(drawing, "Does a sweep find what is there, and nothing else?"), entries)
    drawing.text(MARGIN, top + 20, "share of models with a smaller or equal p-value", "soft", size=SMALL)
    panel = Panel(Axis(0.0, 1.0, LEFT, WIDTH - MARGIN), Axis(0.0, 1.0, top + 30 + HEIGHT, top + 30))
    panel.draw(drawing, Ticks.within(0, 1, 10), Ticks.within(0, 1, 5))
    grid = [step / steps for step in range(steps + 1)]
    reach = float(stats.kstwo.ppf(0.95, count))
    upper = [(panel.x.at(p), panel.y.at(min(1.0, p + reach))) for p in grid]
    lower = [(panel.x.at(p), panel.y.at(max(0.0, p - reach))) for p in grid]
    drawing.path([*upper, *reversed(lower)], "control", closed=True, opacity=0.22, data={"reach": reach})
    drawing.path([(panel.x.at(0), panel.y.at(0)), (panel.x.at(1), panel.y.at(1))], "ink-line", dash="4 3")
    for name, values, kind in (("with", with_one, "s1"), ("without", without, "s0")):
        shares = [sum(value <= p + 1e-9 for value in values) / len(values) for p in grid]
        points = [(panel.x.at(p), panel.y.at(share)) for p, share in zip(grid, shares, strict=True)]
        drawing.path(points, f"{kind}-line", width=2.0, data=data_of(series=name, x=grid, y=shares))
        for (x, y), p, share in zip(points, grid, shares, strict=True):
            drawing.circle(x, y, 2.2, kind, tip=f"{name}: {share:.1%} at p <= {p:.3f}")
    y = panel.y.start + SMALL * 2.8
    drawing.text((LEFT + WIDTH - MARGIN) / 2, y, "p-value of the search", "soft", size=SMALL, anchor="middle")
    bottom = _shares(drawing, summary, y + 14)
    found, wrong = (summary[name]["share"] for name in ("layer found", "p <= .05 without"))
    said = f"{found:.0%} of planted layers found; false positives {wrong:.1%}"
    return drawing.render(bottom + MARGIN, "Planted truth", said, "planted-truth")


def _shares(drawing: Drawing, summary: dict[str, Any], top: float) -> float:
    """A line for each share, its interval, and a rule where it should be."""
    rows = [
        ("layer found", "the planted layer is chosen", None),
        ("coverage", "the 95% interval holds the truth", 0.95),
        ("coverage of the chosen", "the same of the chosen cell, 12 kept items", 0.95),
        ("p <= .05 without", "p at most .05 where nothing is", 0.05),
    ]
    axis = Axis(0.0, 1.0, MARGIN + 4, WIDTH - MARGIN - 4)
    for number, (name, label, wanted) in enumerate(rows):
        y, share = top + ROW * (number + 1) - 8, summary[name]
        said = f"{share['share']:.1%}  [{share['low']:.1%}, {share['high']:.1%}]"
        should = "" if wanted is None else f" (should be {wanted:.0%})"
        drawing.text(MARGIN, y - 10, f"{label}{should}", "ink", size=SMALL)
        drawing.text(WIDTH - MARGIN, y - 10, said, "soft", size=SMALL, anchor="end")
        drawing.line(axis.start, y, axis.end, y, "grid-line", width=2.0)
        if wanted is not None:
            drawing.line(axis.at(wanted), y - 7, axis.at(wanted), y + 7, "ink-line", dash="3 2")
        drawing.line(axis.at(share["low"]), y, axis.at(share["high"]), y, "s0-line", width=3.0)
        data = data_of(share=name, value=share["share"], low=share["low"], high=share["high"])
        drawing.circle(axis.at(share["share"]), y, 4.0, "s0", data=data)
    return top + ROW * (len(rows) + 0.2)
