"""What serving costs: tokens a second and time to first token, beside plain ``generate`` of the same batch.

python -m benchmarks.serve [--rounds 5] [--clients 1 8 32]

The server and its clients share this process and its one thread of computing, as they would share a core; ``plain`` is
transformers' own ``generate`` of all prompts at once, unsteered, without a server.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import torch

import steersman as sm
from benchmarks.timing import machine
from steersman.serve import Settings, background

PROMPT, NEW_TOKENS = "The weather today is", 32


def ask(client: httpx.Client, steering: object) -> tuple[float, float, int]:
    """Seconds to the first text, seconds in all, and tokens of one stream."""
    body = {"prompt": PROMPT, "max_tokens": NEW_TOKENS, "ignore_eos": True, "stream": True, "steering": steering}
    body |= {"stream_options": {"include_usage": True}, "logprobs": None}
    begun, first, tokens = time.perf_counter(), 0.0, 0
    with client.stream("POST", "/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - begun
                usage = json.loads(line[6:]).get("usage")
                tokens = usage["completion_tokens"] if usage else tokens
    return first, time.perf_counter() - begun, tokens


def plain(model: sm.SteeringModel, rows: int) -> float:
    """Seconds of transformers' own ``generate``."""
    batch = model.tokens.batch([model.tokens.encode(PROMPT)] * rows)
    begun = time.perf_counter()
    with torch.inference_mode():
        model.hf.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=NEW_TOKENS, do_sample=False,
            pad_token_id=0, min_new_tokens=NEW_TOKENS,
        )  # fmt: skip
    return time.perf_counter() - begun


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = sm.demo_model()  # whose tokens are text: those of a random model are bytes, held back until they are
    print(f"{machine()}; the embedded model; {NEW_TOKENS} new tokens; median of {given.rounds} rounds")
    print("clients   plain tok/s   served tok/s   of plain   first text, median   95%")
    with tempfile.TemporaryDirectory() as folder:
        for name in range(4):
            vector = sm.SteeringVector({4: torch.randn(model.d_model) * 0.1}, name=f"v{name}", layer=4)
            vector.save(Path(folder) / f"v{name}.safetensors")
        with background(model, Settings(Path(folder), port=0, name="bench")) as url:
            for clients in given.clients:
                measure(model, url, clients, given.rounds)


def measure(model: sm.SteeringModel, url: str, clients: int, rounds: int) -> None:
    """One line: ``clients`` streams at once, each with one of four plans or none, in turn with plain generation."""
    steering = [None, *({f"v{name}": 1.0} for name in range(4))]
    speeds: list[tuple[float, float]] = []
    firsts: list[float] = []
    connections = httpx.Limits(max_connections=clients)
    with httpx.Client(base_url=url, timeout=600, limits=connections) as client, ThreadPoolExecutor(clients) as pool:
        for number in range(rounds + 1):
            alone = plain(model, clients)
            begun = time.perf_counter()
            found = list(pool.map(lambda i: ask(client, steering[i % len(steering)]), range(clients)))
            taken = time.perf_counter() - begun
            if number:  # the first round warms up
                tokens = sum(count for *_, count in found)
                speeds.append((clients * NEW_TOKENS / alone, tokens / taken))
                firsts += [first for first, *_ in found]
    base, served = (float(np.median([pair[i] for pair in speeds])) for i in (0, 1))
    ratio = float(np.median([mine / theirs for theirs, mine in speeds]))
    middle, late = np.quantile(firsts, [0.5, 0.95]) * 1000
    print(f"{clients:7d}   {base:11.0f}   {served:12.0f}   {ratio:8.2f}   {middle:15.0f} ms   {late:.0f} ms")


if __name__ == "__main__":
    main()
