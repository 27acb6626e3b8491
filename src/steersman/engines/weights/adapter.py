"""Baking into a PEFT adapter: each map is a LoRA of its own rank, for a base that stays as it is.

With the map ``v -> v + A (B^T v + c)`` on what a matrix W writes and ``x -> x + A' (B'^T x + c')`` on what it reads,
the change of W is

    M W N - W = A (B^T W) + (M W A') B'^T        M = I + A B^T, N = I + A' B'^T

of rank k + k', which is a LoRA with ``lora_B = [A, M W A']`` and ``lora_A = [B^T W; B'^T]``: exact, whatever W is
stored in. Directional ablation is rank 1 at every writer. An addition is ``lora_B``'s bias, so that it needs no
place in the architecture; tables of embeddings take a LoRA of their own, and leave an output matrix tied to them alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ...files.folders import replacing_folder
from ...model import SteeringModel
from ...model.editing import second_tree
from ...operations.maps import AffineMap
from .changes import Change
from .placement import place
from .report import BakeReport, write_documents
from .rewriting import rewrite
from .seen import look
from .verification import reference, verify
from .writers import Writers
from .writing import Entry, write_shard

_PREFIX = "base_model.model."
_KEEP = "keep the plan as an edit: model.edit(plan).save_pretrained(...)"


@dataclass
class _Adapter:
    """The parts of an adapter as they are put together.

    Attributes:
        tensors: by their names in the file.
        ranks: of each module whose matrix is changed.
        whole: modules kept whole, their parameters rewritten.
        parameters: stacked matrices of experts that are changed.
        biased: whether any module gets a bias.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    ranks: dict[str, int] = field(default_factory=dict[str, int])
    whole: list[str] = field(default_factory=list[str])
    parameters: dict[str, int] = field(default_factory=dict[str, int])
    biased: bool = False


def bake_adapter(
    model: SteeringModel, target: Path, prompts: Sequence[str] | None, max_new_tokens: int, tolerance: float | None,
    load_options: dict[str, Any],
) -> BakeReport:  # fmt: skip
    """What :func:`bake` does with ``adapter=True``; ``model`` is edited."""
    peft = _peft()
    hf: Any = model.architecture.hf
    if hasattr(hf, "peft_config"):
        raise UnsupportedError(
            f"{model.shape.name} is wrapped by PEFT already; use hf.merge_and_unload(), and wrap what it returns"
        )
    placed = place(model.plan, model.shape)
    changes = rewrite(placed, Writers(model.architecture, look(model.base)), adapter=True).changes
    adapter = _build(hf, changes)
    config = _config(peft, adapter, hf)
    expected = reference(model, prompts, max_new_tokens)
    with replacing_folder(target) as to:
        config.save_pretrained(to)
        tensors = {name: tensor.float() for name, tensor in sorted(adapter.tensors.items())}
        write_shard(to / "adapter_model.safetensors", [
            Entry(name, tensor.dtype, tuple(tensor.shape), lambda tensor=tensor: tensor)
            for name, tensor in tensors.items()
        ])  # fmt: skip
        loaded = SteeringModel(_with_adapter(peft, model, to, load_options), model.tokenizer, name=model.shape.name)
        checked = verify(loaded, expected, model.dtype, tolerance)
        report = BakeReport(
            folder=str(target),
            kind="adapter",
            base=model.shape.name,
            plan=model.plan.digest,
            changed=tuple(sorted(name for name in changes if name not in _new(changes, hf))),
            added=tuple(sorted(_new(changes, hf))),
            settings={"r": config.r, "lora_bias": adapter.biased, "modules_to_save": adapter.whole},
            verification=checked,
            files={path.name: path.stat().st_size for path in sorted(to.iterdir())},
        )
        write_documents(to, report, model.plan, getattr(hf.config, "_commit_hash", None))
    return report


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UnsupportedError("an adapter needs the package peft; pip install 'steersman[peft]'") from error
    return peft


