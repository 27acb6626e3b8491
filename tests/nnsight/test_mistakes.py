"""What users get wrong, and the message it ends in: the place, the vector where there is one, and the fix."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from functools import cache

import pytest
import torch
from tests.model.running import fresh_model, steering_model

import nnsight
from steersman.errors import (
    InterventionError,
    MismatchError,
    NotSavedError,
    SteersmanError,
    TraceError,
    UnsupportedError,
    VersionError,
)
from steersman.nnsight import LanguageModel
from steersman.nnsight.plain_calls import EditNotAppliedWarning
from steersman.nnsight.versions import check_version


@cache
def opened(family: str = "gpt2") -> LanguageModel:
    return LanguageModel(steering_model(family))


def test_a_layer_that_is_not_there() -> None:
    model = opened()
    with pytest.raises(MismatchError, match=r"layer 3 .*3 layers.*\[0\] to \[2\]"), model.trace("a"):
        model.transformer.h[3].output[0][:] = 0


def test_a_vector_of_another_width() -> None:
    model, happy = opened(), torch.ones(5)
    with pytest.raises(MismatchError, match=r"'happy' has shape \[5\].*layer 1 of.*needs shape \[32\]"):
        with model.trace("a"):
            model.transformer.h[1].output[0][:, -1, :] += happy


def test_a_shape_that_broadcasts_by_accident() -> None:
    model, happy = opened(), torch.ones(2, 1)
    with pytest.raises(MismatchError, match=r"'happy' in layer 1 .*\[2, 1\].*needs shape \[32\]"):
        with model.trace("a"):
            model.transformer.h[1].output[0][:] += happy


@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_float64(how: str) -> None:
    model, happy = opened(), torch.ones(32, dtype=torch.float64)
    with pytest.raises(MismatchError, match=r"layer 1 .*float64.*torch.float32"), model.trace("a"):
        if how == "in place":
            model.transformer.h[1].output[0][:, -1, :] += happy
        else:
            model.transformer.h[1].output = model.transformer.h[1].output + happy


def test_a_vector_without_values() -> None:
    model, happy = opened(), torch.ones(32, device="meta")
    with pytest.raises(InterventionError, match="'happy' in layer 1 .*meta device.*load it"), model.trace("a"):
        model.transformer.h[1].output[0][:, -1, :] += happy


def test_one_row_for_two() -> None:
    model = opened()
    with model.trace("a b"):
        one = model.transformer.h[1].output.save()
    with pytest.raises(MismatchError, match="layer 1 .*one row for each"), model.trace(["a b", "b a"]):
        model.transformer.h[1].output = one


def test_a_value_that_was_not_saved() -> None:
    model = opened()
    with model.trace("a"):
        forgotten = model.transformer.h[1].output[0] * 2
        model.lm_head.output.save()
    with pytest.raises(NotSavedError, match=r"'forgotten'.*\.save\(\)"):
        forgotten + 1
    with pytest.raises(NameError, match="forgotten"):
        torch.stack([forgotten])


def test_a_result_after_an_open_loop() -> None:
    model = opened()
    with pytest.warns(UserWarning, match="never reached"), model.generate("a", max_new_tokens=3) as tracer:
        for _ in tracer.iter[:]:
            model.transformer.h[1].output[0][:, -1, :] += 1
        ids = model.generator.output.save()
    with pytest.raises(NotSavedError, match="'ids'.*never run.*above the loop"):
        ids.shape


def test_notes_of_one_trace_do_not_hide_what_invokes_share_in_the_next() -> None:
    model = opened()
    for _ in range(2):
        with model.trace() as tracer:
            with tracer.invoke("a b"):
                shared = model.transformer.h[0].output[0]
            with tracer.invoke("b a"):
                model.transformer.h[0].output[0][:, 0] = 0
                model.transformer.h[1].output[0][:] = shared
                after = model.transformer.h[1].output.save()
    assert after.shape[0] == 1


def test_a_trace_without_a_prompt() -> None:
    model = opened()
    with pytest.raises(TraceError, match=r"no model runs.*model.trace\(\"\.\.\.\"\).*tracer.invoke"), model.trace():
        model.transformer.h[1].output[0][:] = 0


def test_layers_out_of_order() -> None:
    model = opened()
    with pytest.raises(TraceError, match="layer 0 of.*order in which the model runs them.*apply"), model.trace("a"):
        model.transformer.h[2].output.save()
        model.transformer.h[0].output.save()


def test_an_edited_model_called_plainly() -> None:
    model = opened()
    with model.edit() as edited:
        model.transformer.h[0].output[0][:] = 0
    with pytest.raises(UnsupportedError, match=r"edits do not act.*edited.trace.*SteeringModel.edit"):
        edited(torch.tensor([[1, 2]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", EditNotAppliedWarning)
        assert model(torch.tensor([[1, 2]])).logits.shape[1] == 2


def test_an_edit_expected_to_act_on_the_plain_module() -> None:
    hooks = fresh_model("gpt2")
    model = LanguageModel(hooks.hf, tokenizer=hooks.tokenizer)
    ids = torch.tensor([[1, 2]])
    plainly = hooks.hf(ids).logits
    with model.edit() as edited:
        model.transformer.h[0].output[0][:] = 0
    with edited.trace(ids):
        traced = edited.lm_head.output.save()
    with pytest.warns(EditNotAppliedWarning, match=r"edits .*do not act.*edited.trace.*SteeringModel.edit\(plan\)"):
        again = hooks.hf(ids).logits
    assert torch.equal(again, plainly)
    assert (traced - plainly).abs().max() > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hooks.hf(ids)  # said once
        with model.edit(inplace=True) as tracer:
            model.transformer.h[0].output[0][:] = 0
        model.clear_edits()
        hooks.hf(ids)  # nothing is kept any more
        assert tracer is not None


def test_an_index_that_selects_nothing() -> None:
    model = opened()
    with pytest.raises(MismatchError, match="layer 1 .*selects nothing"), model.trace("a"):
        model.transformer.h[1].attn.c_proj.input[0][0][:, :, 40:48] = 0


def test_an_item_that_blocks_no_longer_return() -> None:
    model = opened()
    with pytest.raises(MismatchError, match=r"output\[0\]\[1\] for row 1"), model.trace(["a b", "b a"]):
        model.transformer.h[1].output[1].save()


def test_blocks_that_touch_nothing_run_once_for_each_step_and_end() -> None:
    model, counted, looped = opened(), [], []
    with model.generate("a", max_new_tokens=4, do_sample=False) as tracer:
        with tracer.all():
            counted.append(1)
        ids = model.generator.output.save()
    assert ids.shape[0] == 1
    assert len(counted) == 4
    with pytest.warns(UserWarning, match="never reached"), model.generate("a", max_new_tokens=4) as tracer:
        for step in tracer.iter[:]:
            looped.append(step)
    assert looped == [0, 1, 2, 3]


def test_what_is_saved_is_a_tensor_for_every_purpose() -> None:
    model = opened()
    with model.trace(["a b", "b a"]):
        hidden = model.transformer.h[1].output.save()
        scaled = (model.transformer.h[1].output[0] * 2).save()
        attention = model.transformer.h[2].attn.output.save()
        logits = model.lm_head.output.save()
    assert isinstance(hidden, torch.Tensor)
    assert len(hidden) == 2
    assert hidden[0].shape == hidden.shape[1:]
    for kept in (hidden, scaled, logits):
        assert type(kept.value) is torch.Tensor
        assert type(torch.stack([kept, kept])) is torch.Tensor
        copied = pickle.loads(pickle.dumps(kept.detach()))
        assert type(copied) is torch.Tensor
        assert torch.equal(copied, kept)
        assert type(copy.deepcopy(kept.detach())) is torch.Tensor
        assert torch.nn.Parameter(kept).requires_grad
        assert repr(kept) == repr(kept.value)
    assert type(attention.value) is tuple
    assert not hasattr(torch.ones(1), "value")


def test_versions_outside_the_tested_range_are_refused_with_the_fix() -> None:
    check_version("0.8.1")
    check_version("0.8.9")
    for found in ("0.7.2", "0.8.0", "0.9.0", "1.0"):
        with pytest.raises(VersionError, match=f"nnsight {found}.*pip install 'nnsight>=0.8.1,<0.9'"):
            check_version(found)
    assert issubclass(VersionError, ImportError)
    assert issubclass(VersionError, SteersmanError)


def test_steersman_alone_loads_no_nnsight() -> None:
    code = "import sys, steersman; steersman.Plan; assert 'nnsight' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_block_output_in_a_saved_list_is_a_tensor_after_the_trace() -> None:
    model = opened()
    with model.trace(["a b", "b a"]):
        kept = nnsight.save([model.transformer.h[1].output])
    assert kept[0][1].shape == kept[0].shape[1:], "row 1, and no item of a tuple"
    assert len(kept[0]) == 2


def test_a_model_prints_its_parts() -> None:
    assert repr(opened()).startswith("GPT2LMHeadModel(\n  (transformer): GPT2Model(")
    assert repr(opened().blocks[0]).startswith("GPT2Block(")
