"""What vLLM loads in each of its processes: the entry point ``vllm.general_plugins``.

It wraps the seams, each after a check. An engine that would be steered wrongly, or in silence not at all, does not
start.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from ...errors import SteersmanError, UnsupportedError
from . import seams
from .blocks import block_key
from .reading import READ, Reading
from .requests import FrontEnd, Resolved
from .settings import KEY, Settings, asked_for, switched_off

log = logging.getLogger("vllm.plugins.steersman")

#: What an object of vLLM holds of ours.
ATTRIBUTE = "steersman"
#: What the module ``vllm`` holds there.
STEERING, REFUSING = "steering", "refusing"


def register(*, required: bool | None = None) -> None:
    """Make this process of vLLM steer. May be called more than once.

    A vLLM that cannot be steered starts all the same, with a warning, and answers requests that ask for steering with
    an error: it may be there for something else. It does not start if steering is required.

    Args:
        required: whether it must steer; by default, if a setting is in the environment or ``VLLM_PLUGINS`` names this.

    Raises:
        UnsupportedError: this vLLM is not one that is supported, or not as it was when this was written, and steering
            is required; or it is not even known where it takes requests in.
    """
    import vllm  # pyright: ignore[reportMissingImports]

    if switched_off():
        return
    state = getattr(vllm, ATTRIBUTE, None)
    if state == REFUSING and required:
        raise UnsupportedError(f"vLLM {vllm.__version__} is in use in this process, and cannot be steered")
    if state is not None:
        return
    try:
        seams.check_version(vllm.__version__)
        seams.check()
    except UnsupportedError as error:
        if asked_for() if required is None else required:
            raise
        _refuse_requests(error)
        setattr(vllm, ATTRIBUTE, REFUSING)
        return
    _install()
    setattr(vllm, ATTRIBUTE, STEERING)


def _refuse_requests(error: UnsupportedError) -> None:
    """Let vLLM run as it is, and answer whatever asks for steering with an error."""
    entrance = seams.entrance()
    if entrance is None:
        raise error

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def refusing(*args: Any, **kwargs: Any) -> Any:
            for each in (*args, *kwargs.values()):
                extra = getattr(each, "extra_args", None)
                if isinstance(extra, dict) and any(_is_ours(str(key)) for key in cast("dict[Any, Any]", extra)):
                    raise seams.validation_error()(f"this request asks for steering, and cannot have it: {error}")
            return original(*args, **kwargs)

        return refusing

    entrance.wrap(around)
    log.warning("steersman: this vLLM runs unsteered, and requests that ask for steering are refused: %s", error)


def _install() -> None:
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
    holder.steersman_take = _take


# -- the front end ----------------------------------------------------------------------------------------------------


def _around_inputs(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        from vllm.exceptions import VLLMValidationError  # pyright: ignore[reportMissingImports]

        request = original(self, *args, **kwargs)
        sampling = request.sampling_params
        if sampling is None or not any(_is_ours(key) for key in sampling.extra_args or ()):
            return request
        try:
            if request.resumable:
                raise UnsupportedError("a request whose input is streamed has no prompt length; it cannot be steered")
            sampling.extra_args = _resolve(self, request, sampling.extra_args)
        except SteersmanError as error:
            raise VLLMValidationError(str(error), parameter=KEY) from error
        return request

    return process_inputs


def _is_ours(key: str) -> bool:
    return key in (KEY, READ) or key.startswith(f"{KEY}_")


def _resolve(processor: Any, request: Any, extra: dict[str, Any]) -> dict[str, Any] | None:
    """The extra arguments of a request as the engine wants them."""
    from ...model.tokens import Tokens

    if not hasattr(processor, ATTRIBUTE):
        from .engine import front_end

        setattr(processor, ATTRIBUTE, front_end(processor.vllm_config))
    front: FrontEnd = getattr(processor, ATTRIBUTE)
    ids = request.prompt_token_ids
    length = len(ids) if ids is not None else len(request.prompt_embeds)
    marker_end = None
    if ids is not None and processor.tokenizer is not None:
        marker_end = functools.partial(Tokens(processor.tokenizer).find_marker, ids)
    resolved = front.resolve(extra, length, request.sampling_params.max_tokens, ids, marker_end)
    reading = front.reading(extra, 0 if ids is None else length)
    others = {key: value for key, value in extra.items() if not _is_ours(key)}
    if resolved is not None:
        others[KEY] = resolved.plain()
    if reading is not None:
        others[READ] = reading.plain()
    return others or None


# -- the engine core --------------------------------------------------------------------------------------------------


def _around_add_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        for kind in (Resolved, Reading):
            kind.from_extra(_extra(request))  # raises unless it came through the front end
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
        found = Resolved.from_extra(_extra(request))
        setattr(request, ATTRIBUTE, found)
        return found


def _around_hash(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def compute_hash(self: Any, *args: Any, **kwargs: Any) -> str:
        stock = original(self, *args, **kwargs)
        # A graph that stock vLLM compiled has no op in it, and must never be loaded for an engine that steers.
        own = f"{stock} steersman {_code()} {Settings.of(self)!r}"
        return hashlib.sha256(own.encode()).hexdigest()[: len(stock)]

    return compute_hash


@functools.cache
def _code() -> str:
    """A digest of what is traced into a graph: this package, whatever version it says it is."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


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
            (each.req_id, _extra(each), len(each.prompt_token_ids or ()))
            for each in scheduler_output.scheduled_new_reqs
        )
        self.steersman.observe(new, scheduler_output.finished_req_ids)
        result = original(self, scheduler_output)
        self.steersman.collect()
        return result

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


def _extra(request: Any) -> dict[str, Any] | None:
    """The extra arguments of a request; one that is pooled has no sampling parameters."""
    return None if request.sampling_params is None else request.sampling_params.extra_args


def _clear(runner: Any) -> None:
    steering = getattr(runner, ATTRIBUTE, None)  # a draft model's runner has none
    if steering is not None and not steering.checking:
        steering.clear()


def _stats(self: Any) -> dict[str, Any]:
    """Of one worker, for ``collective_rpc("steersman_stats")``."""
    return self.steersman.stats()


def _take(self: Any, keys: list[str]) -> bytes:
    """What one worker has read under these keys, as a safetensors file, for ``collective_rpc("steersman_take")``."""
    from safetensors.torch import save

    readings = self.steersman.readings
    return save({} if readings is None else readings.take(keys))
