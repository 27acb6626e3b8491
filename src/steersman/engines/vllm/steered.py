"""A vLLM engine in this process with the interface of :class:`steersman.SteeringModel`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from ... import spec
from ...errors import MismatchError, UnsupportedError
from ...model.loading import demo_folder
from ...model.tokens import Prompts, Tokens, listed
from ...plan import Plan, PlanLike
from .registry import Registry
from .settings import KEY, switched_off


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

        register()  # here already, so that an engine cannot start in a process where the plugin is filtered out
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

    def spec(self, plan: PlanLike) -> dict[str, Any] | None:
        """A plan as a request carries it: its vectors are stored in the registry, and named by their digests.

        Raises:
            UnsupportedError: it holds a function.
        """
        items = [item for item in Plan.of(plan) if not item.dropped]
        if not items:
            return None
        document, entries = spec.write(items)
        digests = {name: self.registry.store(entry) for name, entry in entries.items()}
        for item in document["interventions"]:
            for holder in (item, item.get("when") or {}):
                holder.update({key: digests[value] for key, value in holder.items() if _names(key, value, digests)})
        return document

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
        inputs = [{"prompt_token_ids": list(ids)} for ids in prompts]
        return self.llm.generate(inputs, each, use_tqdm=False)

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


def _names(key: str, value: object, digests: dict[str, str]) -> bool:
    from .requests import NAMING

    return key in NAMING and isinstance(value, str) and value in digests
