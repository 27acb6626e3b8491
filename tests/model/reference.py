"""Steering by hand: plain forward hooks, written against each Hugging Face model, one unpadded row at a time.

Nothing here knows the package under test. There is no cache, no batch and no padding: every edit is a function of the
whole row ``[tokens, width]`` at a site, so which tokens it touches is said by plain indexing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

#: What an edit does to one row at one site, and the edits of a run: (site, layer, function).
Change = Callable[[Tensor], Tensor]
Edits = Sequence[tuple[str, int, Change]]

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "mlp_post")
#: The names of a block's parts: blocks, attention, its output projection, MLP, its output projection.
PARTS = {
    "gpt2": ("transformer.h", "attn", "attn.c_proj", "mlp", "mlp.c_proj"),
    "llama": ("model.layers", "self_attn", "self_attn.o_proj", "mlp", "mlp.down_proj"),
    "mistral": ("model.layers", "self_attn", "self_attn.o_proj", "mlp", "mlp.down_proj"),
    "gpt_neox": ("gpt_neox.layers", "attention", "attention.dense", "mlp", "mlp.dense_4h_to_h"),
    "mixtral": ("model.layers", "self_attn", "self_attn.o_proj", "mlp", None),
    "gemma2": ("model.layers", "self_attn", "self_attn.o_proj", "mlp", "mlp.down_proj"),  # its stream only
}
#: Sites a family does not have: no middle between parallel parts, no single set of neurons in a mixture of experts.
MISSING = {"gpt_neox": {"resid_mid"}, "mixtral": {"mlp_post"}}


def sites(family: str) -> list[str]:
    return [site for site in SITES if site not in MISSING.get(family, set())]


@dataclass
class Hooked:
    """Hooks on one model, removed together."""

    hf: nn.Module
    family: str
    handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> Hooked:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def edit(self, site: str, layer: int, change: Change) -> None:
        blocks, attention, projection, mlp, down = PARTS[self.family]
        block = self.hf.get_submodule(blocks)[layer]
        if site == "resid_pre":
            self._before(block, change)
        elif site == "resid_post":
            self._after(block, change)
        elif site == "attn_out":
            self._after(block.get_submodule(attention), change)
        elif site == "mlp_out":
            self._after(block.get_submodule(mlp), change)
        elif site == "z":
            self._before(block.get_submodule(projection), change)
        elif site == "mlp_post":
            self._before(block.get_submodule(down), change)
        else:
            self._middle(block, block.get_submodule(attention), change)

    def _before(self, module: nn.Module, change: Change) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> Any:
            return (change(args[0][0])[None], *args[1:])

        self.handles.append(module.register_forward_pre_hook(hook))

    def _after(self, module: nn.Module, change: Change) -> None:
        def hook(_: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (change(output[0][0])[None], *output[1:])
            return change(output[0])[None]

        self.handles.append(module.register_forward_hook(hook))

    def _middle(self, block: nn.Module, attention: nn.Module, change: Change) -> None:
        """The stream between the parts is changed by what attention adds: mid' = pre + (mid' - pre)."""
        entered: list[Tensor] = []

        def remember(_: nn.Module, args: tuple[Any, ...]) -> None:
            entered[:] = [args[0][0]]

        self.handles.append(block.register_forward_pre_hook(remember))
        self._after(attention, lambda added: change(entered[0] + added) - entered[0])


@torch.no_grad()
def logits(hf: Any, family: str, ids: Sequence[int], edits: Edits = ()) -> Tensor:
    """The logits ``[tokens, vocab]`` of one row, with edits."""
    with Hooked(hf, family) as hooked:
        for site, layer, change in edits:
            hooked.edit(site, layer, change)
        return hf(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


@torch.no_grad()
def read(hf: Any, family: str, site: str, layer: int, ids: Sequence[int], edits: Edits = ()) -> Tensor:
    """The activations ``[tokens, width]`` of one row at a site."""
    found: list[Tensor] = []
    with Hooked(hf, family) as hooked:
        for edit in edits:
            hooked.edit(*edit)
        hooked.edit(site, layer, lambda h: found.append(h.clone()) or h)
        hf(input_ids=torch.tensor([list(ids)]), use_cache=False)
    return found[0]


def where(positions: str, prompt: int, total: int, marker: int | None = None) -> list[int]:
    """The tokens that a few words for positions mean, spelled out; ``marker``: the first token after the marker."""
    meant = {
        "last": [prompt - 1],
        "generation": range(prompt, total),
        "last+generation": range(prompt - 1, total),
        "prompt": range(prompt),
        "all": range(total),
        "prompt[1:4]": range(1, 4),
        "prompt[2:]": range(2, prompt),
        "prompt[-3]": [prompt - 3],
        "prompt[0]": [0],
        "generation[0:3]": range(prompt, min(prompt + 3, total)),
        "generation[1]": range(prompt + 1, min(prompt + 2, total)),
    }
    if marker is not None:
        return list(range(marker, total))
    return list(meant[positions])


def at(positions: Sequence[int], change: Change) -> Change:
    """``change`` on some tokens of the row, given as their rows; the others stay."""

    def on_some(h: Tensor) -> Tensor:
        new = h.clone()
        if len(positions):
            new[list(positions)] = change(h[list(positions)])
        return new

    return on_some


def mixed(strength: float, change: Change) -> Change:
    """``h + s (op(h) - h)``."""
    return lambda h: h + strength * (change(h) - h)


# -- the equations, written out token by token -----------------------------------------------------------------------


def add(v: Tensor) -> Change:
    return lambda h: h + v


def ablate(v: Tensor) -> Change:
    def change(h: Tensor) -> Tensor:
        r = v / v.norm()
        return torch.stack([token - torch.dot(r, token) * r for token in h])

    return change


def clamp(v: Tensor, value: float, side: str) -> Change:
    def change(h: Tensor) -> Tensor:
        r = v / v.norm()
        new = []
        for token in h:
            projection = float(torch.dot(r, token))
            acts = side == "both" or (projection > value if side == "above" else projection < value)
            new.append(token + (value - projection) * r if acts else token)
        return torch.stack(new)

    return change


def erase(write: Tensor, read: Tensor, mean: Tensor) -> Change:
    return lambda h: torch.stack([token - write @ (read.T @ (token - mean)) for token in h])


def turn_towards(v: Tensor, angle: float) -> Change:
    def change(h: Tensor) -> Tensor:
        r = v / v.norm()
        new = []
        for token in h:
            across = token - torch.dot(token, r) * r
            new.append(token.norm() * (math.cos(angle) * r + math.sin(angle) * across / across.norm()))
        return torch.stack(new)

    return change


def turn_in_plane(v: Tensor, w: Tensor, angle: float) -> Change:
    def change(h: Tensor) -> Tensor:
        first = v / v.norm()
        second = w - torch.dot(w, first) * first
        second = second / second.norm()
        new = []
        for token in h:
            x, y = torch.dot(token, first), torch.dot(token, second)
            length = torch.sqrt(x * x + y * y)
            rest = token - x * first - y * second
            new.append(rest + length * (math.cos(angle) * first + math.sin(angle) * second))
        return torch.stack(new)

    return change


def put(columns: Sequence[int] | None, values: Tensor) -> Change:
    """Sets some columns of each token (None: all) to values, one row for all or one for each token."""

    def change(h: Tensor) -> Tensor:
        new = h.clone()
        new[:, list(range(h.shape[1])) if columns is None else list(columns)] = values
        return new

    return change


def drawn_row(seed: int, prompt: Sequence[int], rows: int) -> int:
    """The row of a reference set that resampling draws for a prompt."""
    text = ",".join(str(number) for number in (seed, *prompt))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % rows
