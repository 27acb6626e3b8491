"""Numbers in rows and columns, as colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import DataError
from .layout import Shade, alike, data_of, headline, ink_on, label_of, label_room, numbers, shown
from .svg import MARGIN, SMALL, WIDTH, Drawing, shortened, text_width

#: The room of all columns, and the least height of a row whose label is written.
TALLEST, LOWEST, LABELLED = 26.0, 7.0, 15.0


@dataclass(frozen=True)
class _Grid:
    """Where the cells are."""

    left: float
    top: float
    width: float
    height: float
    write: Callable[[float], str]

    def corner(self, row: int, column: int) -> tuple[float, float]:
        return self.left + column * self.width, self.top + row * self.height


def heatmap(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[object],
    columns: Sequence[object],
    *,
    kind: Literal["diverging", "sequential"] = "diverging",
    centre: float = 0.0,
    reach: float | None = None,
    row_label: str = "layer",
    column_label: str = "strength",
    value_label: str = "effect",
    chosen: tuple[int, int] | None = None,
    title: str = "Heat map",
    subtitle: str = "",
) -> str:
    """Numbers as colours: layer by strength, layer by head.

    Args:
        values: ``values[row][column]``; None for a cell that was not measured.
        rows, columns: their labels, from the top and from the left.
        kind: ``"diverging"``: one colour above ``centre``, another below. ``"sequential"``: one, from the lowest.
        centre: where a diverging scale has no colour.
        reach: how far from there the colour is full; by default the furthest value.
        row_label, column_label, value_label, title, subtitle: what is written.
        chosen: the (row, column) numbers of a cell to outline.

    Raises:
        DataError: nothing to draw, counts that differ, NaN or infinite numbers.
    """
    if kind not in ("diverging", "sequential"):
        raise DataError(f'kind={kind!r}: use "diverging" or "sequential"')
    cells = _checked(values, len(rows), len(columns))
    chosen = None if chosen is None else (chosen[0], chosen[1])  # a pair from JSON is a list
    measured = numbers([value for row in cells for value in row if value is not None], "values")
    shade = Shade.of(measured, centre=centre, diverging=kind == "diverging", reach=reach)
    drawing = Drawing()
    across, down = [label_of(column) for column in columns], [label_of(row) for row in rows]
    grid = _place(drawing, headline(drawing, title, subtitle), down, len(columns), row_label, alike(measured))
    _labels(drawing, grid, down, across, column_label)
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            facts = f"{row_label} {down[i]}, {column_label} {across[j]}"
            data = data_of(row=str(rows[i]), column=str(columns[j]), value="" if value is None else value,
                           chosen=True if (i, j) == chosen else None)  # fmt: skip
            _cell(drawing, grid, i, j, value, shade, facts, data)
    if chosen is not None:
        x, y = grid.corner(*chosen)
        frame = {"x": x + 1, "y": y + 1, "width": grid.width - 2, "height": grid.height - 2, "stroke-width": 2.0}
        drawing.add("rect", {"class": "ink-line", **frame})
    bottom = grid.top + len(rows) * grid.height + SMALL * 4.0
    height = shade.bar(drawing, grid.left, bottom, 180.0, value_label) + MARGIN
    said = f"{len(rows)} by {len(columns)}, {value_label} from {shown(min(measured))} to {shown(max(measured))}"
    return drawing.render(height, title, said, "heatmap")


def cosine_matrix(
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    random_sd: float | None = None,
    title: str = "Cosine similarity",
) -> str:
    """How alike directions are, each with each.

    Args:
        names: of the directions.
        values: ``values[i][j]`` the cosine of i and j, -1 to 1.
        random_sd: the standard deviation of the cosine of random directions, ``1 / sqrt(d)``: what is near zero.
        title: what is written above.

    Raises:
        DataError: nothing to draw, counts that differ, NaN, or a number outside -1 to 1.
    """
    cells = _checked(values, len(names), len(names))
    measured = numbers([value for row in cells for value in row if value is not None], "cosines", len(names) ** 2)
    if max(abs(value) for value in measured) > 1 + 1e-6:
        raise DataError("a cosine lies between -1 and 1")
    shade = Shade(0.0, 1.0, True)
    subtitle = "" if random_sd is None else f"random directions: 0 ± {shown(2 * random_sd)} (two standard deviations)"
    drawing = Drawing()
    grid = _place(
        drawing, headline(drawing, title, subtitle), list(names), len(names), "", alike(measured), tallest=46.0
    )
    _labels(drawing, grid, list(names), list(names), "")
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            _cell(
                drawing,
                grid,
                i,
                j,
                value,
                shade,
                f"{names[i]} and {names[j]}",
                data_of(row=names[i], column=names[j], value=value),
            )
    bottom = grid.top + len(names) * grid.height + SMALL * 2.8
    height = shade.bar(drawing, grid.left, bottom, 180.0, "cosine") + MARGIN
    pairs = [value for i, row in enumerate(cells) for value in row[:i] if value is not None]
    said = f"{len(names)} directions" + (f", cosines from {shown(min(pairs))} to {shown(max(pairs))}" if pairs else "")
    return drawing.render(height, title, said, "cosine-matrix")


def _checked(values: Sequence[Sequence[float | None]], rows: int, columns: int) -> list[list[float | None]]:
    if len(values) != rows or any(len(row) != columns for row in values):
        found = f"{len(values)} rows of {sorted({len(row) for row in values})}"
        raise DataError(f"the values are {found} for {rows} row labels and {columns} column labels")
    if not rows or not columns:
        raise DataError("there are no values to draw")
    return [[None if value is None else numbers([value], "values")[0] for value in row] for row in values]


def _place(
    drawing: Drawing, top: float, rows: list[str], columns: int, row_label: str, write: Callable[[float], str], *,
    tallest: float = TALLEST,
) -> _Grid:  # fmt: skip
    left = label_room(rows)
    if row_label:
        drawing.text(MARGIN, top + 18, row_label, "soft", size=SMALL)
        top += 10
    width = min(72.0, (WIDTH - MARGIN - left) / columns)
    grid = _Grid(left, top + 14, width, max(LOWEST, min(tallest, width, 620.0 / len(rows))), write)
    frame = {
        "class": "grid-line",
        "x": left,
        "y": grid.top,
        "width": width * columns,
        "height": grid.height * len(rows),
    }
    drawing.add("rect", frame)
    return grid


def _labels(drawing: Drawing, grid: _Grid, rows: list[str], columns: list[str], column_label: str) -> None:
    """As many labels as there is room for, at even distances."""
    every = _every(LABELLED / grid.height)
    for i, label in enumerate(rows):
        if i % every == 0:
            y = grid.corner(i, 0)[1] + grid.height / 2 + SMALL * 0.36
            text = shortened(label, grid.left - MARGIN - 8, SMALL)
            drawing.text(grid.left - 6, y, text, "soft", size=SMALL, anchor="end", tip=label if text != label else "")
    bottom = grid.top + len(rows) * grid.height + SMALL * 1.3
    widest = max(text_width(label, SMALL) for label in columns) + 6
    every = _every(widest / grid.width) if column_label else 1
    for j, label in enumerate(columns):
        if j % every == 0:
            text = shortened(label, grid.width * every - 4, SMALL)
            x = grid.corner(0, j)[0] + grid.width / 2
            drawing.text(x, bottom, text, "soft", size=SMALL, anchor="middle", tip=label if text != label else "")
    if column_label:
        right = min(WIDTH - MARGIN, grid.left + len(columns) * grid.width)
        drawing.text((grid.left + right) / 2, bottom + SMALL * 1.4, column_label, "soft", size=SMALL, anchor="middle")


def _every(share: float) -> int:
    """Which labels are written, at a round distance: those that many apart, if a label needs so many places."""
    return next((step for step in (1, 2, 5, 10, 20, 50, 100) if step >= share), 200)


def _cell(
    drawing: Drawing, grid: _Grid, i: int, j: int, value: float | None, shade: Shade, facts: str, data: object
) -> None:
    x, y = grid.corner(i, j)
    tip = f"{facts}: {'not measured' if value is None else shown(value)}"
    kind, opacity = ("control", 0.12) if value is None else shade.of_value(value)
    drawing.rect(x + 0.5, y + 0.5, grid.width - 1, grid.height - 1, kind, opacity=opacity, data=data, tip=tip)  # pyright: ignore[reportArgumentType]
    if value is None:
        drawing.line(x + 2, y + grid.height - 2, x + grid.width - 2, y + 2, "control-line")
        return
    text = grid.write(value)
    if grid.height >= 15 and text_width(text, SMALL) <= grid.width - 3:
        middle = y + grid.height / 2 + SMALL * 0.36
        drawing.text(x + grid.width / 2, middle, text, ink_on(opacity), size=SMALL, anchor="middle")
