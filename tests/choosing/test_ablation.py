"""The direction to ablate is the planted one, and its three scores are those of plain hooks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.model import reference
from tests.models import tiny, tiny_tokenizer
from tools.planted.models import read_out

import steersman as sm
from steersman.errors import DataError

WORDS = (" the", " a", " is", " was", " of", " and")
NEUTRAL = ["".join(words) for words in itertools.permutations((*WORDS, " good"), 7)][::500]
TARGET = sm.contrast(" great", " awful")


def prompts(word: str) -> list[str]:
    """Prompts that name a word early, and all end alike."""
    return [word + "".join(rest) + " is the" for rest in itertools.product(WORDS, repeat=2)]


@pytest.fixture(scope="module")
def planted():
    """A model whose embedding of " bad" writes u, which an MLP reads at every token and turns into the target.

    Nothing else tells " bad" from " good".
    """
    hf = tiny("gpt2", seed=4, num_hidden_layers=5)
    model = sm.SteeringModel(hf, tiny_tokenizer())
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(5))
    direction = (direction - direction.mean()) / direction.std() / model.d_model**0.5
    blocks, words = hf.transformer.h, hf.transformer.wte.weight
    with torch.no_grad():
        for block in blocks:  # quiet ones, so that what is planted stands out
            block.attn.c_proj.weight *= 0.1
            block.mlp.c_proj.weight *= 0.1
        writers = [words, hf.transformer.wpe.weight]
        writers += [one for b in blocks for part in (b.attn.c_proj, b.mlp.c_proj) for one in (part.weight, part.bias)]
        for writer in writers:  # nothing else lies along u
            writer -= (writer @ direction)[..., None] * direction
        words[model.tokens.continuation(" bad")[0]] = words[model.tokens.continuation(" good")[0]] + 6 * direction
        # a value of a head in block 0 that reads u, and hands it on as u
        norm, attention = blocks[0].ln_1, blocks[0].attn
        attention.c_attn.weight[:, :8], attention.c_attn.bias[:8] = 0, 0  # it attends to all tokens alike
        attention.c_attn.weight[:, 2 * model.d_model] = direction / norm.weight
        attention.c_attn.bias[2 * model.d_model] = -(direction / norm.weight) @ norm.bias
        attention.c_proj.weight[0] = 4 * direction
        read_out(model, 3, direction, 2.0)
        # without u the target is below 0, as a behaviour that is absent; set where no ablation reaches it
        level = float(TARGET.measure(model, prompts(" good")).values.mean())
        great, awful = (words[model.tokens.continuation(word)[0]] for word in (" great", " awful"))
        hf.transformer.ln_f.bias -= (level + 1) * (great - awful) / (great - awful).norm() ** 2
    return model, direction


@pytest.fixture(scope="module")
def chosen(planted):
    model, _ = planted
    return sm.choose_ablation(
        model,
        prompts(" bad"),
        prompts(" good"),
        target=TARGET,
        layers=[0, 1, 2],
        max_kl=0.0045,
        random=19,
        neutral=NEUTRAL,
    )


def test_the_planted_direction_is_found(planted, chosen) -> None:
    _, direction = planted
    assert abs(torch.cosine_similarity(chosen.direction, direction, dim=0)) > 0.7
    assert chosen.layer < 0.8 * 5
    assert chosen.effect.high < 0
    assert chosen.p_value == 1 / 20


def hand_scores(model, row, direction, tuning) -> tuple[float, float, float]:
    """Bypass, induce and KL by plain hooks, prompt by prompt."""
    unit = direction / direction.norm()
    great, awful = (model.tokens.continuation(word)[0] for word in (" great", " awful"))

    def ablate(h):
        return h - (h @ unit)[:, None] * unit

    writers = [("resid_pre", 0, ablate)]
    for layer in range(model.n_layers):
        writers += [("attn_out", layer, ablate), ("mlp_out", layer, ablate)]

    def last(text, edits=()):
        return reference.logits(model.hf, "gpt2", model.tokens.encode(text), edits)[-1].double().log_softmax(-1)

    bad, good = tuning
    bypass = np.mean([float(last(t, writers)[great] - last(t, writers)[awful]) for t in bad])
    added = [("resid_post", row.layer, lambda h: h + direction)]
    induce = np.mean([float(last(t, added)[great] - last(t, added)[awful]) for t in good])
    kls = []
    for t in good:
        p, q = last(t), last(t, writers)
        kls.append(float((p.exp() * (p - q)).sum()))
    return bypass, induce, np.mean(kls)


def test_the_scores_are_those_of_plain_hooks(planted, chosen) -> None:
    from steersman.choosing.splitting import parts

    model, _ = planted
    both = prompts(" bad"), prompts(" good")
    split = parts([str(i) for i in range(36)], [0.5, 0.25], "prompts", 0)
    tuning = [[side[i] for i in split[1]] for side in both]
    for row in (chosen.candidates[0], chosen.candidates[-1]):
        means = []
        for side in both:
            rows = [
                reference.read(model.hf, "gpt2", "resid_post", row.layer, model.tokens.encode(side[i]))[row.position]
                for i in split[0]
            ]
            means.append(torch.stack(rows).mean(0))
        direction = means[0] - means[1]
        assert row.norm == pytest.approx(float(direction.norm()), rel=1e-4)
        expected = hand_scores(model, row, direction, tuning)
        assert (row.bypass, row.induce, row.kl) == pytest.approx(expected, abs=1e-4)


def test_the_choice_is_the_least_bypass_of_those_allowed(chosen) -> None:
    table = chosen.frame()
    assert set(table.layer) == {0, 1, 2}
    assert set(table.position) == {-1, -2}  # " is the": what all prompts end with
    assert (table.allowed == ((table.induce > 0) & (table.kl < 0.0045))).all()
    best = table[table.allowed].sort_values("bypass").iloc[0]
    assert (chosen.layer, chosen.position) == (best.layer, best.position)
    assert not table.allowed.all()


def test_a_direction_that_causes_the_opposite_when_added_will_not_do_at_any_price(planted) -> None:
    against = sm.contrast(" awful", " great")  # what the planted direction brings down
    settings = {"target": against, "layers": [0, 1, 2], "max_kl": 1e3, "random": 0}
    with pytest.raises(DataError, match=r"none of 6 directions will do: 6 do not bring the target above 0 .* 0 cost"):
        sm.choose_ablation(planted[0], prompts(" bad"), prompts(" good"), **settings)


def test_parts_share_no_source() -> None:
    from steersman.choosing.splitting import parts

    names = [str(i // 3) for i in range(60)]
    found = parts(names, [0.5, 0.25], "prompts", 1)
    assert [len(part) for part in found] == [30, 15, 15]
    assert sorted(np.concatenate(found)) == list(range(60))
    for one, other in itertools.combinations(found, 2):
        assert not {names[i] for i in one} & {names[i] for i in other}


def test_the_plan_ablates_the_direction_and_its_file_keeps_the_evidence(chosen, tmp_path) -> None:
    assert chosen.plan == sm.Plan(sm.Ablate(chosen.direction))
    again = sm.Plan.load(chosen.plan.save(tmp_path / "plan.safetensors"))
    assert again == chosen.plan
    assert again.evidence["kind"] == "ablation"
    assert again.evidence["effect"]["value"] == chosen.effect.value
    assert again.evidence["layer"] == chosen.layer


def test_where_none_will_do_it_says_how_many_failed_which(planted) -> None:
    with pytest.raises(DataError, match=r"none of 8 directions will do: \d do not .* cost 1e-12 nats"):
        sm.choose_ablation(planted[0], prompts(" bad"), prompts(" good"), target=TARGET, max_kl=1e-12, random=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": [0]}, "from the end"),
        ({"positions": [-90]}, "shortest prompt"),
        ({"layers": [4]}, "deepest"),
        ({"deepest": 0}, "deepest"),
        ({"positive": [" a", " the"]}, "positive prompts"),
    ],
)
def test_mistakes_are_told_before_anything_runs(planted, changes: dict, words: str) -> None:
    from tests.model.running import counting_passes

    given = {"positive": prompts(" bad"), "negative": prompts(" good"), "target": TARGET} | changes
    with counting_passes(planted[0].hf) as passes, pytest.raises(DataError, match=words):
        sm.choose_ablation(planted[0], **given)
    assert not passes