def _new(changes: dict[str, Change], hf: nn.Module) -> set[str]:
    """Biases that the base has not."""
    known = dict(hf.named_parameters(remove_duplicate=False))
    return {name for name in changes if name not in known}


# -- the tensors ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def _build(hf: nn.Module, changes: dict[str, Change]) -> _Adapter:
    from accelerate.utils import align_module_device

    modules = dict(hf.named_modules())
    adapter = _Adapter()
    # Embeddings cannot have a LoRA beside modules that have biases: then they are kept whole.
    plain = all(change.kind in ("matrix", "table") for change in changes.values())
    for name, change in changes.items():
        owner = name.rpartition(".")[0]
        with align_module_device(modules[owner]):  # of an offloaded module: with its weights at hand
            _part(adapter, name, modules[owner], change, changes, plain)
    if adapter.parameters and adapter.biased:
        raise UnsupportedError(f"PEFT takes no biases beside experts; split the plan, or {_KEEP}")
    if not adapter.ranks and not adapter.parameters:  # PEFT wants a LoRA somewhere, else it puts some of its own
        _idle(adapter, modules)
    if adapter.biased:
        for owner in adapter.ranks:
            key = f"{_PREFIX}{owner}.lora_B.bias"
            adapter.tensors.setdefault(key, torch.zeros(_outputs(adapter, owner)))
    return adapter


def _part(
    adapter: _Adapter, name: str, module: nn.Module, change: Change, changes: dict[str, Change], plain: bool
) -> None:
    """What becomes of one parameter."""
    owner = name.rpartition(".")[0]
    if change.kind == "table" and plain and type(module) is nn.Embedding:
        _table(adapter, owner, module, change)
    elif change.kind in ("table", "gain"):
        _whole(adapter, owner, module, changes)
    elif change.kind == "matrix" and hasattr(module, "weight"):
        _matrix(adapter, owner, module, change)
    elif change.kind == "matrix":
        _experts(adapter, name, getattr(module, name.rpartition(".")[2]), change)
    elif "norm" in type(module).__name__.lower():
        _whole(adapter, owner, module, changes)
    elif hasattr(module, "weight"):
        _bias(adapter, owner, module, change)
    else:
        raise UnsupportedError(f"{name} is a bias of experts, which no adapter of PEFT changes; {_KEEP}")


def _outputs(adapter: _Adapter, owner: str) -> int:
    return adapter.tensors[f"{_PREFIX}{owner}.lora_B.weight"].shape[0]


def _matrix(adapter: _Adapter, owner: str, module: nn.Module, change: Change) -> None:
    weight = _weight(module, change.inputs_first)
    left, right = _factors(weight, change.inputs, change.outputs)
    adapter.ranks[owner] = left.shape[1]
    adapter.tensors[f"{_PREFIX}{owner}.lora_A.weight"] = right
    adapter.tensors[f"{_PREFIX}{owner}.lora_B.weight"] = left


def _factors(weight: Tensor, inputs: AffineMap | None, outputs: AffineMap | None) -> tuple[Tensor, Tensor]:
    """``L [out, k]`` and ``R [k, in]`` with ``M W N - W = L R``, for W ``[out, in]``."""
    left: list[Tensor] = []
    right: list[Tensor] = []
    if outputs is not None and outputs.read is not None:
        left.append(outputs.write)
        right.append((weight.T.double() @ outputs.read).T)
    if inputs is not None and inputs.read is not None:
        through = weight.double() @ inputs.write
        if outputs is not None and outputs.read is not None:
            through = through + outputs.write @ (outputs.read.T @ through)
        left.append(through)
        right.append(inputs.read.T)
    return torch.cat(left, dim=1), torch.cat(right, dim=0)


