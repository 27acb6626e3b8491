"""The settings of one generation, checked before it starts, and what Hugging Face's ``generate`` is called with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import PromptError, UnsupportedError
from .sampling import Sampling, row_seeds, wanted

#: Arguments under which a forward pass holds tokens that may be thrown away again.
_INEXACT = {
    "assistant_model": "assisted generation feeds several candidate tokens at once and takes some of them back",
    "prompt_lookup_num_tokens": "prompt lookup feeds several candidate tokens at once and takes some of them back",
    "custom_generate": "a custom generation loop may feed the model in ways nobody can check",
    "prefill_chunk_size": None,
}


@dataclass
class Generation:
    """Settings of one ``generate`` call; see :meth:`SteeringModel.generate` for their meaning."""

    max_new_tokens: int = 50
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | Sequence[int] | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    stop: str | Sequence[str] | None = None
    options: dict[str, Any] = field(default_factory=lambda: {})

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "num_return_sequences"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise PromptError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.sampled = wanted(self.do_sample, self.temperature, self.top_k, self.top_p)
        if self.num_return_sequences > 1 and not self.sampled and self.num_beams < self.num_return_sequences:
            raise PromptError(
                f"num_return_sequences={self.num_return_sequences} would return the same greedy text each time; sample "
                "(do_sample=True), or search with as many num_beams"
            )
        for name, why in _INEXACT.items():
            if self.options.get(name) is not None and why:
                raise UnsupportedError(f"{name} cannot be steered exactly: {why}")
        if not isinstance(self.seed, int | None) and self.num_beams > 1:
            raise PromptError("beams are drawn by one seed; give seed= one number")
        self.stops = [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Generation:
        """From the keyword arguments of ``generate``; what is none of its own goes to transformers."""
        names = set(cls.__dataclass_fields__) - {"options"}
        own = {name: value for name, value in settings.items() if name in names}
        return cls(**own, options={name: value for name, value in settings.items() if name not in names})

    @property
    def copies(self) -> int:
        """How often each prompt stands in the batch when sampling (beams are expanded by transformers itself)."""
        return self.num_return_sequences if self.sampled and self.num_beams == 1 else 1

    def check_config(self, config: Any) -> None:
        """Refuse what the model's own generation settings ask for and cannot be steered exactly."""
        for name, why in _INEXACT.items():
            if why and getattr(config, name, None):
                raise UnsupportedError(f"the model's generation_config sets {name}, and {why}; unset it")

    def arguments(self, config: Any, tokenizer: Any, pad_id: int, rows: int) -> dict[str, Any]:
        """Keyword arguments for ``hf.generate``; greedy unless asked, whatever the model's own settings say."""
        own = copy.deepcopy(config)
        own.update(
            max_new_tokens=self.max_new_tokens, max_length=None, min_length=0, do_sample=False, temperature=1.0,
            top_k=50, top_p=1.0, num_beams=self.num_beams, num_return_sequences=1,
            pad_token_id=pad_id, return_dict_in_generate=False, disable_compile=True,
        )  # fmt: skip
        rest: dict[str, Any] = own.update(**self.options)  # what is no setting, such as processors
        arguments: dict[str, Any] = {"generation_config": own, **rest}
        if self.sampled and self.num_beams > 1:
            temperature, top_k, top_p = self.sampled
            own.update(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
            own.num_return_sequences = self.num_return_sequences
        elif self.sampled:
            processors = Sampling(*self.sampled, row_seeds(self.seed, rows)).processors()
            arguments["logits_processor"] = [*arguments.get("logits_processor", []), *processors]
        elif self.num_beams > 1:
            own.num_return_sequences = self.num_return_sequences
        if self.stops:
            arguments |= {"stop_strings": self.stops, "tokenizer": tokenizer}
        return arguments

    def until_end(self, ids: list[int], config: Any) -> list[int]:
        """The tokens up to the one that ended the text; what follows fills the batch, perhaps with ordinary tokens."""
        ends: Any = self.options.get("eos_token_id", getattr(config, "eos_token_id", None))
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        last = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        return ids[: last + 1]

    def cut(self, text: str) -> str:
        """The text before the first stop string."""
        ends = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        return text[: min(ends)] if ends else text
