"""The report is one file that holds everything it shows, and nothing that came from outside as anything but text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from steersman import report
from steersman.errors import DataError
from steersman.sweeping.result import Row

NASTY = '<script>alert("1")</script> & "quoted" \x00\ud800'


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.5, "high": value + 0.5, "n": 9, "sources": 9, "method": "BCa"}


def evaluation(**more: Any) -> dict[str, Any]:
    control = {"kind": "random directions", "value": 0.4, "n": 100, "p_value": 0.0099}
    curve = {
        "factors": [-1, 0, 1], "effects": [estimate(-2), estimate(0), estimate(2)],
        "random": [[-0.4, 0.4], [0, 0], [-0.4, 0.4]], "kl": [0.09, 0.0, 0.08],
    }  # fmt: skip

    def row(name: str, title: str, value: float, **more: Any) -> dict[str, Any]:
        found = {"name": name, "title": title, "unit": "nats", "value": value, "difference": estimate(value)}
        return found | {"verdict": "higher"} | more

    rows = [
        row("effect", "effect", 2.0, base=0.1, steered=2.1, control=control),
        row("slope", "slope", 2.0, details=curve),
        row("anti_steerable", "other way", 0.25),
        row("kl", "KL on neutral text", 0.08),
    ]
    return {
        "schema": "steersman.evaluation/1", "model": {"name": "demo", "fingerprint": "abc"}, "other": None,
        "plan": {"digest": "d" * 64, "labels": ["Add(happy)"],
                 "interventions": [{"operation": "add", "vector": "happy", "strength": 1.5, "layers": [8]}]},
        "target": {"kind": "contrast", "unit": "nats", "positive": [" great"], "negative": [" awful"]},
        "rows": rows, "gates": [{"gate": "kl<=0.1", "met": True, "value": 0.08, "why": None},
                                {"gate": "x>1", "met": False, "value": None, "why": "there is no x here"}],
        "left_out": {"effect_elsewhere": "no prompts"}, "settings": {"max_kl": 0.1, "texts": 64},
        "samples": [{"prompt": "The day was", "texts": {"-": " bad", "0": " long", "+": " great"}}], "seed": 3,
        "versions": {"torch": "2.13"},
    } | more  # fmt: skip


def sweep(rows: list[dict[str, Any]] | None = None, **facts: Any) -> dict[str, Any]:
    """As ``Sweep.save`` writes it."""
    missing = dict.fromkeys(Row.__dataclass_fields__)
    made = [
        {"layer": layer, "strength": s, "effect": layer * s, "tune_effect": layer * s, "low": layer * s - 0.2,
         "high": layer * s + 0.2, "kl": 0.02 * s * s, "control_low": -0.5, "control_high": 0.5, "p_value": 0.01,
         "report_effect": layer * s + 0.1, "report_low": 1.0, "report_high": 9.0}
        for layer in (3, 5, 7) for s in (-1.0, 0.5, 1.0)
    ]  # fmt: skip
    own = {"model": {"name": "demo"}, "target": {"unit": "nats"}, "seed": 0, "versions": {}, "notes": ["few items"],
           "controls": {"prompt": {"instruction": "Be glad.", "value": 0.3, "low": 0.1, "high": 0.5}}}  # fmt: skip
    return {"format": "steersman.sweep", "format_version": 1, "facts": own | facts,
            "rows": [missing | row for row in (made if rows is None else rows)]}  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: tags, their attributes, and the text between."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


CASES = {"both": (sweep(), evaluation()), "sweep": (sweep(), None), "evaluation": (None, evaluation())}


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_whole_loads_nothing_and_runs_nothing(case: str) -> None:
    page = Page(source := report.render(*CASES[case]))
    assert not page.open
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "form", "video", "base"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "action", "srcset", "data"):
                assert value is not None
                assert value.startswith("#")
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", source)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("case", CASES)
def test_it_can_be_read_by_all(case: str) -> None:
    page = Page(report.render(*CASES[case]))
    tags = page.tags
    assert dict(tags)["html"]["lang"] == "en"
    assert [tag for tag, _ in tags if tag in ("main", "h1", "title")].count("h1") == 1
    assert all(a.get("role") == "img" and a.get("aria-label") for tag, a in tags if tag == "svg")
    assert all(a.get("scope") for tag, a in tags if tag == "th")
    assert sum(tag == "figure" for tag, _ in tags) == sum(tag == "figcaption" for tag, _ in tags) > 0
    style = " ".join(page.words)
    assert "prefers-color-scheme:dark" in style
    assert "focus-visible" in style


def test_the_numbers_are_those_of_the_documents() -> None:
    source = report.render(sweep(), evaluation())
    svgs = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", source, re.DOTALL)]
    assert [svg.get("data-chart") for svg in svgs] == ["heatmap", "heatmap", "dose-response", "dose-response"]
    cells = {
        (c.get("data-row"), c.get("data-column")): float(c.get("data-value") or 0)
        for c in svgs[0].iter()
        if c.get("data-row")
    }
    assert cells["7", "1"] == 7.0
    assert cells["3", "−1"] == -3.0
    chosen = [c for c in svgs[0].iter() if c.get("data-chosen") == "true"]
    assert [(c.get("data-row"), c.get("data-column")) for c in chosen] == [("7", "1")]
    dots = [
        (float(c.get("data-x") or 0), float(c.get("data-y") or 0))
        for c in svgs[2].iter()
        if c.get("data-series") == "effect" and c.tag.endswith("circle")
    ]
    assert dots == [(-1, -2), (0, 0), (1, 2)]
    text = " ".join(Page(source).words)
    shown = (
        "2 [1.5, 2.5]", "p = 0.0099", "not met", "there is no x here", "minus the plan", "d" * 64, "torch 2.13", "25%",
        "happy at strength 1.5, layer 8", "no prompts", "kept from the choice: 7.1 [1, 9]", "few items",
        "'Be glad.') instead: 0.3 [0.1, 0.5]",
    )  # fmt: skip
    for words in shown:
        assert words in text, words


def test_text_from_outside_stays_text() -> None:
    samples = [{"prompt": NASTY, "texts": {"0": NASTY, "+": NASTY}}]
    source = report.render(
        sweep(model={"name": NASTY}, notes=[NASTY]),
        evaluation(samples=samples, target={"kind": NASTY, "unit": NASTY}, versions={NASTY: NASTY}, plan=None,
                   other={"name": NASTY}, left_out={NASTY: NASTY}),
        title=NASTY,
    )  # fmt: skip
    page = Page(source)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "\x00" not in source
    source.encode("utf-8")
    assert '<script>alert("1")</script>' in " ".join(page.words)


def test_what_was_not_measured_is_not_drawn() -> None:
    bare = evaluation(rows=evaluation()["rows"][3:], gates=[], samples=[], target=None, left_out={})
    source = report.render(evaluation=bare)
    assert "<svg" not in source
    assert "How it reads" not in source
    assert "No target was given" in source
    rows = [{"layer": 1, "strength": s, "effect": s, "tune_effect": s, "kl": 3.0} for s in (-1.0, 1.0)]
    plain = report.render(sweep=sweep(rows))
    assert plain.count("<svg") == 3
    assert "no setting moves the target upwards within the budget" in plain
    assert "95% of random directions" not in plain
    unsure = evaluation()
    for effect in unsure["rows"][1]["details"]["effects"]:
        effect["low"] = None
    (chart,) = re.findall(r"<svg.*?</svg>", report.render(evaluation=unsure), re.DOTALL)
    assert "95% interval" not in chart
    assert "95% of random directions" in chart


def test_it_is_written_whole_and_only_what_it_is_for_is_taken(tmp_path) -> None:
    path = report.write(tmp_path / "r.html", evaluation=evaluation())
    assert Path(path).read_text(encoding="utf-8") == report.render(evaluation=evaluation())
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    for wrong in ({}, {"sweep": evaluation()}, {"evaluation": {"schema": "x"}}, {"evaluation": 3},
                  {"sweep": {"format": "steersman.sweep", "rows": [{}], "facts": {}}}, {"sweep": 3}):  # fmt: skip
        with pytest.raises(DataError):
            report.render(**wrong)
    with pytest.raises(DataError, match=r"\.html"):
        report.write(tmp_path / "r.txt", evaluation=evaluation())
