"""Branches beside each other under one mask give the logits of whole passes."""

from __future__ import annotations

import pytest
import torch
from tests.model import reference
from tests.model.running import LONG, PROMPTS, assert_close, steering_model, vector
from tests.models import FAMILIES

import steersman as sm
from steersman.errors import UnsupportedError
from steersman.model.branches import Branching, Stem
from steersman.model.resume import Resumable

TEXTS = [*PROMPTS, LONG]
ENDINGS = [" great", " awful", " a good a", " the"]
#: Families whose attention looks at more than a mask and positions.
WITHOUT = {"bloom", "bloom_post_norm", "falcon_sequential", "gpt_neo", "qwen3_next", "qwen3_5"}


def stems(model: sm.SteeringModel, texts: list[str], back: int = 1) -> list[Stem]:
    """Stems that leave ``back`` tokens before the end; the n-th has n endings, the first of them empty."""
    found = []
    for number, text in enumerate(texts):
        endings = [(), *(tuple(model.tokens.continuation(ending)) for ending in ENDINGS[:number])]
        ids = tuple(model.tokens.encode(text))
        found.append(Stem(ids, len(ids) - back, tuple(endings)))
    return found


def assert_same(model: sm.SteeringModel, plans: list[sm.Plan], back=1, keep=None, texts=TEXTS, bound=1e-5) -> None:
    again = Resumable(model)
    branching = Branching(again)
    given = stems(model, texts, back)
    trunk = branching.record(given, keep=[again.first_layer(plans)] if keep is None else keep)
    found = again.logits(branching.run(trunk, plans))
    for row, (text, stem) in enumerate(zip(texts, given, strict=True)):
        for number, plan in enumerate(plans):
            for place, ending in enumerate(stem.endings):
                continuation = None if not ending else ENDINGS[place - 1]
                expected = model.logits(text, steer=plan, continuation=continuation)[0, stem.start :]
                assert_close(found[row, number, place, : len(expected)], expected, (text, number, ending), bound)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WITHOUT])
def test_every_family(family: str) -> None:
    model = steering_model(family)
    plans = [sm.Plan(sm.Add(vector(model, seed), layers=1)) for seed in range(3)]
    windowed = getattr(model.hf.config, "sliding_window", None)
    assert_same(model, [*plans, sm.Plan()], texts=["abcd", "ab"] if windowed else TEXTS, bound=3e-5)


@pytest.mark.parametrize("family", sorted(WITHOUT))
def test_families_whose_attention_looks_at_more_are_refused(family: str) -> None:
    with pytest.raises(UnsupportedError, match="along the row"):
        Branching(Resumable(steering_model(family)))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_branch_is_one_steered_by_hand(family: str) -> None:
    model = steering_model(family)
    v, again = vector(model), Resumable(model)
    branching, given = Branching(again), stems(model, TEXTS)
    trunk = branching.record(given, keep=[2])
    found = again.logits(branching.run(trunk, [sm.Plan(sm.Add(v, 0.5, layers=1))]))
    for row, stem in enumerate(given):
        for place, ending in enumerate(stem.endings):
            ids = [*stem.prompt, *ending]
            touched = list(range(stem.start, len(ids)))
            edit = ("resid_post", 1, reference.at(touched, reference.add(0.5 * v)))
            expected = reference.logits(model.hf, family, ids, [edit])[stem.start :]
            assert_close(found[row, 0, place, : len(expected)], expected)


@pytest.mark.parametrize(
    ("back", "keep", "make"),
    [
        (1, [3, 1], lambda v: sm.Add(v, layers=2, positions="last", when=sm.When(v, layer=0, above=0.0))),
        (1, [1], lambda v: sm.Clamp(v, 0.5, layers=[0, 2], positions="last+generation")),
        (1, [1], lambda v: sm.Zero(sm.heads(1, [0, 2]), positions="generation")),
        (2, [2], lambda v: sm.Rotate(v, angle=0.7, layers=2, positions="prompt[-2:]", site="resid_pre")),
        (1, [3], lambda v: sm.Add(v, sm.schedule([2.0, 0.5]), layers=2)),
        (1, [0], lambda v: sm.Ablate(v, positions="last")),
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_kind_of_intervention(family: str, back: int, keep: list[int], make) -> None:
    model = steering_model(family)
    plans = [sm.Plan(make(vector(model, seed))) for seed in range(3)]
    if str(plans[0][0].positions) == "generation":  # the empty ending has no token that it could touch
        again = Resumable(model)
        branching, given = Branching(again), [Stem(s.prompt, s.start, s.endings[1:]) for s in stems(model, TEXTS)[1:]]
        found = again.logits(branching.run(branching.record(given, keep=keep), plans))
        for row, text in enumerate(TEXTS[1:]):
            for number, plan in enumerate(plans):
                expected = model.logits(text, steer=plan, continuation=ENDINGS[0])[0, given[row].start :]
                assert_close(found[row, number, 0, : len(expected)], expected)
        return
    assert_same(model, plans, back, keep)


def test_an_edited_model_inside_a_context() -> None:
    edited = steering_model("llama").edit(sm.Clamp(vector(steering_model("llama"), 5), 1.0, layers="all"))
    plans = [sm.Plan(sm.Add(vector(edited, seed), layers=1)) for seed in range(2)]
    with edited.steer(sm.Add(vector(edited, 7), layers=[0, 2])):
        assert_same(edited, plans)


def test_what_cannot_be_shared_is_said() -> None:
    branching = Branching(Resumable(steering_model("mistral")))
    assert "first token" in (branching.why_not([Stem((1, 2, 3), 0)]) or "")
    assert "sliding window" in (branching.why_not([Stem(tuple(range(2, 20)), 17)]) or "")
    assert branching.why_not([Stem((1, 2, 3), 2)]) is None


def test_the_beginnings_are_left_as_they_are() -> None:
    model = steering_model("gpt2")
    again = Resumable(model)
    branching = Branching(again)
    trunk = branching.record(stems(model, TEXTS), keep=[2])
    plans = [sm.Plan(sm.Add(vector(model), layers=1))]
    first = branching.run(trunk, plans)
    branching.run(trunk, [sm.Plan(sm.Add(vector(model), 5.0, layers=1))] * 4)
    assert torch.equal(branching.run(trunk, plans), first)
