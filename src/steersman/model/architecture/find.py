"""From any Hugging Face model to its :class:`Architecture`, or to an error that says why it has none."""

from __future__ import annotations

from torch import nn

from ...errors import ArchitectureError
from . import families
from .architecture import Architecture, build, named_modules
from .proof import prove as prove_parts
from .structure import guesses


def find_architecture(hf: nn.Module, *, name: str | None = None, prove: bool = True) -> Architecture:
    """Find the parts of a decoder-only causal language model, and prove that they are the right ones.

    A model of a known family is matched by its ``model_type``. Any other is matched by its structure, and then always
    proved: without the proof it would be a guess.

    Args:
        hf: a transformers causal LM. It may be wrapped by PEFT, quantised, or dispatched over several devices.
        name: what to call it in messages; its hub id or path unless given.
        prove: whether to run the proof, two forward passes over twelve tokens, on a model of a known family.

    Raises:
        ArchitectureError: no decoder-only causal LM, weights not loaded, parts missing, or the proof failed.
    """
    lm = _unwrapped(hf)
    top = getattr(lm, "config", None)
    name = name or str(getattr(top, "_name_or_path", "") or getattr(top, "model_type", "") or type(lm).__name__)
    _refuse(hf, lm, top, name)
    config = _text_config(top)
    model_type = str(getattr(config, "model_type", ""))
    layout = families.FAMILIES.get(model_type)
    if prove or layout is None:
        _refuse_unloaded(hf, name)
    if layout is None:
        return _by_structure(hf, lm, config, name)
    try:
        arch = build(hf, lm, config, model_type, layout, name)
    except ArchitectureError as error:
        raise ArchitectureError(
            f"{name}: {type(lm).__name__} is not laid out as family {model_type!r}: {error}"
        ) from None
    if prove:
        prove_parts(arch)
    return arch


def _by_structure(hf: nn.Module, lm: nn.Module, config: object, name: str) -> Architecture:
    failures: list[str] = []
    try:
        for layout in guesses(lm):
            arch = build(hf, lm, config, "unknown", layout, name)
            try:
                prove_parts(arch)
            except ArchitectureError as error:
                failures.append(str(error))
            else:
                return arch
    except ArchitectureError as error:
        raise ArchitectureError(
            f"{name}: {type(lm).__name__} is of no known family, and its structure does not tell its parts: {error}"
        ) from None
    raise ArchitectureError(
        f"{name}: {type(lm).__name__} is of no known family, and of {len(failures)} ways to read its structure none "
        f"passed the proof. The likeliest: {failures[0]}"
    )


def _unwrapped(hf: nn.Module) -> nn.Module:
    """The causal LM inside a PEFT model, else the model itself."""
    inner = getattr(hf, "get_base_model", None)
    found = inner() if callable(inner) else hf
    return found if isinstance(found, nn.Module) else hf


def _text_config(config: object) -> object:
    """The configuration of the text decoder: a multimodal model keeps it inside its own."""
    inner = getattr(config, "get_text_config", None)
    return inner(decoder=True) if callable(inner) else config


def _refuse(hf: nn.Module, lm: nn.Module, config: object, name: str) -> None:
    """Refuse by name what cannot be a decoder-only causal LM with its weights loaded."""
    kind = type(lm).__name__
    if config is None:
        raise ArchitectureError(f"{name}: {kind} has no config; a transformers causal language model is needed")
    if getattr(config, "is_encoder_decoder", False):
        raise ArchitectureError(f"{name}: {kind} is an encoder-decoder; only decoder-only models are steered")
    head = getattr(lm, "get_output_embeddings", None)
    if not callable(head) or head() is None:
        raise ArchitectureError(
            f"{name}: {kind} has no language-modelling head; load it with AutoModelForCausalLM, and if it is an "
            "encoder, it is no decoder-only model"
        )
    active = getattr(hf, "active_peft_config", None)
    if getattr(active, "is_prompt_learning", False):
        raise ArchitectureError(
            f"{name}: its PEFT adapter prepends virtual tokens, so positions would not be those of the prompt"
        )


def _refuse_unloaded(hf: nn.Module, name: str) -> None:
    """Weights on the meta device are absent, unless accelerate brings them from where it offloaded them."""
    modules = named_modules(hf)
    for path, parameter in hf.named_parameters():
        if parameter.device.type == "meta" and not _brought(path, modules):
            raise ArchitectureError(
                f"{name}: the weights of {path} are not loaded (meta device); load the model with from_pretrained"
            )


def _brought(path: str, modules: dict[str, nn.Module]) -> bool:
    steps = path.split(".")[:-1]
    return any(hasattr(modules[".".join(steps[:end])], "_hf_hook") for end in range(len(steps) + 1))
