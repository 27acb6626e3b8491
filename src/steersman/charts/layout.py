"""What figures share: checked numbers, ticks at round values, axes, legends, a scale of colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from ..errors import DataError
from .svg import MARGIN, SMALL, TEXT, TITLE, WIDTH, Data, Drawing, shortened, text_width

Interval = tuple[float, float]

MINUS = "\N{MINUS SIGN}"


def numbers(values: Iterable[float], what: str, count: int | None = None) -> list[float]:
    """Finite floats.

    Raises:
        DataError: there are none, not as many as there should be, or one is NaN, infinite or no number.
    """
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be numbers: {error}") from None
    if not found:
        raise DataError(f"there are no {what} to draw")
    if count is not None and len(found) != count:
        raise DataError(f"{len(found)} {what} for {count} places; give one for each")
    if not all(math.isfinite(value) for value in found):
        raise DataError(f"{what} hold NaN or infinite numbers, which cannot be drawn; leave those out")
    return found


def checked_intervals(values: Iterable[Sequence[float]] | None, what: str, count: int) -> list[Interval] | None:
    """Finite (low, high) pairs, one for each place, or None."""
    if values is None:
        return None
    found: list[Interval] = []
    for pair in values:
        low, high = numbers(pair, what, 2)
        if low > high:
            raise DataError(f"{what} are (low, high), got ({low:g}, {high:g})")
        found.append((low, high))
    if len(found) != count:
        raise DataError(f"{len(found)} {what} for {count} places; give one for each")
    return found


def shown(value: float, digits: int = 3) -> str:
    """A number for people: so many significant digits, with a true minus."""
    text = f"{value:.{digits}g}".replace("-", MINUS).replace("e" + MINUS + "0", "e" + MINUS).replace("e+0", "e")
    return "0" if value == 0 else text


def alike(values: Sequence[float]) -> Callable[[float], str]:
    """How to write numbers that are shown together: all with as many decimals, two or three digits of the largest."""
    largest = max(abs(value) for value in values)
    if largest and not 1e-3 <= largest < 1e5:
        return lambda value: shown(value, 2)
    decimals = 2 - max(-2, math.floor(math.log10(largest) + 1e-9)) if largest else 0
    decimals = max(0, min(decimals, 2 if largest >= 0.1 else 4))

    def write(value: float) -> str:
        text = f"{value:.{decimals}f}"
        return text.removeprefix("-") if float(text) == 0 else text.replace("-", MINUS)

    return write


def label_of(value: object) -> str:
    """A label as text: numbers with a true minus, and no decimals that say nothing."""
    return shown(float(value), 6) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Ticks:
    """Round values along an axis, and how they are written."""

    values: tuple[float, ...]
    labels: tuple[str, ...]

    @classmethod
    def within(cls, low: float, high: float, most: int, *, whole: bool = False) -> Ticks:
        """At most ``most`` round values between two numbers; ``whole`` for indices."""
        step = _step(high - low, most, whole)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        values = [i * step for i in range(first, last + 1)]
        labels = [f"{value:.{decimals}f}" if 1e-4 <= step < 1e6 else f"{value:.3g}" for value in values]
        clean = [label.removeprefix("-") if float(label) == 0 else label.replace("-", MINUS) for label in labels]
        return cls(tuple(values), tuple(clean))


def _step(span: float, most: int, whole: bool) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides a span into few enough parts."""
    if not span > 0:
        return 1.0
    power = 10 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) <= most)
    return max(1.0, step) if whole else step


@dataclass(frozen=True)
class Axis:
    """A range of numbers laid over a stretch of the drawing."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, room: float = 0.06) -> Axis:
        """An axis that holds the values, with some room around them."""
        low, high = min(values), max(values)
        margin = (high - low) * room or max(abs(low) * room, 0.5)
        return cls(low - margin, high + margin, start, end)

    def at(self, value: float) -> float:
        """Where a number lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class Panel:
    """The rectangle between two axes."""

    x: Axis
    y: Axis

    def draw(self, drawing: Drawing, x_ticks: Ticks, y_ticks: Ticks, *, x_labels: bool = True) -> None:
        """Grid lines, tick labels, and a heavier line at zero."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        for value, label in zip(y_ticks.values, y_ticks.labels, strict=True):
            y = self.y.at(value)
            drawing.line(left, y, right, y, "grid-line")
            drawing.text(left - 6, y + SMALL * 0.35, label, "soft", size=SMALL, anchor="end")
        for value, label in zip(x_ticks.values, x_ticks.labels, strict=True):
            x = self.x.at(value)
            drawing.line(x, bottom, x, bottom + 4, "soft-line")
            if x_labels:
                drawing.text(x, bottom + 4 + SMALL * 1.1, label, "soft", size=SMALL, anchor="middle")
        if self.y.low < 0 < self.y.high:
            drawing.line(left, self.y.at(0), right, self.y.at(0), "soft-line")
        if self.x.low < 0 < self.x.high:
            drawing.line(self.x.at(0), bottom, self.x.at(0), top, "grid-line")
        drawing.line(left, bottom, right, bottom, "soft-line")


def label_room(labels: Iterable[str], size: float = SMALL, most: float = 150.0) -> float:
    """How far right the plot begins, so that its row labels fit."""
    return MARGIN + min(most, max((text_width(label, size) for label in labels), default=0.0)) + 8


def headline(drawing: Drawing, title: str, subtitle: str = "") -> float:
    """The title, wrapped, and a line below it; returns the height used so far."""
    y = MARGIN + TITLE
    for line in wrapped(title, WIDTH - 2 * MARGIN, TITLE, 0.6):
        drawing.text(MARGIN, y, line, "ink title", size=TITLE)
        y += TITLE * 1.3
    for line in wrapped(subtitle, WIDTH - 2 * MARGIN, SMALL) if subtitle else ():
        drawing.text(MARGIN, y, line, "soft", size=SMALL)
        y += SMALL * 1.4
    return y - 4


def wrapped(text: str, room: float, size: float, letter: float = 0.56) -> list[str]:
    """A text in lines that fit."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size, letter) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(shortened(word, room, size, letter))
    return lines or [""]


