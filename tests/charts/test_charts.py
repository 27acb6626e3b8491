"""Figures: well-formed, exact in their data, safe in their text, the same each time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from steersman import charts
from steersman.charts.layout import Shade, Ticks, alike, shown
from steersman.charts.svg import WIDTH, escape, exact, shortened, text_width
from steersman.errors import DataError

NASTY = "<script>alert('x')</script> & \"quotes\" ]]> \x00\x1b\ud800 喜び"
S = [-1.0, -0.5, 0.0, 0.1 + 0.2, 1.0]
EFFECT = [-1.1, -0.5, 0.0, 1 / 3, 1.7]
BAND = [(value - 0.1, value + 0.2) for value in EFFECT]

FIGURES: dict[str, Callable[..., str]] = {
    "dose-response": lambda **o: charts.dose_response(
        S, EFFECT, intervals=BAND, random=BAND, kl=[0.2, 0.1, 0, 0.1, 0.3], max_kl=0.1, **o
    ),
    "probe-curve": lambda **o: charts.probe_curve(
        [0, 1, 2], [0.5, 0.8, 1.0], intervals=[(0.4, 0.6), (0.7, 0.9), (0.9, 1)], shuffled=[0.5, 0.48, 0.51],
        best=2, majority=0.5, **o
    ),
    "heatmap": lambda **o: charts.heatmap([[1.0, None], [-0.5, 0.25]], [1, 0], [0.5, 1.0], chosen=(0, 0), **o),
    "cosine-matrix": lambda **o: charts.cosine_matrix(["a", NASTY], [[1, 0.3], [0.3, 1]], random_sd=0.1, **o),
    "token-projections": lambda **o: charts.token_projections(
        ["<s>", NASTY, "\n", "\t "], [9, 1, -2, 0.5], classes=(-1, 1), **o
    ),
    "lens-table": lambda **o: charts.lens_table([(NASTY, 1.5)], [("\n", -1.25)], control=0.7, **o),
    "geometry": lambda **o: charts.geometry([(1, 2), (2, 1.5)], [(-1, 0)], explained=(0.5, 0.25), **o),
    "bars": lambda **o: charts.bars(
        [NASTY, "b"], [0.5, -0.25], intervals=[(0.4, 0.6), (-0.3, -0.2)], control=(-0.1, 0.1), **o
    ),
}  # fmt: skip


def parsed(svg: str) -> list[Element]:
    return list(ElementTree.fromstring(svg).iter())


def marks(svg: str, **having: str) -> list[dict[str, str]]:
    """The ``data-*`` of every mark that has these, without the prefix."""
    found = [{k.removeprefix("data-"): v for k, v in e.attrib.items() if k.startswith("data-")} for e in parsed(svg)]
    return [data for data in found if all(data.get(name, ...) == value for name, value in having.items())]


def having(svg: str, *names: str) -> list[dict[str, str]]:
    return [data for data in marks(svg) if all(name in data for name in names)]


# -- every figure -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_well_formed_named_and_scales_to_a_phone(name: str) -> None:
    root = ElementTree.fromstring(FIGURES[name](title=f"About {NASTY}"))
    assert root.get("data-chart") == name
    assert root.get("role") == "img"
    assert root.attrib["aria-label"].startswith("About <script>")
    title, description = root[0], root[1]
    assert (title.tag.endswith("title"), description.tag.endswith("desc")) == (True, True)
    assert title.text
    assert description.text
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    assert (left, top, width) == (0, 0, WIDTH)
    assert (float(root.attrib["width"]), float(root.attrib["height"])) == (width, height)


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_of_a_text_becomes_markup_and_nothing_is_fetched(name: str) -> None:
    svg = FIGURES[name](title=NASTY)
    tags = {element.tag.rpartition("}")[2] for element in parsed(svg)}
    assert tags <= {"svg", "title", "desc", "style", "rect", "line", "path", "circle", "text"}
    style = next(element.text or "" for element in parsed(svg) if element.tag.endswith("style"))
    assert not re.search(r"url\(|@import|@font-face", style)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", svg)
    assert not any(attribute.startswith("on") for element in parsed(svg) for attribute in element.attrib)


@pytest.mark.parametrize("name", FIGURES)
def test_both_themes_are_there_and_every_class_has_a_colour(name: str) -> None:
    svg = FIGURES[name]()
    style = next(element.text or "" for element in parsed(svg) if element.tag.endswith("style"))
    assert "prefers-color-scheme:dark" in style
    assert all(
        rule.startswith((".steersman-chart", "@media")) for rule in re.findall(r"(?:^|})([^{}]+){", style) if rule
    )
    used = {kind for element in parsed(svg) for kind in element.get("class", "").split()} - {"steersman-chart"}
    assert all(f".{kind}{{" in style for kind in used)


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_numbers_give_the_same_text(name: str) -> None:
    assert FIGURES[name]() == FIGURES[name]()


@pytest.mark.parametrize("name", FIGURES)
def test_everything_is_inside_the_figure_and_a_number(name: str) -> None:
    svg = FIGURES[name]()
    height = float(ElementTree.fromstring(svg).attrib["height"])
    for element in parsed(svg):
        for attribute, most in [(name, WIDTH) for name in ("x", "cx", "x1")] + [
            (name, height) for name in ("y", "cy", "y2")
        ]:
            value = float(element.get(attribute, 0))
            assert -0.01 <= value <= most + 0.01, (element.tag, element.attrib)
    assert not re.search(r'"-?(nan|inf)', svg)


# -- what each shows ----------------------------------------------------------------------------------------------


def test_a_dose_response_holds_every_number_exactly() -> None:
    svg = charts.dose_response(S, EFFECT, intervals=BAND, random=BAND, kl=[0.2, 0.1, 0.0, 0.1, 0.3], max_kl=0.1)
    dots = [data for data in marks(svg, series="effect") if "y" in data]
    assert [float(data["x"]) for data in dots] == S
    assert [float(data["y"]) for data in dots] == EFFECT
    assert [(float(data["low"]), float(data["high"])) for data in dots] == BAND
    control = marks(svg, series="95% of random directions")[0]
    assert [float(low) for low in control["low"].split(",")] == [low for low, _ in BAND]
    assert [float(x) for x in control["x"].split(",")] == S
    costs = [float(data["y"]) for data in marks(svg, series="KL") if "y" in data]
    assert costs == [0.2, 0.1, 0.0, 0.1, 0.3]
    assert [data["budget"] for data in having(svg, "budget")] == ["0.1"]


def test_dots_lie_where_their_numbers_say_and_panels_stand_above_each_other() -> None:
    root = ElementTree.fromstring(charts.dose_response(S, EFFECT, kl=[0.2, 0.1, 0.0, 0.1, 12345.0]))
    dots = {name: [e for e in root.iter() if e.get("data-series") == name and e.get("cx")] for name in ("effect", "KL")}
    places = [float(e.attrib["cx"]) for e in dots["effect"]]
    assert places == [float(e.attrib["cx"]) for e in dots["KL"]]
    assert places[2] - places[0] == pytest.approx(places[4] - places[2], abs=0.02)
    heights = [float(e.attrib["cy"]) for e in dots["effect"]]
    assert heights == sorted(heights, reverse=True)  # up is more
    steps = [(heights[2] - y) / value for y, value in zip(heights, EFFECT, strict=True) if value]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=0.01)


def test_several_series_are_told_apart_by_name_and_colour() -> None:
    svg = charts.dose_response(S, {"mean difference": EFFECT, "LDA": [0.0] * 5})
    kinds = {
        e.get("data-series"): e.get("class") for e in parsed(svg) if e.tag.endswith("circle") and e.get("data-series")
    }
    assert kinds == {"mean difference": "s0", "LDA": "s1"}


def test_a_probe_curve_holds_accuracy_interval_control_and_best() -> None:
    svg = FIGURES["probe-curve"]()
    held_out = [data for data in marks(svg, series="held out") if "y" in data]
    assert [float(data["y"]) for data in held_out] == [0.5, 0.8, 1.0]
    assert [float(data["low"]) for data in held_out] == [0.4, 0.7, 0.9]
    shuffled = [data for data in marks(svg, series="shuffled labels") if "y" in data]
    assert [float(data["y"]) for data in shuffled] == [0.5, 0.48, 0.51]
    assert having(svg, "best")[0]["best"] == "2"
    assert having(svg, "majority")[0]["majority"] == "0.5"


def test_a_heatmap_has_a_cell_for_each_number_and_says_what_is_missing() -> None:
    svg = FIGURES["heatmap"]()
    cells = having(svg, "row", "column")
    assert [(c["row"], c["column"], c["value"]) for c in cells] == [
        ("1", "0.5", "1.0"), ("1", "1.0", ""), ("0", "0.5", "-0.5"), ("0", "1.0", "0.25"),
    ]  # fmt: skip
    assert [c.get("chosen") for c in cells] == ["true", None, None, None]
    assert "not measured" in svg
    rects = [e for e in parsed(svg) if e.get("data-row") is not None]
    assert [e.get("class") for e in rects] == ["positive", "control", "negative", "positive"]
    assert [e.get("fill-opacity") for e in rects] == ["1.000", "0.120", "0.500", "0.250"]


def test_a_sequential_heatmap_begins_at_the_lowest() -> None:
    svg = charts.heatmap([[3.0, 4.0, 5.0]], ["a"], [0, 1, 2], kind="sequential")
    rects = [e for e in parsed(svg) if e.get("data-row") is not None]
    assert [e.get("fill-opacity") for e in rects] == ["0.000", "0.500", "1.000"]


def test_a_cosine_matrix_holds_both_halves_and_its_reference() -> None:
    svg = charts.cosine_matrix(["a", "b"], [[1.0, -0.3], [-0.3, 1.0]], random_sd=0.0361)
    assert [c["value"] for c in having(svg, "row")] == ["1.0", "-0.3", "-0.3", "1.0"]
    assert f"0 ± {shown(0.0722)}" in svg


def test_token_projections_keep_tokens_exactly_white_space_too() -> None:
    tokens, values = ["<s>", " a", "\n", "\t", NASTY[:20], "é"], [50.0, 1.0, -2.0, 0.5, 1e-9, 3.0]
    found = having(charts.token_projections(tokens, values), "token")
    assert [data["token"] for data in found] == tokens
    assert [float(data["value"]) for data in found] == values
    assert [int(data["position"]) for data in found] == list(range(6))


def test_the_first_token_does_not_drown_the_others() -> None:
    rects = [e for e in parsed(charts.token_projections(["<s>", "a", "b"], [900.0, 2.0, -1.0])) if e.get("data-token")]
    assert [e.get("fill-opacity") for e in rects] == ["1.000", "1.000", "0.500"]


def test_long_texts_wrap_within_the_figure() -> None:
    rects = [
        e for e in parsed(charts.token_projections(["token "] * 200 + ["x" * 500], [1.0] * 201)) if e.get("data-token")
    ]
    assert all(float(e.attrib["x"]) + float(e.attrib["width"]) <= WIDTH for e in rects)
    assert len({e.get("y") for e in rects}) > 10


def test_a_lens_table_lists_both_sides_and_its_control() -> None:
    svg = charts.lens_table([(" great", 1 / 3), ("a", 0.2)], [(" awful", -0.1)], control=0.15)
    rows = having(svg, "side")
    assert [(r["side"], r["rank"], r["token"], float(r["value"])) for r in rows] == [
        ("boosted", "0", " great", 1 / 3), ("boosted", "1", "a", 0.2), ("suppressed", "0", " awful", -0.1),
    ]  # fmt: skip
    assert having(svg, "control")[0]["control"] == "0.15"
    bars = [float(e.attrib["width"]) for e in parsed(svg) if e.get("data-side")]
    assert bars[1] / bars[0] == pytest.approx(0.6, abs=0.01)


def test_geometry_has_one_scale_for_both_axes() -> None:
    root = ElementTree.fromstring(charts.geometry([(0.0, 0.0), (10.0, 0.0)], [(0.0, 1.0), (3.0, 1.0)]))
    points = {(float(e.attrib["data-x"]), float(e.attrib["data-y"])): e for e in root.iter() if e.get("data-group")}
    across = float(points[10.0, 0.0].attrib["cx"]) - float(points[0.0, 0.0].attrib["cx"])
    up = float(points[0.0, 0.0].attrib["cy"]) - float(points[0.0, 1.0].attrib["cy"])
    assert across / 10 == pytest.approx(up, rel=0.01)
    means = {e.get("data-mean"): (e.get("data-x"), e.get("data-y")) for e in root.iter() if e.get("data-mean")}
    assert means == {"positive": ("5.0", "0.0"), "negative": ("1.5", "1.0")}


def test_bars_begin_at_zero() -> None:
    svg = charts.bars(["a", "b"], [0.5, -0.25], intervals=[(0.4, 0.6), (-0.3, -0.2)])
    found = [e for e in parsed(svg) if e.get("data-label")]
    first, second = ((float(e.attrib["x"]), float(e.attrib["width"])) for e in found)
    assert first[0] == pytest.approx(second[0] + second[1], abs=0.02)
    assert first[1] / second[1] == pytest.approx(2, abs=0.01)
    assert [(e.get("data-low"), e.get("data-high")) for e in found] == [("0.4", "0.6"), ("-0.3", "-0.2")]


# -- what cannot be drawn -----------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: charts.dose_response([], []), "no strengths"),
        (lambda: charts.dose_response([0, 1], [1]), "1 effect values for 2 places"),
        (lambda: charts.dose_response([0, 1], [1, NAN]), "NaN"),
        (lambda: charts.dose_response([0, float("inf")], [1, 2]), "infinite"),
        (lambda: charts.dose_response([1, 0], [1, 2]), "must ascend"),
        (lambda: charts.dose_response([0, 1], [1, 2], intervals=[(0, 1)]), "1 intervals for 2 places"),
        (lambda: charts.dose_response([0, 1], [1, 2], random=[(1, 0), (0, 1)]), r"are \(low, high\)"),
        (lambda: charts.dose_response([0, 1], {}), "0 series"),
        (lambda: charts.dose_response([0, 1], {str(i): [0, 1] for i in range(5)}), "5 series"),
        (lambda: charts.dose_response([0, 1], ["a", 1]), "must be numbers"),  # type: ignore[list-item]
        (lambda: charts.probe_curve([], []), "no layers"),
        (lambda: charts.heatmap([], [], []), "no values"),
        (lambda: charts.heatmap([[None]], [1], [1]), "no values"),
        (lambda: charts.heatmap([[NAN]], [1], [1]), "NaN"),
        (lambda: charts.heatmap([[1.0]], [1, 2], [1]), "for 2 row labels"),
        (lambda: charts.heatmap([[1.0]], [1], [1], kind="rainbow"), "diverging"),  # type: ignore[arg-type]
        (lambda: charts.cosine_matrix(["a"], [[1.2]]), "between -1 and 1"),
        (lambda: charts.token_projections([], []), "no values"),
        (lambda: charts.token_projections(["a"], [NAN]), "NaN"),
        (lambda: charts.lens_table([], []), "no tokens"),
        (lambda: charts.lens_table([("a", NAN)], []), "NaN"),
        (lambda: charts.geometry([], []), "no points"),
        (lambda: charts.geometry([(1, 2, 3)], []), "3 coordinates"),
        (lambda: charts.bars([], []), "no values"),
        (lambda: charts.bars(["a"], [None]), "must be numbers"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.dose_response([1], [0.0]),
        lambda: charts.dose_response([0, 1], [1e-12, 1e12]),
        lambda: charts.probe_curve([7], [1.0]),
        lambda: charts.heatmap([[0.0, 0.0]], ["a"], ["b", "c"]),
        lambda: charts.heatmap([[5.0, 5.0]], ["a"], ["b", "c"], kind="sequential"),
        lambda: charts.heatmap([[float(i)] * 64 for i in range(126)], range(126), range(64)),
        lambda: charts.token_projections(["a"], [0.0]),
        lambda: charts.token_projections(["", "b"], [0.0, 1.0]),
        lambda: charts.lens_table([("a", 0.0)], []),
        lambda: charts.geometry([(1, 1)], []),
        lambda: charts.geometry([(0, 0)], [(0, 1e6)]),
        lambda: charts.bars(["a"], [0.0]),
    ],
)
def test_the_smallest_and_the_flattest_data_are_drawn(draw: Callable[[], str]) -> None:
    svg = draw()
    assert parsed(svg)
    assert not re.search(r'="(nan|inf|-inf)"', svg)


# -- the parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.0, 1e-300, 1e300, 5, True, "a"])
def test_data_is_read_back_as_it_was(value: Any) -> None:
    text = exact(value)
    assert (float(text) == value) if isinstance(value, float) else text == {True: "true"}.get(value, str(value))


def test_text_survives_as_an_attribute() -> None:
    text = " \n\t\r<&>\"' 喜び \U0001f600"
    assert ElementTree.fromstring(f'<a b="{escape(text)}"/>').get("b") == text
    assert escape("\x00") == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("low", "high", "most", "labels"),
    [
        (-2.1, 2.1, 5, ["−2", "−1", "0", "1", "2"]),
        (0, 0.23, 3, ["0.0", "0.1", "0.2"]),
        (0, 1, 2, ["0.0", "0.5", "1.0"]),
        (3, 3, 5, ["3"]),
        (0, 30000, 3, ["0", "10000", "20000", "30000"]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, labels: list[str]) -> None:
    assert list(Ticks.within(low, high, most).labels) == labels


def test_ticks_of_indices_are_whole() -> None:
    assert Ticks.within(0, 2, 9, whole=True).values == (0, 1, 2)


def test_numbers_shown_together_have_as_many_decimals() -> None:
    write = alike([1.08, -0.2, 0])
    assert [write(value) for value in (1.08, -0.2, 0, -0.001)] == ["1.08", "−0.20", "0.00", "0.00"]
    assert [alike([123.4])(value) for value in (123.4, 5)] == ["123", "5"]


def test_shades_are_full_at_their_reach_and_clamped_beyond() -> None:
    shade = Shade.of([1.0, -4.0])
    assert [shade.of_value(v) for v in (2, -4, 9)] == [("positive", 0.5), ("negative", 1.0), ("positive", 1.0)]


def test_texts_are_shortened_to_their_room() -> None:
    assert shortened("short", 100) == "short"
    cut = shortened("a very long name indeed", 60)
    assert cut.endswith("…")
    assert text_width(cut) <= 60
    assert text_width("喜び") == 2 * text_width("ab")


def test_a_figure_is_written_whole(tmp_path: Path) -> None:
    svg = FIGURES["bars"]()
    assert charts.write(svg, tmp_path / "bars.svg") == svg
    assert (tmp_path / "bars.svg").read_text(encoding="utf-8") == svg
    assert [path.name for path in tmp_path.iterdir()] == ["bars.svg"]
    assert charts.write(svg, None) == svg
