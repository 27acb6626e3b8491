"""The parts of one engine put together: what its front end and its workers hold."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ...registry import Registry
from ...shape import ModelShape
from .install import blocks_of, install, register_ops, spots
from .places import layout_of, places, shape_from
from .reading import Readings
from .requests import Compiler, FrontEnd
from .seams import refuse
from .selfcheck import self_check
from .settings import Settings
from .tables import Capacity, Tables
from .worker import WorkerSteering

#: Of a dummy step for the self-check.
_CHECK_TOKENS = 256


def shape_of(vllm_config: Any, settings: Settings) -> ModelShape:
    """The model of an engine, as plans are checked against it."""
    model = vllm_config.model_config
    return shape_from(model.hf_text_config, str(model.model), settings.sites)


def _capacity(vllm_config: Any, settings: Settings, shape: ModelShape) -> Capacity:
    scheduler = vllm_config.scheduler_config
    return settings.capacity(shape.n_layers, shape.d_model, scheduler.max_num_seqs, scheduler.max_num_batched_tokens)


def front_end(vllm_config: Any) -> FrontEnd:
    """What resolves the requests of an engine."""
    settings = Settings.of(vllm_config)
    shape = shape_of(vllm_config, settings)
    requests = vllm_config.scheduler_config.max_num_seqs
    return FrontEnd(
        None if settings.vectors is None else Registry(settings.vectors),
        shape,
        _capacity(vllm_config, settings, shape),
        settings.rows_each(shape.n_layers, shape.d_model, requests),
        settings.programs,
        reads=bool(settings.capture),
        conditions=vllm_config.parallel_config.pipeline_parallel_size == 1,
        exact_generation=vllm_config.speculative_config is None,
    )


def worker_steering(worker: Any) -> WorkerSteering:
    """Put the op into a worker's model, which has just been loaded.

    Raises:
        UnsupportedError, ArchitectureError: the engine cannot be steered; the message says why.
    """
    config = worker.vllm_config
    refuse(config)
    _register()
    settings = Settings.of(config)
    shape = shape_of(config, settings)
    model = worker.model_runner.get_model()
    found = spots(blocks_of(model, shape.n_layers), shape, layout_of(config.model_config.hf_text_config))
    steered = [spot for spot in found if spot.place[0] in settings.sites]
    device, capacity = torch.device(worker.device), _capacity(config, settings, shape)
    tables = Tables([spot.place for spot in steered], shape.d_model, capacity, device)
    _check_capture(settings, shape)
    read = {spot.place: spot.scale for spot in found if spot.place in settings.capture}
    readings = Readings(read, shape.d_model, capacity.tokens, device) if read else None
    install(found, tables, readings)
    registry = None if settings.vectors is None else Registry(settings.vectors)
    return WorkerSteering(Compiler(registry, shape), tables, steered, readings)


def _check_capture(settings: Settings, shape: ModelShape) -> None:
    missing = set(settings.capture) - set(places(shape))
    if missing:
        component, layer = min(missing)
        why = shape.unavailable.get((component, layer), f"{shape.name} has {shape.n_layers} layers")
        raise UnsupportedError(f"{component} of layer {layer} cannot be read by vLLM: {why}")


def _register() -> None:
    from torch.library import Library
    from vllm.utils.torch_utils import direct_register_custom_op  # pyright: ignore[reportMissingImports]

    if not _libraries:
        _libraries.append(Library("steersman", "FRAGMENT"))
        register_ops(direct_register_custom_op, _libraries[0])


_libraries: list[Any] = []  # the op lives as long as its library


@torch.inference_mode()
def check_worker(worker: Any) -> None:
    """Let a worker check its own steering, once, by dummy steps.

    Raises:
        ArchitectureError: it does not steer as it should; the engine must not start.
    """
    steering: WorkerSteering = worker.steersman
    runner = worker.model_runner
    if steering.checked or not steering.spots:
        return
    tokens = min(_CHECK_TOKENS, steering.tables.capacity.tokens, len(steering.spots))
    outputs: list[Any] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output)

    handle = cast(nn.Module, runner.get_model()).register_forward_hook(keep)

    def run() -> Tensor:
        outputs.clear()
        # Without its metadata attention leaves its output as the memory was.
        returned = runner._dummy_run(tokens, force_attention=True)[0]
        return _summed(outputs[-1] if outputs else returned)

    steering.checking = True
    try:
        self_check(steering.tables, run, tokens)
    finally:
        steering.checking = False
        handle.remove()
    steering.checked = True


def _summed(output: Any) -> Tensor:
    """The residual stream that a model's forward pass returned; of an inner pipeline stage, the sum of its parts."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple):
        return _summed(output[0])
    return torch.stack([tensor.float() for tensor in output.tensors.values()]).sum(0)