#: Draws the sign of a legend entry at (x, baseline).
Sign = Callable[[Drawing, float, float], None]


def line_sign(kind: str) -> Sign:
    """A short line with a dot."""

    def draw(drawing: Drawing, x: float, y: float) -> None:
        drawing.line(x, y - 4, x + 18, y - 4, f"{kind}-line", width=2.0)
        drawing.circle(x + 9, y - 4, 3.0, kind)

    return draw


def rule_sign(kind: str, dash: str) -> Sign:
    """A short line without a dot."""
    return lambda drawing, x, y: drawing.line(x, y - 4, x + 18, y - 4, f"{kind}-line", width=1.5, dash=dash)


def whisker_sign(drawing: Drawing, x: float, y: float) -> None:
    """A whisker."""
    drawing.line(x, y - 4, x + 18, y - 4, "ink-line", width=1.5)
    for edge in (x, x + 18):
        drawing.line(edge, y - 7.5, edge, y - 0.5, "ink-line", width=1.5)


def band_sign(kind: str, opacity: float) -> Sign:
    """A small filled box."""
    return lambda drawing, x, y: drawing.rect(x, y - 9, 18.0, 10.0, kind, opacity=opacity)


def legend(drawing: Drawing, y: float, entries: Sequence[tuple[Sign, str]]) -> float:
    """Entries side by side, wrapped; returns the height used so far."""
    x, sign = MARGIN, 24.0
    y += TEXT + 2
    for draw, label in entries:
        label = shortened(label, WIDTH - 2 * MARGIN - sign, SMALL)
        width = sign + text_width(label, SMALL)
        if x > MARGIN and x + width > WIDTH - MARGIN:
            x, y = MARGIN, y + TEXT * 1.5
        draw(drawing, x, y)
        drawing.text(x + sign, y, label, "soft", size=SMALL)
        x += width + 16
    return y + 4 if entries else y - TEXT - 2


@dataclass(frozen=True)
class Shade:
    """Numbers as colours: one colour on either side of ``centre``, the stronger the further; one only if sequential."""

    centre: float
    reach: float
    diverging: bool

    @classmethod
    def of(
        cls, values: Sequence[float], *, centre: float = 0.0, diverging: bool = True, reach: float | None = None
    ) -> Shade:
        """A scale that reaches the furthest value. A sequential one begins at the lowest."""
        if not diverging:
            low, high = min(values), max(values)
            return cls(low, reach or high - low or 1.0, False)
        return cls(centre, reach or max(abs(value - centre) for value in values) or 1.0, True)

    def of_value(self, value: float) -> tuple[str, float]:
        """The class of the colour, and how much of it."""
        share = max(-1.0, min(1.0, (value - self.centre) / self.reach))
        kind = "positive" if self.diverging and share > 0 else "negative"
        return kind, abs(share) if self.diverging else max(share, 0.0)

    def bar(self, drawing: Drawing, x: float, y: float, width: float, label: str) -> float:
        """The scale itself, with its ends written; returns the height used so far."""
        low = self.centre - self.reach if self.diverging else self.centre
        high, steps = self.centre + self.reach, 40
        for step in range(steps):
            kind, opacity = self.of_value(low + (high - low) * (step + 0.5) / steps)
            drawing.rect(x + width * step / steps, y, width / steps, 9.0, kind, opacity=opacity, crisp=True)
        drawing.rect(x, y, width, 9.0, "soft-line")
        ends = [(low, 0.0, "start"), (self.centre, 0.5, "middle"), (high, 1.0, "end")]
        write = alike([low, high])
        for value, share, anchor in ends if self.diverging else ends[::2]:
            drawing.text(x + share * width, y + 9 + SMALL * 1.15, write(value), "soft", size=SMALL, anchor=anchor)
        drawing.text(x + width + 12, y + 8.5, label, "soft", size=SMALL)
        return y + 9 + SMALL * 1.5


def ink_on(opacity: float) -> str:
    """The class of a text that can be read on a colour of this strength, in either theme."""
    return "on" if opacity > 0.75 else "ink"


def data_of(**values: object) -> Data:
    """The data of a mark, without what is absent."""
    return cast(Data, {name: value for name, value in values.items() if value is not None})
