"""Numbers along an axis: the dose and its response, the layers and their probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import DataError
from .layout import (
    Axis,
    Interval,
    Panel,
    Sign,
    Ticks,
    band_sign,
    checked_intervals,
    data_of,
    headline,
    label_room,
    legend,
    line_sign,
    numbers,
    rule_sign,
    shown,
)
from .svg import MARGIN, SMALL, WIDTH, Drawing

SERIES = ("s0", "s1", "s2", "s3")
BAND, CONTROL = 0.2, 0.22
PANEL, LOWER = 210.0, 84.0


@dataclass(frozen=True)
class Line:
    """One line: its values, and the interval of each."""

    name: str
    values: list[float]
    intervals: list[Interval] | None
    kind: str
    dash: str = ""

    def extent(self) -> list[float]:
        """Every number it touches."""
        return self.values + [end for pair in self.intervals or () for end in pair]

    def draw(self, drawing: Drawing, panel: Panel, x: Sequence[float], x_name: str) -> None:
        """The band, the line, and a dot for each value."""
        places = [panel.x.at(value) for value in x]
        if self.intervals:
            draw_band(drawing, panel, x, self.intervals, self.kind, BAND, f"{self.name}: 95% interval")
        points = [(place, panel.y.at(value)) for place, value in zip(places, self.values, strict=True)]
        drawing.path(points, f"{self.kind}-line", width=2.0, dash=self.dash, data={"series": self.name})
        for i, (place, y) in enumerate(points):
            low, high = self.intervals[i] if self.intervals else (None, None)
            data = data_of(series=self.name, x=x[i], y=self.values[i], low=low, high=high)
            between = f", 95% interval {shown(low)} to {shown(high)}" if low is not None and high is not None else ""
            tip = f"{self.name}: {x_name} {shown(x[i])}, {shown(self.values[i])}{between}"
            drawing.circle(place, y, 2.0 if self.dash else 3.2, self.kind, data=data, tip=tip)


def draw_band(
    drawing: Drawing, panel: Panel, x: Sequence[float], band: Sequence[Interval], kind: str, opacity: float, name: str
) -> None:
    """The area between the lows and the highs."""
    upper = [(panel.x.at(value), panel.y.at(high)) for value, (_, high) in zip(x, band, strict=True)]
    lower = [(panel.x.at(value), panel.y.at(low)) for value, (low, _) in zip(x, band, strict=True)]
    data = data_of(series=name, x=list(x), low=[low for low, _ in band], high=[high for _, high in band])
    drawing.path([*upper, *reversed(lower)], kind, closed=True, opacity=opacity, data=data, tip=name)


def dose_response(
    strengths: Sequence[float],
    effects: Sequence[float] | Mapping[str, Sequence[float]],
    *,
    intervals: Sequence[Interval] | Mapping[str, Sequence[Interval]] | None = None,
    random: Sequence[Interval] | None = None,
    kl: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    max_kl: float | None = None,
    title: str = "Dose and response",
    x_label: str = "strength",
    y_label: str = "effect (nats)",
    kl_label: str = "KL (nats per token)",
) -> str:
    """Effect against strength, with what random directions of equal length do, and below it what it costs.

    Args:
        strengths: where it was measured, ascending.
        effects: one value per strength; or several series (at most four) by name.
        intervals: the 95% interval of each effect, in the same form.
        random: at each strength, the interval that holds 95% of random directions' effects.
        kl: the side effect at each strength, in the same form as ``effects``: a second panel, same strengths.
        max_kl: a budget, drawn as a line in that panel.
        title, x_label, y_label, kl_label: what is written.

    Raises:
        DataError: nothing to draw, counts that differ, NaN or infinite numbers, strengths out of order.
    """
    x = _ascending(strengths, "strengths")
    lines = _series(effects, intervals, "effect", len(x))
    costs = _series(kl, None, "KL", len(x)) if kl is not None else []
    control = checked_intervals(random, "random-direction intervals", len(x))
    entries: list[tuple[Sign, str]] = [(line_sign(line.kind), line.name) for line in lines] if len(lines) > 1 else []
    if any(line.intervals for line in lines):
        entries.append((band_sign(lines[0].kind, 2 * BAND), "95% interval"))
    if control:
        entries.append((band_sign("control", 2 * CONTROL), "95% of random directions"))
    drawing = Drawing()
    top = legend(drawing, headline(drawing, title), entries)
    extent = [value for line in lines for value in line.extent()] + [end for pair in control or () for end in pair]
    spent = [value for cost in costs for value in cost.values] + ([max_kl] if costs and max_kl is not None else [])
    left = _left(([*extent, 0.0], PANEL), *([([*spent, 0.0], LOWER)] if costs else []))
    panel = _panel(drawing, top, PANEL, left, x, [*extent, 0.0], y_label, below=not costs)
    if control:
        draw_band(drawing, panel, x, control, "control", CONTROL, "95% of random directions")
    for line in lines:
        line.draw(drawing, panel, x, x_label)
    if costs:
        budget = f"; dashed: budget {shown(max_kl)}" if max_kl is not None else ""
        panel = _panel(drawing, panel.y.start + 4, LOWER, left, x, [*spent, 0.0], kl_label + budget)
        if max_kl is not None:
            y = panel.y.at(max_kl)
            ends = [(panel.x.start, y), (panel.x.end, y)]
            drawing.path(ends, "ink-line", dash="4 3", data={"budget": max_kl}, tip=f"budget {shown(max_kl)}")
        for cost in costs:
            cost.draw(drawing, panel, x, x_label)
    said = f"{y_label} from {shown(min(extent))} to {shown(max(extent))} at {len(x)} strengths"
    return drawing.render(_x_title(drawing, panel, x_label), title, said, "dose-response")


def probe_curve(
    layers: Sequence[int],
    accuracy: Sequence[float],
    *,
    intervals: Sequence[Interval] | None = None,
    shuffled: Sequence[float] | None = None,
    best: int | None = None,
    majority: float | None = None,
    title: str = "Linear probe by layer",
) -> str:
    """Held-out accuracy by layer, with its interval and the same procedure on shuffled labels.

    Args:
        layers: ascending.
        accuracy: of each, 0 to 1.
        intervals: the 95% interval of each.
        shuffled: accuracy on shuffled labels, of each.
        best: a layer to mark.
        majority: the share of the most frequent class, which is what a constant answer gets.
        title: what is written above.

    Raises:
        DataError: nothing to draw, counts that differ, NaN or infinite numbers, layers out of order.
    """
    x = _ascending(layers, "layers")
    lines = [
        Line(
            "held out", numbers(accuracy, "accuracies", len(x)), checked_intervals(intervals, "intervals", len(x)), "s0"
        )
    ]
    entries = [(line_sign("s0"), "held-out accuracy")]
    if lines[0].intervals:
        entries.append((band_sign("s0", 2 * BAND), "95% interval"))
    if shuffled is not None:
        lines.append(Line("shuffled labels", numbers(shuffled, "shuffled accuracies", len(x)), None, "control", "5 3"))
        entries.append((rule_sign("control", "5 3"), "shuffled labels"))
    if majority is not None:
        entries.append((rule_sign("ink", "2 3"), f"largest class: {shown(majority)}"))
    drawing = Drawing()
    top = legend(drawing, headline(drawing, title), entries)
    extent = [value for line in lines for value in line.extent()] + ([majority] if majority is not None else [])
    extent = [min(extent), 1.0]
    panel = _panel(drawing, top, PANEL, _left((extent, PANEL)), x, extent, "accuracy", whole=True)
    if majority is not None:
        y = panel.y.at(majority)
        ends, tip = [(panel.x.start, y), (panel.x.end, y)], f"largest class: {shown(majority)}"
        drawing.path(ends, "ink-line", dash="2 3", data={"majority": majority}, tip=tip)
    for line in reversed(lines):
        line.draw(drawing, panel, x, "layer")
    said = f"{len(x)} layers, accuracy {shown(min(lines[0].values))} to {shown(max(lines[0].values))}"
    if best is not None and float(best) in x:
        value = lines[0].values[x.index(float(best))]
        drawing.circle(panel.x.at(best), panel.y.at(value), 6.0, "ink-line", data={"best": best, "y": value})
        said += f", best at layer {best}"
    return drawing.render(_x_title(drawing, panel, "layer"), title, said, "probe-curve")


def _panel(
    drawing: Drawing, top: float, height: float, left: float, x: list[float], extent: Sequence[float], y_label: str, *,
    below: bool = True, whole: bool = False,
) -> Panel:  # fmt: skip
    """An empty panel under ``top``, its y axis named above it."""
    drawing.text(MARGIN, top + 20, y_label, "soft", size=SMALL)
    vertical = Axis.over(extent, top + 30 + height, top + 30)
    horizontal = Axis.over(x, left, WIDTH - MARGIN, room=0.03)
    panel = Panel(horizontal, vertical)
    x_ticks = Ticks.within(horizontal.low, horizontal.high, 9, whole=whole)
    panel.draw(drawing, x_ticks, _y_ticks(extent, height), x_labels=below)
    return panel


def _y_ticks(extent: Sequence[float], height: float) -> Ticks:
    axis = Axis.over(extent, height, 0.0)
    return Ticks.within(axis.low, axis.high, max(2, round(height / 36)))


def _left(*panels: tuple[Sequence[float], float]) -> float:
    """Where panels of these (extent, height) begin, so that they stand exactly above each other."""
    return max(label_room(_y_ticks(extent, height).labels) for extent, height in panels)


def _x_title(drawing: Drawing, panel: Panel, label: str) -> float:
    """The name of the horizontal axis; returns the height of the figure."""
    y = panel.y.start + 4 + SMALL * 2.6
    drawing.text((panel.x.start + panel.x.end) / 2, y, label, "soft", size=SMALL, anchor="middle")
    return y + MARGIN


def _series(
    values: Sequence[float] | Mapping[str, Sequence[float]],
    bands: Sequence[Interval] | Mapping[str, Sequence[Interval]] | None,
    what: str,
    count: int,
) -> list[Line]:
    named = dict(values) if isinstance(values, Mapping) else {what: values}
    within = dict(bands) if isinstance(bands, Mapping) else {what: bands} if bands is not None else {}
    if not named or len(named) > len(SERIES):
        raise DataError(f"{len(named)} series cannot be drawn; give one to {len(SERIES)}")
    return [
        Line(
            str(name),
            numbers(found, f"{what} values", count),
            checked_intervals(within.get(name), "intervals", count),
            kind,
        )
        for (name, found), kind in zip(named.items(), SERIES, strict=False)
    ]


def _ascending(values: Sequence[float], what: str) -> list[float]:
    found = numbers(values, what)
    if any(later <= earlier for earlier, later in pairwise(found)):
        raise DataError(f"{what} must ascend, without repeats")
    return found
