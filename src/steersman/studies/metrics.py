"""What a study measures: one number for each prompt, from the logits of the tokens it is scored at.

=====================================  =============================================================================
:func:`logit_difference`               ``logit(target) - logit(foil)`` after the prompt: the usual choice, linear in the
                                       logits and blind to what moves both alike
:func:`probability`                    of a token after the prompt
:func:`log_probability`                its logarithm, which still moves where a probability is near 0 or 1
:func:`kl_divergence`, ``"kl"``        how far the whole distribution moves from the untouched run's, in nats
:func:`next_token_loss`, ``"loss"``    mean cross-entropy of the prompt's own tokens, in nats
a function                             ``fn(logits)`` or ``fn(logits, where)``: logits ``[n, vocab]`` after each prompt,
                                       ``where`` a :class:`Where`; returns ``[n]``
=====================================  =============================================================================
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import DataError, InterventionError, MismatchError
from ..model import SteeringModel

#: A text that is one token, a token id, or one of these for each prompt.
Answers = str | int | Sequence[str | int]
Scores = Literal["last", "all"]


@dataclass(frozen=True, eq=False)
class Where:
    """Which rows a metric is given.

    Attributes:
        prompts: ``[n]`` int64, the number of each row's prompt.
        base: logits of the untouched run at the same tokens (in a patching study: of the clean run), shaped like the
            logits given.
        ids: ``[n, seq]`` int64, the rows' token ids, padded on the left.
        mask: ``[n, seq]`` bool, False at padding.
    """

    prompts: Tensor
    base: Tensor
    ids: Tensor
    mask: Tensor


class Metric(ABC):
    """A metric before it meets a model and prompts.

    Attributes:
        name: what it is called in tables and figures.
        scores: ``"last"``: it is given logits ``[n, vocab]`` after each prompt; ``"all"``: ``[n, seq, vocab]``.
    """

    name: str
    scores: Scores = "last"

    @abstractmethod
    def bind(self, model: SteeringModel, prompts: int) -> Callable[[Tensor, Where], Tensor]:
        """The function ``(float32 logits, where) -> [n]`` for so many prompts; all checks are made here."""


MetricLike = Metric | str | Callable[..., Any]


@dataclass(frozen=True)
class _LogitDifference(Metric):
    target: Answers
    foil: Answers

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"logit difference{_named(self.target, self.foil)}"

    def bind(self, model: SteeringModel, prompts: int) -> Callable[[Tensor, Where], Tensor]:
        target = token_ids(model, self.target, prompts, "the target of logit_difference()")
        foil = token_ids(model, self.foil, prompts, "the foil of logit_difference()")
        same = (target == foil).nonzero().flatten().tolist()
        if same:
            raise DataError(f"logit_difference(): target and foil of prompt {same[0]} are the same token")
        return lambda logits, where: _at(logits, target, where) - _at(logits, foil, where)


@dataclass(frozen=True)
class _Probability(Metric):
    target: Answers
    log: bool = False

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{'log ' if self.log else ''}probability{_named(self.target)}"

    def bind(self, model: SteeringModel, prompts: int) -> Callable[[Tensor, Where], Tensor]:
        target = token_ids(model, self.target, prompts, "the target of probability()")

        def measure(logits: Tensor, where: Where) -> Tensor:
            found = _at(logits, target, where) - logits.logsumexp(-1)
            return found if self.log else found.exp()

        return measure


@dataclass(frozen=True)
class _Divergence(Metric):
    scores: Scores = "last"
    name = "KL divergence"

    def bind(self, model: SteeringModel, prompts: int) -> Callable[[Tensor, Where], Tensor]:
        def measure(logits: Tensor, where: Where) -> Tensor:
            base = where.base.log_softmax(-1)
            found = (base.exp() * (base - logits.log_softmax(-1))).sum(-1).clamp_min(0)
            return found if self.scores == "last" else _mean(found, where.mask)

        return measure


@dataclass(frozen=True)
class _Loss(Metric):
    name = "next-token loss"
    scores = "all"

    def bind(self, model: SteeringModel, prompts: int) -> Callable[[Tensor, Where], Tensor]:
        def measure(logits: Tensor, where: Where) -> Tensor:
            following = where.ids[:, 1:, None]
            found = logits[:, :-1].logsumexp(-1) - logits[:, :-1].gather(-1, following)[..., 0]
            counted = where.mask[:, :-1] & where.mask[:, 1:]
            if not bool(counted.any(1).all()):
                raise DataError("the loss of a prompt of one token is undefined; give longer prompts")
            return _mean(found, counted)

        return measure


@dataclass(frozen=True)
class _Function(Metric):
    function: Callable[..., Any]

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        given = getattr(self.function, "__name__", "")
        return given if given and given != "<lambda>" else "metric"

    def bind(self, model: SteeringModel, prompts: int) -> Callable[[Tensor, Where], Tensor]:
        several = _parameters(self.function) > 1

        def measure(logits: Tensor, where: Where) -> Tensor:
            found: Any = self.function(logits, where) if several else self.function(logits)
            if not isinstance(found, Tensor) or found.shape != (len(logits),):
                got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise MismatchError(f"the metric {self.name} must return one number for each row, [n], got {got}")
            return found

        return measure


def logit_difference(target: Answers, foil: Answers) -> Metric:
    """``logit(target) - logit(foil)`` of the token after the prompt (Wang et al. 2022, arXiv:2211.00593).

    Args:
        target, foil: a text that is one token (mind the space before it), a token id, or one for each prompt.
    """
    return _LogitDifference(_frozen(target), _frozen(foil))


def probability(target: Answers) -> Metric:
    """The probability of a token after the prompt; ``target`` as in :func:`logit_difference`."""
    return _Probability(_frozen(target))


def log_probability(target: Answers) -> Metric:
    """The natural logarithm of the probability of a token after the prompt."""
    return _Probability(_frozen(target), log=True)


def kl_divergence(scores: Scores = "last") -> Metric:
    """``KL(untouched || touched)`` of the next token in nats: after the prompt, or averaged over all its tokens."""
    if scores not in ("last", "all"):
        raise InterventionError(f'kl_divergence({scores!r}): use "last" or "all"')
    return _Divergence(scores)


def next_token_loss() -> Metric:
    """The mean cross-entropy of each prompt's own tokens but the first, in nats."""
    return _Loss()


