"""The runner on vLLM: prompts in one continuous batch, their activations read out where the steering op sits.

An engine is started for the work, told which places to read, and stopped again. Texts that are read at their last token
only share what they begin with through the prefix cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..engines.vllm.packing import pack
from ..engines.vllm.places import SPLIT, Place, place_of, places, shape_from
from ..engines.vllm.reading import Reading, name_of
from ..errors import ResourceError, UnsupportedError
from ..model import SteeringModel
from ..shape import ModelShape
from .reading import Item
from .work import Done, Gather, Work

if TYPE_CHECKING:
    from ..engines.vllm import SteeredLLM

#: What is read of this many bytes (or items) is fetched from the engine, and handed over, at a time.
BYTES, ITEMS = 2**26, 1024


@dataclass(frozen=True)
class VLLMRunner:
    """Reads activations by a vLLM engine of its own; needs vLLM in this environment.

    Attributes:
        load: what the engine loads the model from, a hub id or a folder. By default the model at hand is saved to a
            temporary folder; for large ones, name it.
        options: of ``vllm.LLM``, such as ``tensor_parallel_size`` or ``enforce_eager``.
        engine: one that runs already, to be used and left running: of this model, and started to capture what is read,
            ``SteeredLLM(..., steering={"capture": ["resid_post.8"]})``.
    """

    load: str | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: {})
    engine: SteeredLLM | None = None

    def __call__(self, model: SteeringModel, items: Sequence[Item], work: Work, gather: Gather, done: Done) -> None:
        """Read all items; a :class:`~.work.Runner`.

        Raises:
            UnsupportedError: vLLM is not installed, cannot read this site, or cannot carry out the plan.
            ResourceError: the engine returned without having read everything.
        """
        if not items:
            return
        plan = model.in_force(work.steer)
        config: Any = model.architecture.hf.config
        shape = shape_from(config.get_text_config(), model.shape.name)
        pack(plan.actions(shape))  # raises what the engine would refuse
        names = {layer: name_of(_place(work.site, layer, shape)) for layer in work.layers}
        longest = max(len(item.ids) for item in items)
        with self._engine(model, sorted(set(names.values())), longest) as engine:
            for part in _parts(items, work, model.d_model):
                readings = [
                    Reading(str(item.number), tuple(item.read), work.average, item.number in work.norms)
                    for item in part
                ]
                found = engine.read([item.ids for item in part], readings, plan)
                _hand_over(part, readings, found, names, work, gather)
                done([item.number for item in part])

    @contextmanager
    def _engine(self, model: SteeringModel, capture: list[str], longest: int) -> Generator[SteeredLLM]:
        try:
            import vllm  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
        except ImportError as error:
            raise UnsupportedError('runner="vllm" needs vLLM: pip install "steersman[vllm]"') from error
        from ..engines.vllm import SteeredLLM

        if self.engine is not None:
            yield self._checked(self.engine, model, capture)
            return
        options: dict[str, Any] = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_model_len": longest + 1,
            **self.options,
        }
        with tempfile.TemporaryDirectory(prefix="steersman-") as folder:
            if self.load is None:
                _save(model, folder)
            engine = SteeredLLM(self.load or folder, steering={"capture": capture}, **options)
        with engine:
            yield self._checked(engine, model, capture)

    def _checked(self, engine: SteeredLLM, model: SteeringModel, capture: list[str]) -> SteeredLLM:
        if engine.fingerprint != model.shape.fingerprint:
            raise UnsupportedError("the vLLM engine holds another model than the one at hand; let it load the same")
        missing = set(capture) - {name_of(place) for place in engine.settings.capture}
        if missing:
            raise UnsupportedError(f"the engine was not started to capture {', '.join(sorted(missing))}")
        return engine


def _save(model: SteeringModel, folder: str) -> None:
    hf: Any = model.architecture.hf
    try:
        hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise UnsupportedError(
            f"{model.shape.name} cannot be saved for vLLM ({error}); name what it is to load: "
            'runner=VLLMRunner(load="hub id or folder")'
        ) from error


def _place(site: str, layer: int, shape: ModelShape) -> Place:
    """Where vLLM has a site."""
    place = place_of(site, layer)[0]
    if place not in places(shape):
        why = shape.unavailable.get((site, layer), SPLIT)
        raise UnsupportedError(f"{site!r} of layer {layer} of {shape.name} cannot be read by vLLM: {why}")
    return place


def _parts(items: Sequence[Item], work: Work, width: int) -> Generator[list[Item]]:
    """Items that begin alike after one another, in groups of which what is read has a bounded size."""
    part: list[Item] = []
    size = 0
    for item in sorted(items, key=lambda item: (item.ids, item.number)):
        own = 4 * width * len(work.layers) * (1 if work.average else len(item.read))
        if part and (size + own > BYTES or len(part) == ITEMS):
            yield part
            part, size = [], 0
        part.append(item)
        size += own
    if part:
        yield part


def _hand_over(
    items: Sequence[Item], readings: Sequence[Reading], found: Mapping[str, Tensor], names: Mapping[int, str],
    work: Work, gather: Gather,
) -> None:  # fmt: skip
    missing = [reading.key for reading in readings for name in names.values() if f"{reading.key}/{name}" not in found]
    if missing:
        raise ResourceError(f"vLLM ended without having read text {missing[0]}; read its log for the reason")
    rows: dict[int, Any] = {}
    for layer, name in names.items():
        values = [found[f"{reading.key}/{name}"] for reading in readings]
        rows[layer] = torch.cat(values) if work.average else values
    gather.add([item.number for item in items], rows)
    measured = [reading.key for reading in readings if reading.norms]
    if measured:
        gather.add_norms(
            {layer: torch.cat([found[f"{key}/{name}/norms"] for key in measured]) for layer, name in names.items()}
        )
