"""Run the study, draw its figure and print its numbers.

python -m tools.planted [--models 200] [--rows planted.jsonl] [--figure docs/images/planted-truth.svg]

Some minutes of one core. Finished models are kept in the file of rows; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from steersman.charts import write

from .figure import draw
from .models import bare, planted
from .study import RANDOM, Trial, summary, trial


def main() -> None:
    """Run what is not there yet, then sum up."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", type=int, default=200, help="models with a planted direction, and as many without")
    parser.add_argument("--rows", type=Path, default=Path("planted.jsonl"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/planted-truth.svg"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    known = _known(given.rows)
    with given.rows.open("a", encoding="utf-8") as opened:
        for seed in range(given.models):
            for kind, make in (("planted", planted), ("bare", bare)):
                if (kind, seed) not in known:
                    known[kind, seed] = trial(make(seed), seed)
                    line = {"kind": kind, "seed": seed, "trial": asdict(known[kind, seed])}
                    opened.write(json.dumps(line) + "\n")
                    opened.flush()
    with_one, without = ([known[kind, seed] for seed in range(given.models)] for kind in ("planted", "bare"))
    found = summary(with_one, without)
    figure = draw(found, [t.p_value for t in with_one], [t.p_value for t in without], RANDOM + 1)
    write(figure, given.figure)
    for name, value in found.items():
        if isinstance(value, dict):
            value = f"{value['share']:.3f} [{value['low']:.3f}, {value['high']:.3f}] of {value['n']}"
        print(f"{name:34} {value}")
    print(f"CPU time of this run: {time.process_time() - begun:.0f} s")


def _known(path: Path) -> dict[tuple[str, int], Trial]:
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return {(one["kind"], one["seed"]): Trial(**one["trial"]) for one in whole}


if __name__ == "__main__":
    main()
