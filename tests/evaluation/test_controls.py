"""Random directions have the law they claim, and leave alone what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import steersman as sm
from steersman import demo
from steersman.errors import DataError, UnsupportedError
from steersman.evaluation.controls import (
    Cloud,
    prompt_baseline,
    random_directions,
    random_plans,
    random_vectors,
    rescaled,
    shuffled_vectors,
    token_activations,
)
from steersman.evaluation.prompting import prefaced

WIDTH = 24


def vector(**more) -> sm.SteeringVector:
    generator = torch.Generator().manual_seed(5)
    directions = {layer: torch.randn(WIDTH, generator=generator) * (1 + layer) for layer in (2, 3, 5)}
    return sm.SteeringVector(directions, name="own", layer=3, projections={3: (-1.0, 2.0)}, **more)


def test_isotropic_directions_are_as_long_and_point_anywhere() -> None:
    like = torch.arange(1.0, WIDTH + 1)
    found = random_directions(like, 4000, seed=1)
    assert torch.allclose(found.norm(dim=1), like.norm().expand(4000), rtol=1e-5)
    cosines = (found @ like / like.norm() ** 2).numpy()
    law = stats.beta((WIDTH - 1) / 2, (WIDTH - 1) / 2, loc=-1, scale=2)  # of the cosine with any fixed direction
    assert stats.kstest(cosines, law.cdf).pvalue > 0.01
    assert torch.equal(found, random_directions(like, 4000, seed=1))
    assert not torch.equal(found, random_directions(like, 4000, seed=2))


def test_a_rotated_vector_keeps_its_lengths_and_angles_between_layers() -> None:
    own = vector()
    stacked = torch.stack([own[layer] for layer in own.layers])
    for turned in random_vectors(own, 5, seed=3):
        rows = torch.stack([turned[layer] for layer in own.layers])
        assert torch.allclose(rows @ rows.T, stacked @ stacked.T, atol=1e-3)
    many = random_vectors(own, 1500, seed=0)
    cosines = [float(torch.cosine_similarity(one[3], own[3], dim=0)) for one in many]
    law = stats.beta((WIDTH - 1) / 2, (WIDTH - 1) / 2, loc=-1, scale=2)
    assert stats.kstest(cosines, law.cdf).pvalue > 0.01


def test_directions_drawn_from_activations_have_their_covariance() -> None:
    generator = torch.Generator().manual_seed(2)
    spread = torch.linspace(0.1, 5, WIDTH)
    acts = torch.randn(500, WIDTH, generator=generator) * spread + 7
    found = random_directions(torch.ones(WIDTH), 3000, cloud=acts)
    sizes = found.double().square().mean(0)
    assert stats.spearmanr(sizes, acts.var(0)).statistic > 0.98
    assert float(sizes[-1] / sizes[0]) > 100  # an isotropic draw would give about 1


def test_heads_get_directions_of_their_own() -> None:
    heads = torch.zeros(4, 6)
    heads[1], heads[3] = torch.arange(6.0), -torch.ones(6)
    own = sm.SteeringVector({2: heads}, site="z")
    (turned,) = random_vectors(own, 1)
    assert torch.allclose(turned[2].norm(dim=1), heads.norm(dim=1), rtol=1e-5)
    assert not turned[2][[0, 2]].any()


def test_a_plan_keeps_all_but_its_directions(gpt2) -> None:
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(gpt2.d_model, generator=generator)
    when = sm.When(direction, layer=0, above=0.1)
    plan = sm.Plan(
        [
            sm.Add(direction, 1.5, layers={1: 0.5, 2: 1.0}, when=when),
            sm.Ablate(torch.stack([direction, direction.flip(0)])),
            sm.Rotate(direction, angle=0.3, layers=1),
            sm.Zero(sm.heads(1, 2)),
        ]
    )
    cloud = Cloud.of(token_activations(gpt2, ["The weather in Paris is good", "London was bad and"]))
    for drawn in random_plans(plan, 3, cloud=cloud):
        for old, new in zip(plan, drawn, strict=True):
            assert old.parameters() == new.parameters()
        assert drawn[3] == plan[3]
        assert drawn[0].when == when
        assert not torch.equal(drawn[0].vector, direction)
        assert float(drawn[0].vector.norm()) == pytest.approx(float(direction.norm()), rel=1e-5)
        assert torch.allclose(drawn[1].direction.norm(dim=1), plan[1].direction.norm(dim=1), rtol=1e-5)
        drawn.actions(gpt2.shape)


def test_a_clamp_of_a_random_direction_goes_as_far_from_the_centre(gpt2) -> None:
    cloud = Cloud.of(token_activations(gpt2, ["The weather in Paris is good", "London was bad and"]))
    direction = torch.randn(gpt2.d_model, generator=torch.Generator().manual_seed(1))
    plan = sm.Clamp(direction, 3.0, layers=1)
    centre = cloud.centre[1].float()
    wanted = 3.0 - float(centre @ direction / direction.norm())
    for drawn in random_plans(plan, 4, cloud=cloud):
        found = drawn[0].value - float(centre @ drawn[0].vector / drawn[0].vector.norm())
        assert found == pytest.approx(wanted, abs=1e-4)


def test_what_has_no_direction_has_no_such_control() -> None:
    with pytest.raises(UnsupportedError, match="ablation study"):
        random_plans(sm.Zero(sm.heads(1, 2)))
    with pytest.raises(DataError, match="cloud="):
        random_plans(sm.Ablate(torch.ones(4)))


def test_activations_of_tokens_leave_out_the_first(gpt2) -> None:
    texts = ["The weather in Paris", "London was"]
    found = token_activations(gpt2, texts, layers=[1])
    wanted = torch.cat([sm.capture(gpt2, text)[1][1:] for text in texts])
    assert torch.allclose(found[1], wanted, atol=1e-5)
    assert len(token_activations(gpt2, texts, layers=[1], most=3)[1]) <= 3


def test_exchanged_labels_give_the_means_of_exchanged_pairs(embedded, happy) -> None:
    pairs = demo.pairs("sentiment")
    found = shuffled_vectors(embedded, pairs, happy, 8, seed=4)
    acts = sm.activations(embedded, [*pairs.positive, *pairs.negative], layers=[6])[6].double()
    differences = acts[: len(pairs)] - acts[len(pairs) :]
    own = happy[6].double()
    for one in found:
        direction = one[6].double()
        # the mean of differences with signs: it lies in their span, and is shorter than the vector
        weights = torch.linalg.lstsq(differences.T, direction[:, None]).solution
        assert (differences.T @ weights - direction[:, None]).norm() < 1e-3 * direction.norm()
        assert direction.norm() < 0.7 * own.norm()
        assert one.projections[6][1] > one.projections[6][0]
    for one in rescaled(found, happy):
        assert float(one[6].norm()) == pytest.approx(float(own.norm()), rel=1e-4)
    by_source = {source: {i for i, s in enumerate(pairs.groups()[0]) if s == source} for source in pairs.groups()[0]}
    assert len(by_source) > 8


def test_words_stand_before_texts_and_in_system_messages(gpt2) -> None:
    assert prefaced("The day was", "Be glad.", gpt2.tokens) == "Be glad. The day was"
    chat = [{"role": "user", "content": "Hi"}]
    assert prefaced(chat, "Be glad.", gpt2.tokens) == [{"role": "system", "content": "Be glad."}, *chat]
    system = [{"role": "system", "content": "Short."}, *chat]
    assert prefaced(system, "Be glad.", gpt2.tokens)[0]["content"] == "Be glad.\n\nShort."
    assert prefaced(chat, None, gpt2.tokens) == chat


def test_where_a_template_refuses_the_system_role_words_open_the_first_message(gpt2) -> None:
    from tests.models import tiny_tokenizer

    from steersman.model.tokens import Tokens

    chat = [{"role": "user", "content": "Hi"}]
    for template in (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
    ):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        assert prefaced(chat, "Be glad.", Tokens(tokenizer)) == [{"role": "user", "content": "Be glad.\n\nHi"}]


def test_the_baseline_is_the_target_after_words(gpt2) -> None:
    target = sm.contrast(" great", " bad", instruction="Be glad.")
    told = prompt_baseline(target, gpt2, ["The day was"])
    assert told is not None
    assert told.values == pytest.approx(target.measure(gpt2, ["Be glad. The day was"]).values)
    assert np.all(told.values != target.measure(gpt2, ["The day was"]).values)
    assert prompt_baseline(sm.multiple_choice([QUESTION]), gpt2) is None


QUESTION = {"question": "Yes?", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
