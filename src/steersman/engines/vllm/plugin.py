"""What vLLM loads in each of its processes: the entry point ``vllm.general_plugins``.

It wraps the seams, each after a check. An engine that would be steered wrongly, or in silence not at all, does not
start.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

from ...errors import SteersmanError, UnsupportedError
from . import seams
from .blocks import block_key
from .requests import Resolved
from .settings import KEY, Settings, switched_off

#: What an object of vLLM holds of ours.
ATTRIBUTE = "steersman"


def register() -> None:
    """Make this process of vLLM steer. May be called more than once.

    Raises:
        UnsupportedError: this vLLM is not one that is supported, or not as it was when this was written.
    """
    import vllm  # pyright: ignore[reportMissingImports]

    if switched_off() or getattr(vllm, ATTRIBUTE, False):
        return
    seams.check_version(vllm.__version__)
    seams.check()
    seams.CONFIG_HASH.wrap(_around_hash)
    seams.INPUTS.wrap(_around_inputs)
    seams.ADD_REQUEST.wrap(_around_add_request)
    seams.BLOCK_KEYS.wrap(_around_block_keys)
    patched = seams.BLOCK_KEYS.find()[2]
    for elsewhere in seams.BLOCK_KEYS_ELSEWHERE:
        elsewhere.wrap(lambda _: patched)
    seams.LOAD_MODEL.wrap(_around_load_model)
    seams.WARM_UP.wrap(_around_warm_up)
    seams.WARM_UP_CPU.wrap(_around_warm_up)
    seams.EXECUTE.wrap(_around_execute)
    seams.PREPARE_V1.wrap(_around_prepare_v1)
    seams.PREPARE_V2.wrap(_around_prepare_v2)
    seams.DUMMY_V1.wrap(_around_dummy_v1)
    seams.EXECUTE_V2.wrap(_around_execute_v2)
    holder = seams.LOAD_MODEL.find()[0]
    holder.steersman_stats = _stats
    setattr(vllm, ATTRIBUTE, True)


# -- the front end ----------------------------------------------------------------------------------------------------


def _around_inputs(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        from vllm.exceptions import VLLMValidationError  # pyright: ignore[reportMissingImports]

        request = original(self, *args, **kwargs)
        sampling = request.sampling_params
        extra = None if sampling is None else sampling.extra_args
        try:
            if not extra or not any(key == KEY or key.startswith(f"{KEY}_") for key in extra):
                return request
            if kwargs.get("resumable"):
                raise UnsupportedError("a request whose input is streamed has no prompt length; it cannot be steered")
            resolved = _resolve(self, request, extra)
        except SteersmanError as error:
            raise VLLMValidationError(str(error), parameter=KEY) from error
        others = {key: value for key, value in extra.items() if key != KEY and not key.startswith(f"{KEY}_")}
        sampling.extra_args = (others | {KEY: resolved.plain()}) if resolved else (others or None)  # pyright: ignore[reportOptionalMemberAccess]
        return request

    return process_inputs


def _resolve(processor: Any, request: Any, extra: dict[str, Any]) -> Resolved | None:
    from ...model.tokens import Tokens

    if not hasattr(processor, ATTRIBUTE):
        from .engine import front_end

        setattr(processor, ATTRIBUTE, front_end(processor.vllm_config))
    ids = request.prompt_token_ids
    length = len(ids) if ids is not None else len(request.prompt_embeds)
    known = ids is not None and processor.tokenizer is not None
    marker_end = functools.partial(Tokens(processor.tokenizer).find_marker, ids) if known else None  # pyright: ignore[reportArgumentType]
    front = getattr(processor, ATTRIBUTE)
    return front.resolve(extra, length, request.sampling_params.max_tokens, ids, marker_end)


# -- the engine core --------------------------------------------------------------------------------------------------


def _around_add_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        sampling = request.sampling_params
        Resolved.from_extra(None if sampling is None else sampling.extra_args)  # raises unless it was resolved
        return original(self, request)

    return preprocess_add_request


def _around_block_keys(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def generate_block_hash_extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> tuple[tuple[Any, ...] | None, int]:
        keys, following = original(request, start_token_idx, end_token_idx, start_mm_idx)
        resolved = _of_request(request)
        own = None
        if resolved is not None:
            own = block_key(resolved.steering, resolved.keys, start_token_idx, end_token_idx)
        return (keys if own is None else (*(keys or ()), own)), following

    return generate_block_hash_extra_keys


def _of_request(request: Any) -> Resolved | None:
    try:
        return getattr(request, ATTRIBUTE)
    except AttributeError:
        sampling = request.sampling_params
        found = Resolved.from_extra(None if sampling is None else sampling.extra_args)
        setattr(request, ATTRIBUTE, found)
        return found


def _around_hash(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def compute_hash(self: Any, *args: Any, **kwargs: Any) -> str:
        from ... import __version__

        stock = original(self, *args, **kwargs)
        settings = repr(Settings.of(self))
        # A graph that stock vLLM compiled has no op in it, and must never be loaded for an engine that steers.
        return hashlib.sha256(f"{stock} steersman {__version__} {settings}".encode()).hexdigest()[: len(stock)]

    return compute_hash


# -- the workers ------------------------------------------------------------------------------------------------------


def _around_load_model(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        from .engine import worker_steering

        result = original(self, *args, **kwargs)
        self.steersman = self.model_runner.steersman = worker_steering(self)
        return result

    return load_model


def _around_warm_up(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def compile_or_warm_up_model(self: Any) -> Any:
        from .engine import check_worker

        result = original(self)
        check_worker(self)
        return result

    return compile_or_warm_up_model


def _around_execute(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def execute_model(self: Any, scheduler_output: Any) -> Any:
        new = (
            (each.req_id, each.sampling_params.extra_args if each.sampling_params is not None else None)
            for each in scheduler_output.scheduled_new_reqs
        )
        self.steersman.observe(new, scheduler_output.finished_req_ids)
        return original(self, scheduler_output)

    return execute_model


def _around_prepare_v1(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _prepare_inputs(self: Any, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        result = original(self, scheduler_output, num_scheduled_tokens)
        batch = self.input_batch
        starts = batch.num_computed_tokens_cpu[: batch.num_reqs].tolist()
        self.steersman.step(batch.req_ids, num_scheduled_tokens.tolist(), starts)
        return result

    return _prepare_inputs


def _around_prepare_v2(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def prepare_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = original(self, *args, **kwargs)
        counts = batch.num_scheduled_tokens[: batch.num_reqs].tolist()
        starts = batch.num_computed_tokens_np[: batch.num_reqs].tolist()
        self.steersman.step(batch.req_ids[: batch.num_reqs], counts, starts)
        return batch

    return prepare_inputs


def _around_dummy_v1(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _dummy_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        _clear(self)
        return original(self, *args, **kwargs)

    return _dummy_run


def _around_execute_v2(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def execute_model(
        self: Any, scheduler_output: Any, intermediate_tensors: Any = None, dummy_run: bool = False, **kwargs: Any
    ) -> Any:
        if dummy_run:
            _clear(self)
        return original(self, scheduler_output, intermediate_tensors, dummy_run=dummy_run, **kwargs)

    return execute_model


def _clear(runner: Any) -> None:
    steering = getattr(runner, ATTRIBUTE, None)  # a draft model's runner has none
    if steering is not None and not steering.checking:
        steering.clear()


def _stats(self: Any) -> dict[str, Any]:
    """Of one worker, for ``collective_rpc("steersman_stats")``."""
    return self.steersman.stats()
