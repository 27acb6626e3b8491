"""Paired timing: what is compared runs in turn, in one process, and the ratio is taken pair by pair."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios with a 95% bootstrap interval, in CPU time and in wall time."""

    cpu: tuple[float, float, float]
    wall: tuple[float, float, float]
    base_cpu: float
    runs: int

    def __str__(self) -> str:
        cpu, wall = (f"{mid:.3f} [{low:.3f}, {high:.3f}]" for mid, low, high in (self.cpu, self.wall))
        return f"cpu {cpu}   wall {wall}   (n = {self.runs}, base {1000 * self.base_cpu:.1f} ms cpu)"


def compare(candidate: Callable[[], object], base: Callable[[], object], runs: int = 31) -> Ratio:
    """Time ``candidate / base`` over interleaved runs, the order of each pair alternating."""
    candidate(), base()
    times: dict[str, list[tuple[float, float]]] = {"candidate": [], "base": []}
    jobs = [("candidate", candidate), ("base", base)]
    for run in range(runs):
        for name, job in jobs if run % 2 else jobs[::-1]:
            gc.collect()
            gc.disable()
            cpu, wall = time.process_time(), time.perf_counter()
            job()
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
            gc.enable()
    ours, theirs = np.array(times["candidate"]), np.array(times["base"])
    ratios = ours / theirs
    return Ratio(interval(ratios[:, 0]), interval(ratios[:, 1]), float(np.median(theirs[:, 0])), runs)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    draws = np.random.default_rng(0).choice(values, (5000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def machine() -> str:
    """One line about where the figures come from."""
    return (
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s), float32"
    )
