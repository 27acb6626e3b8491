"""Where a model to trace comes from: a folder, the hub, the embedded one, a SteeringModel; its weights now or later."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.running import steering_model

import steersman as sm
from steersman.nnsight import LanguageModel


def test_the_users_model_and_tokenizer_stay_as_they_were() -> None:
    hooks = steering_model("mistral")
    side, pad = hooks.tokenizer.padding_side, hooks.tokenizer.pad_token
    before = [dict(vars(module)).keys() for module in hooks.hf.modules()]
    model: Any = LanguageModel(hooks, dispatch=False)
    assert [dict(vars(module)).keys() for module in hooks.hf.modules()] == before
    assert (hooks.tokenizer.padding_side, hooks.tokenizer.pad_token) == (side, pad)
    assert model.lm_head.weight is hooks.hf.lm_head.weight, "the same weights"


@pytest.mark.parametrize("dispatch", [True, False])
def test_it_opens_from_a_folder_and_by_name(dispatch: bool, tmp_path: Any) -> None:
    hooks = steering_model("gpt2")
    hooks.save_pretrained(tmp_path)
    model = LanguageModel(tmp_path, dispatch=dispatch)
    assert model.dispatched is dispatch
    with model.trace("a b"):
        logits = model.lm_head.output.save()
    torch.testing.assert_close(logits.detach().value, hooks.logits("a b"))
    demo = LanguageModel("demo", dispatch=dispatch)
    with demo.trace("I think"):
        logits = demo.lm_head.output.save()
    torch.testing.assert_close(logits.detach().value, sm.demo_model().logits("I think"))


@pytest.mark.parametrize("dispatch", [True, False])
def test_it_opens_a_steering_model_over_the_same_memory(dispatch: bool) -> None:
    hooks = steering_model("llama")
    model: Any = LanguageModel(hooks, dispatch=dispatch)
    theirs = dict(hooks.hf.named_parameters())
    assert theirs
    for name, weight in model._module.named_parameters():
        assert weight.data_ptr() == theirs[name].data_ptr()


HUB = """
import sys
import torch
from steersman.nnsight import LanguageModel
for dispatch in (True, False):
    model = LanguageModel("someone/tiny", dispatch=dispatch)
    assert model.dispatched is dispatch
    assert model.repo_id == "someone/tiny"
    with model.trace("a b"):
        logits = model.lm_head.output.save()
    torch.save(logits.detach().value, sys.argv[1] + str(dispatch))
"""


def test_it_opens_a_hub_id_from_the_hubs_cache_offline(tmp_path: Path) -> None:
    hooks = steering_model("gpt2")
    hooks.hf.save_pretrained(tmp_path / "plain")
    hooks.tokenizer.save_pretrained(tmp_path / "plain")
    repository = tmp_path / "hub" / "models--someone--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for folder in ("refs", "blobs", f"snapshots/{commit}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for file in (tmp_path / "plain").iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        (repository / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{blob.name}")
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", HUB, tmp_path / "logits"], check=True, env=environment)
    for dispatch in (True, False):
        torch.testing.assert_close(torch.load(tmp_path / f"logits{dispatch}"), hooks.logits("a b"))
