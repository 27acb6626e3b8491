"""Measure a model folder, and print or save the numbers.

python -m tools.model.abilities candidates/a --out candidates/a/abilities.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from tools.model.abilities.report import report
from tools.model.abilities.subject import Subject


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--randoms", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = report(Subject(options.folder), options.randoms)
    if options.out:
        options.out.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    for name, value in numbers.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()
