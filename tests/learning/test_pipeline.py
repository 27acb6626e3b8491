"""The fast pipeline: nothing that makes it fast, safe or small changes what comes out."""

from __future__ import annotations

import itertools
import json
import logging
import struct
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf_shrinkage
from tests.models import FAMILIES, tiny, tiny_tokenizer
from torch import Tensor

import steersman as sm
from steersman.errors import DataError, FileFormatError, InterventionError, ResourceError
from steersman.extraction import budget, checkpoint, examples, passes
from steersman.extraction.budget import Budget
from steersman.extraction.methods import METHODS
from steersman.extraction.methods.lda import lda, lda_of, ledoit_wolf
from steersman.extraction.methods.pca import pca, pca_of
from steersman.extraction.moments import Moments

SENTENCES = [
    "hello there you",
    "a",
    "the quick brown fox jumps over it",
    "no",
    "one two three",
    "what",
    "so be it then",
]
TEXTS = SENTENCES * 3
GOOD = ["good", "fine", "nice", "happy", "sunny", "sweet", "neat", "warm", "kind", "calm"]
BAD = ["bad", "poor", "sad", "grim", "cold", "sour", "rude", "dull", "mean", "sick"]


@pytest.fixture(scope="module")
def model() -> sm.SteeringModel:
    return sm.SteeringModel(tiny("llama"), tiny_tokenizer())


@pytest.fixture(scope="module")
def pairs() -> sm.ContrastPairs:
    return sm.ContrastPairs(
        [f"{a}, and {b} it is" for a in GOOD for b in GOOD[:7]], [f"{b} was {a}" for a in BAD for b in BAD[:7]]
    )


def by_hand(model: sm.SteeringModel, text: str, layer: int) -> Tensor:
    """The last token at the output of a block, for one text alone."""
    seen: list[Tensor] = []
    handle = model.architecture.blocks[layer].register_forward_hook(
        lambda m, a, out: seen.append(out if isinstance(out, Tensor) else out[0])
    )
    with torch.no_grad():
        model.hf(torch.tensor([model.tokens.encode(text)]))
    handle.remove()
    return seen[0][0, -1]


# -- the deepest block at the tokens that are read -----------------------------------------------------------------


class Ran:
    """How many tokens the MLP of each layer saw, in the passes made inside."""

    def __init__(self, model: sm.SteeringModel) -> None:
        self.tokens = [0] * model.n_layers
        self._model = model

    def __enter__(self) -> Ran:
        def count(layer: int) -> Any:
            def hook(module: Any, args: tuple[Tensor, ...], out: Any) -> None:
                self.tokens[layer] += args[0].numel() // args[0].shape[-1]

            return hook

        # hooks on the linear maps inside would keep blocks from being narrowed: wrap the function instead
        self._old = [block.mlp.forward for block in self._model.architecture.blocks]
        for layer, block in enumerate(self._model.architecture.blocks):
            block.mlp.forward = self._counting(layer, block.mlp.forward)
        return self

    def _counting(self, layer: int, forward: Any) -> Any:
        def counted(x: Tensor) -> Tensor:
            self.tokens[layer] += x.numel() // x.shape[-1]
            return forward(x)

        return counted

    def __exit__(self, *_: object) -> None:
        for block in self._model.architecture.blocks:
            del block.mlp.forward