def _bias(adapter: _Adapter, owner: str, module: nn.Module, change: Change) -> None:
    weight = _weight(module, change.inputs_first) if change.carried is not None else None
    size, width = _sizes(module)
    now = cast("Tensor | None", getattr(module, "bias", None))
    before = torch.zeros(size, dtype=torch.float64) if now is None else now.detach().double().cpu()
    plain = Change("bias", outputs=change.outputs, added=change.added, carried=change.carried)
    adapter.biased = True
    adapter.tensors[f"{_PREFIX}{owner}.lora_B.bias"] = plain.apply(before, weight) - before
    if owner not in adapter.ranks:
        adapter.ranks[owner] = 1
        adapter.tensors.setdefault(f"{_PREFIX}{owner}.lora_A.weight", torch.zeros(1, width))
        adapter.tensors.setdefault(f"{_PREFIX}{owner}.lora_B.weight", torch.zeros(size, 1))


def _idle(adapter: _Adapter, modules: dict[str, nn.Module]) -> None:
    """A LoRA that does nothing, at the first linear map."""
    owner, module = next((name, m) for name, m in modules.items() if isinstance(m, nn.Linear) or hasattr(m, "nf"))
    rows, columns = _sizes(module)
    adapter.ranks[owner] = 1
    adapter.tensors[f"{_PREFIX}{owner}.lora_A.weight"] = torch.zeros(1, columns)
    adapter.tensors[f"{_PREFIX}{owner}.lora_B.weight"] = torch.zeros(rows, 1)


def _table(adapter: _Adapter, owner: str, module: nn.Embedding, change: Change) -> None:
    table = module.weight.detach().cpu()
    left: list[Tensor] = []
    right: list[Tensor] = []
    if change.outputs is not None and change.outputs.read is not None:
        left.append(change.outputs.write)
        right.append((table.double() @ change.outputs.read).T)
    if change.added is not None:
        left.append(change.added[:, None])
        right.append(torch.ones(1, len(table), dtype=torch.float64))
    adapter.ranks[owner] = sum(part.shape[1] for part in left)
    adapter.tensors[f"{_PREFIX}{owner}.lora_embedding_A"] = torch.cat(right, dim=0)
    adapter.tensors[f"{_PREFIX}{owner}.lora_embedding_B"] = torch.cat(left, dim=1)


def _experts(adapter: _Adapter, name: str, weight: Tensor, change: Change) -> None:
    """PEFT lays A out as ``[experts * k, in]``, and B as ``[out, k * experts]``, the expert running fastest."""
    outputs = change.outputs
    assert outputs is not None
    assert outputs.read is not None
    plain = weight.detach().cpu().double()
    plain = plain.transpose(1, 2) if change.inputs_first else plain  # [experts, out, in]
    read = torch.einsum("ok,eoi->eki", outputs.read, plain)
    owner = name.rpartition(".")[0]
    adapter.parameters[name] = outputs.write.shape[1]
    adapter.tensors[f"{_PREFIX}{owner}.lora_A.weight"] = read.reshape(-1, read.shape[-1])
    written = outputs.write[:, :, None].expand(-1, -1, len(plain))
    adapter.tensors[f"{_PREFIX}{owner}.lora_B.weight"] = written.reshape(len(outputs.write), -1)


def _whole(adapter: _Adapter, owner: str, module: nn.Module, changes: dict[str, Change]) -> None:
    """A module kept whole in the adapter, every parameter of it as it is to be."""
    if owner in adapter.whole:
        return
    adapter.whole.append(owner)
    for leaf, parameter in module.named_parameters():
        value, change = parameter.detach().cpu(), changes.get(f"{owner}.{leaf}")
        adapter.tensors[f"{_PREFIX}{owner}.{leaf}"] = value if change is None else change.apply(value)


def _sizes(module: nn.Module) -> tuple[int, int]:
    """How many values a linear map writes and reads; GPT-2's names them in its own way."""
    names = (("out_features", "nf"), ("in_features", "nx"))
    written, read = (int(getattr(module, usual, 0) or getattr(module, own, 0)) for usual, own in names)
    return written, read


