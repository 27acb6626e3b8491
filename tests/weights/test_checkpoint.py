"""What is written: an ordinary checkpoint, verified, whole or not at all, streamed from where the model came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models import tiny, tiny_tokenizer
from tests.weights.baking import IDS, bake, direction, model_of, off, plain_logits

import steersman as sm
from steersman.engines.weights import verification
from steersman.errors import VerificationError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def test_it_runs_where_this_package_cannot_be_imported(tmp_path: Path) -> None:
    model = model_of("gpt2", tmp_path / "base")
    edited = model.edit(sm.Plan([sm.Ablate(direction(model)), sm.Add(direction(model, 1), layers=1, positions="all")]))
    bake(edited, tmp_path / "out")
    script = """
import sys
class No:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "steersman":
            raise ImportError("not here")
sys.meta_path.insert(0, No())
try:
    import steersman
except ImportError:
    pass
else:
    raise SystemExit("steersman is here")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained(sys.argv[1]) for kind in (AutoModelForCausalLM, AutoTokenizer))
given = tokenizer("The weather today is", return_tensors="pt")
made = model.generate(input_ids=given.input_ids, attention_mask=given.attention_mask, do_sample=False,
                      max_new_tokens=12, eos_token_id=None, pad_token_id=1)
print("made:" + ",".join(map(str, made[0, given.input_ids.shape[1]:].tolist())))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = [int(token) for token in done.stdout.partition("made:")[2].split(",")]
    ids = model.tokens.encode("The weather today is")
    expected: list[int] = []
    for _ in range(12):
        text_ids = torch.tensor([[*ids, *expected]])
        with edited.steer([]), torch.no_grad():
            expected.append(int(edited.hf(input_ids=text_ids, use_cache=False).logits[0, -1].argmax()))
    assert made == expected


def test_shards_keep_their_layout_and_what_is_not_changed_its_bits(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny("mixtral").save_pretrained(base, max_shard_size="40KB")
    tiny_tokenizer().save_pretrained(base)
    (base / "LICENSE").write_text("free")
    model = sm.SteeringModel.from_pretrained(base)
    seen: list[tuple[int, int]] = []
    report = bake(model.edit(sm.Zero(sm.heads(1, 0))), tmp_path / "out", progress=lambda a, b: seen.append((a, b)))
    before, after = tensors(base), tensors(tmp_path / "out")
    assert len(list(base.glob("*.safetensors"))) > 3
    assert {p.name for p in base.glob("*.safetensors")} == {p.name for p in (tmp_path / "out").glob("*.safetensors")}
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.layers.1.self_attn.o_proj.weight"} == set(report.changed)
    own = json.loads((base / "model.safetensors.index.json").read_text())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == own["weight_map"]
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in after.values())
    assert (tmp_path / "out" / "LICENSE").read_text() == "free"
    assert seen[-1][0] == seen[-1][1] == index["metadata"]["total_size"]


def test_experts_are_written_one_by_one_as_they_were_stored(tmp_path: Path) -> None:
    model = model_of("mixtral", tmp_path / "base")
    r = direction(model) / direction(model).norm()
    bake(model.edit(sm.Ablate(r)), tmp_path / "out")
    before, after = tensors(tmp_path / "base"), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    experts = [name for name in before if ".experts." in name and name.endswith("w2.weight")]
    assert len(experts) == 12
    for name in experts:
        assert torch.allclose(after[name], before[name] - torch.outer(r, r @ before[name]), atol=1e-6)


def test_names_that_lack_the_prefix_of_the_base_model_get_it(tmp_path: Path) -> None:
    """As the first GPT-2 checkpoints have them."""
    base = tmp_path / "base"
    model_of("gpt2", base)
    bare = {k.removeprefix("transformer."): v.clone() for k, v in load_file(base / "model.safetensors").items()}
    save_file(bare, base / "model.safetensors", {"format": "pt"})
    model = sm.SteeringModel.from_pretrained(base)
    bake(model.edit(sm.Ablate(direction(model))), tmp_path / "out")
    assert "lm_head.weight" in tensors(tmp_path / "out")
    assert all(name.startswith(("transformer.", "lm_head.")) for name in tensors(tmp_path / "out"))