_BY_NAME: dict[str, Callable[[], Metric]] = {"kl": kl_divergence, "loss": next_token_loss}


def find_metric(metric: MetricLike) -> Metric:
    """What users pass as ``metric=``: a metric, ``"kl"``, ``"loss"``, or a function."""
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in _BY_NAME:
            raise InterventionError(
                f"unknown metric {metric!r}; use one of {', '.join(_BY_NAME)}, logit_difference(target, foil), "
                "probability(target), or a function of the logits"
            )
        return _BY_NAME[metric]()
    if not callable(metric):
        raise InterventionError(f"metric= takes a metric or a function of the logits, got {type(metric).__name__}")
    return _Function(metric)


def described(metric: Metric) -> str:
    """What tells a metric from others, the same in every process; a function is known by its name only."""
    return metric.name if isinstance(metric, _Function) or not is_dataclass(metric) else repr(metric)


def token_ids(model: SteeringModel, answers: Answers, prompts: int, what: str) -> Tensor:
    """One token id for each prompt, ``[prompts]``.

    Raises:
        DataError: a text of several tokens, or another number of answers than of prompts.
    """
    given = [answers] * prompts if isinstance(answers, str | int) else list(answers)
    if len(given) != prompts:
        raise DataError(f"{what}: {len(given)} answers for {prompts} prompts; give one for each, or one for all")
    known: dict[str | int, int] = {}
    for answer in given:
        if answer not in known:
            known[answer] = _token(model, answer, what)
    return torch.tensor([known[answer] for answer in given])


def _token(model: SteeringModel, answer: object, what: str) -> int:
    vocabulary = int(model.architecture.hf.config.get_text_config().vocab_size)  # pyright: ignore
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < vocabulary:
            raise DataError(f"{what}: there is no token {answer}, the vocabulary has {vocabulary}")
        return answer
    if not isinstance(answer, str):
        raise DataError(f"{what} must be a text or a token id, got {type(answer).__name__}")
    ids = model.tokens.continuation(answer)
    if len(ids) != 1:
        parts = ", ".join(repr(model.tokens.decode([i], special=True)) for i in ids)
        space = "" if answer.startswith(" ") or len(model.tokens.continuation(" " + answer)) != 1 else (
            f"; did you mean {' ' + answer!r}, with a space?"
        )  # fmt: skip
        raise DataError(
            f"{what}: {answer!r} is {len(ids)} tokens ({parts}), and the next token is one"
            + (space or "; name a word that is one token, or the token that the answers differ in first")
        )
    return ids[0]


def _at(logits: Tensor, ids: Tensor, where: Where) -> Tensor:
    return logits.gather(-1, ids.to(logits.device)[where.prompts.to(logits.device)][:, None])[:, 0]


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum(1) / mask.sum(1)


def _frozen(answers: Answers) -> Answers:
    return answers if isinstance(answers, str | int) else tuple(answers)


def _named(*answers: Answers) -> str:
    """The answers in a name, where one serves all prompts."""
    single = [answer for answer in answers if isinstance(answer, str)]
    return "" if len(single) < len(answers) else f" of {' over '.join(answer.strip() for answer in single)}"


def _parameters(function: Callable[..., Any]) -> int:
    """How many arguments a function takes by position; 1 where it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    free = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in free) or 1
