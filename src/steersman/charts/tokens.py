"""Tokens: coloured by a number each, or listed by what a direction does to them."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DataError
from .layout import Shade, alike, checked_intervals, data_of, headline, ink_on, numbers, shown
from .svg import MARGIN, MONO, SMALL, WIDTH, Drawing, shortened, text_width

LINE, ROW = 24.0, 18.0


def visible(token: str) -> str:
    """A token with its white space made visible."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")


def token_projections(
    tokens: Sequence[str],
    values: Sequence[float],
    *,
    classes: tuple[float, float] | None = None,
    title: str = "Projection by token",
    value_label: str = "projection",
    subtitle: str = "",
) -> str:
    """A text whose tokens are coloured by their projection on a direction.

    The first token is left out of the scale of colours, since in most models it is an outlier; its number is exact.

    Args:
        tokens: the text, token by token.
        values: one for each.
        classes: the projections of the (negative, positive) class means: the colour changes at their midpoint.
        title, subtitle, value_label: what is written.

    Raises:
        DataError: nothing to draw, counts that differ, NaN or infinite numbers.
    """
    found = numbers(values, "values", len(tokens))
    ends = checked_intervals([classes], "class projections", 1) if classes is not None else None
    centre = (ends[0][0] + ends[0][1]) / 2 if ends else 0.0
    shade = Shade.of(found[1:] or found, centre=centre)
    drawing = Drawing()
    x, y = MARGIN, headline(drawing, title, subtitle) + 14
    size = 13.0
    for number, (token, value) in enumerate(zip(tokens, found, strict=True)):
        text = shortened(
            token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "\u00a0"), WIDTH - 2 * MARGIN, size, MONO
        )
        width = max(text_width(text, size, MONO), 4.0)
        if x > MARGIN and x + width > WIDTH - MARGIN:
            x, y = MARGIN, y + LINE
        kind, opacity = shade.of_value(value)
        tip = f"{token!r} at position {number}: {shown(value, 4)}"
        data = data_of(position=number, token=token, value=value)
        drawing.rect(x, y, width, LINE - 4, kind, opacity=opacity, data=data, tip=tip, radius=2.0)
        attributes = {"class": f"mono {ink_on(opacity)}", "x": x, "y": y + 14.5, "font-size": size, "textLength": width,
                      "lengthAdjust": "spacingAndGlyphs", "pointer-events": "none"}  # fmt: skip
        drawing.add("text", attributes, text=text)
        x += width + 1
        if token.endswith("\n"):
            x, y = MARGIN, y + LINE
    y = shade.bar(drawing, MARGIN, (y if x == MARGIN else y + LINE) + 10, 180.0, value_label)
    if ends:
        text = f"class means: negative {shown(ends[0][0])}, positive {shown(ends[0][1])}"
        drawing.text(
            MARGIN, y + SMALL * 1.2, text, "soft", size=SMALL, data=data_of(negative=ends[0][0], positive=ends[0][1])
        )
        y += SMALL * 1.6
    said = f"{len(found)} tokens, {value_label} from {shown(min(found))} to {shown(max(found))}"
    return drawing.render(y + MARGIN, title, said, "token-projections")


def lens_table(
    boosted: Sequence[tuple[str, float]],
    suppressed: Sequence[tuple[str, float]],
    *,
    control: float | None = None,
    title: str = "Tokens a direction writes",
    value_label: str = "logit",
    subtitle: str = "",
) -> str:
    """The tokens a direction boosts and those it suppresses, the strongest first.

    Args:
        boosted, suppressed: (token, logit).
        control: a |logit| that no token of 95% of random directions of equal length exceeds: a dashed line.
        title, subtitle, value_label: what is written.

    Raises:
        DataError: nothing to draw, NaN or infinite numbers.
    """
    if not boosted and not suppressed:
        raise DataError("there are no tokens to draw")
    logits = numbers([value for _, value in (*boosted, *suppressed)], "logits")
    reach = max(*(abs(value) for value in logits), abs(control or 0.0), 1e-12)
    drawing, write = Drawing(), alike(logits)
    top = headline(drawing, title, subtitle) + 18
    column = (WIDTH - 2 * MARGIN - 20) / 2
    sides = (("boosted", boosted, "positive", MARGIN), ("suppressed", suppressed, "negative", MARGIN + column + 20))
    rows = max(len(boosted), len(suppressed))
    for side, items, kind, left in sides:
        drawing.text(left, top, side, "ink title", size=SMALL + 1)
        start, room = left + 92, column - 92 - 44
        for rank, (token, value) in enumerate(items):
            y = top + 8 + rank * ROW
            shown_token = visible(token)
            drawing.text(
                left,
                y + 13,
                shortened(shown_token, 88, SMALL + 0.5, MONO),
                "ink mono",
                size=SMALL + 0.5,
                tip=repr(token),
            )
            data = data_of(side=side, rank=rank, token=token, value=float(value))
            length = max(abs(float(value)) / reach * room, 0.5)
            tip = f"{token!r}: {shown(float(value), 4)}"
            drawing.rect(start, y + 3, length, ROW - 6, kind, opacity=0.8, data=data, tip=tip, radius=1.5)
            drawing.text(left + column, y + 13, write(float(value)), "soft", size=SMALL, anchor="end")
        if control is not None and items:
            x = start + abs(control) / reach * room
            drawing.line(x, top + 8, x, top + 8 + len(items) * ROW, "ink-line", dash="3 3")
    y = top + 8 + rows * ROW + 16
    note = f"bars: {value_label}"
    if control is not None:
        note += f"; dashed: {shown(control)}, which no token of 95% of random directions exceeds"
    drawing.text(MARGIN, y, note, "soft", size=SMALL, data=data_of(control=control))
    said = f"{len(boosted)} boosted and {len(suppressed)} suppressed tokens"
    return drawing.render(y + MARGIN, title, said, "lens-table")
