"""Reading a layout from the structure of a model of no known family.

Names of modules only propose; the proof decides. What is looked for: the longest list of blocks, and in a block an
attention and an MLP, each with an output projection, and norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

from torch import nn

from ...errors import ArchitectureError
from .architecture import named_modules
from .families import Family

ATTENTION = ("self_attn", "attn", "attention", "self_attention", "mixer")
MLP = ("mlp", "feed_forward", "ffn", "ff", "feedforward", "block_sparse_moe", "moe")
PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo", "proj", "out", "o", "output", "to_out")
DOWN_PROJECTIONS = (
    *("down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "wo", "down", "proj", "out_proj", "out", "lin2"),
    *("linear2", "proj_2", "output"),
)


def guesses(lm: nn.Module) -> Iterator[Family]:
    """The ways in which the structure can be read, the likeliest first.

    Raises:
        ArchitectureError: if blocks, attention, MLP or a projection cannot be found, saying what was looked for.
    """
    decoder, blocks, members = _blocks(lm)
    sample = members[0]
    attention = _child(sample, ATTENTION, "an attention")
    mlp = _child(sample, MLP, "an MLP")
    base = Family(
        decoder=decoder,
        blocks=blocks,
        final_norm=_final_norm(lm.get_submodule(decoder) if decoder else lm),
        attention=attention,
        attention_projection=_projection(sample, attention, PROJECTIONS),
        mlp=mlp,
        mlp_projection=_down_projection(members, mlp),
    )
    norms = _norms(sample)
    for middle in (*reversed(norms[1:]), *norms[:1]):  # norms before each part
        yield replace(base, middle=middle)
    if len(norms) == 4:  # norms before and after each part
        for after, middle, last in permutations(norms[1:]):
            yield replace(base, attention_out=after, middle=middle, mlp_out=last)
    if len(norms) == 2:  # norms after each part
        yield replace(base, attention_out=norms[0], middle=mlp, mlp_out=norms[1])
    yield replace(base, middle=None)  # side by side


def _blocks(lm: nn.Module) -> tuple[str, str, list[nn.Module]]:
    """The paths of the decoder and of its blocks, and the blocks: the longest list of modules of one class."""
    lists = [
        (path, module)
        for path, module in named_modules(lm).items()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
    ]
    lists = [(path, module) for path, module in lists if any(hasattr(module[0], name) for name in ATTENTION)]
    if not lists:
        raise ArchitectureError(
            "looked for a list of decoder blocks (an nn.ModuleList of one class, with an attention named one of "
            f"{', '.join(ATTENTION)}), found none"
        )
    path, found = max(lists, key=lambda item: len(item[1]))
    decoder, _, name = path.rpartition(".")
    return decoder, name, list(found)


def _child(block: nn.Module, names: tuple[str, ...], what: str) -> str:
    children = [name for name, _ in block.named_children()]
    found = next((name for name in names if name in children), None)
    if found is None:
        raise ArchitectureError(
            f"looked in {type(block).__name__} for {what} named one of {', '.join(names)}, found "
            f"{', '.join(children) or 'no modules'}"
        )
    return found


def _projection(block: nn.Module, owner: str, names: tuple[str, ...]) -> str:
    module = block.get_submodule(owner)
    return f"{owner}.{_child(module, names, 'an output projection')}"


def _down_projection(blocks: list[nn.Module], mlp: str) -> str:
    """The path in the blocks that have one MLP. Where all are mixtures of experts it is asked for in none of them."""
    single = next((block for block in blocks if not hasattr(block.get_submodule(mlp), "experts")), None)
    return mlp if single is None else _projection(single, mlp, DOWN_PROJECTIONS)


def _norms(block: nn.Module) -> list[str]:
    """The names of the norms of a block, in the order in which it made them."""
    return [name for name, child in block.named_children() if _is_norm(name, child)]


def _final_norm(decoder: nn.Module) -> str | None:
    return next((name for name, child in reversed(list(decoder.named_children())) if _is_norm(name, child)), None)


def _is_norm(name: str, module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() or "norm" in name.lower() or name.startswith("ln")
