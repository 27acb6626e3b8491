"""Twelve ways of steering in nnsight's old notation, as they are written, on one random model and the embedded one.

Changed are the model, the width 768 and the head on the narrow model, values for names left open, and what no version
could run: prompts of unequal length where one hidden state replaces another, ``.numpy()`` of a tensor with a graph, and
a direction that kept its batch axis. Every effect is held to forward hooks written by hand.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.model import reference as by_hand
from tests.models import tiny, tiny_tokenizer
from torch import Tensor

import steersman as sm
from steersman.nnsight import LanguageModel


@cache
def opened(which: str) -> tuple[LanguageModel, Any]:
    """The model to trace, and a copy of its weights that only hand-written hooks touch."""
    if which == "embedded":
        hf = sm.demo_model().hf
        return LanguageModel("demo", device_map="auto", dispatch=True), hf
    hf = tiny("gpt2", seed=3, hidden_size=768, num_hidden_layers=13, num_attention_heads=12)
    hf.generation_config.eos_token_id = None
    plain = copy.deepcopy(hf)
    return LanguageModel(hf, tokenizer=tiny_tokenizer()), plain


@pytest.fixture(params=["width 768", "embedded"])
def both(request: pytest.FixtureRequest) -> tuple[LanguageModel, Any]:
    return opened(request.param)


def ids_of(model: LanguageModel, prompt: str) -> list[int]:
    return model.tokenizer(prompt)["input_ids"]


def expected(model: LanguageModel, hf: Any, prompt: str, *edits: tuple[int, by_hand.Change]) -> Tensor:
    changes = [("resid_post", layer % 13, change) for layer, change in edits]
    return by_hand.logits(hf, "gpt2", ids_of(model, prompt), changes)


def last(v: Tensor) -> by_hand.Change:
    return lambda h: torch.cat([h[:-1], h[-1:] + v])


def generated_by_hand(
    model: LanguageModel, hf: Any, prompt: str, new: int, vectors: dict[int, Tensor], start: int | None = None
) -> list[int]:
    """Greedy tokens, each from one pass over all before, steered from the last prompt token on."""
    ids = ids_of(model, prompt)
    first = len(ids) - 1
    for _ in range(new):
        edits = [
            ("resid_post", layer, by_hand.at(range(first, len(ids)), by_hand.add(v))) for layer, v in vectors.items()
        ]
        ids.append(int(by_hand.logits(hf, "gpt2", ids, edits)[-1].argmax()))
        if ids[-1] == hf.generation_config.eos_token_id:
            break
    return ids


def read(model: LanguageModel, hf: Any, prompt: str, layer: int) -> Tensor:
    return by_hand.read(hf, "gpt2", "resid_post", layer, ids_of(model, prompt))


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.detach(), wanted, atol=2e-5, rtol=2e-5)


def test_basic_steering_intervention(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    torch.manual_seed(0)
    steering_vector = torch.randn(model.config.n_embd)
    with model.trace("I think the movie was") as tracer:
        # Add steering vector to residual stream
        model.transformer.h[10].output[0][:, -1, :] += steering_vector
        steered_logits = model.lm_head.output.save()

    wanted = expected(model, hf, "I think the movie was", (10, last(steering_vector)))
    close(steered_logits[0], wanted)
    assert (wanted - expected(model, hf, "I think the movie was")).abs().max() > 0.1


def contrast(model: LanguageModel) -> Tensor:
    positive_prompts = ["I love this! It's fantastic", "This is wonderful and amazing", "I'm so happy about this"]
    negative_prompts = ["I hate this! It's terrible", "This is awful and horrible", "I'm so sad about this"]
    layer_idx = 10

    positive_acts = []
    negative_acts = []

    with model.trace() as tracer:
        for prompt in positive_prompts:
            with tracer.invoke(prompt):
                act = model.transformer.h[layer_idx].output[0][:, -1, :].save()
                positive_acts.append(act)

        for prompt in negative_prompts:
            with tracer.invoke(prompt):
                act = model.transformer.h[layer_idx].output[0][:, -1, :].save()
                negative_acts.append(act)

    # Average difference = steering vector
    pos_mean = torch.stack([a.value for a in positive_acts]).mean(dim=0)
    neg_mean = torch.stack([a.value for a in negative_acts]).mean(dim=0)
    steering_vector = pos_mean - neg_mean
    return steering_vector.detach()


def test_contrastive_activation_difference(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    steering_vector = contrast(model)
    positive = ["I love this! It's fantastic", "This is wonderful and amazing", "I'm so happy about this"]
    negative = ["I hate this! It's terrible", "This is awful and horrible", "I'm so sad about this"]
    means = [torch.stack([read(model, hf, p, 10)[-1] for p in side]).mean(0) for side in (positive, negative)]
    assert steering_vector.shape == (1, model.config.n_embd)
    close(steering_vector[0], means[0] - means[1])


def test_applying_the_steering_vector(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    steering_vector, layer_idx = contrast(model), 10
    steering_strength = 1.5
    with model.trace("The weather today is"):
        # Steer toward positive sentiment
        model.transformer.h[layer_idx].output[0][:, :, :] += steering_strength * steering_vector
        output = model.lm_head.output.save()
    close(output[0], expected(model, hf, "The weather today is", (10, by_hand.add(1.5 * steering_vector[0]))))

    # Generate with steering (apply to all generation steps)
    with model.generate("The weather today is", max_new_tokens=20) as tracer:
        with tracer.all():  # Apply intervention to every generation iteration
            model.transformer.h[layer_idx].output[0][:, -1, :] += steering_strength * steering_vector
        generated = model.generator.output.save()
    assert model.tokenizer.decode(generated[0])
    wanted = generated_by_hand(model, hf, "The weather today is", 20, {10: 1.5 * steering_vector[0]})
    assert generated[0].tolist() == wanted
    assert wanted != generated_by_hand(model, hf, "The weather today is", 20, {})


def test_persistent_model_editing(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    # Extract activations from a "source" prompt
    with model.trace("The capital of France is Paris") as tracer:
        paris_hidden = model.transformer.h[-1].output[0].save()

    # Create persistently edited model
    with model.edit() as edited_model:
        model.transformer.h[-1].output[0][:, -1, :] = paris_hidden.value[:, -1, :]

    # Use edited model - will always output Paris-related content
    with edited_model.trace("The capital of Germany is"):
        logits = model.lm_head.output.save()

    # Can use edited model multiple times
    with edited_model.trace("The capital of Japan is"):
        logits2 = model.lm_head.output.save()

    with model.trace("The capital of Japan is"):
        untouched = model.lm_head.output.save()

    paris = read(model, hf, "The capital of France is Paris", 12)[-1]
    for found, prompt in ((logits, "The capital of Germany is"), (logits2, "The capital of Japan is")):
        close(found[0], expected(model, hf, prompt, (12, lambda h: torch.cat([h[:-1], paris[None]]))))
    close(untouched[0], expected(model, hf, "The capital of Japan is"))


def test_an_edit_acts_at_every_generated_token(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    v = contrast(model)
    with model.edit() as (tracer, edited):
        model.transformer.h[10].output[0][:, -1, :] += 2 * v
    with edited.generate("The weather today is", max_new_tokens=8):
        generated = model.generator.output.save()
    assert generated[0].tolist() == generated_by_hand(model, hf, "The weather today is", 8, {10: 2 * v[0]})


def test_zero_ablation_of_an_attention_head(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    prompt = "I think the movie was"
    head_idx = 5 if model.config.n_head > 5 else 1
    head_dim = model.config.n_embd // model.config.n_head
    start = head_idx * head_dim
    end = (head_idx + 1) * head_dim

    with model.trace(prompt):
        # Zero this head's contribution
        attn_out = model.transformer.h[10].attn.c_proj.input[0][0]
        attn_out[:, :, start:end] = 0
        ablated_logits = model.lm_head.output.save()

    change = by_hand.put(range(start, end), torch.zeros(()))
    wanted = by_hand.logits(hf, "gpt2", ids_of(model, prompt), [("z", 10, change)])
    close(ablated_logits[0], wanted)
    assert (wanted - expected(model, hf, prompt)).abs().max() > 1e-4


def test_mean_ablation(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    # prompts of one length
    several = [
        f"The {noun} was {mood}" for noun in ("movie", "music", "hotel", "song") for mood in ("good", "fine", "bad")
    ]
    length = len(ids_of(model, several[0]))
    test_prompt, *calibration_prompts = [p for p in several if len(ids_of(model, p)) == length][:4]
    mean_acts = []

    with model.trace() as tracer:
        for prompt in calibration_prompts:
            with tracer.invoke(prompt):
                act = model.transformer.h[10].output[0].save()
                mean_acts.append(act)

    mean_activation = torch.stack([a.value for a in mean_acts]).mean(dim=0)

    # Apply mean ablation
    with model.trace(test_prompt):
        model.transformer.h[10].output[0][:] = mean_activation
        ablated_logits = model.lm_head.output.save()

    assert len(calibration_prompts) == 3
    mean = torch.stack([read(model, hf, p, 10) for p in calibration_prompts]).mean(0)
    close(ablated_logits[0], expected(model, hf, test_prompt, (10, lambda h: mean)))


def actadd_generate(model, prompt, steering_vector, layer, strength=1.0, max_tokens=50):  # type: ignore[no-untyped-def]
    with model.generate(prompt, max_new_tokens=max_tokens) as tracer:
        with tracer.all():  # Apply to all generation iterations
            model.transformer.h[layer].output[0][:, -1, :] += strength * steering_vector
        output = model.generator.output.save()
    return model.tokenizer.decode(output[0])


def test_activation_addition(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    v = contrast(model)
    found = actadd_generate(model, "I think", v, 6, strength=2.0, max_tokens=10)
    wanted = generated_by_hand(model, hf, "I think", 10, {6: 2 * v[0]})
    assert found == model.tokenizer.decode(wanted)


def test_linear_probing_for_steering(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    labeled_data = [("I love this", 1), ("I hate this", 0), ("This is wonderful", 1), ("This is awful", 0)]
    layer_idx = 10
    # Collect activations with labels
    activations = []
    labels = []

    with model.trace() as tracer:
        for prompt, label in labeled_data:
            with tracer.invoke(prompt):
                act = model.transformer.h[layer_idx].output[0][:, -1, :].save()
                activations.append(act)
                labels.append(label)

    X = torch.stack([a.value.squeeze() for a in activations]).detach().numpy()
    y = labels

    # Train probe
    probe = LogisticRegression()
    probe.fit(X, y)

    # Use probe coefficients as steering vector
    steering_direction = torch.tensor(probe.coef_[0])
    wanted = torch.stack([read(model, hf, prompt, 10)[-1] for prompt, _ in labeled_data])
    close(torch.from_numpy(X), wanted)
    again = LogisticRegression().fit(wanted.numpy(), [1, 0, 1, 0])
    assert steering_direction.shape == (model.config.n_embd,)
    torch.testing.assert_close(
        steering_direction, torch.tensor(again.coef_[0]), atol=1e-3, rtol=1e-2, check_dtype=False
    )


def test_multi_layer_steering(both: tuple[LanguageModel, Any]) -> None:
    model, hf = both
    prompt, steering_vector = "The weather today is", contrast(model)
    layer_weights = {6: 0.5, 8: 1.0, 10: 1.5, 12: 1.0}  # Layer: strength

    with model.generate(prompt, max_new_tokens=30) as tracer:
        with tracer.all():  # Apply to all generation iterations
            for layer_idx, strength in layer_weights.items():
                model.transformer.h[layer_idx].output[0][:, -1, :] += strength * steering_vector
        generated = model.generator.output.save()

    vectors = {layer: weight * steering_vector[0] for layer, weight in layer_weights.items()}
    assert generated[0].tolist() == generated_by_hand(model, hf, prompt, 30, vectors)


def test_steering_vector_analysis(both: tuple[LanguageModel, Any], capsys: pytest.CaptureFixture[str]) -> None:
    model, hf = both
    steering_vector = contrast(model).squeeze()
    # Project steering vector through unembedding
    steering_logits = model.lm_head.weight @ steering_vector

    # Top tokens affected
    top_k = 20
    top_values, top_indices = steering_logits.topk(top_k)
    bottom_values, bottom_indices = steering_logits.topk(top_k, largest=False)

    print("Tokens boosted by steering:")
    for val, idx in zip(top_values, top_indices):  # noqa: B905
        print(f" {model.tokenizer.decode(idx)}: {val:.3f}")

    print("\nTokens suppressed by steering:")
    for val, idx in zip(bottom_values, bottom_indices):  # noqa: B905
        print(f" {model.tokenizer.decode(idx)}: {val:.3f}")

    wanted = (hf.lm_head.weight.detach() @ steering_vector).sort(descending=True).indices[:20]
    assert top_indices.tolist() == wanted.tolist()
    assert "Tokens suppressed by steering:" in capsys.readouterr().out