def test_a_tied_output_matrix_that_is_stored_all_the_same_becomes_the_old_embedding(tmp_path: Path) -> None:
    base = tmp_path / "base"
    model_of("llama", base, tie_word_embeddings=True)
    stored = dict(load_file(base / "model.safetensors"))
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, base / "model.safetensors", {"format": "pt"})
    model = sm.SteeringModel.from_pretrained(base)
    assert model.hf.lm_head.weight is model.hf.model.embed_tokens.weight
    bake(model.edit(sm.Ablate(direction(model))), tmp_path / "out")
    assert torch.equal(tensors(tmp_path / "out")["lm_head.weight"], stored["model.embed_tokens.weight"])


def test_weights_in_memory_that_are_no_longer_those_on_disk(tmp_path: Path) -> None:
    model = model_of("gpt2", tmp_path / "base")
    with torch.no_grad():
        model.hf.transformer.h[0].mlp.c_proj.weight.mul_(1.5)
    edited = model.edit(sm.Ablate(direction(model)))
    with pytest.raises(VerificationError, match="from_memory=True"):
        bake(edited, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base"}
    report = bake(edited, tmp_path / "out", from_memory=True)
    assert report.verification.max_difference < 2e-5
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out"}


@pytest.mark.parametrize(
    ("family", "plan"),
    [
        ("gpt2", lambda v: sm.Ablate(v)),  # tied: both matrices are absent, each by itself
        ("mixtral", lambda v: sm.Ablate(v)),
        (
            "olmo2",
            lambda v: sm.Zero(sm.attention(1), strength=0.5),
        ),  # by a gain, after asking the norm of what kind
    ],
)
def test_a_model_that_is_not_in_memory_is_baked_from_its_files(family: str, plan: Any, tmp_path: Path) -> None:
    whole = model_of(family, tmp_path / "base")
    options = {"device_map": {"": "disk"}, "offload_folder": str(tmp_path / "off")}
    model = sm.SteeringModel.from_pretrained(tmp_path / "base", **options)
    assert all(parameter.is_meta for parameter in model.hf.parameters())
    wanted = plan(direction(model))
    report = bake(model.edit(wanted), tmp_path / "out", load_options=options)
    assert report.verification.max_difference < 5e-5
    with torch.no_grad():
        expected = whole.edit(wanted).hf(input_ids=torch.tensor([IDS])).logits[0]
    assert off(plain_logits(tmp_path / "out"), expected) < 5e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_within_measured_bounds(dtype: str, tmp_path: Path) -> None:
    model = model_of("llama", tmp_path / "base")
    edited = model.edit(sm.Ablate(direction(model)))
    report = bake(edited, tmp_path / "low", dtype=dtype)
    assert {t.dtype for t in tensors(tmp_path / "low").values()} == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "low" / "config.json").read_text())["dtype"] == dtype
    # measured: 0.15 (bfloat16), 0.014 (float16), where the plan moves logits by up to 4.7
    assert report.verification.max_difference < {"bfloat16": 0.2, "float16": 0.04}[dtype]
    loaded = sm.SteeringModel.from_pretrained(tmp_path / "base", dtype=dtype)
    again = bake(loaded.edit(sm.Ablate(direction(model))), tmp_path / "run")  # stored in float32, run in 16 bits
    assert again.verification.dtype == dtype
    assert {t.dtype for t in tensors(tmp_path / "run").values()} == {torch.float32}
    assert off(plain_logits(tmp_path / "run"), edited.hf(input_ids=torch.tensor([IDS])).logits[0]) < 2e-5


