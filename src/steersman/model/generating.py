"""Generating under a plan: Hugging Face's own ``generate`` within a call of the hook engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..errors import PromptError
from .calls import Call, Steer, prepare, prepare_tokens
from .generation import Generation
from .hooks import Row
from .sampling import forked_random_state
from .tokens import Prompts, listed

if TYPE_CHECKING:
    from .steering_model import SteeringModel


def texts(model: SteeringModel, prompts: Prompts, steer: Steer, settings: dict[str, Any]) -> Any:
    """What :meth:`SteeringModel.generate` returns."""
    own = Generation.of(settings)
    single = listed(prompts)[1]
    call = prepare(model, prompts, steer, None, own)
    each = own.num_return_sequences
    found = [own.cut(model.tokens.decode_after(row.prompt or (), new)) for row, new in _generated(model, own, call)]
    grouped: list[Any] = found if each == 1 else [found[i : i + each] for i in range(0, len(found), each)]
    return grouped[0] if single else grouped


def tokens(
    model: SteeringModel, prompts: Sequence[Sequence[int]], steer: Steer, settings: dict[str, Any]
) -> list[list[int]]:
    """What :meth:`SteeringModel.generate_tokens` returns."""
    own = Generation.of(settings)
    return [new for _, new in _generated(model, own, prepare_tokens(model, prompts, steer, None, own))]


def stream(model: SteeringModel, prompt: Prompts, steer: Steer, settings: dict[str, Any]) -> Iterator[str]:
    """What :meth:`SteeringModel.stream` returns; all checks are made here."""
    from .streaming import pieces

    own = Generation.of(settings)
    call = prepare(model, prompt, steer, None, own)
    if len(call.rows) != 1:
        raise PromptError(f"stream() takes one prompt and returns one text, got {len(call.rows)}")
    if own.num_beams > 1:
        raise PromptError("stream() cannot show beams: they are known only at the end")
    model.engine.check(call.plans, call.rows, own.max_new_tokens)

    def run(streamer: Any, stopping: Any) -> None:
        own.options |= {"streamer": streamer, "stopping_criteria": stopping}
        _run(model, own, call)

    return pieces(run, model.tokens, own)


def _generated(model: SteeringModel, own: Generation, call: Call) -> Iterator[tuple[Row, list[int]]]:
    """Each row, and the tokens it produced."""
    per_row = own.num_return_sequences if own.copies == 1 else 1
    config = model.architecture.hf.generation_config
    for number, ids in enumerate(_run(model, own, call).tolist()):
        yield call.rows[number // per_row], own.until_end(ids[call.batch.input_ids.shape[1] :], config)


def _run(model: SteeringModel, own: Generation, call: Call) -> Tensor:
    hf: Any = model.architecture.hf
    arguments = own.arguments(hf.generation_config, model.tokenizer, model.tokens.pad_id, len(call.rows))
    here = call.batch.to(model.device)
    drawn = own.seed if own.sampled and own.num_beams > 1 and isinstance(own.seed, int) else None
    with (
        torch.inference_mode(),
        forked_random_state(drawn),
        model.engine.call(call.plans, call.rows) as run,
    ):
        run.program.check_generation(call.rows, own.max_new_tokens)
        produced = hf.generate(input_ids=here.input_ids, attention_mask=here.attention_mask, **arguments)
    return cast(Tensor, produced)
