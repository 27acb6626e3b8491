"""The runner on many workers: Ray Data actors that each hold the model, on one machine or a cluster.

Items are shared out in shards. A worker reads a shard as the local runner does, into an empty gather that it sends
back; merging is exact, so that the result does not depend on the number of workers. A worker that dies is replaced,
and the shard it was at is read again; nothing of it had been merged.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..errors import ResourceError, SteersmanError, UnsupportedError
from ..model import SteeringModel
from .local import run
from .reading import Item
from .work import Done, Gather, Work

log = logging.getLogger(__name__)

#: Items of one shard: what is lost, and read again, when a worker dies.
SHARD = 256


@dataclass(frozen=True)
class RayRunner:
    """Shares the work out over Ray workers.

    Attributes:
        address: of a running cluster (``"auto"``, ``"ray://host:10001"``); None for the one this process is connected
            to, else a local one that is started and stopped again.
        workers: how many; as many as there are CPUs (GPUs, if each worker is given one).
        gpus: GPUs of each worker; the model is moved there.
        load: what each worker loads the model from, a hub id or a folder that every node can read, for models too large
            to be sent, quantised or dispatched ones. By default the weights at hand are sent.
        options: of :meth:`SteeringModel.from_pretrained` with ``load``.
        shard: items of one shard.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float = 0.0
    load: str | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: {})
    shard: int = SHARD

    def __call__(self, model: SteeringModel, items: Sequence[Item], work: Work, gather: Gather, done: Done) -> None:
        """Read all items; a :class:`~.work.Runner`.

        Raises:
            UnsupportedError: Ray is not installed, or the model cannot be sent to workers.
        """
        if not items:
            return
        payload = self._model(model)
        # the plan that edits the model travels with the work, and acts once
        work = replace(work, steer=model.in_force(work.steer))
        shards = [
            {"payload": pickle.dumps((part, gather.empty([item.number for item in part])))}
            for part in _shards(items, work.together, self.shard)
        ]
        with self._cluster() as ray:
            workers = min(self.workers or _available(ray, self.gpus), len(shards))
            log.info("reading %d texts in %d shards on %d Ray workers", len(items), len(shards), workers)
            results = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
                _Worker,
                fn_constructor_args=(ray.put(payload), pickle.dumps(work)),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=1,
                num_gpus=self.gpus or None,
            )
            try:
                for row in results.iter_rows():
                    numbers, part = pickle.loads(row["gathered"])
                    if isinstance(part, SteersmanError):
                        raise part
                    gather.merge(part)
                    done(numbers)
            except ray.exceptions.RayError as error:
                raise ResourceError(f"the Ray workers could not do the work: {error}") from error

    def _model(self, model: SteeringModel) -> bytes:
        """What a worker makes its model of."""
        if self.load is not None:
            return pickle.dumps((self.load, dict(self.options), model.shape.fingerprint))
        if model.in_force() != model.plan:
            raise UnsupportedError(
                "inside a steering context a model cannot be sent to Ray workers; pass steer= instead"
            )
        buffer = io.BytesIO()
        try:
            torch.save((model.architecture.hf, model.tokenizer, model.shape.name), buffer)
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
            raise UnsupportedError(
                f"{model.shape.name} cannot be sent to Ray workers ({error}); let them load it: "
                'runner=RayRunner(load="hub id or folder")'
            ) from error
        return buffer.getvalue()

    @contextmanager
    def _cluster(self) -> Generator[Any]:
        """Ray, connected; what was started here is stopped again."""
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise UnsupportedError('runner="ray" needs Ray: pip install "steersman[ray]"') from error
        started = not ray.is_initialized()
        if started:
            quiet: dict[str, Any] = (
                {"include_dashboard": False, "configure_logging": False} if self.address is None else {}
            )
            ray.init(address=self.address, log_to_driver=False, **quiet)
        context: Any = ray.data.DataContext.get_current()
        before, context.enable_progress_bars = context.enable_progress_bars, False
        try:
            yield ray
        finally:
            context.enable_progress_bars = before
            if started:
                ray.shutdown()


class _Worker:
    """One actor: the model, and what is to be read of each item."""

    def __init__(self, model: Any, work: bytes) -> None:
        import ray

        self._payload: bytes = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._model: SteeringModel | None = None
        self._work: Work = pickle.loads(work)
        torch.set_num_threads(1)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        """Read shards; an error of ours is sent back in place of what was gathered, since Ray would try again."""
        results: list[bytes] = []
        for payload in batch["payload"]:
            items, gather = pickle.loads(payload)
            numbers = [item.number for item in items]
            try:
                self._model = self._model or _loaded(self._payload, self._device)
                run(self._model, items, self._work, gather, lambda numbers: None)
            except SteersmanError as error:
                gather = error
            results.append(pickle.dumps((numbers, gather)))
        return {"gathered": results}


def _loaded(payload: bytes, device: str) -> SteeringModel:
    if payload[:2] == b"PK":  # what torch.save writes
        hf, tokenizer, name = torch.load(io.BytesIO(payload), map_location=device, weights_only=False)
        return SteeringModel(hf, tokenizer, name=name)
    source, options, fingerprint = pickle.loads(payload)
    model = SteeringModel.from_pretrained(source, **({"device_map": device} | options))
    if model.shape.fingerprint != fingerprint:
        raise UnsupportedError(f"the workers loaded {source}, which is another model than the one at hand")
    return model


def _shards(items: Sequence[Item], together: int | None, size: int) -> list[list[Item]]:
    """Items in groups: pairs together where that is asked for, else texts that begin alike."""
    if together is not None:
        order = sorted(items, key=lambda item: (item.number % together, item.number))
    else:
        order = sorted(items, key=lambda item: (item.ids, item.number))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _available(ray: Any, gpus: float) -> int:
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0) / gpus) if gpus else int(resources.get("CPU", 1)))
