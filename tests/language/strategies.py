"""Random parts of plans, and a model's shape to hold them against: no model, no weights."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from steersman import (
    Ablate,
    Add,
    Affine,
    Clamp,
    Erase,
    Eraser,
    LayerValues,
    Mean,
    Plan,
    Replace,
    Resample,
    Rotate,
    SteeringVector,
    When,
    Zero,
    attention,
    block,
    heads,
    mlp,
    neurons,
    schedule,
    site,
)  # fmt: skip
from steersman.shape import ModelShape
from steersman.vector import Origin

LAYERS, WIDTH, HEADS, HEAD, NEURONS = 4, 6, 2, 3, 5


def shape(**changes: Any) -> ModelShape:
    facts: dict[str, Any] = {
        "name": "tiny", "model_type": "toy", "fingerprint": "f" * 16, "n_layers": LAYERS, "d_model": WIDTH,
        "n_heads": HEADS, "d_head": HEAD, "d_mlp": (NEURONS,) * LAYERS,
    }  # fmt: skip
    return ModelShape(**(facts | changes))


def tensor(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def vector(seed: int = 0, layers: tuple[int, ...] = tuple(range(LAYERS)), **facts: Any) -> SteeringVector:
    """A vector that knows everything a two-class method leaves on it."""
    found: dict[str, Any] = {
        "name": "happy", "method": "mean_difference", "layer": layers[0],
        "projections": {i: (-1.0 - i, 2.0 + i) for i in layers}, "norms": {i: 10.0 + i for i in layers},
        "origin": Origin.of(shape()), "quality": {"layers": {"1": 0.9}}, "metadata": {"seed": 1, "read": "last"},
    }  # fmt: skip
    return SteeringVector({i: tensor(WIDTH, seed=100 * seed + i) for i in layers}, **(found | facts))


def eraser(seed: int = 0, layers: tuple[int, ...] = (1, 2), **facts: Any) -> Eraser:
    def map_of(i: int) -> tuple[Tensor, Tensor, Tensor]:
        return tensor(WIDTH, 2, seed=seed + i), tensor(WIDTH, 2, seed=seed + i + 50), tensor(WIDTH, seed=seed + i + 90)

    return Eraser({i: map_of(i) for i in layers}, name="gender", **facts)


numbers = st.floats(-1e6, 1e6, allow_nan=False)
seeds = st.integers(0, 30)
layer = st.integers(0, LAYERS - 1)
some_layers = st.sets(layer, min_size=1).map(sorted)
marker = st.text(min_size=1, max_size=8).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


@st.composite
def terms(draw: st.DrawFn, *, markers: bool = True) -> str:
    """One term of a selection of positions, as users write it."""
    kind = draw(st.sampled_from(["word", "index", "slice", *(["after"] if markers else [])]))
    part = draw(st.sampled_from(["prompt", "generation"]))
    low = -12 if part == "prompt" else 0
    bound = st.none() | st.integers(low, 12)
    if kind == "word":
        return draw(st.sampled_from(["last", "all", "prompt", "generation"]))
    if kind == "index":
        return f"{part}[{draw(st.integers(low, 12))}]"
    if kind == "after":
        from json import dumps

        return f"after({dumps(draw(marker), ensure_ascii=draw(st.booleans()))})"
    start, stop, step = draw(bound), draw(bound), draw(st.none() | st.integers(1, 5))
    written = f"{'' if start is None else start}:{'' if stop is None else stop}"
    return f"{part}[{written}{'' if step is None else f':{step}'}]"


positions = st.lists(terms(), min_size=1, max_size=4).map(" + ".join)
late = st.sampled_from(["last+generation", "last", "generation", "generation[0:3]", "last+generation[2]"])
weighted = some_layers | st.just("all") | st.dictionaries(layer, numbers, min_size=1) | layer | st.just("1-3")
vectors = st.builds(
    vector,
    seeds,
    name=st.sampled_from(["happy", "formal", None, "a b/c:1@2"]),
    layer=st.none() | st.just(1),
    origin=st.none() | st.just(Origin.of(shape())),
)
tensors = st.builds(lambda seed: tensor(WIDTH, seed=seed), seeds)
directions = vectors | tensors
conditions = st.none() | st.builds(
    lambda v, i, above, number, how: When(v, i, **{"above" if above else "below": number}, measure=how),
    directions, layer, st.booleans(), numbers, st.sampled_from(["cosine", "projection"]),
)  # fmt: skip
common = st.fixed_dictionaries({"strength": numbers, "positions": positions, "when": conditions})
scheduled = st.fixed_dictionaries(
    {"strength": st.lists(numbers, min_size=1, max_size=4).map(schedule), "positions": late, "when": conditions}
)
how = common | scheduled
places = st.one_of(
    st.builds(heads, some_layers | st.just("all"), st.none() | st.integers(0, HEADS - 1) | st.just([1, 0])),
    st.builds(neurons, some_layers | st.just("all"), st.none() | st.just([4, 2])),
    st.builds(attention, some_layers), st.builds(mlp, layer), st.builds(block, layer), st.just(site("resid_mid")),
)  # fmt: skip
values = st.builds(lambda seed: tensor(WIDTH, seed=seed), seeds) | st.builds(
    lambda seed, name, origin: LayerValues(
        {i: tensor(3, WIDTH, seed=seed + i) for i in range(LAYERS)}, "resid_post", name, origin, {"rows": 3}
    ),
    seeds, st.sampled_from([None, "means"]), st.none() | st.just(Origin.of(shape())),
)  # fmt: skip


def _given(cls: Any, *own: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda parts, rest, more: cls(*parts, **rest, **more), st.tuples(*own), st.fixed_dictionaries(named), how
    )


interventions = st.one_of(
    _given(Add, vectors, layers=weighted, unit=st.sampled_from([None, "norm", "gap"])),
    _given(Add, tensors, layers=weighted, site=st.sampled_from([None, "resid_pre", "attn_out"])),
    _given(Ablate, tensors | st.builds(lambda s: tensor(2, WIDTH, seed=s), seeds), layers=st.none() | weighted),
    _given(Ablate, vectors, layers=weighted),
    _given(Clamp, directions, numbers, layers=weighted, side=st.sampled_from(["both", "above", "below"])),
    _given(Affine, vectors, numbers, layers=weighted),
    _given(Erase, st.builds(eraser, seeds), layers=st.sampled_from([None, "all", 1, [1, 2], {1: 0.5}])),
    _given(Rotate, directions, numbers, plane=st.none() | directions, layers=weighted),
    _given(Replace, values, layers=weighted, site=st.sampled_from([None, "mlp_out"])),
    _given(Zero, places),
    _given(Mean, places, values),
    _given(Resample, places, values, seed=st.integers(0, 2**40)),
)
plans = st.lists(interventions, max_size=4).map(Plan)
