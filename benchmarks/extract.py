"""What extraction costs: ``extract`` over the bare forward pass that it cannot do without.

python -m benchmarks.extract [--runs 31] [--kinds plain chat] [--layers 4 all] [--quality without with] | --memory

The **limit** is the forward pass of the base model over the same tokens (tokenised beforehand), in batches of similar
length under the same token budget, without hooks, without the unembedding, stopped after the deepest layer needed. The
candidate is the whole of ``extract``: tokenisation, batching, forward passes, moments, vector. 100% is as fast as the
limit; more is possible, since the deepest layer need not run at every token, nor a shared beginning more than once.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

import torch
from tests.models import tiny_tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import steersman as sm
from benchmarks.timing import compare, machine

WIDTH, LAYERS, PAIRS, CHATS, BUDGET = 256, 8, 256, 128, 1024
MIDDLE = LAYERS // 2
NARROW = 64
LETTERS = "abcdefghijklmnopqrstuvwxyz    "
SYSTEM = "Answer truthfully, in one sentence."


def build(width: int = WIDTH) -> sm.SteeringModel:
    """A random Llama: 8 layers, of this width."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=LAYERS,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024,
        bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    return sm.SteeringModel(LlamaForCausalLM(config).eval(), tiny_tokenizer(vocab_size=512))


def words(dice: random.Random, low: int, high: int) -> str:
    """Random letters and spaces: with a byte-level tokenizer, a token each."""
    return "".join(dice.choices(LETTERS, k=dice.randrange(low, high)))


def plain_pairs(count: int) -> sm.ContrastPairs:
    """Texts of 8 to 60 tokens that share nothing but how a few happen to begin."""
    dice = random.Random(0)
    return sm.ContrastPairs(*([words(dice, 7, 60) for _ in range(count)] for _ in range(2)))


def chat_pairs(count: int) -> sm.ContrastPairs:
    """Chats with one system prompt, which differ in the question, and in each pair in the answer."""
    dice = random.Random(0)

    def chat(question: str, answer: str) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]

    questions = [words(dice, 10, 40) for _ in range(count)]
    return sm.ContrastPairs(
        [chat(q, words(dice, 10, 40)) for q in questions], [chat(q, words(dice, 10, 40)) for q in questions]
    )


def encoded(model: sm.SteeringModel, pairs: sm.ContrastPairs) -> list[list[int]]:
    """The tokens of all examples."""
    return model.tokens.encode_all([*pairs.positive, *pairs.negative])  # type: ignore[arg-type]


def shared(rows: list[list[int]]) -> float:
    """The share of all tokens that stand in a beginning which another text has, too."""
    return 1 - len({tuple(row[: i + 1]) for row in rows for i in range(len(row))}) / sum(map(len, rows))


class _StopError(Exception):
    pass


def limit(model: sm.SteeringModel, rows: list[list[int]], layer: int) -> Callable[[], None]:
    """The bare forward pass over these tokens, up to a layer."""
    batches = [model.tokens.batch(group) for group in _groups(rows)]
    decoder, block = model.architecture.decoder, model.architecture.blocks[layer]

    def stop(module: nn.Module, args: object, output: object) -> None:
        raise _StopError

    def run() -> None:
        handle = block.register_forward_hook(stop)
        with torch.inference_mode():
            for batch in batches:
                with contextlib.suppress(_StopError):
                    decoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                            position_ids=batch.position_ids, use_cache=False)  # fmt: skip
        handle.remove()

    return run


def _groups(rows: list[list[int]]) -> Iterator[list[list[int]]]:
    group: list[list[int]] = []
    for row in sorted(rows, key=len):
        if group and len(row) * (len(group) + 1) > BUDGET:
            yield group
            group = []
        group.append(row)
    yield group


def memory(count: int, quality: bool) -> None:
    """Print by how many bytes the peak of this process grows while it extracts from ``count`` pairs.

    A narrow model: what might grow with the pairs does so at any width, and 8,192 pairs of a wide one take an hour.
    """
    torch.set_num_threads(1)
    model = build(NARROW)
    sm.extract(model, plain_pairs(64), quality=quality)  # whatever is loaded once
    pairs = plain_pairs(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sm.extract(model, pairs, quality=quality, token_budget=BUDGET)
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _show_memory() -> None:
    for quality in (False, True):
        for count in (256, 8192):
            command = [sys.executable, "-m", "benchmarks.extract", "--one-memory", str(count), str(int(quality))]
            before, after = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
            how = "with" if quality else "without"
            above = (after - before) / 1024
            print(f"  {count:5d} pairs, {how:7s} quality: peak {after / 1024:.0f} MiB, {above:.1f} of it for this work")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--kinds", nargs="+", default=["plain", "chat"])
    parser.add_argument("--layers", nargs="+", default=[str(MIDDLE), "all"])
    parser.add_argument("--quality", nargs="+", default=["without", "with"])
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--one-memory", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one_memory:
        memory(given.one_memory[0], bool(given.one_memory[1]))
        return
    torch.set_num_threads(1)
    logging.getLogger("steersman").setLevel(logging.ERROR)  # random texts have shortcuts
    width = NARROW if given.memory else WIDTH
    print(f"{machine()}; Llama, {LAYERS} layers, width {width}; token budget {BUDGET}")
    if given.memory:
        _show_memory()
        return
    model = build()
    print("speed as a share of the limit: median [95% interval] of paired runs")
    for kind in given.kinds:
        pairs = plain_pairs(PAIRS) if kind == "plain" else chat_pairs(CHATS)
        rows = encoded(model, pairs)
        lengths = sorted(map(len, rows))
        print(
            f" {len(rows) // 2} {kind} pairs: {len(rows)} texts of {lengths[0]} to {lengths[-1]} tokens (median "
            f"{lengths[len(lengths) // 2]}), {sum(lengths)} tokens, of which {shared(rows):.0%} in shared beginnings"
        )
        for how in given.quality:
            for asked in given.layers:
                layers, deepest = ("all", LAYERS - 1) if asked == "all" else (int(asked), int(asked))
                quality = how == "with"

                def ours(pairs=pairs, layers=layers, quality=quality) -> object:
                    return sm.extract(model, pairs, layers=layers, quality=quality, token_budget=BUDGET, progress=False)

                # the limit over the candidate: how many times as fast the candidate is
                ratio = compare(limit(model, rows, deepest), ours, given.runs // 3 if quality else given.runs)
                what = "all layers" if asked == "all" else f"layer {asked}"
                print(f"  {what:11s} {how:7s} quality {ratio}", flush=True)


if __name__ == "__main__":
    main()
