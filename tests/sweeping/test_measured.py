"""Targets that are not read off the logits are swept plan by plan, with the same controls."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
import torch
from tests.evaluation.test_judge import Stub
from tests.model.running import steering_model, vector

import steersman as sm
from steersman.errors import MismatchError
from steersman.evaluation import ActivationTarget, Classifier, Judge, RegexRate, Sampling
from steersman.evaluation.controls import random_directions

PROMPTS = [f"The {a} {b}" for a in ("good", "bad") for b in ("weather", "movie is", "Paris was", "I think")]
NEUTRAL = ["The weather in London is bad and"]
SHORT = Sampling(texts=1, max_new_tokens=4, temperature=None)


@pytest.fixture
def judge():
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Judge(server.url, "judge", "goodness", sampling=SHORT)
    server.shutdown()
    server.server_close()


def counted(texts: list[str]) -> list[float]:
    return [float(text.count("o")) for text in texts]


def worth(target, text: str) -> float:
    """What a text is worth, written out again."""
    if isinstance(target, RegexRate):
        return float(bool(re.search(target.pattern, text)))
    return 10.0 * text.count("good") if isinstance(target, Judge) else float(text.count("o"))


@pytest.mark.parametrize("kind", ["regex", "classifier", "judge"])
def test_generated_texts_are_scored_under_every_plan(kind: str, request) -> None:
    model = steering_model("gpt2")
    kinds = {"regex": RegexRate("[ao]", sampling=SHORT), "classifier": Classifier(counted, sampling=SHORT)}
    target = kinds[kind] if kind in kinds else request.getfixturevalue("judge")
    v = vector(model, scale=3.0)
    found = sm.sweep(
        model, v, prompts=PROMPTS, target=target, layers=[0, 2], strengths=[-1.0, 0.0, 2.0], neutral=NEUTRAL, random=3
    )
    assert (found.engine, found.facts["why"]) == ("measure", "the target is not read off the logits")
    base = np.array([worth(target, text) for text in model.generate(PROMPTS, max_new_tokens=4)])
    changed = 0
    for row in found:
        texts = model.generate(PROMPTS, steer=sm.Add(v, row.strength, layers=row.layer), max_new_tokens=4)
        each = np.array([worth(target, text) for text in texts]) - base
        assert row.effect == pytest.approx(each.mean())
        assert row.kl_tokens > 0
        changed += bool(each.any())
    assert changed
    drawn = random_directions(v, 3, seed=0)
    null = []
    for one in drawn:
        texts = model.generate(PROMPTS, steer=sm.Add(one, 2.0, layers=2), max_new_tokens=4)
        null.append(np.mean([worth(target, text) for text in texts]) - base.mean())
    low, high = np.quantile(null, [0.025, 0.975])
    assert (found.row(2, 2.0).control_low, found.row(2, 2.0).control_high) == pytest.approx((low, high))


@pytest.mark.parametrize("kind", ["direction", "probe"])
def test_activations_are_read_under_every_plan(kind: str) -> None:
    model = steering_model("llama")
    read, v = vector(model, 4), vector(model)
    if kind == "direction":
        reader = sm.SteeringVector({2: read}, site="resid_post")
        target = ActivationTarget(reader, layer=2)
    else:
        texts = [f"The {a} is {b}" for a in ("sea", "weather", "movie", "Paris") for b in ("good", "bad")]
        reader = sm.LinearProbe(cv=2).fit(sm.activations(model, texts, layers=[2]), ["good", "bad"] * 4)
        target = ActivationTarget(reader, layer=2)
    found = sm.sweep(
        model, v, prompts=PROMPTS, target=target, layers=[0, 1], strengths=[-1.0, 1.0], neutral=NEUTRAL, random=5
    )
    for row in found:
        each = []
        for prompt in PROMPTS:
            stood = []

            def add(module, args, output, row=row):
                output = output.clone()
                output[:, -1] += row.strength * v
                return output

            def keep(module, args, output, stood=stood):
                stood.append(output[0, -1].double())

            ids = torch.tensor([model.tokens.encode(prompt)])
            blocks = model.hf.model.layers
            handles = [blocks[2].register_forward_hook(keep)]
            with torch.no_grad():
                model.hf(input_ids=ids)
                handles.append(blocks[row.layer].register_forward_hook(add))
                model.hf(input_ids=ids)
            for handle in handles:
                handle.remove()
            if kind == "direction":
                each.append(float((stood[1] - stood[0]) @ (read / read.norm()).double()))
            else:
                chances = [reader.probabilities(one[None].float(), layer=2).numpy()[0] for one in stood]
                odds = [np.log(chance[1]) - np.log(chance[0]) for chance in chances]
                each.append(odds[1] - odds[0])
        assert row.effect == pytest.approx(np.mean(each), rel=1e-3, abs=1e-4)


def test_interrupted_in_any_measurement_and_resumed_gives_the_same_rows(tmp_path, monkeypatch) -> None:
    """Of the vector, of a random direction, of the neutral texts or of the prompt baseline."""
    from steersman.sweeping.passes import Passes

    model = steering_model("gpt2")
    v = vector(model)
    settings = {
        "prompts": PROMPTS, "target": sm.contrast(" great", " awful"), "layers": [0, 1], "strengths": [-1.0, 1.0, 2.0],
        "neutral": NEUTRAL, "random": 4,
    }  # fmt: skip
    passes = 0
    plain = Passes.run

    def counting(self, plans, receive) -> None:
        nonlocal passes, left
        passes += 1
        if left is not None:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        plain(self, plans, receive)

    left: int | None = None
    monkeypatch.setattr(Passes, "run", counting)
    whole = sm.sweep(model, v, **settings)
    count = passes
    assert count >= 2 + 2 * (
        1 + 1 + 2
    )  # base and neutral texts; in each layer effects, KL, and two sizes of the control
    for stop in range(count):
        path = tmp_path / f"rows-{stop}.jsonl"
        left = stop
        with pytest.raises(KeyboardInterrupt):
            sm.sweep(model, v, **settings, rows=path)
        left, passes = None, 0
        assert sm.sweep(model, v, **settings, rows=path).rows == whole.rows
        assert passes <= count


def test_a_file_of_rows_cut_off_anywhere_is_read_as_far_as_it_goes(tmp_path) -> None:
    model = steering_model("gpt2")
    settings = {
        "prompts": PROMPTS, "target": sm.contrast(" great", " awful"), "layers": [0, 1], "strengths": [1.0],
        "neutral": NEUTRAL, "random": 2, "rows": tmp_path / "rows.jsonl",
    }  # fmt: skip
    v = vector(model)
    whole = sm.sweep(model, v, **settings)
    kept = settings["rows"].read_text()
    lines = kept.splitlines(keepends=True)
    for number in range(1, len(lines)):
        settings["rows"].write_text("".join(lines[:number]) + lines[number][: len(lines[number]) // 2])
        assert sm.sweep(model, v, **settings).rows == whole.rows
        assert settings["rows"].read_text() == kept
    for name, other in (("random", 3), ("seed", 1), ("screen", 1), ("halving", 2), ("strengths", [2.0])):
        with pytest.raises(MismatchError, match=name):
            sm.sweep(model, v, **(settings | {name: other}))
