"""From a request to the rows it asks for, everything checked that can be before they wait."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..errors import PromptError
from ..model import SteeringModel
from ..model.hooks import Row
from ..model.sampling import Sampling, row_seeds, wanted
from ..plan import Plan
from .errors import ApiError
from .schema import ChatRequest, CompletionRequest, Sampled
from .settings import Limits
from .steering import Resolver, Steered
from .stream import Order, ends_of

NOTHING = Steered(Plan(), {"interventions": []}, ())


@dataclass(frozen=True, eq=False)
class Choice:
    """A row of a request.

    Attributes:
        order: what the engine is to do.
        steered: what steers it.
        arm: ``steered`` or ``baseline``.
        prompt: the number of its prompt.
    """

    order: Order
    steered: Steered
    arm: str
    prompt: int

    def row(self, model: SteeringModel, gates: Any) -> Row:
        """Its row, as the engine saw it."""
        ids = self.order.prompt
        return Row(len(ids), ids, model.tokens.find_marker, "the prompt", gates=dict(gates))


class Orders:
    """Makes the rows of requests on one model."""

    def __init__(self, model: SteeringModel, resolver: Resolver, limits: Limits) -> None:
        self.model, self.resolver, self.limits = model, resolver, limits
        self._ends = ends_of(model)
        config: Any = model.architecture.hf.config
        self._vocabulary: int = config.get_text_config().vocab_size

    def of_completion(self, body: CompletionRequest) -> list[Choice]:
        """The rows of a completion: prompts, times choices, times arms."""
        given = _listed(body.prompt)
        self._check_rows(body, len(given))
        prompts = [self._ids(prompt) for prompt in given]
        new = 16 if body.max_tokens is None else body.max_tokens
        return self._choices(body, prompts, [new] * len(prompts), body.logprobs)

    def of_chat(self, body: ChatRequest) -> list[Choice]:
        """The rows of an answer in a conversation."""
        given = [n for n in (body.max_tokens, body.max_completion_tokens) if n is not None]
        if len(given) > 1:
            raise ApiError(400, "invalid_value", "max_tokens and max_completion_tokens say the same; give one",
                           param="max_tokens")  # fmt: skip
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "invalid_value", "top_logprobs needs logprobs: true", param="top_logprobs")
        self._check_rows(body, 1)
        ids = self.model.tokens.encode([message.plain() for message in body.messages])
        new = given[0] if given else self._room(len(ids))
        return self._choices(body, [ids], [new], (body.top_logprobs or 0) if body.logprobs else None)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _choices(self, body: Sampled, prompts: list[list[int]], new: list[int], logprobs: int | None) -> list[Choice]:
        steered = self.resolver.of(body.model, "steering" in body.model_fields_set, body.steering)
        for ids, most in zip(prompts, new, strict=True):
            self._check(ids, most, steered.plan)
        arms = [("steered", steered), *([("baseline", NOTHING)] if body.baseline else [])]
        # drawn from by the rows of either arm alike, and spread over rows as the library does
        seeds = row_seeds(_seed(body), len(prompts) * body.n)
        found: list[Choice] = []
        for arm, own in arms:
            for number, (ids, most) in enumerate(zip(prompts, new, strict=True)):
                mine = seeds[number * body.n : (number + 1) * body.n]
                orders = self._copies(body, ids, most, own.plan, logprobs, mine)
                found += [Choice(order, own, arm, number) for order in orders]
        return found

    def _copies(
        self, body: Sampled, ids: list[int], most: int, plan: Plan, logprobs: int | None, seeds: Sequence[int]
    ) -> list[Order]:
        """An order for each choice of a prompt, each with a seed of its own."""
        heat = body.temperature
        drawn = None if heat == 0 else wanted(None, heat, body.top_k, body.top_p)
        if drawn is None and body.n > 1:
            raise ApiError(
                400, "invalid_value", f"n={body.n} would give the same greedy text each time; set a temperature",
                param="n",
            )  # fmt: skip
        stops = [body.stop] if isinstance(body.stop, str) else list(body.stop or ())
        if not all(stops):
            raise ApiError(400, "invalid_value", "an empty stop string would end every text at once", param="stop")
        return [
            Order(
                tuple(ids), plan, most, frozenset() if body.ignore_eos else self._ends,
                time.monotonic() + self.limits.timeout, None if drawn is None else Sampling(*drawn, (seed,)),
                tuple(stops), logprobs, body.frequency_penalty or 0.0, body.presence_penalty or 0.0, self._bias(body),
            )
            for seed in seeds
        ]  # fmt: skip

    def _check_rows(self, body: Sampled, prompts: int) -> None:
        rows = prompts * body.n * (2 if body.baseline else 1)
        if rows > self.limits.rows:
            baselines = " and baselines" if body.baseline else ""
            raise ApiError(
                400, "too_many_rows",
                f"{prompts} prompts with {body.n} choices{baselines} are {rows} rows; this server takes at most "
                f"{self.limits.rows} in a request", param="n",
            )  # fmt: skip

    def _check(self, ids: list[int], new: int, plan: Plan) -> None:
        if new > self.limits.new_tokens:
            raise ApiError(
                400, "too_many_tokens", f"max_tokens={new}; this server generates at most {self.limits.new_tokens} "
                "for a row", param="max_tokens",
            )  # fmt: skip
        try:
            self.model.check_length([ids], new)
        except PromptError as error:
            message = str(error).removeprefix("row 0 has ")
            raise ApiError(400, "context_length_exceeded", f"the prompt has {message}", param="max_tokens") from None
        model = self.model
        row = Row(len(ids), tuple(ids), model.tokens.find_marker, "the prompt")
        model.engine.check([model.always + plan], [row], max(new, 1))

    def _room(self, length: int) -> int:
        """New tokens that fit behind a prompt."""
        limit = self.model.architecture.max_positions
        return max(min(self.limits.new_tokens, limit - length if limit else self.limits.new_tokens), 1)

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            if not prompt:
                raise ApiError(400, "invalid_prompt", "a prompt is empty", param="prompt")
            return self.model.tokens.encode(prompt)
        if not prompt:
            raise ApiError(400, "invalid_prompt", "a prompt has no token", param="prompt")
        beyond = next((token for token in prompt if not 0 <= token < self._vocabulary), None)
        if beyond is not None:
            raise ApiError(
                400, "invalid_prompt", f"token {beyond} does not exist; the vocabulary has {self._vocabulary}",
                param="prompt",
            )  # fmt: skip
        return prompt

    def _bias(self, body: Sampled) -> dict[int, float]:
        found: dict[int, float] = {}
        for name, amount in (body.logit_bias or {}).items():
            if not name.isascii() or not name.isdecimal() or not int(name[:9]) < self._vocabulary or len(name) > 9:
                raise ApiError(400, "invalid_value", f"logit_bias: {name[:40]!r} is no token id", param="logit_bias")
            found[int(name)] = amount
        return found


def _listed(prompt: Any) -> Sequence[Any]:
    """The prompts of a completion, each text or token ids."""
    if isinstance(prompt, str):
        return [prompt]
    items = cast("list[Any]", prompt)
    if not items:
        raise ApiError(400, "invalid_prompt", "there is no prompt", param="prompt")
    return [items] if isinstance(items[0], int) else items


def _seed(body: Sampled) -> int:
    return secrets.randbelow(2**31) if body.seed is None else body.seed