def test_the_deepest_block_runs_at_the_read_tokens_and_those_above_not_at_all(model: sm.SteeringModel) -> None:
    sm.activations(model, TEXTS, layers=1)  # proves it
    tokens = sum(len(model.tokens.encode(text)) for text in TEXTS[:7])
    with Ran(model) as ran:
        sm.activations(model, TEXTS[:7], layers=1, token_budget=1)
    assert ran.tokens == [tokens, 7, 0]
    with Ran(model) as ran:
        sm.activations(model, TEXTS[:7], layers=2, site="resid_pre", token_budget=1)
    assert ran.tokens == [tokens, 7, 0]
    with Ran(model) as ran:
        sm.activations(model, TEXTS[:7], layers=1, site="attn_out", token_budget=1)
    assert ran.tokens == [tokens, 0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_in_full_and_at_the_read_tokens(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sm.SteeringModel(tiny(family), tiny_tokenizer())
    texts = ["a long text that reaches beyond the windows", "short", "of middle length, this"]
    reads: list[Any] = ["last", 4]
    for read in reads:
        few = sm.activations(model, texts, read=read)
        with monkeypatch.context() as patched:
            patched.setattr(passes, "FEW", 0.0)
            patched.setattr(passes, "WORTH", 0.0)
            whole = sm.activations(model, texts, read=read)
        for layer in whole:
            torch.testing.assert_close(few[layer], whole[layer], rtol=1e-4, atol=1e-4)


def test_most_families_can_be_narrowed_and_the_others_say_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "steersman")
    for family, why in {"gpt_neo": "local attention", "qwen3_next": "linear recurrence"}.items():
        caplog.clear()
        sm.activations(sm.SteeringModel(tiny(family), tiny_tokenizer()), TEXTS[:3], layers=0)
        assert why in caplog.text
    caplog.clear()
    for family in ("gpt2", "gemma2", "falcon", "deepseek_v3", "gpt_oss", "bloom"):
        sm.activations(sm.SteeringModel(tiny(family), tiny_tokenizer()), TEXTS[:3], layers=1)
    assert "deepest layer is run at every token" not in caplog.text


def test_hooks_of_others_see_all_tokens(model: sm.SteeringModel) -> None:
    seen: list[int] = []
    handle = model.architecture.blocks[1].mlp.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    sm.activations(model, ["the quick brown fox"], layers=1)
    handle.remove()
    assert seen == [len(model.tokens.encode("the quick brown fox"))]


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "mlp_post"])
def test_every_site_is_read_the_same_at_few_tokens(
    model: sm.SteeringModel, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = sm.activations(model, TEXTS, layers=[0, 2], site=site)
    monkeypatch.setattr(passes, "FEW", 0.0)
    whole = sm.activations(model, TEXTS, layers=[0, 2], site=site, token_budget=16)
    for layer in whole:
        torch.testing.assert_close(few[layer], whole[layer], rtol=1e-5, atol=1e-5)


# -- moments -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    tree=st.booleans(),
)
def test_merged_moments_are_those_of_all_rows(seed: int, cuts: list[int], offset: float, tree: bool) -> None:
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset
    edges = [0, *sorted(cuts), 40]
    parts = [Moments.of(rows[a:b], 4) for a, b in itertools.pairwise(edges)]
    whole = Moments(5, 4)
    if tree:
        middle = Moments(5, 4)
        for one in parts[1:]:
            middle.merge(one)
        whole.merge(middle)
        whole.merge(parts[0])
    else:
        for one in parts:
            whole.merge(one)
    centred = rows - rows.mean(0)
    lengths = centred.square().sum(1)
    assert whole.count == 40
    bound = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(whole.mean, rows.mean(0), **bound)
    torch.testing.assert_close(whole.scatter, centred.T @ centred, **bound)
    torch.testing.assert_close(whole.third, lengths @ centred, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(whole.fourth, lengths.square().sum(), **bound)


def classes(n: int, m: int, width: int = 6) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(n)
    mixing = torch.randn(width, width, generator=made, dtype=torch.float64)
    return (
        torch.randn(n, width, generator=made, dtype=torch.float64) @ mixing + 2,
        torch.randn(m, width, generator=made, dtype=torch.float64) @ mixing - 1,
    )


@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("sizes", [(40, 30), (9, 200)])
def test_lda_of_moments_is_lda_of_rows(sizes: tuple[int, int], shrinkage: float | None) -> None:
    positive, negative = classes(*sizes)
    streamed = lda_of(Moments.of(positive, 4), Moments.of(negative, 4), shrinkage=shrinkage)
    torch.testing.assert_close(streamed, lda(positive, negative, shrinkage=shrinkage), rtol=1e-9, atol=1e-12)


def test_shrinkage_from_moments_is_scikit_learns() -> None:
    rows, _ = classes(25, 2)
    moments = Moments.of(rows, 4)
    assert moments.scatter is not None
    assert moments.fourth is not None
    found = ledoit_wolf(moments.scatter / 25, float(moments.fourth), 25)
    assert found == pytest.approx(ledoit_wolf_shrinkage(rows.numpy()), rel=1e-9)


def test_pca_of_moments_is_pca_of_rows() -> None:
    positive, negative = classes(50, 50)
    torch.testing.assert_close(pca_of(Moments.of(positive - negative, 2)), pca(positive, negative))


@pytest.mark.parametrize("method", ["mean_difference", "pca", "lda"])
def test_streamed_or_from_rows_batches_of_any_size_packed_or_not_give_one_vector(
    model: sm.SteeringModel, pairs: sm.ContrastPairs, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """140 texts in 32 dimensions: second moments are kept, no rows."""
    expected = METHODS[method].compute(
        *(torch.stack([by_hand(model, text, 1) for text in side]).double() for side in (pairs.positive, pairs.negative))
    )
    found: list[Tensor] = []
    for budget_, worth in ((None, 0.8), (None, 0.0), (1, 0.0), (100, 0.0), (100_000, 0.0)):
        monkeypatch.setattr(passes, "WORTH", worth)
        found.append(sm.extract(model, pairs, method=method, layers=1, quality=False, token_budget=budget_)[1])
    shuffled = sm.ContrastPairs(pairs.positive[::-1], pairs.negative[::-1])
    found.append(sm.extract(model, shuffled, method=method, layers=1, quality=False)[1])
    for vector in found:
        assert float((vector - found[0]).norm()) <= 1e-5 * float(found[0].norm())
        direction = expected / expected.norm() * vector.double().norm()
        assert float((vector - direction).norm()) <= 1e-4 * float(vector.norm())


def test_what_is_kept_does_not_grow_with_the_pairs(model: sm.SteeringModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "RESERVOIR", 20)
    kept: list[int] = []
    for count in (50, 400):
        many = sm.ContrastPairs([f"yes {i}" for i in range(count)], [f"no {i}" for i in range(count)])
        found = examples.Examples(
            model, many, [0, 1], "resid_post", sm.extraction.reading.Read.parse("last"), METHODS["mean_difference"],
            sample=True, seed=0, token_budget=None,
        )  # fmt: skip
        found.read(None, None, False)
        kept.append(sum(tensor.numel() for name, tensor in found.gather.state().items() if "norms" not in name))
        assert found.gather.classes[0][0].count == count
    assert kept[0] == kept[1]


def test_norms_of_many_texts_are_those_of_a_sample(model: sm.SteeringModel, pairs: sm.ContrastPairs) -> None:
    vector = sm.extract(model, pairs, quality=False)
    texts = [*pairs.positive, *pairs.negative]
    norms = torch.cat([sm.capture(model, text, layers=2)[2][1:].norm(dim=1) for text in texts])
    assert vector.norms[2] == pytest.approx(float(norms.median()), rel=0.05)
    few = sm.extract(model, sm.ContrastPairs(pairs.positive[:32], pairs.negative[:32]), quality=False, layers=2)
    texts = [*pairs.positive[:32], *pairs.negative[:32]]
    own = torch.cat([sm.capture(model, text, layers=2)[2][1:].norm(dim=1) for text in texts])
    assert few.norms[2] == pytest.approx(float(own.median()), rel=1e-5)


# -- memory that runs out ------------------------------------------------------------------------------------------


class Small:
    """A forward pass of more than this many tokens runs out of memory."""

    def __init__(self, tokens: int, error: Exception) -> None:
        self.tokens, self.error, self.sizes = tokens, error, list[int]()

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        size = kwargs["input_ids"].numel()
        self.sizes.append(size)
        if size > self.tokens:
            raise self.error


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("packed", [True, False])
def test_out_of_memory_halves_the_batch_and_nothing_else_changes(
    model: sm.SteeringModel, error: Exception, packed: bool, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    texts = [f"{start} {end}" for start in ("it is known that", "some say") for end in GOOD] if packed else TEXTS
    expected = sm.activations(model, texts, layers=[0, 1])
    small = Small(40, error)
    handle = model.architecture.decoder.register_forward_pre_hook(small, with_kwargs=True)
    found = sm.activations(model, texts, layers=[0, 1])
    handle.remove()
    assert max(small.sizes) > 40
    assert "out of memory" in caplog.text
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)
    after = small.sizes[small.sizes.index(max(small.sizes)) + 1 :]
    assert sum(size for size in after if size > 40) < sum(after)  # it did not go on failing


def test_one_text_that_is_too_much_is_named(model: sm.SteeringModel) -> None:
    handle = model.architecture.decoder.register_forward_pre_hook(Small(8, ERRORS[0]), with_kwargs=True)
    try:
        with pytest.raises(ResourceError, match=r"one text of \d+ tokens"):
            sm.activations(model, TEXTS, layers=0)
    finally:
        handle.remove()


def test_other_errors_are_not_taken_for_it(model: sm.SteeringModel) -> None:
    handle = model.architecture.decoder.register_forward_pre_hook(Small(0, RuntimeError("odd")), with_kwargs=True)
    try:
        with pytest.raises(RuntimeError, match="odd"):
            sm.activations(model, TEXTS, layers=0)
    finally:
        handle.remove()


# -- the token budget ----------------------------------------------------------------------------------------------


def found_budget(speed: Mapping[int, float], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(budget, "_FOUND", {})
    one = Budget("model", None, torch.device("cpu"), 10**7)  # type: ignore[arg-type]
    for _ in range(40):
        one.timed(one.tokens, one.tokens / speed.get(one.tokens, speed[max(speed)]))
    assert Budget("model", None, torch.device("cpu"), 10).tokens == one.tokens  # type: ignore[arg-type]
    return one.tokens


def test_the_budget_grows_while_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_budget({1024: 100, 2048: 150, 4096: 180, 8192: 182}, monkeypatch) == 4096
    assert found_budget({1024: 100, 2048: 100}, monkeypatch) == 1024


def test_a_budget_that_is_given_stays_and_little_work_is_not_measured() -> None:
    architecture: Any = torch.nn.Identity()
    for choice, tokens in ((300, 10**7), (None, 99)):
        one = Budget(architecture, choice, torch.device("cpu"), tokens)
        before = one.tokens
        for size in range(10):
            one.timed(one.tokens, 1e-9 * size)
        assert one.tokens == before


# -- interrupted and taken up again --------------------------------------------------------------------------------


class Interrupted:
    """Breaks off after some forward passes."""

    def __init__(self, model: sm.SteeringModel, after: int) -> None:
        self.left, self.ran = after, 0
        self._handle = model.architecture.decoder.register_forward_pre_hook(self._count)

    def _count(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.ran += 1

    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


@pytest.mark.parametrize("method", ["mean_difference", "pca", "lda", "logistic"])
def test_an_interrupted_extraction_goes_on_where_it_stopped(
    model: sm.SteeringModel, pairs: sm.ContrastPairs, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "WORTH", 0.0)
    quality = method == "mean_difference"

    def run(**more: Any) -> sm.SteeringVector:
        return sm.extract(model, pairs, method=method, layers=[0, 1], token_budget=150, quality=quality, **more)

    expected, file = run(), tmp_path / "work.safetensors"
    with Interrupted(model, 10**6) as whole:
        run()
    for passes_ in (3, 4):
        with Interrupted(model, passes_), pytest.raises(KeyboardInterrupt):
            run(checkpoint=file)
        assert file.is_file()
    with Interrupted(model, 10**6) as rest:
        resumed = run(checkpoint=file)
    assert rest.ran < whole.ran - 3
    assert not file.exists()
    for layer in expected:
        torch.testing.assert_close(resumed[layer], expected[layer], rtol=1e-4, atol=1e-5)
    assert resumed.norms[1] == pytest.approx(expected.norms[1])
    assert (resumed.quality is None) == (expected.quality is None)
    assert resumed.layer == expected.layer


def test_the_beginning_of_other_work_is_not_used(
    model: sm.SteeringModel, pairs: sm.ContrastPairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "work.safetensors"
    with Interrupted(model, 2), pytest.raises(KeyboardInterrupt):
        sm.extract(model, pairs, layers=0, token_budget=100, checkpoint=file)
    others = sm.ContrastPairs(pairs.positive[1:], pairs.negative[1:])
    assert sm.extract(model, others, layers=0, checkpoint=file, quality=False) == sm.extract(
        model, others, layers=0, quality=False
    )
    assert "other work" in caplog.text
    file.write_bytes(b"not ours")
    with pytest.raises(FileFormatError, match="delete it"):
        sm.extract(model, pairs, layers=0, checkpoint=file)
    assert file.read_bytes() == b"not ours"


def test_work_is_saved_now_and_then(
    model: sm.SteeringModel, pairs: sm.ContrastPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(passes, "WORTH", 0.0)
    file, seen = tmp_path / "work.safetensors", list[bool]()
    sm.extract(model, pairs, layers=0, token_budget=200, checkpoint=file, quality=False,
               progress=lambda done, whole: seen.append(file.is_file()))  # fmt: skip
    assert all(seen)
    assert len(seen) > 3


def test_progress_is_told_in_tokens(model: sm.SteeringModel) -> None:
    seen: list[tuple[int, int]] = []
    sm.activations(model, TEXTS, layers=0, token_budget=64, progress=lambda done, whole: seen.append((done, whole)))
    whole = sum(len(model.tokens.encode(text)) for text in TEXTS)
    assert seen[-1] == (whole, whole)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_bar_goes_to_stderr_and_only_when_asked_for(
    model: sm.SteeringModel, capsys: pytest.CaptureFixture[str]
) -> None:
    sm.activations(model, TEXTS, layers=0)
    assert capsys.readouterr() == ("", "")
    sm.activations(model, TEXTS, layers=0, progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert f"reading {len(TEXTS)} texts" in said.err


# -- on disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(model: sm.SteeringModel, tmp_path: Path) -> Generator[Path]:
    sm.activations(model, TEXTS, layers=[0, 2], out=tmp_path / "acts")
    return tmp_path / "acts"


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_on_disk_they_are_the_same_and_read_as_they_are_used(
    model: sm.SteeringModel, site: str, tmp_path: Path
) -> None:
    expected = sm.activations(model, TEXTS, layers=[0, 2], site=site)
    for acts in (
        sm.activations(model, TEXTS, layers=[0, 2], site=site, out=tmp_path / "acts"),
        sm.Activations.open(tmp_path / "acts"),
    ):
        assert acts.layers == (0, 2)
        assert len(acts) == len(TEXTS)
        assert (acts.site, acts.origin, acts.metadata) == (expected.site, expected.origin, expected.metadata)
        for layer in acts:
            assert torch.equal(acts[layer], expected[layer])
            assert acts[layer].untyped_storage().data_ptr() != acts[layer].clone().untyped_storage().data_ptr()
    acts[0][0] = 7.0  # a private page: the file stays as it is
    assert torch.equal(sm.Activations.open(tmp_path / "acts")[0], expected[0])


def test_each_layer_is_a_plain_safetensors_file(folder: Path) -> None:
    from safetensors.torch import load_file

    assert sorted(file.name for file in folder.iterdir()) == [
        "activations.json", "layer-000.safetensors", "layer-002.safetensors",
    ]  # fmt: skip
    own = load_file(folder / "layer-002.safetensors")["activations"]
    assert torch.equal(own, sm.Activations.open(folder)[2])


def test_a_probe_and_an_eraser_are_fitted_on_them(model: sm.SteeringModel, folder: Path) -> None:
    stored, plain = sm.Activations.open(folder), sm.activations(model, TEXTS, layers=[0, 2])
    labels = [len(text) > 10 for text in TEXTS]
    assert sm.LinearProbe(cv=2).fit(stored, labels).accuracy == sm.LinearProbe(cv=2).fit(plain, labels).accuracy
    first, second = sm.fit_eraser(stored, labels), sm.fit_eraser(plain, labels)
    for one, other in zip(first.leaves(), second.leaves(), strict=True):
        torch.testing.assert_close(one[1], other[1])


def test_interrupted_they_go_on_where_they_stopped(
    model: sm.SteeringModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "WORTH", 0.0)
    folder, texts = tmp_path / "acts", [f"{text} {i}" for i, text in enumerate(TEXTS)]
    with Interrupted(model, 2), pytest.raises(KeyboardInterrupt):
        sm.activations(model, texts, layers=1, token_budget=64, out=folder)
    with pytest.raises(FileNotFoundError, match="no complete activations"):
        sm.Activations.open(folder)
    with Interrupted(model, 10**6) as rest:
        acts = sm.activations(model, texts, layers=1, token_budget=64, out=folder)
    with Interrupted(model, 10**6) as whole:
        expected = sm.activations(model, texts, layers=1, token_budget=64)
    assert rest.ran < whole.ran
    torch.testing.assert_close(acts[1], expected[1], rtol=1e-5, atol=1e-5)
    with Interrupted(model, 10**6) as again:
        sm.activations(model, texts, layers=1, out=folder)
    assert again.ran == 0  # they are there


def test_other_activations_are_not_overwritten(model: sm.SteeringModel, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="other activations"):
        sm.activations(model, TEXTS[:3], layers=[0, 2], out=folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(DataError, match="other files"):
        sm.activations(model, TEXTS, layers=0, out=tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def rewritten(file: Path, **changes: Any) -> None:
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    head = json.loads(whole[8 : 8 + length])
    head["activations"] |= changes
    own = json.dumps(head).encode()
    own += b" " * (-len(own) % 8)
    file.write_bytes(struct.pack("<Q", len(own)) + own + whole[8 + length :])


DAMAGE: dict[str, Any] = {
    "cut": lambda f: (f / "layer-000.safetensors").write_bytes((f / "layer-000.safetensors").read_bytes()[:-1]),
    "missing": lambda f: (f / "layer-000.safetensors").unlink(),
    "longer": lambda f: rewritten(f / "layer-000.safetensors", shape=[10**12, 32]),
    "another type": lambda f: rewritten(f / "layer-000.safetensors", dtype="I32"),
    "a huge header": lambda f: (f / "layer-000.safetensors").write_bytes(b"\xff" * 64),
    "an index that is none": lambda f: (f / "activations.json").write_text("[]"),
    "an index of another shape": lambda f: (f / "activations.json").write_text(
        (f / "activations.json").read_text().replace(f"{len(TEXTS)},", "999999999999,", 1)
    ),
    "a path for a layer": lambda f: (f / "activations.json").write_text(
        (f / "activations.json").read_text().replace('"layers": [\n  0', '"layers": [\n  "../../etc/passwd"')
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused(folder: Path, name: str) -> None:
    DAMAGE[name](folder)
    with pytest.raises(FileFormatError):
        sm.Activations.open(folder)


def test_numbers_that_are_none_are_refused_and_leave_nothing_complete(tmp_path: Path) -> None:
    model = sm.SteeringModel(tiny("gpt2"), tiny_tokenizer())
    with torch.no_grad():
        model.architecture.mlp_projection(1).bias[0] = float("nan")
    with pytest.raises(InterventionError, match="NaN"):
        sm.activations(model, TEXTS, layers=1, out=tmp_path / "acts")
    assert not (tmp_path / "acts" / "activations.json").exists()


def test_rows_of_methods_that_need_all_may_lie_in_a_file(
    model: sm.SteeringModel, pairs: sm.ContrastPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steersman.extraction import gathering

    expected = sm.extract(model, pairs, method="logistic", layers=1, quality=False)
    for limit, flush in ((0, 0), (0, 4000)):
        monkeypatch.setattr(gathering, "IN_MEMORY", limit)
        monkeypatch.setattr(gathering, "FLUSH", flush)
        found = sm.extract(model, pairs, method="logistic", layers=1, quality=False, token_budget=200)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-4)


def test_texts_together_are_tokenised_as_each_alone(model: sm.SteeringModel) -> None:
    chat = [{"role": "user", "content": "hi there"}]
    prompts: list[Any] = ["a b", chat, "<s>c", [*chat, {"role": "assistant", "content": "so"}], "d"]
    assert model.tokens.encode_all(prompts) == [model.tokens.encode(prompt) for prompt in prompts]
    assert np.array(model.tokens.encode("a b")).size
