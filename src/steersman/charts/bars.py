"""A number for each of several names."""

from __future__ import annotations

from collections.abc import Sequence

from .layout import (
    Axis,
    Sign,
    Ticks,
    alike,
    band_sign,
    checked_intervals,
    data_of,
    headline,
    label_of,
    label_room,
    legend,
    numbers,
    shown,
    whisker_sign,
)
from .svg import MARGIN, SMALL, WIDTH, Drawing, shortened

ROW = 22.0


def bars(
    labels: Sequence[object],
    values: Sequence[float],
    *,
    intervals: Sequence[tuple[float, float]] | None = None,
    control: tuple[float, float] | None = None,
    value_label: str = "value",
    control_label: str = "control",
    interval_label: str = "95% interval",
    title: str = "Bars",
    subtitle: str = "",
) -> str:
    """Horizontal bars from zero, in the order given.

    Args:
        labels: a name for each.
        values: a number for each.
        intervals: an interval around each, as whiskers.
        control: an interval that chance gives, as a grey band.
        value_label, control_label, interval_label, title, subtitle: what is written.

    Raises:
        DataError: nothing to draw, counts that differ, NaN or infinite numbers.
    """
    found = numbers(values, "values", len(labels))
    whiskers = checked_intervals(intervals, "intervals", len(found))
    band = checked_intervals([control] if control is not None else None, "control", 1)
    extent = [*found, 0.0, *(end for pair in [*(whiskers or ()), *(band or ())] for end in pair)]
    entries: list[tuple[Sign, str]] = [(band_sign("control", 0.44), control_label)] if band else []
    entries += [(whisker_sign, interval_label)] if whiskers else []
    drawing, write = Drawing(), alike(found)
    top = legend(drawing, headline(drawing, title, subtitle), entries) + 10
    names = [label_of(label) for label in labels]
    axis = Axis.over(extent, label_room(names), WIDTH - MARGIN - 44)
    if min(extent) >= 0:
        axis = Axis(0.0, axis.high, axis.start, axis.end)
    bottom = top + len(found) * ROW + 4
    ticks = Ticks.within(axis.low, axis.high, 6)
    for value, label in zip(ticks.values, ticks.labels, strict=True):
        x = axis.at(value)
        drawing.line(x, top, x, bottom, "grid-line")
        drawing.text(x, bottom + SMALL * 1.2, label, "soft", size=SMALL, anchor="middle")
    if band:
        low, high = band[0]
        tip = f"{control_label}: {shown(low)} to {shown(high)}"
        x = axis.at(low)
        drawing.rect(
            x, top, axis.at(high) - x, bottom - top, "control", opacity=0.22, tip=tip, data=data_of(low=low, high=high)
        )
    for i, value in enumerate(found):
        _bar(
            drawing,
            axis,
            top + i * ROW,
            names[i],
            value,
            write(value),
            whiskers[i] if whiskers else None,
            interval_label,
        )
    drawing.line(axis.at(0), top, axis.at(0), bottom, "soft-line")
    y = bottom + SMALL * 2.6
    drawing.text((axis.start + axis.end) / 2, y, value_label, "soft", size=SMALL, anchor="middle")
    said = f"{len(found)} bars, {value_label} from {shown(min(found))} to {shown(max(found))}"
    return drawing.render(y + MARGIN, title, said, "bars")


def _bar(
    drawing: Drawing, axis: Axis, y: float, name: str, value: float, written: str,
    whisker: tuple[float, float] | None, whisker_name: str,
) -> None:  # fmt: skip
    text = shortened(name, axis.start - MARGIN - 8, SMALL)
    drawing.text(
        axis.start - 6, y + ROW * 0.68, text, "ink", size=SMALL, anchor="end", tip=name if text != name else ""
    )
    zero, end = axis.at(0), axis.at(value)
    low, high = whisker or (None, None)
    between = f", {whisker_name} {shown(low)} to {shown(high)}" if low is not None and high is not None else ""
    data = data_of(label=name, value=value, low=low, high=high)
    drawing.rect(min(zero, end), y + 5, max(abs(end - zero), 0.5), ROW - 8, "positive" if value > 0 else "negative",
                 opacity=0.8, data=data, tip=f"{name}: {shown(value, 4)}{between}")  # fmt: skip
    middle = y + 5 + (ROW - 8) / 2
    if low is not None and high is not None:
        drawing.line(axis.at(low), middle, axis.at(high), middle, "ink-line", width=1.5)
        for edge in (low, high):
            drawing.line(axis.at(edge), middle - 3.5, axis.at(edge), middle + 3.5, "ink-line", width=1.5)
    drawing.text(WIDTH - MARGIN, y + ROW * 0.68, written, "soft", size=SMALL, anchor="end")
