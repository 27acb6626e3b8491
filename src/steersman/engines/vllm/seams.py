"""The places in vLLM that are wrapped, each checked before it is touched.

Nothing of vLLM is edited on disk. What is relied on: the arguments of the functions below, the attributes named in
:data:`ATTRIBUTES`, ``SamplingParams.extra_args``, and custom ops. If any of it is not as it was when this was written,
the engine does not start: an engine that ignored steering would be worse than none.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import UnsupportedError

#: vLLM releases that this was tested with: from the first, up to but not including the second.
SUPPORTED = ("0.32.0", "0.33.0")

OFF = "set STEERSMAN_VLLM=off to run vLLM without steering"


@dataclass(frozen=True)
class Seam:
    """A function of vLLM: where it is, and the parameters it must have, in this order, ``self`` left out."""

    module: str
    path: str
    parameters: tuple[str, ...]
    exact: bool = True

    def find(self) -> tuple[Any, str, Callable[..., Any]]:
        """What holds it, its name there, and itself."""
        try:
            holder: Any = importlib.import_module(self.module)
            *steps, name = self.path.split(".")
            for step in steps:
                holder = getattr(holder, step)
            function = getattr(holder, name)
        except (ImportError, AttributeError) as error:
            raise UnsupportedError(f"vLLM has no {self.module}.{self.path} ({error}); {OFF}") from error
        return holder, name, function

    def check(self) -> None:
        """Raise :class:`UnsupportedError` unless it takes what it should."""
        function = self.find()[2]
        found = tuple(name for name in inspect.signature(function).parameters if name != "self")
        if (found if self.exact else found[: len(self.parameters)]) != self.parameters:
            raise UnsupportedError(
                f"{self.module}.{self.path} of this vLLM takes ({', '.join(found)}), where "
                f"({', '.join(self.parameters)}) is relied on; {OFF}"
            )

    def wrap(self, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Put a function around it."""
        holder, name, function = self.find()
        setattr(holder, name, around(function))


_WORKER = "vllm.v1.worker.gpu_worker"
_V1 = "vllm.v1.worker.gpu_model_runner"
_V2 = "vllm.v1.worker.gpu.model_runner"

LOAD_MODEL = Seam(_WORKER, "Worker.load_model", ("load_dummy_weights",))
WARM_UP = Seam(_WORKER, "Worker.compile_or_warm_up_model", ())
WARM_UP_CPU = Seam("vllm.v1.worker.cpu_worker", "CPUWorker.compile_or_warm_up_model", ())
EXECUTE = Seam(_WORKER, "Worker.execute_model", ("scheduler_output",))
PREPARE_V1 = Seam(_V1, "GPUModelRunner._prepare_inputs", ("scheduler_output", "num_scheduled_tokens"))
DUMMY_V1 = Seam(_V1, "GPUModelRunner._dummy_run", ("num_tokens", "cudagraph_runtime_mode"), exact=False)
PREPARE_V2 = Seam(
    _V2,
    "GPUModelRunner.prepare_inputs",
    ("scheduler_output", "batch_req_state", "batch_desc", "num_active_loras"),
)
DUMMY_V2 = Seam(_V2, "GPUModelRunner._dummy_run", ("num_tokens",), exact=False)
EXECUTE_V2 = Seam(
    _V2, "GPUModelRunner.execute_model", ("scheduler_output", "intermediate_tensors", "dummy_run"), exact=False
)
INPUTS = Seam(
    "vllm.v1.engine.input_processor",
    "InputProcessor.process_inputs",
    (
        *("request_id", "prompt", "params", "supported_tasks", "arrival_time", "lora_request", "tokenization_kwargs"),
        *("trace_headers", "priority", "data_parallel_rank", "resumable", "session_id", "kv_hints"),
    ),
)
ADD_REQUEST = Seam("vllm.v1.engine.core", "EngineCore.preprocess_add_request", ("request",))
_KEYS = ("request", "start_token_idx", "end_token_idx", "start_mm_idx")
BLOCK_KEYS = Seam("vllm.v1.core.kv_cache_utils", "generate_block_hash_extra_keys", _KEYS)
#: modules that imported the function by name, and would go on using the old one
BLOCK_KEYS_ELSEWHERE = (
    Seam("vllm.v1.core.block_pool", "generate_block_hash_extra_keys", _KEYS),
    Seam("vllm.v1.simple_kv_offload.manager", "generate_block_hash_extra_keys", _KEYS),
)
CONFIG_HASH = Seam("vllm.config.vllm", "VllmConfig.compute_hash", ("include_version",))

SEAMS = (
    *(LOAD_MODEL, WARM_UP, WARM_UP_CPU, EXECUTE, PREPARE_V1, DUMMY_V1, PREPARE_V2, DUMMY_V2, EXECUTE_V2, INPUTS),
    *(ADD_REQUEST, BLOCK_KEYS, *BLOCK_KEYS_ELSEWHERE, CONFIG_HASH),
)


#: Where vLLM's front end has taken requests in, in this release and before.
_ENTRANCES = (
    (INPUTS.module, INPUTS.path),
    ("vllm.v1.engine.processor", "Processor.process_inputs"),
)


def entrance() -> Seam | None:
    """Where any vLLM's front end takes requests in, whatever its arguments; None if that is not known."""
    for module, path in _ENTRANCES:
        seam = Seam(module, path, ())
        try:
            seam.find()
        except UnsupportedError:
            continue
        return seam
    return None


def validation_error() -> type[Exception]:
    """What vLLM's server answers with an error 400."""
    try:
        from vllm.exceptions import VLLMValidationError  # pyright: ignore[reportMissingImports]
    except ImportError:
        return ValueError
    return VLLMValidationError


def check_version(version: str) -> None:
    """Raise :class:`UnsupportedError` for a vLLM release that was not tested."""
    from packaging.version import InvalidVersion, Version

    first, past = SUPPORTED
    try:
        known = Version(first) <= Version(Version(version).base_version) < Version(past)
    except InvalidVersion:
        known = False
    if not known:
        raise UnsupportedError(
            f"steersman steers vLLM {first} up to, but not including, {past}; this is {version}. Install a vLLM in "
            f"that range, or {OFF}"
        )


def check() -> None:
    """Raise :class:`UnsupportedError` if any seam is not as it was when this was written."""
    for seam in SEAMS:
        seam.check()


def refuse(vllm_config: Any) -> None:
    """Raise :class:`UnsupportedError` for what would split or shift a batch behind the steering's back.

    Every attribute is read by its name, without a default: one that is gone is a vLLM that is not known, and not a
    switch that is off.
    """
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    try:
        reasons = {
            "micro-batching (enable_dbo, ubatch_size) splits the batch": parallel.use_ubatching,
            "decode context parallelism splits sequences over devices": parallel.decode_context_parallel_size > 1,
            "prefill context parallelism splits sequences over devices": parallel.prefill_context_parallel_size > 1,
            "sequence parallelism (of a mixture of experts, with expert, tensor and data parallelism) gives each "
            "device a part of the tokens": parallel.use_sequence_parallel_moe,
            "encoder-decoder models have no single stack of blocks": model.is_encoder_decoder,
        }
    except AttributeError as error:
        raise UnsupportedError(f"the configuration of this vLLM is not as it was known ({error}); {OFF}") from error
    for reason, found in reasons.items():
        if found:
            raise UnsupportedError(f"this engine cannot be steered: {reason}; switch that off, or {OFF}")