@pytest.mark.parametrize("adapter", [False, True])
def test_a_verification_that_fails_leaves_what_was_there(
    adapter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("llama", tmp_path / "base")  # no mean is taken off, as GPT-2 would
    edited = model.edit(sm.Ablate(direction(model)))
    bake(edited, tmp_path / "out", adapter=adapter)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    from steersman.engines.weights import changes

    right = changes.Change.apply
    wrong = lambda self, value, matrix=None: right(self, value, matrix) + 0.02  # noqa: E731
    monkeypatch.setattr("steersman.engines.weights.changes.Change.apply", wrong)
    if adapter:
        from steersman.engines.weights import adapter as module

        factors = module._factors
        monkeypatch.setattr(module, "_factors", lambda *a: tuple(part * 1.1 for part in factors(*a)))
    with pytest.raises(VerificationError, match="Nothing was kept"):
        bake(edited, tmp_path / "out", adapter=adapter)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out"}


def test_a_wrong_token_and_a_wrong_logit_are_both_found() -> None:
    model = model_of("gpt2")
    edited = model.edit(sm.Ablate(direction(model)))
    expected = verification.reference(edited, None, 4)
    own: Any = edited
    assert verification.verify(own, expected, torch.float32, None).max_difference == 0
    with pytest.raises(VerificationError, match=r"logits differ|another token"):
        verification.verify(model, expected, torch.float32, None)
    nearly = model.edit(sm.Ablate(direction(model), strength=0.98))
    with pytest.raises(VerificationError):
        verification.verify(nearly, expected, torch.float32, 10.0)
    with pytest.raises(VerificationError, match="logits differ"):
        verification.verify(model.edit(sm.Ablate(direction(model), strength=1.002)), expected, torch.float32, 1e-6)


def test_the_report_and_the_card_say_what_was_done(tmp_path: Path) -> None:
    model = model_of("llama", tmp_path / "base", tie_word_embeddings=True)
    vector = sm.SteeringVector({1: direction(model)}, name="happy")
    report = bake(model.edit(sm.Plan([sm.Add(vector, 1.5, positions="all", layers=1), sm.Ablate(vector[1])])),
                  tmp_path / "out")  # fmt: skip
    document = json.loads((tmp_path / "out" / "steersman_bake.json").read_text())
    assert document["verification"] == report.verification.as_json()
    assert document["spec"]["interventions"][0]["vector"] == "happy"
    assert set(document["entries"]) == {"happy", *document["entries"]}
    assert document["settings"] == {"tie_word_embeddings": False}
    assert report.added == ("lm_head.weight",)
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("library_name: transformers", "Add(happy)", document["entries"]["happy"], "greedy tokens equal",
                  "version of transformers", report.plan):  # fmt: skip
        assert words in card
    assert "max |dlogit|" in str(report)
    assert sm.SteeringModel.from_pretrained(tmp_path / "out").plan == sm.Plan()
    template = sm.SteeringModel.from_pretrained(tmp_path / "out").tokenizer.chat_template
    assert template == model.tokenizer.chat_template


def test_what_was_baked_can_be_baked_again(tmp_path: Path) -> None:
    model = model_of("gpt2", tmp_path / "base")
    r, v = direction(model), direction(model, 1)
    bake(model.edit(sm.Ablate(r)), tmp_path / "one")
    once = sm.SteeringModel.from_pretrained(tmp_path / "one")
    bake(once.edit(sm.Zero(sm.heads(1, 1))), tmp_path / "two")
    both = model.edit(sm.Ablate(r)).edit(sm.Zero(sm.heads(1, 1)))
    with torch.no_grad():
        assert off(plain_logits(tmp_path / "two"), both.hf(input_ids=torch.tensor([IDS])).logits[0]) < 2e-5
    bake(model.edit(sm.Zero(sm.mlp(1))), tmp_path / "one")  # a folder baked before is replaced
    assert "lm_head.weight" not in tensors(tmp_path / "one")
    del v


def test_the_weights_are_never_in_memory_at_once() -> None:
    """Under a limit that has room for a fraction of the model, which loading it all runs into."""
    done = subprocess.run(
        [sys.executable, str(HERE / "limited.py")], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "too large to load, and written"


def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "killed.py"), str(tmp_path)], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": "", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    old, new, moments = (int(number) for number in done.stdout.split())
    assert old > 5
    assert new > 0
    assert old + new == moments
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out"}, "what killed processes left is removed"
