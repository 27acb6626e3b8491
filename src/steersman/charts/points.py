"""Two classes of points in a plane."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DataError
from .layout import Axis, Panel, Sign, Ticks, data_of, headline, label_room, legend, numbers, shown
from .svg import MARGIN, SMALL, WIDTH, Drawing

Point = tuple[float, float]
TALLEST, LOWEST = 380.0, 140.0


def geometry(
    positive: Sequence[Sequence[float]],
    negative: Sequence[Sequence[float]],
    *,
    explained: tuple[float, float] | None = None,
    names: tuple[str, str] = ("positive", "negative"),
    title: str = "Geometry of the contrast",
    subtitle: str = "",
) -> str:
    """Activations of two classes in the plane of their first principal components, both axes to one scale.

    Args:
        positive, negative: points (x, y).
        explained: the share of variance of either axis, 0 to 1.
        names: of the classes.
        title, subtitle: what is written.

    Raises:
        DataError: nothing to draw, points that are no pairs, NaN or infinite numbers.
    """
    first, second = _points(positive, names[0]), _points(negative, names[1])
    if not first and not second:
        raise DataError("there are no points to draw")
    drawing = Drawing()
    entries: list[tuple[Sign, str]] = [(_disc_sign, names[0]), (_ring_sign, names[1]), (_cross_sign, "class mean")]
    top = legend(drawing, headline(drawing, title, subtitle), entries)
    panel = _square(drawing, [*first, *second], top, explained)
    for x, y in second:
        data, tip = data_of(group=names[1], x=x, y=y), f"{names[1]}: {shown(x)}, {shown(y)}"
        drawing.add("circle", {"class": "negative-line", "cx": panel.x.at(x), "cy": panel.y.at(y), "r": 3.4,
                               "stroke-width": 1.6}, data=data, tip=tip)  # fmt: skip
    for x, y in first:
        data, tip = data_of(group=names[0], x=x, y=y), f"{names[0]}: {shown(x)}, {shown(y)}"
        drawing.add("circle", {"class": "positive", "cx": panel.x.at(x), "cy": panel.y.at(y), "r": 3.8,
                               "fill-opacity": "0.75"}, data=data, tip=tip)  # fmt: skip
    for name, points in ((names[1], second), (names[0], first)):
        if points:
            x, y = (sum(point[i] for point in points) / len(points) for i in (0, 1))
            _cross(drawing, panel.x.at(x), panel.y.at(y), 7.0)
            data, tip = data_of(mean=name, x=x, y=y), f"mean of {name}: {shown(x)}, {shown(y)}"
            place = {"class": "paper", "fill-opacity": "0", "cx": panel.x.at(x), "cy": panel.y.at(y), "r": 8.0}
            drawing.add("circle", place, data=data, tip=tip)
    bottom = panel.y.start + 4 + SMALL * 2.6
    drawing.text(
        (panel.x.start + panel.x.end) / 2, bottom, _axis_name(1, explained), "soft", size=SMALL, anchor="middle"
    )
    said = f"{len(first)} {names[0]} and {len(second)} {names[1]} points"
    return drawing.render(bottom + MARGIN, title, said, "geometry")


def _square(drawing: Drawing, points: Sequence[Point], top: float, explained: tuple[float, float] | None) -> Panel:
    """A panel in which a unit is as long upwards as it is sideways."""
    drawing.text(MARGIN, top + 20, _axis_name(2, explained), "soft", size=SMALL)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    rough = Ticks.within(min(ys), max(ys) or 1.0, 6)
    left, right, start = label_room(rough.labels) + 6, WIDTH - MARGIN, top + 30
    horizontal, vertical = Axis.over(xs, left, right), Axis.over(ys, 1.0, 0.0)
    wide, tall = horizontal.high - horizontal.low, vertical.high - vertical.low
    scale = min((right - left) / wide, TALLEST / tall)
    height = max(LOWEST, tall * scale)
    spare_x, spare_y = ((right - left) / scale - wide) / 2, (height / scale - tall) / 2
    x = Axis(horizontal.low - spare_x, horizontal.high + spare_x, left, right)
    y = Axis(vertical.low - spare_y, vertical.high + spare_y, start + height, start)
    panel = Panel(x, y)
    panel.draw(drawing, Ticks.within(x.low, x.high, 8), Ticks.within(y.low, y.high, max(2, round(height / 45))))
    return panel


def _axis_name(number: int, explained: tuple[float, float] | None) -> str:
    share = f" ({explained[number - 1]:.0%} of variance)" if explained else ""
    return f"principal component {number}{share}"


def _points(points: Sequence[Sequence[float]], name: str) -> list[Point]:
    found: list[Point] = []
    for point in points:
        x, y = numbers(point, f"coordinates of {name}", 2)
        found.append((x, y))
    return found


def _disc_sign(drawing: Drawing, x: float, y: float) -> None:
    drawing.circle(x + 9, y - 4, 4.0, "positive")


def _ring_sign(drawing: Drawing, x: float, y: float) -> None:
    drawing.add("circle", {"class": "negative-line", "cx": x + 9, "cy": y - 4, "r": 3.6, "stroke-width": 1.6})


def _cross_sign(drawing: Drawing, x: float, y: float) -> None:
    _cross(drawing, x + 9, y - 4, 5.0)


def _cross(drawing: Drawing, x: float, y: float, size: float) -> None:
    for kind, width in (("paper-line", 4.5), ("ink-line", 2.0)):
        drawing.line(x - size, y, x + size, y, kind, width=width)
        drawing.line(x, y - size, x, y + size, kind, width=width)
