"""What the tour claims about the embedded model holds, and its figures are what they say."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import steersman as sm
from steersman import demo
from steersman.demo.choosing import DRAWN, MAX_KL, NEUTRAL, TRIED
from steersman.demo.means import Mean, mean
from steersman.demo.movement import CAPITALS, move
from steersman.demo.steering import PROMPTS, Effect
from steersman.demo.tour import COOKBOOK

README = Path(__file__).parents[2] / "README.md"


class TestFigures:
    def test_a_mean_lies_in_its_interval_and_repeats(self) -> None:
        values = torch.tensor([0.0, 1.0, 1.0, 2.0])
        found = mean(values, seed=1)
        assert found == mean(values, seed=1)
        assert found.low <= found.value == 1.0 <= found.high
        assert found.n == 4

    def test_an_effect_counts_itself_among_its_controls(self) -> None:
        effect = Effect({}, Mean(-0.5, -0.6, -0.4, 8), (0.1, -0.7, 0.2))
        assert effect.p_value == 2 / 4
        assert effect.strongest == 0.7
        assert effect.typical == pytest.approx(1 / 3)


class TestModel:
    def test_every_call_loads_it_anew(self, model) -> None:
        assert demo.demo_model() is not model

    def test_it_knows_the_words_and_capitals_as_single_tokens(self, model) -> None:
        words = [*demo.words("positive"), *demo.words("negative"), *(name for pair in CAPITALS for name in pair)]
        assert [word for word in words if len(model.tokens.continuation(f" {word}")) > 1] == []

    @pytest.mark.parametrize("name", demo.VECTORS)
    def test_packaged_vectors_separate_held_out_pairs(self, model, name) -> None:
        vector = demo.vector(name, model)
        best = vector.quality["layers"][str(vector.layer)]
        assert vector.name == name
        assert best["accuracy"] > 0.85
        assert best["accuracy_interval"][0] > best["shuffled"]


class TestTour:
    def test_the_direction_separates_where_it_is_used(self, found) -> None:
        chosen = next(row for row in found.separation if row.layer == found.layer)
        assert chosen.accuracy >= 0.9
        assert chosen.low > chosen.shuffled
        assert [row.layer for row in found.separation] == list(range(found.layers))

    def test_at_first_the_texts_look_alike_since_they_end_alike(self, found) -> None:
        assert found.separation[0].accuracy < 0.65
        assert found.layer > found.layers // 2

    def test_layer_and_strength_are_the_choice_of_a_sweep(self, model, found) -> None:
        choice = found.choice
        told = [row.layer for row in found.separation if row.low > row.shuffled]
        assert [cell.layer for cell in choice.cells] == [layer for layer in told if 2 <= layer < 12]
        chosen = next(cell for cell in choice.cells if cell.layer == choice.layer)
        assert chosen.strength == choice.strength in TRIED
        assert chosen.kl <= MAX_KL
        assert chosen.effect.value >= 0.9 * max(cell.effect.value for cell in choice.cells if cell.within)
        assert chosen.effect.low > chosen.random_high
        assert chosen.p_value == 1 / (1 + DRAWN)
        assert choice.held_out > chosen.random_high
        assert choice.held_out_prompts == len(PROMPTS) // 2
        assert abs(choice.in_words.value) < chosen.effect.value

    def test_its_cells_are_those_of_plain_measurements(self, model, found) -> None:
        from steersman.evaluation import divergence
        from steersman.evaluation.neutral import default_texts

        words = ([f" {word}" for word in demo.words(name)] for name in ("positive", "negative"))
        mood = sm.contrast(*words, measure="balance")
        vector = sm.extract(model, demo.pairs("sentiment"), quality=False)
        before = mood.measure(model, PROMPTS).values
        for cell in found.choice.cells[1::3]:
            plan = sm.Add(vector, cell.strength, layers=cell.layer)
            after = mood.measure(model, PROMPTS, steer=plan).values
            assert cell.effect.value == pytest.approx((after - before).mean(), abs=1e-4)
            kl = divergence(model, default_texts("demo")[:NEUTRAL], plan).mean
            assert cell.kl == pytest.approx(kl, rel=1e-3, abs=1e-5)

    def test_it_says_what_it_left_out_of_a_whole_sweep(self, found) -> None:
        searched = [cell.layer for cell in found.choice.cells]
        said = ", ".join(found.choice.left_out)
        assert f"layers 0 to {searched[0] - 1} (nothing separated)" in said
        assert f"layer {searched[-1] + 1} (next to the output)" in said
        assert searched[-1] + 2 == found.layers
        for words in ("5 of 9 strengths", "61 of 100 random", "16 of 24 neutral", "shuffled labels"):
            assert words in said

    def test_the_effect_beats_every_random_direction(self, found) -> None:
        for direction in found.directions:
            effect = direction.effect
            assert effect.shift.value > effect.strongest
            assert effect.shift.low > 0
            assert effect.p_value < 0.05
            assert effect.shift.n == len(PROMPTS)

    def test_figures_are_those_of_the_library_used_plainly(self, model, found) -> None:
        vector = sm.extract(model, demo.pairs("sentiment"))
        positive, negative = (
            [model.tokens.continuation(f" {word}")[0] for word in demo.words(name)] for name in ("positive", "negative")
        )
        chosen = found.choice.strength
        for strength in (-chosen, 0.0, chosen):
            chances = model.logits(PROMPTS[0], steer=sm.Add(vector, strength, layers=found.layer))[0, -1].softmax(-1)
            balance = float(chances[positive].sum() - chances[negative].sum())
            assert found.continuations[0].balance[strength] == pytest.approx(balance, abs=1e-4)
        text = model.generate(PROMPTS[0], steer=sm.Add(vector, chosen, layers=found.layer), max_new_tokens=14)
        assert found.continuations[0].texts[chosen] == text
        three = sm.extract(model, COOKBOOK, quality=False)
        cosine = torch.cosine_similarity(three[found.layer], vector[found.layer], dim=0)
        assert found.directions[1].cosine == pytest.approx(float(cosine), abs=1e-4)

    def test_information_moves_from_the_country_to_the_last_token(self, model, found) -> None:
        movement = found.movement
        assert movement.own.value > 0.5
        assert movement.subject[0].value > 0.5 > movement.last[0].value
        assert movement.last[-1].value > 0.5 > movement.subject[-1].value
        assert max(control.value for control in movement.control) < 0.1
        assert movement.example.answer == "Paris"
        hidden = sm.capture(model, "The capital of France is")
        plan = sm.Replace(hidden[0][-2], layers=0, positions="prompt[-2]")
        assert model.generate("The capital of Germany is", steer=plan, max_new_tokens=1) == " Paris"

    def test_another_seed_changes_controls_and_nothing_else(self, model, found) -> None:
        other = move(model, seed=1)
        assert [m.value for m in other.subject] == [m.value for m in found.movement.subject]
        assert replace(found, seed=1) != found


def test_the_commands_of_the_last_section_work(found, capsys, monkeypatch, tmp_path) -> None:
    import io
    import shlex

    from steersman import cli
    from steersman.cli.demo import what_next

    monkeypatch.chdir(tmp_path)
    for command, _ in what_next(found):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello!\n"))
        program, *arguments = shlex.split(command)
        assert program == "steer"
        assert cli.run(arguments) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.strip()


def test_the_demo_prints_every_number_with_its_control(model, found, capsys, monkeypatch) -> None:
    import steersman.demo.tour as module
    from steersman import cli

    monkeypatch.setattr(module, "tour", lambda *_, **__: found)
    assert cli.run(["demo"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"sentiment, 48 pairs +-0\.\d\d", text)
    for word in ("shuffled", "random", "control", "n = 12", "n = 10", "95%", "Left out", "chosen"):
        assert word in text
    assert cli.run(["demo", "--json"]) == 0
    assert '"schema": "steersman.demo/1"' in capsys.readouterr().out


def test_the_readme_shows_what_the_demo_prints(model, found, capsys, monkeypatch) -> None:
    """Word for word, and number for number but for the last digit; ``UPDATE_EXAMPLES=1`` writes it anew."""
    import steersman.demo.tour as module
    from steersman import cli

    monkeypatch.setattr(module, "tour", lambda *_, **__: found)
    assert cli.run(["demo", "--quiet"]) == 0
    printed, text = capsys.readouterr().out.rstrip(), README.read_text(encoding="utf-8")
    before, shown, after = re.split("(?<=<!-- demo: begin -->\n```text\n)|(?=\n```\n<!-- demo: end -->)", text)
    if os.environ.get("UPDATE_EXAMPLES"):
        README.write_text(before + printed + after, encoding="utf-8")
        return
    ours, theirs = (re.findall(r"[+-]?\d*\.\d+|[^\W_]+", page) for page in (printed, shown))
    assert len(ours) == len(theirs) > 300
    for mine, stated in zip(ours, theirs, strict=True):
        if "." in mine and "." in stated:
            assert float(mine) == pytest.approx(float(stated), abs=0.021)
        else:
            assert mine == stated


def test_the_picture_and_the_document_are_saved_with_their_record(model, found, capsys, monkeypatch, tmp_path) -> None:
    import json
    from xml.etree import ElementTree

    import steersman.demo.tour as module
    from steersman import cli

    monkeypatch.setattr(module, "tour", lambda *_, **__: found)
    assert cli.run(["demo", "-o", str(tmp_path / "demo.svg")]) == 0
    assert ElementTree.parse(tmp_path / "demo.svg").getroot().tag.endswith("svg")
    assert "@font-face" not in (tmp_path / "demo.svg").read_text()
    assert json.loads((tmp_path / "run.json").read_text())["outputs"].keys() == {"demo.svg"}
    assert cli.run(["demo", "--quiet", "-o", str(tmp_path / "demo.json")]) == 0
    assert json.loads((tmp_path / "demo.json").read_text())["schema"] == "steersman.demo/1"
    capsys.readouterr()
    assert cli.run(["demo", "-o", "demo.png"]) == 2
    assert "fix: -o demo.svg" in capsys.readouterr().err
