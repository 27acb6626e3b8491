"""Activations read out of vLLM are those of the Hugging Face pipeline, and so is what is made of them."""

import pytest
import torch
from tests.vllm.mixes import vectors

import steersman as sm
from steersman.errors import UnsupportedError
from steersman.extraction.vllm_runner import VLLMRunner

WORDS = ["good", "fine", "nice", "bad", "poor", "sad", "a river", "two of them", "nothing at all", "so"]
TEXTS = [f"it is {a} and {b} " + "that is all " * (n % 4) for n, a in enumerate(WORDS) for b in WORDS]
#: Chunks of 48 tokens, so that most steps end within a text.
OPTIONS = {"enforce_eager": True, "max_num_batched_tokens": 48, "max_num_seqs": 16}
#: Places, by site; what goes into a block is what comes out of the one before.
CAPTURE = {"attn_out": ["attn_out.0", "attn_out.2"], "resid_pre": ["resid_pre.0", "resid_post.1"]}


def close(found, expected):
    """Equal to 1e-5 of the largest value."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize(("name", "site"), [("llama", "attn_out"), ("gpt2", "resid_pre")])
def test_activations_are_those_of_the_hooks(name, site, models, engine):
    model = models[name][1]
    runner = VLLMRunner(engine=engine(name, steering={"capture": CAPTURE[site]}, **OPTIONS))
    vector = vectors(model)[0]
    plan = [sm.Add(vector, layers=0, positions="all"), sm.Ablate(vector[1], layers=1)]
    plain = sm.activations(model, TEXTS, site=site, layers=[0, 2], read="mean")
    for read, steer in (("mean", plan), ("last", None)):
        asked = {"site": site, "layers": [0, 2], "read": read, "steer": steer}
        here = sm.activations(model, TEXTS, **asked)
        there = sm.activations(model, TEXTS, runner=runner, **asked)
        for layer in (0, 2):
            close(there[layer], here[layer])
        assert not torch.allclose(plain[2], here[2], atol=1e-2)  # by the plan, and by what is read
    with pytest.raises(UnsupportedError, match="not started to capture"):
        sm.activations(model, TEXTS, layers=2, site="mlp_out", runner=runner)
    with pytest.raises(UnsupportedError, match="another model"):
        sm.activations(sm.demo_model(), TEXTS, layers=2, runner=runner)


def test_a_vector_is_that_of_the_pipeline_at_hand():
    model = sm.demo_model()
    pairs = sm.ContrastPairs.from_jsonl(sm.demo.DATA_FOLDER / "sentiment.jsonl")
    here = sm.extract(model, pairs)
    there = sm.extract(model, pairs, runner=VLLMRunner(options={"enforce_eager": True, "block_size": 32}))
    close(there[here.layer], here[here.layer])
    for layer in here:  # in the first ones the classes differ by rounding alone
        assert float((there[layer] - here[layer]).norm()) <= 1e-5 * here.norms[layer]
        assert there.norms[layer] == pytest.approx(here.norms[layer], rel=1e-5)
    assert there.layer == here.layer
    for layer in map(str, here):
        assert there.quality["layers"][layer]["accuracy"] == here.quality["layers"][layer]["accuracy"]


def test_what_cannot_be_read_is_refused_before_an_engine_starts(models):
    model = models["llama"][1]
    with pytest.raises(UnsupportedError, match="splits heads"):
        sm.activations(model, TEXTS, site="z", layers=0, runner="vllm")
    vector = vectors(model)[0]
    plan = sm.Add(vector, layers=0, when=sm.When(vector, layer=0, above=0.1))
    with pytest.raises(UnsupportedError, match="clean pass"):
        sm.activations(model, TEXTS, layers=0, steer=plan, runner="vllm")