def _weight(module: nn.Module, inputs_first: bool) -> Tensor:
    """The matrix of a linear map, ``[out, in]``, as the layer computes with it."""
    weight: Any = module.weight
    if hasattr(weight, "dequantize") and type(weight) is not nn.Parameter:
        return weight.dequantize().detach().cpu()
    width = _sizes(module)[1]
    if weight.is_meta or not weight.is_floating_point() or width not in weight.shape:
        return _asked(module, width, weight.device)
    plain = weight.detach().cpu()
    return plain.T if inputs_first else plain


def _asked(module: nn.Module, width: int, device: torch.device) -> Tensor:
    """The matrix of a layer that stores it in a way of its own: what it makes of each unit vector."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    place = torch.device("cpu") if device.type == "meta" else device
    zero = module(torch.zeros(1, width, dtype=dtype, device=place))
    rows = [module(part.to(place, dtype)) - zero for part in torch.eye(width).split(256)]
    return torch.cat(rows).T.cpu()


# -- the adapter ---------------------------------------------------------------------------------------------------


def _config(peft: Any, adapter: _Adapter, hf: nn.Module) -> Any:
    ranks = {**adapter.ranks, **adapter.parameters}
    usual = max(set(ranks.values()), key=list(ranks.values()).count) if ranks else 1
    unusual = {re.escape(name): rank for name, rank in ranks.items() if rank != usual}
    modules = dict(hf.named_modules())
    targets = [*adapter.ranks]
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(getattr(hf.config, "_name_or_path", "") or "") or None,
        r=usual,
        lora_alpha=usual,
        rank_pattern=unusual,
        alpha_pattern=unusual,
        target_modules=targets or None,
        target_parameters=[*adapter.parameters] or None,
        modules_to_save=adapter.whole or None,
        lora_bias=adapter.biased,
        lora_dropout=0.0,
        fan_in_fan_out=any(type(modules[name]).__name__ == "Conv1D" for name in targets),
        inference_mode=True,
    )


def _with_adapter(peft: Any, model: SteeringModel, folder: Path, load_options: dict[str, Any]) -> Any:
    """The base with the adapter, on modules of its own, so that those of the user stay as they are."""
    try:
        twin = second_tree(model.architecture)
    except UnsupportedError:
        twin = _loaded_again(model, load_options)
    # PEFT freezes the parameters of its base, and those of a second tree are the user's own.
    wanted = [(parameter, parameter.requires_grad) for parameter in model.architecture.hf.parameters()]
    try:
        with torch.random.fork_rng():  # PEFT draws what it then overwrites
            return peft.PeftModel.from_pretrained(twin, str(folder)).eval()
    except ValueError as error:  # layers that PEFT adapts in part only, such as torchao's, which take no biases
        raise UnsupportedError(
            f"PEFT cannot hold this plan for the weights of {model.shape.name}: {error}. Nothing was kept; {_KEEP}"
        ) from error
    finally:
        for parameter, flag in wanted:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


def _loaded_again(model: SteeringModel, load_options: dict[str, Any]) -> Any:
    """The base a second time; whole on its device where it is offloaded, since PEFT adapts no absent weights."""
    from transformers import AutoModelForCausalLM

    hf: Any = model.architecture.hf
    name = str(getattr(hf.config, "_name_or_path", "") or "")
    if not name:
        raise UnsupportedError(
            f"{model.shape.name} was loaded from nowhere, so it cannot be loaded again to verify the adapter; save it, "
            "and load it from there"
        )
    whole = {"": model.device}
    offloaded = any(parameter.is_meta for parameter in hf.parameters())
    device_map = whole if offloaded else getattr(hf, "hf_device_map", whole)
    options: dict[str, Any] = {"dtype": model.dtype, "device_map": device_map}
    quantised = getattr(hf.config, "quantization_config", None)
    if quantised is not None:
        options["quantization_config"] = quantised
    again: Any = AutoModelForCausalLM.from_pretrained(name, **(options | load_options))
    again.generation_config = hf.generation_config
    return again.eval()
