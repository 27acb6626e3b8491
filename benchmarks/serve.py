"""What serving costs: tokens a second and time to first token, beside plain ``generate`` of the same batch.

python -m benchmarks.serve [--rounds 11] [--clients 1 8 32] [--tokens 32] [--wide]

``plain`` is transformers' own ``generate`` of all prompts at once, unsteered, without a server; ``engine`` is the
server's thread that generates, alone, under the plans of the streams: what is lost from there to ``served`` is the
work of answering, which shares the interpreter with it. The clients are in a process of their own. All three take
turns. ``--wide`` takes a random Llama in the place of the embedded model. Its tokens are bytes, and text is held back
until its characters are whole, so the first text says little there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steersman as sm
from benchmarks.generate import LAYERS, WIDTH, build
from benchmarks.timing import interval, machine
from steersman.serve import Limits, Settings, background
from steersman.serve.metrics import Metrics
from steersman.serve.running import settle
from steersman.serve.scheduler import Scheduler
from steersman.serve.stream import Order, Piece, Stream

PROMPT, VECTORS = "The weather today is", 4


def plain(model: sm.SteeringModel, rows: int, tokens: int) -> float:
    """Seconds of transformers' own ``generate``."""
    batch = model.tokens.batch([model.tokens.encode(PROMPT)] * rows)
    begun = time.perf_counter()
    with torch.inference_mode():
        model.hf.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=tokens, do_sample=False,
            pad_token_id=0, min_new_tokens=tokens,
        )  # fmt: skip
    return time.perf_counter() - begun


def engine(model: sm.SteeringModel, plans: Sequence[sm.Plan], rows: int, tokens: int) -> float:
    """Seconds of the server's engine without the server."""
    left, done = [rows], threading.Event()

    def post(news: Sequence[tuple[Stream, Piece]]) -> None:
        left[0] -= sum(piece.last for _, piece in news)
        if not left[0]:
            done.set()

    scheduler = Scheduler(model, Limits(), Metrics(), post)
    ids, never = tuple(model.tokens.encode(PROMPT)), time.monotonic() + 3600
    orders = [Order(ids, plans[i % len(plans)], tokens, frozenset(), never) for i in range(rows)]
    streams = [Stream(model, order) for order in orders]
    scheduler.start()
    begun = time.perf_counter()
    scheduler.submit(streams)
    done.wait()
    taken = time.perf_counter() - begun
    scheduler.stop()
    return taken


@contextmanager
def clients(url: str, tokens: int) -> Generator[Any]:
    """Asks for so many streams at once; each has one of the plans, or none."""
    steering = [None, *({f"v{name}": 1.0} for name in range(VECTORS))]
    body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    command = [sys.executable, "-m", "benchmarks.clients", url.rpartition(":")[2]]
    command.append(json.dumps([body | {"steering": one} for one in steering]))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, told = process.stdin, process.stdout

        def ask(streams: int) -> tuple[float, list[tuple[float, int]]]:
            print(streams, file=asked, flush=True)
            return json.loads(told.readline())

        yield ask
        asked.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--wide", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = build() if given.wide else sm.demo_model()
    name = f"a random Llama of {LAYERS} layers and width {WIDTH}" if given.wide else "the embedded model"
    print(f"{machine()}; {name}; {given.tokens} new tokens; medians of {given.rounds} rounds that take turns")
    print("clients  plain tok/s  engine tok/s  served tok/s  engine/plain  served/plain [95%]    first text  95%")
    draw = torch.Generator().manual_seed(0)
    vectors = [
        sm.SteeringVector({4: torch.randn(model.d_model, generator=draw) * 0.1}, name=f"v{n}", layer=4)
        for n in range(VECTORS)
    ]
    plans = [sm.Plan(), *(sm.Plan([sm.Add(vector)]) for vector in vectors)]
    with tempfile.TemporaryDirectory() as folder:
        for vector in vectors:
            vector.save(Path(folder) / f"{vector.name}.safetensors")
        with background(model, Settings(Path(folder), port=0, name="bench")) as url, clients(url, given.tokens) as ask:
            settle()  # as the command does
            for streams in given.clients:
                measure(model, plans, ask, streams, given)


def measure(model: sm.SteeringModel, plans: Sequence[sm.Plan], ask: Any, streams: int, given: Any) -> None:
    """One line."""
    seconds: list[tuple[float, float, float]] = []
    firsts: list[float] = []
    for number in range(given.rounds + 1):
        served, each = ask(streams)
        assert all(tokens == given.tokens for _, tokens in each)
        found = plain(model, streams, given.tokens), engine(model, plans, streams, given.tokens), served
        if number:  # the first round warms up
            seconds.append(found)
            firsts += [first for first, _ in each]
    base, alone, served = np.array(seconds).T
    speeds = "".join(f"{streams * given.tokens / np.median(one):13.0f} " for one in (base, alone, served))
    middle, low, high = interval(base / served)
    usual, late = np.quantile(firsts, [0.5, 0.95]) * 1000
    shares = f"{np.median(base / alone):13.2f}  {middle:12.2f} [{low:.2f}, {high:.2f}]"
    print(f"{streams:7d}{speeds[1:]}{shares}  {usual:7.0f} ms  {late:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
