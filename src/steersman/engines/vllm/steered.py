"""A vLLM engine in this process with the interface of :class:`steersman.SteeringModel`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, cast

from safetensors.torch import load
from torch import Tensor

from ...errors import MismatchError, UnsupportedError
from ...model.loading import demo_folder
from ...model.tokens import Prompts, Tokens, listed
from ...plan import Plan, PlanLike
from ...registry import Registry
from .engine import shape_of
from .reading import READ, Reading
from .requests import carried
from .settings import KEY, Settings, switched_off


class SteeredLLM:
    """vLLM's ``LLM`` with a plan for each prompt.

    Attributes:
        llm: the ``vllm.LLM`` underneath; its own methods take specs in ``SamplingParams.extra_args``.
        registry: the vectors it knows by name.
        tokens: its tokenizer.

    Args:
        model: hub id or folder; ``"demo"`` is the embedded model.
        vectors: a folder of vectors that specs may name; by default one that is gone when the engine is.
        steering: other settings, see :class:`~steersman.engines.vllm.settings.Settings`, such as ``sites`` or ``rank``.
        options: of ``vllm.LLM``.

    Raises:
        UnsupportedError: the engine cannot be steered; it is not started then.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        vectors: str | Path | None = None,
        steering: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if switched_off():
            raise UnsupportedError("STEERSMAN_VLLM switches steering off in this process; unset it")
        from .plugin import register

        register(
            required=True
        )  # here already, so that an engine cannot start in a process where the plugin is filtered out
        named = os.environ.get("VLLM_PLUGINS")
        if named is not None and KEY not in named.split(","):
            raise UnsupportedError(f"VLLM_PLUGINS={named} leaves {KEY} out of the engine's processes; add it")
        from vllm import LLM  # pyright: ignore[reportMissingImports]

        self._own = tempfile.TemporaryDirectory(prefix="steersman-") if vectors is None else None
        self.registry = Registry(self._own.name if self._own else cast("str | Path", vectors))
        additional = dict(options.pop("additional_config", None) or {})
        additional[KEY] = {"vectors": str(self.registry.folder), **(steering or {})}
        source = demo_folder() if str(model) == "demo" else model
        self.llm: Any = LLM(str(source), additional_config=additional, **options)
        self.tokens = Tokens(self.llm.get_tokenizer())

    @property
    def settings(self) -> Settings:
        """What it was told about steering."""
        return Settings.of(self.llm.llm_engine.vllm_config)

    @property
    def fingerprint(self) -> str:
        """Of the model, as of :attr:`steersman.shape.ModelShape.fingerprint`."""
        return shape_of(self.llm.llm_engine.vllm_config, self.settings).fingerprint

    def spec(self, plan: PlanLike) -> str | None:
        """A plan as a request carries it: its vectors are stored in the registry, and named by their digests.

        It is JSON text, which vLLM need not copy item by item and the front end reads only once.

        Raises:
            UnsupportedError: it holds a function.
        """
        document = carried(plan, self.registry)
        return None if document is None else json.dumps(document)

    def run(self, prompts: Sequence[Sequence[int]], steer: Sequence[PlanLike], sampling: Any) -> list[Any]:
        """vLLM's own outputs for prompts of token ids, one plan for each.

        Args:
            sampling: a ``vllm.SamplingParams`` for all; a ``steersman`` in its ``extra_args`` is replaced.

        Raises:
            vllm.exceptions.VLLMValidationError: a plan that does not fit, or that this engine cannot carry out.
        """
        if len(prompts) != len(steer):
            raise MismatchError(f"{len(steer)} plans for {len(prompts)} prompts; give one for each")
        each: list[Any] = []
        for plan in steer:
            own = sampling.clone()
            others = {key: value for key, value in (own.extra_args or {}).items() if key != KEY}
            document = self.spec(plan)
            own.extra_args = others if document is None else {**others, KEY: document}
            each.append(own)
        return self.llm.generate(_inputs(prompts), each, use_tqdm=False)

    def read(self, prompts: Sequence[Sequence[int]], readings: Sequence[Reading], steer: PlanLike) -> dict[str, Tensor]:
        """Activations of prompts of token ids, at the places that the engine was started to capture.

        Args:
            readings: for each prompt the tokens that are read, under a key of its own.
            steer: a plan in force meanwhile, for all.

        Returns:
            ``key/component.layer``: ``[tokens read, width]``, and with norms ``key/component.layer/norms``:
            ``[tokens - 1]``; float32.

        Raises:
            vllm.exceptions.VLLMValidationError: a plan that does not fit, or that this engine cannot carry out.
        """
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        document = self.spec(steer)
        common = {} if document is None else {KEY: document}
        each = [
            # Tokens found in the prefix cache are not run, so they cannot be read; the last one always is.
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                detokenize=False,
                skip_reading_prefix_cache=reading.norms or set(reading.tokens) != {len(ids) - 1},
                extra_args={**common, READ: reading.plain()},
            )
            for ids, reading in zip(prompts, readings, strict=True)
        ]
        self.llm.generate(_inputs(prompts), each, use_tqdm=False)
        found: dict[str, Tensor] = {}
        for part in self.llm.collective_rpc("steersman_take", args=([reading.key for reading in readings],)):
            found |= load(part)
        return found

    def close(self) -> None:
        """Stop the engine and its processes, so that another one may begin."""
        from vllm.distributed import cleanup_dist_env_and_memory  # pyright: ignore[reportMissingImports]

        core = self.llm.llm_engine.engine_core
        core.shutdown()
        if type(core).__name__ == "InprocClient":  # its process groups are those of this process
            cleanup_dist_env_and_memory()
        if self._own is not None:
            self._own.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def generate(
        self,
        prompts: Prompts,
        *,
        steer: PlanLike | Sequence[PlanLike] = None,
        max_new_tokens: int = 50,
        num_return_sequences: int = 1,
        **settings: Any,
    ) -> Any:
        """Generate text; greedy unless asked.

        Args:
            prompts: a string, a chat, or a list of either.
            steer: a plan for all prompts, or a list with one (or None) for each.
            max_new_tokens, num_return_sequences: as of :meth:`steersman.SteeringModel.generate`.
            settings: of ``vllm.SamplingParams``: ``temperature``, ``top_p``, ``top_k``, ``seed``, ``stop``, ...

        Returns:
            The continuation only: a string, or a list for a list of prompts; with ``num_return_sequences`` above 1 a
            list for each prompt.
        """
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        items, single = listed(prompts)
        ids = [self.tokens.encode(item) for item in items]
        sampled = {"temperature", "top_p", "top_k", "min_p"} & set(settings) or num_return_sequences > 1
        settings = {"temperature": 1.0 if sampled else 0.0, **settings}
        sampling = SamplingParams(max_tokens=max_new_tokens, n=num_return_sequences, **settings)
        outputs = self.run(ids, self._plans(steer, len(ids)), sampling)
        texts = [
            [self.tokens.decode_after(row, self._shown(each)) for each in output.outputs]
            for row, output in zip(ids, outputs, strict=True)
        ]
        grouped: list[Any] = [row[0] for row in texts] if num_return_sequences == 1 else texts
        return grouped[0] if single else grouped

    def stats(self) -> list[dict[str, Any]]:
        """What each worker has done so far."""
        return self.llm.collective_rpc("steersman_stats")

    def _plans(self, steer: PlanLike | Sequence[PlanLike], count: int) -> list[PlanLike]:
        several = isinstance(steer, Iterable) and not isinstance(steer, Plan)
        given = list(cast("Sequence[PlanLike]", steer)) if several else [cast(PlanLike, steer)] * count
        if len(given) != count:
            raise MismatchError(f"{len(given)} plans for {count} prompts; give one for all, or one for each")
        return given

    def _shown(self, completion: Any) -> list[int]:
        ended = completion.finish_reason == "stop" and completion.stop_reason is None
        ids = list(completion.token_ids)
        eos = getattr(self.tokens.tokenizer, "eos_token_id", None)
        return ids[:-1] if ended and ids and ids[-1] == eos else ids


def _inputs(prompts: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": list(ids)} for ids in prompts]
