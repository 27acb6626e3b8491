"""An SVG drawing as text: a few shapes, their data and tooltips, and the colours of both themes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import east_asian_width

Data = Mapping[str, "str | float | int | bool | Sequence[float] | None"]

#: The width of every figure in its own units: at the width of a phone its 12-unit letters are still nine pixels high.
WIDTH = 480.0
MARGIN = 14.0
TEXT, SMALL, TITLE = 12.0, 10.5, 14.0
#: What a letter of the fallback fonts takes at most, in units of the font's size.
SANS, MONO = 0.56, 0.62

#: name of a colour -> (light theme, dark theme). The series are Okabe and Ito's, told apart by all common eyes.
COLOURS = {
    "paper": ("#ffffff", "#15181d"),
    "ink": ("#1b1f24", "#e8eaed"),
    "soft": ("#57606a", "#a2abb5"),
    "grid": ("#dfe3e8", "#333a43"),
    "control": ("#8b949e", "#8b949e"),
    "positive": ("#c2410c", "#d9530f"),
    "negative": ("#1f6fb5", "#2b7cd3"),
    "s0": ("#0072b2", "#56b4e9"),
    "s1": ("#d55e00", "#f08a4b"),
    "s2": ("#00805d", "#2cc295"),
    "s3": ("#a8508b", "#e39cc6"),
}

_FONTS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"


def _style() -> str:
    """Rules for this figure only. Each colour is given twice, so that a program without CSS variables shows the light
    theme."""
    light = "".join(f"--{name}:{colours[0]};" for name, colours in COLOURS.items())
    dark = "".join(f"--{name}:{colours[1]};" for name, colours in COLOURS.items())
    rules = [
        f".steersman-chart{{{light}max-width:100%;height:auto;font-family:{_FONTS};font-size:{TEXT:g}px}}",
        f"@media (prefers-color-scheme:dark){{.steersman-chart{{{dark}}}}}",
        f".steersman-chart .mono{{font-family:{_MONO}}}",
        ".steersman-chart .title{font-weight:600}",
        ".steersman-chart .on{fill:#ffffff}",
    ]
    for name, (colour, _) in COLOURS.items():
        rules.append(f".steersman-chart .{name}{{fill:{colour};fill:var(--{name})}}")
        rules.append(f".steersman-chart .{name}-line{{fill:none;stroke:{colour};stroke:var(--{name})}}")
    return "".join(rules)


def escape(text: object) -> str:
    """Text as XML content or attribute value that is read back as it was; what XML forbids is replaced."""
    kept = "".join(c if _allowed(c) else "\ufffd" for c in str(text))
    return kept.translate(_ENTITIES)


_ENTITIES = {ord(c): f"&#{ord(c)};" for c in "\t\n\r"} | str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
)


def _allowed(c: str) -> bool:
    return c in "\t\n\r" or "\x20" <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff"


def _coordinate(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def exact(value: object) -> str:
    """A value as a ``data-*`` attribute, from which the same number is read back; several are joined by commas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | str):
        return str(value)
    if isinstance(value, float):
        return repr(float(value))
    return ",".join(exact(one) for one in value)  # pyright: ignore[reportGeneralTypeIssues]


