"""Intervals, p-values and splits: what makes a figure honest. All of it in float64, seeded, and by source.

Items made from one source (a template, a question) stand and fall together, so sources are what is resampled, and what
a split keeps whole. An interval over items says how the effect of *this* direction varies over items; it says nothing
about whether another direction would have done as much. For that there are rank p-values against random directions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from ..errors import DataError
from .items import Array

RESAMPLES = 2000
LEVEL = 0.95
#: With fewer sources than this no interval is given: resampling a handful of sources understates how they vary.
FEWEST = 8

#: The source of each item, of any kind that can be told apart; None where each is its own.
Sources = Sequence[Any] | Array | None
Method = Literal["BCa", "percentile", "Wilson"]
Side = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class Estimate:
    """A figure and its uncertainty.

    Attributes:
        value: over all items.
        low, high: the interval; None where nothing can be said.
        n: items.
        sources: how many they come from.
        method: ``"BCa"``, ``"percentile"``, or None without an interval.
        note: why there is no interval, or what to beware of.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    sources: int
    method: Method | None = None
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as values, absent ones left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean(
    values: Sequence[float] | Array,
    sources: Sources = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A mean over items with its interval, bootstrapped over sources.

    A bootstrap sample draws sources, each with all its items, so the mean is the ratio of two sums over sources. The
    interval is bias-corrected and accelerated (BCa; Efron 1987, doi:10.1080/01621459.1987.10478410), by
    :func:`scipy.stats.bootstrap`, at the level of :func:`expanded`; percentile where BCa is not defined, because
    nothing varies as it needs.

    For a paired difference give the differences.

    Args:
        values: ``[n]``.
        sources: the source of each; each its own unless given.
        level: of the interval.
        resamples: bootstrap samples, at least 1000.
        seed: of the resampling.
    """
    found = _checked(values)
    names, counts, sums = _by_source(found, sources)
    value = float(found.mean())
    if len(names) < FEWEST:
        return Estimate(value, None, None, len(found), len(names), note=_few(len(names)))
    if np.ptp(found) == 0:
        return Estimate(value, value, value, len(found), len(names), "percentile", "all items are equal")

    def ratio(total: Array, size: Array, axis: int = -1) -> Array:
        return total.sum(axis=axis) / size.sum(axis=axis)

    interval, method = _bootstrap((sums, counts), ratio, expanded(level, len(names)), resamples, seed)
    return Estimate(value, *interval, len(found), len(names), method)


def statistic(
    compute: Callable[[Array], float],
    values: Sequence[float] | Array,
    sources: Sources = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Any statistic of items (a median, a quantile, a correlation), with its interval bootstrapped over sources.

    Args:
        compute: from items ``[n, ...]`` to a number; it must not depend on their order.
        values: ``[n, ...]``, the first axis being items.
        sources, level, resamples, seed: as for :func:`mean`.
    """
    found = _checked(values)
    names, of = _sources(sources, len(found))
    value = float(compute(found))
    if len(names) < FEWEST:
        return Estimate(value, None, None, len(found), len(names), note=_few(len(names)))
    members = [np.flatnonzero(of == number) for number in range(len(names))]

    def drawn(picks: Array) -> float:
        return compute(found[np.concatenate([members[int(pick)] for pick in picks])])

    interval, method = _bootstrap((np.arange(len(names)),), drawn, expanded(level, len(names)), resamples, seed,
                                  vectorized=False)  # fmt: skip
    return Estimate(value, *interval, len(found), len(names), method)


def ratio_of_means(
    over: tuple[Sequence[float] | Array, Sources],
    under: tuple[Sequence[float] | Array, Sources],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The ratio of the means of two independent sets of items, bootstrapped over the sources of each.

    Args:
        over, under: (values, sources) of numerator and denominator.
        level, resamples, seed: as for :func:`mean`.
    """
    sides = [(_checked(values), *_by_source(_checked(values), sources)) for values, sources in (over, under)]
    bottom = float(sides[1][0].mean())
    count = min(len(names) for _, names, _, _ in sides)
    total = len(sides[0][0]) + len(sides[1][0])
    if not bottom:
        raise DataError("the ratio is to a mean of zero")
    value = float(sides[0][0].mean()) / bottom
    if count < FEWEST:
        return Estimate(value, None, None, total, count, note=_few(count))
    rng = np.random.default_rng(seed)
    drawn: list[Array] = []
    for _, names, counts, sums in sides:
        picks = rng.integers(0, len(names), (resamples, len(names)))
        drawn.append(sums[picks].sum(1) / counts[picks].sum(1))
    ratios = drawn[0] / np.where(drawn[1] == 0, np.nan, drawn[1])
    wide = expanded(level, count)
    low, high = np.nanquantile(ratios, [(1 - wide) / 2, (1 + wide) / 2])
    uncertain = None if (drawn[1] > 0).all() or (drawn[1] < 0).all() else "the denominator is not told from zero"
    return Estimate(value, float(low), float(high), total, count, "percentile", uncertain)


def expanded(level: float, sources: int) -> float:
    """The level at which to read off a bootstrap of few sources, so that it covers the truth as often as asked.

    A bootstrap knows the spread of n sources, not how uncertain that spread is, and underestimates it by
    ``sqrt((n - 1) / n)``: with a dozen sources a 95% interval covers 90%. Read at the normal quantile
    ``z' = sqrt(n / (n - 1)) t``, with t Student's quantile of n - 1 degrees of freedom, it is Student's interval where
    the data are normal, and keeps its own skew where they are not (Hesterberg 2015, arXiv:1411.5279, section 4).

    Args:
        level: asked for.
        sources: n, 2 at least.
    """
    student = float(stats.t.ppf((1 + level) / 2, sources - 1))
    return 1 - 2 * float(stats.norm.sf(student * np.sqrt(sources / (sources - 1))))


def share(held: Sequence[bool] | Array, sources: Sources = None) -> Estimate:
    """A proportion with Wilson's 95% interval, at the effective number of items.

    Unlike a bootstrap it does not shrink to a point where all items agree. Items of one source count for less than
    independent ones, by the design effect (Kish 1965); see :func:`steersman.probe.statistics.interval`.
    """
    from ..probe.statistics import interval

    found = np.asarray(held, dtype=np.float64)
    names, of = _sources(sources, len(found))
    value = float(found.mean())
    if len(names) < FEWEST:
        return Estimate(value, None, None, len(found), len(names), note=_few(len(names)))
    if len(names) == len(found):
        wilson = stats.binomtest(int(found.sum()), len(found)).proportion_ci(LEVEL, method="wilson")
        low, high = float(wilson.low), float(wilson.high)
    else:
        low, high = interval(found, of)
        low, high = (0.0 if value == 0 else low), (1.0 if value == 1 else high)  # free of rounding
    return Estimate(value, low, high, len(found), len(names), "Wilson")


def _bootstrap(
    data: tuple[Array, ...],
    compute: Callable[..., Any],
    level: float,
    resamples: int,
    seed: int,
    *,
    vectorized: bool = True,
) -> tuple[tuple[float, float], Method]:
    """BCa, or percentile where its acceleration is not defined."""
    if resamples < 1000:
        raise DataError(f"resamples={resamples}: give at least 1000")
    options: dict[str, Any] = {
        "confidence_level": level, "n_resamples": resamples, "vectorized": vectorized, "paired": len(data) > 1,
    }  # fmt: skip
    methods: tuple[Method, ...] = ("BCa", "percentile")
    for method in methods:
        rng = np.random.default_rng(seed)
        # scipy warns where BCa is not defined; that case is answered below.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(data, compute, method=method, random_state=rng, **options).confidence_interval  # pyright: ignore[reportCallIssue]
        if np.isfinite(found.low) and np.isfinite(found.high):
            return (float(found.low), float(found.high)), method
    raise DataError("the statistic is not finite on resampled items")


# -- p-values -------------------------------------------------------------------------------------------------------


def rank_p_value(observed: float, null: Sequence[float] | Array, *, side: Side = "two-sided") -> float:
    """``p = (1 + #{null at least as extreme}) / (1 + n)``: never zero, and valid for any number of draws (Phipson &
    Smyth 2010, doi:10.2202/1544-6115.1585).

    Args:
        observed: the statistic of the direction in question.
        null: ``[n]`` the same of random directions.
        side: what counts as extreme; two-sided by absolute value, since random directions have no sign.
    """
    drawn = _checked(null)
    if side == "two-sided":
        extreme = np.abs(drawn) >= abs(observed)
    else:
        extreme = drawn >= observed if side == "greater" else drawn <= observed
    return float((1 + extreme.sum()) / (1 + len(drawn)))


def max_statistic(
    observed: Sequence[float] | Array,
    null: Sequence[float] | Array,
    *,
    side: Side = "two-sided",
    scale: bool | Array = True,
) -> Array:
    """p-values corrected for having searched several places, by the maximum over them (Westfall & Young 1993).

    A random direction is drawn for the whole search: its effect in every place is a row of ``null``. Each place's
    statistic is compared with the largest of each row, so the smallest p-value is right for "the best of all places".
    Unlike Bonferroni's it knows how much the places have in common, and it is not stopped by the floor 1 / (1 + n).

    A search may drop places before it measures them. The test stays exact if every random direction is searched by the
    same rule: what it dropped itself is NaN in its row, and is not among what its largest is taken from.

    Args:
        observed: ``[places]``; NaN for a place that was dropped.
        null: ``[n, places]``; NaN for a place that was dropped for that direction.
        side: what counts as extreme.
        scale: divide each place by the root mean square of all its draws, the observed one included, so that a place
            where random directions do much does not drown the others; the test stays exact, since all are treated
            alike. Where places were dropped, draws left in a place are no fair sample of it: give the scale of each,
            ``[places]``, from what was known of all draws before.

    Returns:
        ``[places]`` corrected p-values; NaN for places that were dropped.
    """
    mine, drawn = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    if drawn.ndim != 2 or drawn.shape[1] != len(mine) or not len(drawn):
        raise DataError(f"the null must be [draws, {len(mine)}], got {list(drawn.shape)}")
    both = np.vstack([mine[None], drawn])
    if np.isinf(both).any() or np.isnan(both).all(1).any():
        raise DataError("values must be finite, and at least one place of each draw measured")
    if scale is True and np.isnan(both).any():
        raise DataError("some draws dropped some places; give the scale of each place")
    if scale is not False:
        spread = np.sqrt((both**2).mean(0)) if scale is True else np.array(scale, dtype=np.float64)
        spread[spread == 0] = 1.0
        mine, drawn = mine / spread, drawn / spread
    if side == "two-sided":
        mine, drawn = np.abs(mine), np.abs(drawn)
    elif side == "less":
        mine, drawn = -mine, -drawn
    largest = np.nanmax(drawn, axis=1)
    found = (1 + (largest[:, None] >= mine).sum(0)) / (1 + len(drawn))
    return np.where(np.isnan(mine), np.nan, found)


def sign_flip_p_value(
    differences: Sequence[float] | Array,
    sources: Sources = None,
    *,
    side: Side = "two-sided",
    resamples: int = 9999,
    seed: int = 0,
) -> float:
    """The p-value of "these paired differences are as likely negative as positive", flipping whole sources.

    By :func:`scipy.stats.permutation_test`; exact where there are few sources.
    """
    found = _checked(differences)
    _, _, sums = _by_source(found, sources)
    flipped = stats.permutation_test(
        (sums, np.zeros_like(sums)), lambda a, b, axis: (a - b).sum(axis=axis), permutation_type="samples",  # pyright: ignore[reportUnknownLambdaType]
        vectorized=True, n_resamples=resamples, alternative=side, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(flipped.pvalue)


# -- doses ----------------------------------------------------------------------------------------------------------


def slopes(strengths: Sequence[float] | Array, values: Array) -> Array:
    """The least-squares slope of each item ``[n]`` over strengths, from its values ``[n, strengths]``."""
    x = _checked(strengths)
    centred = x - x.mean()
    if len(x) < 2 or not (centred**2).sum():
        raise DataError(f"a slope needs at least two different strengths, got {list(x)}")
    return np.asarray(values, dtype=np.float64) @ centred / (centred**2).sum()


def spearman(strengths: Sequence[float] | Array, values: Sequence[float] | Array) -> float:
    """Spearman's rank correlation, by scipy; NaN where one side does not vary."""
    x, y = _checked(strengths), _checked(values)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def spearman_brown(half: float, factor: float = 2.0) -> float:
    """The reliability of something ``factor`` times as long: ``k r / (1 + (k - 1) r)`` (Spearman, Brown, both 1910)."""
    return factor * half / (1 + (factor - 1) * half)


def split_half(values: Array, sources: Sources = None, *, splits: int = 50, seed: int = 0) -> float:
    """How reliably items rank settings: the correlation between the mean curves of two random halves of the sources,
    averaged over splits and carried to full length by Spearman and Brown.

    Args:
        values: ``[n, settings]``: each item's value at each setting (a strength, a layer).
        sources: of the items; a source is never split.
    """
    found = np.asarray(values, dtype=np.float64)
    names, of = _sources(sources, len(found))
    if len(names) < 2:
        raise DataError("two halves need at least two sources")
    rng = np.random.default_rng(seed)
    halves = [(rng.permutation(len(names)) < len(names) // 2)[of] for _ in range(splits)]
    each = [float(np.corrcoef(found[half].mean(0), found[~half].mean(0))[0, 1]) for half in halves]
    return spearman_brown(float(np.mean(each)))


# -- splits ---------------------------------------------------------------------------------------------------------


def split_by_source(sources: Sequence[Any], *, tune: float = 0.5, seed: int = 0) -> tuple[Array, Array]:
    """Two halves of items for tuning and for reporting: no source lies in both.

    What is chosen on the first may be reported on the second, once.

    Args:
        sources: of each item.
        tune: the share of sources to tune on.
        seed: of the draw.

    Returns:
        The indices of the tuning items and of the reporting items, ascending.

    Raises:
        DataError: fewer than two sources.
    """
    names, of = _sources(sources, len(sources))
    if len(names) < 2:
        raise DataError("to tune on some items and report on others, they must come from at least two sources")
    if not 0 < tune < 1:
        raise DataError(f"tune={tune}: give a share between 0 and 1")
    count = min(len(names) - 1, max(1, round(tune * len(names))))
    chosen = np.random.default_rng(seed).permutation(len(names))[:count]
    inside = np.isin(of, chosen)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


# -- helpers --------------------------------------------------------------------------------------------------------


def _few(sources: int) -> str:
    noun = "source" if sources == 1 else "sources"
    return f"too few to measure: {sources} {noun}, and an interval needs {FEWEST}"


def _checked(values: Sequence[float] | Array) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if not found.size:
        raise DataError("nothing to measure: there are no values")
    if not np.isfinite(found).all():
        raise DataError("a value is not a finite number")
    return found


def _sources(sources: Sources, count: int) -> tuple[list[Any], Array]:
    """The distinct sources in order of appearance, and the number of each item's."""
    if sources is None:
        return list(range(count)), np.arange(count)
    if len(sources) != count:
        raise DataError(f"{len(sources)} sources for {count} values; give one for each")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(sources))}
    return list(numbers), np.array([numbers[name] for name in sources])


def _by_source(values: Array, sources: Sources) -> tuple[list[Any], Array, Array]:
    """Sources, how many items each has, and their sums."""
    names, of = _sources(sources, len(values))
    counts = np.bincount(of, minlength=len(names)).astype(np.float64)
    return names, counts, np.bincount(of, weights=values, minlength=len(names))
