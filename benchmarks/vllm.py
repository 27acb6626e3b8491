"""What steering costs in vLLM, and how it compares with ``generate`` of transformers under a hook.

.venv-vllm/bin/python -m benchmarks.vllm [--runs 31] [--eager | --compiled]

Three processes hold the same random Llama: stock vLLM (``STEERSMAN_VLLM=off``), vLLM with the plugin, and transformers.
They take turns, so that pairs of runs meet the same load; ratios are taken pair by pair.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import interval, machine

REQUESTS, PROMPT, NEW = 64, 16, 32
#: Lengths of the ragged batches, the same for all: prompts and new tokens of each request.
RAGGED = [(random.Random(n).randint(4, 64), random.Random(n + 1000).randint(8, 48)) for n in range(REQUESTS)]
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--eager", action="store_true", help="eager mode only")
    parser.add_argument("--compiled", action="store_true", help="compiled mode only")
    given = parser.parse_args()
    modes = [mode for mode in ("eager", "compiled") if not (given.eager or given.compiled) or getattr(given, mode)]
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        print(f"{machine()}; random Llama, 8 layers, width 256; load average {os.getloadavg()[0]:.1f} at the start")
        for mode in modes:
            with Peer("stock", folder, mode) as stock, Peer("plugin", folder, mode) as plugin:
                against_stock(stock, plugin, mode, given.runs)
                if mode == modes[-1]:
                    with Peer("hf", folder, mode) as hf:
                        against_transformers(plugin, hf, mode, given.runs)
        print(f"load average {os.getloadavg()[0]:.1f} at the end")


def against_stock(stock: Peer, plugin: Peer, mode: str, runs: int) -> None:
    print(f"{mode}: throughput over stock vLLM; {REQUESTS} requests, {PROMPT} prompt and {NEW} new tokens each")
    arms = {"stock": (stock, "none"), "idle": (plugin, "none"), "steered": (plugin, "all")}
    times = interleaved(
        {name: lambda peer=peer, job=job: peer.run(job, REQUESTS) for name, (peer, job) in arms.items()}, runs
    )
    for name, what in (("idle", "plugin, none steered"), ("steered", f"{REQUESTS} different vectors, all layers")):
        report(what, times["stock"] / times[name])
    print(f"  stock: {REQUESTS * NEW / np.median(times['stock'][:, 0]):.0f} tokens per CPU second")


def against_transformers(plugin: Peer, hf: Peer, mode: str, runs: int) -> None:
    print(f"{mode}: throughput over transformers generate with a hook; all steered; ragged prompts (4-64), new (8-48)")
    for count in (1, 8, 64):
        few = max(runs if count < REQUESTS else runs // 2, 3)
        arms = {"vllm": lambda n=count: plugin.run("ragged", n), "hf": lambda n=count: hf.run("ragged", n)}
        times = interleaved(arms, few)
        report(f"batch {count}", times["hf"] / times["vllm"])
        tokens = sum(new for _, new in RAGGED[:count])
        for name, found in times.items():
            print(f"    {name}: {tokens / np.median(found[:, 1]):.0f} tokens per second")


def interleaved(arms: dict[str, Callable[[], tuple[float, float]]], runs: int) -> dict[str, np.ndarray]:
    """(CPU, wall) seconds of each arm, ``[runs, 2]``; they take turns, in an order that alternates."""
    for run in arms.values():
        run()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for number in range(runs):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            found[name].append(arms[name]())
    return {name: np.array(each) for name, each in found.items()}


def report(what: str, ratios: np.ndarray) -> None:
    cpu, wall = (f"{mid:.3f} [{low:.3f}, {high:.3f}]" for mid, low, high in map(interval, ratios.T))
    print(f"  {what:42s} cpu {cpu}   wall {wall}   (n = {len(ratios)})", flush=True)


class Peer:
    """A process that holds a model, and runs what it is told."""

    def __init__(self, role: str, folder: str, mode: str) -> None:
        own = {"stock": {"STEERSMAN_VLLM": "off"}}.get(role, {})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.vllm_peer", role, folder, mode],
            env=os.environ | ENVIRONMENT | own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer("ready")

    def run(self, job: str, count: int) -> tuple[float, float]:
        """CPU and wall seconds of one run."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([job, count]) + "\n")
        self.process.stdin.flush()
        cpu, wall = self._answer("times")
        return cpu, wall

    def _answer(self, kind: str) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # vLLM prints between the answers
            if line.startswith(f"{kind} "):
                return json.loads(line.split(" ", 1)[1])
        raise RuntimeError(f"a process of the benchmark ended with {self.process.wait()}")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait()


def save(folder: Path) -> None:
    """A random Llama, its tokenizer, and 64 vectors."""
    from benchmarks.generate import build

    model = build()
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def timed(job: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of a job."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    job()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