class Drawing:
    """Shapes in the order they are drawn."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def add(
        self, tag: str, attributes: Mapping[str, object], *, data: Data | None = None, tip: str = "", text: str = ""
    ) -> None:
        """One element; numbers among its attributes are coordinates, ``tip`` is what a pointer over it shows."""
        written = [
            f'{name.replace("_", "-")}="{_coordinate(value) if isinstance(value, float) else escape(value)}"'
            for name, value in attributes.items()
        ]
        written += [f'data-{name}="{escape(exact(value))}"' for name, value in (data or {}).items()]
        inside = (f"<title>{escape(tip)}</title>" if tip else "") + escape(text)
        opened = f"<{tag} {' '.join(written)}"
        self._parts.append(f"{opened}>{inside}</{tag}>" if inside else f"{opened}/>")

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, *, opacity: float | None = None,
        data: Data | None = None, tip: str = "", radius: float = 0.0, crisp: bool = False,
    ) -> None:  # fmt: skip
        """A rectangle; ``kind`` is its classes; ``crisp`` ones meet without a seam."""
        attributes: dict[str, object] = {"class": kind, "x": x, "y": y, "width": width, "height": height}
        attributes |= {"rx": radius} if radius else {}
        attributes |= {"shape-rendering": "crispEdges"} if crisp else {}
        attributes |= {"fill-opacity": f"{opacity:.3f}"} if opacity is not None else {}
        self.add("rect", attributes, data=data, tip=tip)

    def line(
        self, x1: float, y1: float, x2: float, y2: float, kind: str, *, width: float = 1.0, dash: str = ""
    ) -> None:
        """A straight line."""
        attributes: dict[str, object] = {"class": kind, "x1": x1, "y1": y1, "x2": x2, "y2": y2, "stroke-width": width}
        self.add("line", attributes | ({"stroke-dasharray": dash} if dash else {}))

    def path(
        self, points: Sequence[tuple[float, float]], kind: str, *, closed: bool = False, width: float = 1.0,
        opacity: float | None = None, dash: str = "", data: Data | None = None, tip: str = "",
    ) -> None:  # fmt: skip
        """A line through points, or the area inside them."""
        steps = "L".join(f"{_coordinate(x)},{_coordinate(y)}" for x, y in points)
        attributes: dict[str, object] = {"class": kind, "d": f"M{steps}{'Z' if closed else ''}"}
        attributes |= {"fill-opacity": f"{opacity:.3f}"} if opacity is not None else {}
        attributes |= {} if closed else {"stroke-width": width, "stroke-linejoin": "round"}
        self.add("path", attributes | ({"stroke-dasharray": dash} if dash else {}), data=data, tip=tip)

    def circle(self, x: float, y: float, radius: float, kind: str, *, data: Data | None = None, tip: str = "") -> None:
        """A dot."""
        self.add("circle", {"class": kind, "cx": x, "cy": y, "r": radius}, data=data, tip=tip)

    def text(
        self, x: float, y: float, text: str, kind: str = "ink", *, size: float = TEXT, anchor: str = "start",
        tip: str = "", data: Data | None = None,
    ) -> None:  # fmt: skip
        """Text whose baseline is at ``y``."""
        attributes: dict[str, object] = {"class": kind, "x": x, "y": y, "font-size": size}
        attributes |= {"text-anchor": anchor} if anchor != "start" else {}
        self.add("text", attributes, text=text, tip=tip, data=data)

    def render(self, height: float, title: str, description: str, kind: str) -> str:
        """The whole figure; title and description are what a screen reader says."""
        name = escape(f"{title}. {description}" if description else title)
        wide, tall = _coordinate(WIDTH), _coordinate(height)
        size = f'viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}"'
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="steersman-chart" {size} role="img" aria-label="{name}" '
            f'data-chart="{kind}">\n<title>{escape(title)}</title>\n<desc>{escape(description)}</desc>\n'
            f"<style>{_style()}</style>\n"
        )
        paper = f'<rect class="paper" width="{wide}" height="{tall}"/>\n'
        return head + paper + "\n".join(self._parts) + "\n</svg>\n"


def text_width(text: str, size: float = TEXT, letter: float = SANS) -> float:
    """About how wide a text is; letters of East Asian scripts are twice as wide."""
    return size * sum(letter * (2 if east_asian_width(c) in "WF" else 1) for c in text)


def shortened(text: str, room: float, size: float = TEXT, letter: float = SANS) -> str:
    """The text, its end cut off with an ellipsis where there is no room for it."""
    if text_width(text, size, letter) <= room:
        return text
    kept = text
    while kept and text_width(kept + "…", size, letter) > room:
        kept = kept[:-1]
    return kept + "…"


def write(svg: str, path: str | Path | None) -> str:
    """Write a figure to a file, atomically, unless ``path`` is None; returns the figure."""
    if path is None:
        return svg
    target = Path(path)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, suffix=".svg", delete=False) as opened:
        opened.write(svg)
    Path(opened.name).chmod(0o644)
    os.replace(opened.name, target)
    return svg
