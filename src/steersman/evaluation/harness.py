"""Tasks of EleutherAI's lm-evaluation-harness, steered and unsteered.

    import lm_eval
    from steersman.evaluation.harness import SteeredLM

    lm_eval.simple_evaluate(model=SteeredLM(model, plan), tasks=["hellaswag"])

Importing this module registers the class as ``steersman``, so that its arguments may be a string,
``lm_eval.simple_evaluate(model="steersman", model_args="pretrained=gpt2,plan=plan.safetensors")``. From a shell:

    python -m steersman.evaluation.harness --model steersman --model_args pretrained=gpt2,plan=plan.safetensors ...

Unsteered it gives what the harness' own Hugging Face model gives. Steered, the context of a request is the prompt and
its continuation counts as generated. Needs the extra ``eval``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..model import SteeringModel
from ..model.provenance import describe
from ..plan import Plan, PlanLike
from .scoring import batches, continuation_logits

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import (
        handle_stop_sequences,
        has_bos_prefix,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )
except ImportError as error:
    raise ImportError("the evaluation harness is not installed; pip install 'steersman[eval]'") from error

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

#: Where neither the model nor its tokenizer says how long a sequence may be.
LONGEST = 2048
#: Settings of generation that tasks give and that mean nothing here.
_IGNORED = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "max_length")


@register_model("steersman")
class SteeredLM(TemplateLM):
    """A model under a plan, as the harness sees models.

    Args:
        pretrained: a :class:`steersman.SteeringModel`, or what :meth:`~steersman.SteeringModel.from_pretrained` takes
            (a hub id, a folder, ``demo``).
        plan: a plan, or the path of one; none to run unsteered.
        batch_size: requests run together, at most; ``auto`` packs them by ``token_budget``.
        max_length: the longest sequence; the model's own unless given. Contexts are cut off from the left.
        max_gen_toks: tokens generated at most where a task does not say.
        token_budget: padded tokens of one forward pass.
        seed: of tasks that sample.
        device: where the model goes, when it is loaded here.
        options: for loading, such as ``dtype``, ``revision``, ``trust_remote_code``.
    """

    backend = "causal"

    def __init__(
        self,
        pretrained: SteeringModel | str,
        plan: PlanLike | str | Path = None,
        *,
        batch_size: int | str | None = "auto",
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        token_budget: int = 4096,
        seed: int = 0,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(pretrained, SteeringModel):
            if device not in (None, "cpu"):
                options["device_map"] = device if device == "auto" else {"": device}
            pretrained = SteeringModel.from_pretrained(pretrained, **options)
        self.model = pretrained
        self.plan = Plan.load(plan) if isinstance(plan, str | Path) else Plan.of(plan)
        self.plan.actions(self.model.shape)
        self.tokenizer: Any = self.model.tokenizer
        size = str(batch_size if batch_size is not None else "auto")
        self._rows = max_batch_size if size.startswith("auto") else int(size)
        self._max_length = None if max_length is None else int(max_length)
        self.max_gen_toks, self._budget, self._seed = int(max_gen_toks), int(token_budget), int(seed)

    # -- what the harness asks about a model ----------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: BOS, or EOS where there is none."""
        start = self.tokenizer.bos_token_id
        return start if start is not None else self.tokenizer.eos_token_id

    @property
    def max_length(self) -> int:
        """The longest sequence."""
        if self._max_length is not None:
            return self._max_length
        hf: Any = self.model.architecture.hf
        own = getattr(hf.config.get_text_config(), "max_position_embeddings", None)
        limit: int = getattr(self.tokenizer, "model_max_length", LONGEST)
        return int(own) if own else limit if limit < 10**9 else LONGEST

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Where the model is."""
        return self.model.device

    @property
    def tokenizer_name(self) -> str:
        """For the harness' cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text; the last message is continued if no turn is opened for the model."""
        return self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )  # fmt: skip

    def get_model_info(self) -> dict[str, Any]:
        """What is stored with the results: which model, and the plan's hash."""
        return {**describe(self.model), "plan": self.plan.digest if self.plan else None, "seed": self._seed}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; special tokens as the tokenizer adds them, but never a second BOS."""
        if add_special_tokens is None:
            start = self.tokenizer.decode(self.prefix_token_id)
            add_special_tokens = not has_bos_prefix(string, start)
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    # -- likelihoods ------------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """``log p(continuation | context)``, and whether it is what greedy decoding would say.

        Requests that differ in their last token alone share one row.
        """
        rows: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        cut = [self._fitted(context, continuation) for _, context, continuation in requests]
        for number, (context, continuation) in enumerate(cut):
            rows.setdefault((context, continuation[:-1]), []).append(number)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        groups = list(rows.values())

        def receive(row: int, logits: Tensor) -> None:
            logs = torch.log_softmax(logits.float(), -1)
            best = logs.argmax(-1).tolist()
            for number in groups[row]:
                ids = list(cut[number][1])
                own = logs.gather(-1, torch.tensor(ids, device=logs.device)[:, None])
                found[number] = (float(own.double().sum()), best == ids)

        pairs = [cut[group[0]] for group in groups]
        for part in self._parts([len(a) + len(b) for a, b in pairs]):

            def receive_part(row: int, logits: Tensor, part: list[int] = part) -> None:
                receive(part[row], logits)

            continuation_logits(
                self.model, [pairs[i] for i in part], receive_part, steer=self.plan, token_budget=self._budget
            )
        for number, (_, context, continuation) in enumerate(requests):
            text = requests[number][0]
            if text is not None and len(context) + len(continuation) > 0:
                self.cache_hook.add_partial("loglikelihood", text, found[number])
        return found

    def _fitted(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Context and continuation, the context cut from the left to what the model can hold; the last token of the
        continuation is predicted and never fed."""
        if len(continuation) > self.max_length:
            raise UnsupportedError(
                f"a continuation of {len(continuation)} tokens is longer than the {self.max_length} of the model"
            )
        whole = [*context, *continuation][-(self.max_length + 1) :]
        return tuple(whole[: -len(continuation)]), tuple(continuation)

    def _parts(self, lengths: Sequence[int]) -> list[list[int]]:
        """Requests in groups of the batch size asked for; all at once where the token budget alone decides."""
        if self._rows is None:
            return [list(range(len(lengths)))]
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        return [order[i : i + self._rows] for i in range(0, len(order), self._rows)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """``log p`` of whole texts, in disjoint windows where they are longer than the model holds.

        The first token is predicted from the prefix token, which is the prompt; everything after it counts as
        generated.
        """
        windows: list[tuple[Any, list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            for pair in utils.get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.max_length,
                context_len=1,
            ):  # fmt: skip
                windows.append((None, *utils.make_disjoint_window(pair)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # -- generation -------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate until a stop text or the end; requests with equal settings run together."""
        groups: dict[str, list[int]] = {}
        arguments: list[Any] = [request.args for request in requests]  # (context, settings)
        for number, (_, own) in enumerate(arguments):
            groups.setdefault(repr(sorted(own.items(), key=str)), []).append(number)
        found = [""] * len(requests)
        for group in groups.values():
            settings = normalize_gen_kwargs(arguments[group[0]][1], self.max_gen_toks)
            self._generate([(number, arguments[number][0]) for number in group], dict(settings), found)
            for number in group:
                self.cache_hook.add_partial("generate_until", arguments[number], found[number])
        return found

    def _generate(self, asked: list[tuple[int, str]], settings: dict[str, Any], found: list[str]) -> None:
        new = int(settings["max_gen_toks"])
        room = self.max_length - new
        if room < 1:
            raise UnsupportedError(
                f"the task generates {new} tokens, and the model holds {self.max_length} with the context; set "
                "max_gen_toks lower"
            )
        until: Any = settings.get("until")
        ends = handle_stop_sequences(until, eos=self.tokenizer.decode(self.eot_token_id))
        options: dict[str, Any] = {name: value for name, value in settings.items() if name not in _IGNORED}
        options |= {"max_new_tokens": new, "stop": [end for end in ends if end]}
        sampled = settings.get("do_sample") or (settings.get("temperature") or 0) > 0
        if sampled:
            options |= {name: settings[name] for name in ("temperature", "top_p", "top_k") if settings.get(name)}
            options.setdefault("temperature", 1.0)
        prompts = [self.tok_encode(text)[-room:] for _, text in asked]
        lengths = [len(ids) + new for ids in prompts]
        parts = self._parts(lengths) if self._rows is not None else list(batches(lengths, self._budget))
        for part in parts:
            if sampled:
                options["seed"] = [self._seed + asked[i][0] * 1_000_003 for i in part]
            produced = self.model.generate_tokens([prompts[i] for i in part], steer=self.plan, **options)
            for i, ids in zip(part, produced, strict=True):
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                found[asked[i][0]] = postprocess_generated_text(text, ends, None)  # pyright: ignore[reportArgumentType]


def main() -> None:
    """The harness' own command line, with this model in its registry."""
    from lm_eval.__main__ import cli_evaluate

    sys.argv[0] = "lm_eval"
    cli_evaluate()


if __name__ == "__main__":
    main()
