"""Controls: what a direction of no meaning does, what relabelled examples give, what plain words achieve.

Any large enough change moves any measure, so an effect means something only beside that of other directions of the
same length. For an addition these are drawn isotropically. For what acts on the projection along a direction (ablation,
clamping, affine editing, rotation) an isotropic direction would be a trivial control, since activations hardly extend
along it; these are drawn from the covariance of the activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import ContrastPairs
from ..errors import DataError, UnsupportedError
from ..extraction import Activations, activations, extract
from ..extraction.activations import per_unit, resolve_layers, visit
from ..extraction.extract import at_one_gap
from ..extraction.methods import ONE_GAP, find_method
from ..extraction.reading import Texts, listed_texts
from ..model import SteeringModel
from ..model.tokens import Prompts
from ..operations import Ablate, Add, Affine, Clamp, Rotate
from ..operations.base import Intervention
from ..plan import Plan, PlanLike
from ..vector import Origin, SteeringVector
from .statistics import split_by_source
from .targets.base import Measurement, Target

#: Random directions that a control draws; with n of them no p-value falls below 1 / (1 + n).
RANDOM_DIRECTIONS = 100
#: Operations that a direction decides, and the field it stands in.
DIRECTED: dict[type[Intervention], str] = {
    Add: "vector", Ablate: "direction", Clamp: "vector", Affine: "vector", Rotate: "vector",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cloud:
    """Activations of ordinary text, which random directions of an ablation are drawn from.

    Attributes:
        values: layer -> ``[tokens, width]`` float64, centred.
        centre: layer -> ``[width]`` float64, their mean.
    """

    values: Mapping[int, Tensor]
    centre: Mapping[int, Tensor]

    @classmethod
    def of(cls, acts: Mapping[int, Tensor] | Activations) -> Cloud:
        """From activations ``[tokens, width]`` by layer."""
        flat = {layer: acts[layer].flatten(1).double() for layer in acts}
        centre = {layer: values.mean(0) for layer, values in flat.items()}
        return cls({layer: values - centre[layer] for layer, values in flat.items()}, centre)

    def nearest(self, layer: int) -> int:
        """The layer read that is closest to one."""
        return min(self.values, key=lambda other: abs(other - layer))


def token_activations(
    model: SteeringModel, texts: Texts, *, layers: Any = "all", site: str = "resid_post", most: int = 2048
) -> Activations:
    """The activations of the tokens of texts, the first of each left out: ``acts[layer]`` is ``[tokens, width]``.

    Args:
        model: the model.
        texts: ordinary text.
        layers, site: where to read.
        most: tokens kept, evenly from all.
    """
    items, chosen = listed_texts(texts), resolve_layers(model, layers, site)
    rows: dict[int, list[tuple[int, Tensor]]] = {layer: [] for layer in chosen}

    def keep(number: int, layer: int, values: Tensor) -> None:
        rows[layer].append((number, values[1:]))

    visit(model, items, chosen, site, None, keep)
    found: dict[int, Tensor] = {}
    for layer, parts in rows.items():
        whole = torch.cat([values for _, values in sorted(parts, key=lambda part: part[0])])
        step = max(1, -(-len(whole) // most))
        found[layer] = per_unit(model, site, whole[::step])
    return Activations(found, site=site, origin=Origin.of(model.shape))


# -- random directions ------------------------------------------------------------------------------------------------


def random_directions(
    like: Tensor, n: int = RANDOM_DIRECTIONS, *, seed: int = 0, cloud: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Random directions of the length of one: ``[n, width]`` float32.

    Args:
        like: ``[width]``.
        n: how many.
        seed: of the draw.
        cloud: activations ``[tokens, width]`` to draw from (a Gaussian of their covariance); isotropic without.
    """
    generator = torch.Generator().manual_seed(seed)
    if cloud is None:
        noise = torch.randn(n, len(like), generator=generator, dtype=torch.float64)
    else:
        centred = cloud.double() - cloud.double().mean(0)
        noise = torch.randn(n, len(centred), generator=generator, dtype=torch.float64) @ centred
    return (noise / noise.norm(dim=1, keepdim=True) * like.double().norm()).float()


