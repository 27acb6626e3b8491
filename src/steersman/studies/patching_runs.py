"""Running a patching study."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

import numpy as np
from torch import Tensor

from ..errors import DataError, InterventionError
from ..extraction.activations import TOKEN_BUDGET
from ..model import SteeringModel
from ..model.tokens import Prompts, listed
from ..positions import Positions, PositionsLike
from ..sites import RESIDUAL_WIDTH
from .ablating import Progress, counting
from .components import Component, SitesLike, components
from .first_order import first_order
from .groups import Group, grouped, places
from .measuring import Array, Meter, Trial, measure, runner
from .metrics import MetricLike, find_metric
from .patching import Direction, PatchingStudy, Place, scored
from .sources import OtherRun

log = logging.getLogger(__name__)

PatchedAt = Literal["each"] | PositionsLike | Sequence[PositionsLike]


def patching_study(
    model: SteeringModel,
    clean: Prompts,
    corrupt: Prompts,
    *,
    sites: SitesLike = "resid_post",
    metric: MetricLike = "kl",
    direction: Direction = "denoising",
    positions: PatchedAt | None = None,
    attribution: bool = False,
    screen: int | None = None,
    seed: int = 0,
    token_budget: int = TOKEN_BUDGET,
    progress: Progress | None = None,
) -> PatchingStudy:
    """Patch each component at each position from one run into the other, and score what that restores or breaks.

    Equal to one forward pass per patch under :class:`Replace`, and faster: see :func:`ablation_study`; and what stands
    before the first token in which a pair differs is not run at all, since nothing differs there.

    Args:
        model: the model; an edited one is studied as edited.
        clean, corrupt: pairs of prompts, each pair of equally many tokens; a single pair, or lists.
        sites: as for :func:`ablation_study`, for example ``"resid_post"``, ``"attn_out"``, ``heads("all")``.
        metric: as there; it should tell the clean runs from the corrupt ones. The KL divergence is from the clean run.
        direction: ``"denoising"``: clean activations into the corrupt run. ``"noising"``: the reverse.
        positions: ``"each"`` position by itself, the default where whole components are patched; otherwise the tokens
            patched together: ``"all"``, the default for heads and neurons, ``"last"``, ``"prompt[4]"``, ...; several in
            a list are patched one after the other. Pairs of different lengths are aligned at their ends.
        attribution: estimate every score to first order, too, from one forward and one backward pass.
        screen: measure only so many patches, those with the largest first-order scores.
        seed: of the intervals.
        token_budget: padded tokens per forward pass.
        progress: called with how much is done and of how much.

    Raises:
        DataError, InterventionError, MismatchError, PromptError: before any patch is made.
    """
    if direction not in get_args(Direction):
        raise InterventionError(f'direction={direction!r}: use "denoising" or "noising"')
    if screen is not None and screen < 1:
        raise InterventionError(f"screen={screen}: measure at least one patch")
    ids, others = _pairs(model, clean, corrupt)
    chosen = find_metric(metric)
    parts = components(model.shape, sites, "patching_study()")
    targets, sources = (others, ids) if direction == "denoising" else (ids, others)
    where = _places(model, ids, others, parts, positions)
    meter = Meter(model, chosen, len(ids))
    groups = list(grouped(model, targets, token_budget))
    run = runner(model, meter, token_budget)
    clean_groups = [Group(model, group.numbers, tuple(tuple(ids[i]) for i in group.numbers)) for group in groups]
    reference = {group.numbers: run.untouched(group) for group in clean_groups}
    ends = {"clean": _metric(meter, clean_groups, reference)}
    corrupt_groups = [Group(model, group.numbers, tuple(tuple(others[i]) for i in group.numbers)) for group in groups]
    ends["corrupt"] = _metric(meter, corrupt_groups, reference, run.untouched)
    _check_gap(ends["clean"], ends["corrupt"], chosen.name)
    trials = [Trial(part, Positions.parse(place.positions)) for part in parts for place in where]
    source = OtherRun(model, sources)

    def compared(group: Group) -> Tensor:
        return reference[group.numbers]

    first = None
    if attribution or screen is not None:
        first = first_order(model, groups, trials, source, meter, compared)
    wanted = _screened(trials, first, screen)
    _, values = measure(
        groups, [trials[i] for i in wanted], source, meter, run, compared=compared, idle=_idle(sources),
        progress=counting(progress, len(wanted) * len(groups)),
    )  # fmt: skip
    found = np.full((len(trials), len(ids)), np.nan)
    found[wanted] = values
    settings = {
        "seed": seed, "pairs": len(ids), "screen": screen, "positions": [place.positions for place in where],
    }  # fmt: skip
    patches = scored(parts, where, ends["clean"], ends["corrupt"], found, first, direction, seed)
    return PatchingStudy(chosen.name, direction, ends["clean"], ends["corrupt"], found, patches, settings)


def _pairs(model: SteeringModel, clean: Prompts, corrupt: Prompts) -> tuple[list[list[int]], list[list[int]]]:
    """The tokens of clean and corrupt prompts, of equal length pair by pair."""
    sides = [[model.tokens.encode(item) for item in listed(prompts)[0]] for prompts in (clean, corrupt)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(f"{len(sides[0])} clean prompts and {len(sides[1])} corrupt ones; give them in pairs")
    for number, (one, other) in enumerate(zip(*sides, strict=True)):
        if len(one) != len(other):
            shown = " and ".join(repr(" ".join(_token(model, i) for i in ids)) for ids in (one, other))
            raise DataError(
                f"pair {number}: the clean prompt has {len(one)} tokens and the corrupt one {len(other)}, so their "
                f"positions do not correspond: {shown}; use words of equally many tokens"
            )
        if one == other:
            raise DataError(f"pair {number}: clean and corrupt are the same prompt, so there is nothing to patch")
    model.check_length(sides[0])
    return sides[0], sides[1]


def _places(
    model: SteeringModel, clean: Sequence[Sequence[int]], corrupt: Sequence[Sequence[int]], parts: Sequence[Component],
    positions: PatchedAt | None,
) -> list[Place]:  # fmt: skip
    whole = all(part.site in RESIDUAL_WIDTH for component in parts for part in component.parts)
    if positions is None:
        positions = "each" if whole else "all"
    if positions == "each":
        lengths = {len(ids) for ids in clean}
        longest = max(lengths)
        from_start = len(lengths) == 1
        written = [f"prompt[{i if from_start else i - longest}]" for i in range(longest)]
        labels = [_label(model, clean, corrupt, i if from_start else i - longest) for i in range(longest)]
        return [Place(i, label, text) for i, (label, text) in enumerate(zip(labels, written, strict=True))]
    several = isinstance(positions, Sequence) and not isinstance(positions, str)
    given = cast("Sequence[PositionsLike]", positions if several else [positions])
    found = [Place(i, str(Positions.parse(one)), str(Positions.parse(one))) for i, one in enumerate(given)]
    if not found or len({place.positions for place in found}) < len(found):
        raise InterventionError(f"positions={positions!r} name a place twice, or none")
    for place in found:
        if not any(places(model, Positions.parse(place.positions), ids) for ids in clean):
            raise DataError(f"positions {place.positions} mean no token of any prompt")
    return found


def _label(model: SteeringModel, clean: Sequence[Sequence[int]], corrupt: Sequence[Sequence[int]], index: int) -> str:
    """The token at a position; of tokens that differ an example: that of the first pair that has one there."""
    both = [(one[index], two[index]) for one, two in zip(clean, corrupt, strict=True) if -len(one) <= index < len(one)]
    first, second = (_token(model, token) for token in both[0])
    if len(set(both)) == 1:
        return first if both[0][0] == both[0][1] else f"{first}/{second}"
    return f"{first}…"


def _token(model: SteeringModel, token: int) -> str:
    text = model.tokens.decode([token], special=True)
    return text.strip() or repr(text)


def _metric(
    meter: Meter, groups: Sequence[Group], reference: dict[tuple[int, ...], Tensor],
    run: Callable[[Group], Tensor] | None = None,
) -> Array:  # fmt: skip
    """The metric of every prompt of a run, by default the one compared with."""
    found = np.full(sum(group.rows for group in groups), np.nan)
    for group in groups:
        base = reference[group.numbers]
        logits = base if run is None else run(group)
        found[list(group.numbers)] = meter(logits, group, base).cpu().numpy()
    return found


def _check_gap(clean: Array, corrupt: Array, name: str) -> None:
    gap = clean - corrupt
    size = float(np.abs(clean).mean() + np.abs(corrupt).mean())
    if not abs(float(gap.mean())) > 1e-6 * size:
        raise DataError(
            f"the metric {name} is the same in the clean and the corrupt runs ({clean.mean():.4g}), so there is "
            "nothing to restore; use prompts or a metric that tell them apart"
        )
    if len(gap) > 1 and abs(float(gap.mean())) < 2 * float(gap.std(ddof=1)) / len(gap) ** 0.5:
        log.warning(
            "the metric hardly tells the clean runs from the corrupt ones: %.3g on average, with a standard error of "
            "%.2g; scores are ratios to that",
            gap.mean(), gap.std(ddof=1) / len(gap) ** 0.5,
        )  # fmt: skip


def _screened(trials: Sequence[Trial], first: Array | None, screen: int | None) -> list[int]:
    """The trials to be measured, in order."""
    if screen is None or first is None or screen >= len(trials):
        return list(range(len(trials)))
    sizes = np.abs(np.nan_to_num(np.nanmean(first, axis=1)))
    return sorted(np.argsort(-sizes, kind="stable")[:screen].tolist())


def _idle(sources: Sequence[Sequence[int]]) -> Callable[[Trial, Group], bool]:
    """Whether a patch changes nothing in a group: it ends before the first token in which any pair differs."""

    def idle(trial: Trial, group: Group) -> bool:
        chosen = group.selected(trial.positions)
        for row, (number, ids) in enumerate(zip(group.numbers, group.ids, strict=True)):
            first = next(i for i, (a, b) in enumerate(zip(ids, sources[number], strict=False)) if a != b)
            if bool(chosen[row, group.columns - len(ids) + first :].any()):
                return False
        return True

    return idle