def random_vectors(
    like: SteeringVector, n: int = RANDOM_DIRECTIONS, *, seed: int = 0, cloud: Cloud | None = None
) -> list[SteeringVector]:
    """Random vectors, each layer as long as that of ``like``.

    Isotropic ones are random rotations of the whole vector: how its layers lie to each other is kept, so that a vector
    added at several layers is compared with others that add up as it does. Drawn from activations, a vector has the
    same random combination of tokens in each layer. At heads, each head that has a direction gets one of its own.

    Args:
        like: the vector.
        n: how many.
        seed: of the draw.
        cloud: activations to draw from; isotropic without. Class projections are then set about the activations'
            centre, as far apart as those of ``like``.
    """
    generator = torch.Generator().manual_seed(seed)
    return [_random_vector(like, number, generator, cloud) for number in range(n)]


def _random_vector(like: SteeringVector, number: int, generator: torch.Generator, cloud: Cloud | None) -> Any:
    if cloud is not None:
        drawn = _drawn(like, generator, cloud)
    elif like[like.layers[0]].dim() == 2:
        drawn = {layer: _per_head(like[layer], generator) for layer in like.layers}
    elif len({like[layer].numel() for layer in like.layers}) > 1:  # layers of different widths cannot be rotated as one
        drawn = {layer: _isotropic(like[layer], generator) for layer in like.layers}
    else:
        drawn = _rotated(like, generator)
    ends = dict(like.projections)
    if cloud is not None:
        for layer, (low, high) in like.projections.items():
            near, flat = cloud.nearest(layer), drawn[layer].flatten().double()
            middle = float(cloud.centre[near] @ (flat / flat.norm()))
            ends[layer] = (middle - (high - low) / 2, middle + (high - low) / 2)
    return replace(
        like, directions=drawn, name=f"random {number}", method="random", quality=None, projections=ends, metadata={}
    )


def _isotropic(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return (noise / noise.norm() * like.double().norm()).float()


def _per_head(like: Tensor, generator: torch.Generator) -> Tensor:
    """A direction for each head that has one: ``[n_heads, d_head]``."""
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return (noise / noise.norm(dim=1, keepdim=True) * like.double().norm(dim=1, keepdim=True)).float()


def _rotated(like: SteeringVector, generator: torch.Generator) -> dict[int, Tensor]:
    """The vector under a random rotation, all layers alike."""
    stacked = torch.stack([like[layer].double() for layer in like.layers])
    basis, triangle = torch.linalg.qr(stacked.T)  # [width, k], [k, layers]
    frame, signs = torch.linalg.qr(torch.randn(basis.shape, generator=generator, dtype=torch.float64))
    frame = frame * torch.sign(signs.diagonal())  # without it QR would prefer one half of all frames
    turned = (frame @ triangle).T
    return {layer: row.float() for layer, row in zip(like.layers, turned, strict=True)}


def _drawn(like: SteeringVector, generator: torch.Generator, cloud: Cloud) -> dict[int, Tensor]:
    weights: dict[int, Tensor] = {}
    found: dict[int, Tensor] = {}
    for layer in like.layers:
        values = cloud.values[cloud.nearest(layer)]
        if len(values) not in weights:
            weights[len(values)] = torch.randn(len(values), generator=generator, dtype=torch.float64)
        noise = weights[len(values)] @ values
        own = like[layer].flatten().double()
        found[layer] = (noise / noise.norm() * own.norm()).float().reshape(like[layer].shape)
    return found


def random_plans(
    plan: PlanLike, n: int = RANDOM_DIRECTIONS, *, seed: int = 0, cloud: Cloud | None = None
) -> list[Plan]:  # fmt: skip
    """The same plan with random directions in place of its own: same operations, sites, tokens and strengths.

    Conditions keep theirs, so that the same rows are steered.

    Args:
        plan: the plan.
        n: how many.
        seed: of the draw.
        cloud: activations of ordinary text, needed unless the plan only adds.

    Raises:
        UnsupportedError: for a plan none of whose operations has a direction (a component is compared with its peers
            by an ablation study instead).
        DataError: when activations are needed and not given.
    """
    given = Plan.of(plan)
    if not any(type(item) in DIRECTED for item in given):
        names = ", ".join(dict.fromkeys(type(item).__name__ for item in given)) or "nothing"
        raise UnsupportedError(
            f"random directions are no control for {names}, which has no direction; compare the component with its "
            "peers by an ablation study"
        )
    if cloud is None and any(type(item) in DIRECTED and not isinstance(item, Add) for item in given):
        raise DataError(
            "the control of an ablation draws directions from activations; give cloud=Cloud.of(token_activations(...))"
        )
    generator = torch.Generator().manual_seed(seed)
    return [Plan([_randomised(item, generator, cloud) for item in given]) for _ in range(n)]


def _randomised(item: Intervention, generator: torch.Generator, cloud: Cloud | None) -> Intervention:
    field = DIRECTED.get(type(item))
    if field is None:
        return item
    own: Any = getattr(item, field)
    source = None if isinstance(item, Add) else cloud
    if isinstance(own, SteeringVector):
        drawn: Any = _random_vector(own, 0, generator, source)
    else:
        drawn = _random_tensor(own, item, generator, source)
    changes: dict[str, Any] = {field: drawn}
    if isinstance(item, Clamp) and cloud is not None:
        changes["value"] = _moved_value(item, own, drawn, cloud)
    return _replaced(item, changes)


def _random_tensor(own: Tensor, item: Intervention, generator: torch.Generator, cloud: Cloud | None) -> Tensor:
    """A random tensor in place of one ``[width]``, or of one ``[k, width]``."""
    rows = own.reshape(1, -1) if own.dim() == 1 else own
    if cloud is None:
        noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    else:
        values = cloud.values[cloud.nearest(_layer(item, cloud))]
        noise = torch.randn(len(rows), len(values), generator=generator, dtype=torch.float64) @ values
    noise = noise / noise.norm(dim=1, keepdim=True) * rows.double().norm(dim=1, keepdim=True)
    return noise.float().reshape(own.shape)


def _layer(item: Intervention, cloud: Cloud) -> int:
    """Where the activations are read that stand for an intervention: its middle layer, or that of the model."""
    layers = sorted(item.layers) if isinstance(item.layers, Mapping) else sorted(cloud.values)
    return layers[len(layers) // 2]


def _moved_value(item: Clamp, own: Any, drawn: Any, cloud: Cloud) -> float:
    """The value to clamp a random direction at: as far from the activations' centre along it as the original's."""
    layer = cloud.nearest(_layer(item, cloud))
    if isinstance(own, SteeringVector):
        layer = own.layer if item.layers is None and own.layer is not None else layer
        near = min(own.layers, key=lambda other: abs(other - layer))
        own, drawn = own[near], drawn[near]
    centre = cloud.centre[cloud.nearest(layer)]

    def along(direction: Tensor) -> float:
        flat = direction.flatten().double()
        return float(centre @ (flat / flat.norm()))

    return along(drawn) + item.value - along(own)


def _replaced(item: Intervention, changes: dict[str, Any]) -> Intervention:
    """A copy with some fields changed, checked as any other."""
    own = {field.name: getattr(item, field.name) for field in fields(item) if field.init}  # pyright: ignore[reportArgumentType]
    return type(item)(**(own | changes))


# -- relabelled examples ----------------------------------------------------------------------------------------------


def shuffled_vectors(
    model: SteeringModel, pairs: ContrastPairs, like: SteeringVector, n: int = 20, *, seed: int = 0
) -> list[SteeringVector]:
    """The vectors that the same method finds when labels are exchanged at random, as they come.

    Labels flip pair by pair (with all pairs of one source together), or are dealt out anew between two classes. Such a
    vector is short: its raw effect shows what the method makes of nothing; :func:`rescaled` to the length of ``like``,
    it shows what its direction does at equal norm.

    Args:
        model: the model.
        pairs: the examples ``like`` was extracted from.
        like: the vector; its method, site, layers and read are taken.
        n: how many.
        seed: of the exchange.

    Raises:
        DataError: a vector whose method is not known here, or two few sources to exchange.
    """
    method = find_method(like.method or "mean_difference")
    read = like.metadata.get("read", "last")
    read = int(read) if isinstance(read, str) and read.lstrip("-").isdigit() else read
    rng = np.random.default_rng(seed)
    exchanged = [_exchange(pairs, rng) for _ in range(n)]
    if method.per_head or method.scale != ONE_GAP:
        options: dict[str, Any] = {"method": method, "layers": list(like.layers), "site": like.site, "read": read}
        return [
            replace(extract(model, _relabelled(pairs, sides), quality=False, **options), name=f"shuffled {number}")
            for number, sides in enumerate(exchanged)
        ]
    acts = activations(
        model, [*pairs.positive, *pairs.negative], layers=list(like.layers), site=like.site, read=read
    )  # fmt: skip
    found: list[SteeringVector] = []
    for number, (positive, negative) in enumerate(exchanged):
        directions: dict[int, Tensor] = {}
        ends: dict[int, tuple[float, float]] = {}
        for layer in like.layers:
            values = acts[layer].flatten(1).double()
            high, low = values[positive], values[negative]
            direction, ends[layer] = at_one_gap(method.compute(high, low), high.mean(0), low.mean(0), layer)
            directions[layer] = direction.reshape(like[layer].shape)
        found.append(
            replace(like, directions=directions, projections=ends, name=f"shuffled {number}", quality=None, metadata={})
        )
    return found


def _exchange(pairs: ContrastPairs, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Which examples (the positive ones counted first) are called positive and which negative; never as they were."""
    count = len(pairs.positive)
    groups = pairs.groups()
    if pairs.paired:
        names = list(dict.fromkeys(groups[0]))
        if len(names) < 2:
            raise DataError("labels of one source cannot be exchanged in part; give pairs of several sources")
        flips = np.zeros(len(names), bool)
        while flips.all() or not flips.any():
            flips = rng.random(len(names)) < 0.5
        flipped = dict(zip(names, flips.tolist(), strict=True))
        sides = [(i + count, i) if flipped[groups[0][i]] else (i, i + count) for i in range(count)]
        return [a for a, _ in sides], [b for _, b in sides]
    order = rng.permutation(count + len(pairs.negative)).tolist()
    return sorted(order[:count]), sorted(order[count:])


def _relabelled(pairs: ContrastPairs, sides: tuple[list[int], list[int]]) -> ContrastPairs:
    everything = [*pairs.positive, *pairs.negative]
    groups = pairs.groups()
    sources = [*groups[0], *groups[1]]
    positive, negative = ([everything[i] for i in side] for side in sides)
    own = [sources[i] for i in sides[0]] + ([] if pairs.paired else [sources[i] for i in sides[1]])
    return ContrastPairs(positive, negative, paired=pairs.paired, sources=own, name=pairs.name)


def rescaled(vectors: Sequence[SteeringVector], like: SteeringVector) -> list[SteeringVector]:
    """Vectors brought, layer by layer, to the length of one."""
    return [
        replace(
            vector,
            directions={
                layer: vector[layer] / vector[layer].norm().clamp_min(1e-12) * like[layer].norm()
                for layer in vector.layers
                if layer in like
            },
            name=f"{vector.name}, rescaled",
            projections={},
        )
        for vector in vectors
    ]


# -- words ------------------------------------------------------------------------------------------------------------


def prompt_baseline(
    target: Target,
    model: SteeringModel,
    prompts: Prompts | None = None,
    *,
    instruction: str | None = None,
    sources: Sequence[str] | None = None,
) -> Measurement | None:
    """The target when the prompt asks for it in words, unsteered.

    Args:
        target: what is measured.
        model: the model.
        prompts, sources: as in :meth:`Target.measure`.
        instruction: the words; the target's own unless given.

    Returns:
        None where the target knows no words for what it measures and none are given.
    """
    words = instruction if instruction is not None else target.in_words()
    return target.measure(model, prompts, sources=sources, preface=words) if words else None


__all__ = [
    "RANDOM_DIRECTIONS", "Cloud", "prompt_baseline", "random_directions", "random_plans", "random_vectors", "rescaled",
    "shuffled_vectors", "split_by_source", "token_activations",
]  # fmt: skip
