"""The table of abilities of the embedded model, measured now.

python -m tools.model.card [FOLDER] [--write docs/model.md]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from tools.model.abilities.report import report
from tools.model.abilities.subject import Subject

SHIPPED = Path(__file__).parents[2] / "src" / "steersman" / "demo" / "model"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def rows(found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(ability, wanted, reached, control) of every line."""
    flips, probe = found["flips"], found["mood_probe"]
    table = [
        ("capitals, in sentence frames never seen", "95%", f"{found['capitals']:.1%}", ""),
        ("capitals by two steps, frames never seen", "", f"{found['capitals_two_hop']:.1%}", ""),
        ("indirect objects, frames and names never seen there", "95%", f"{found['indirect_object']:.1%}", ""),
        ("agreement over an attractor, likewise", "95%", f"{found['agreement']:.1%}", ""),
        ("copying lists, likewise", "95%", f"{found['copying']:.1%}", ""),
        (
            f"sentiment from three pairs, layer {found['layer']}: change of P(positive) - P(negative) from -2 to +2",
            "0.5, and 3 times the control",
            f"{found['sentiment_shift']:.2f}, {found['sentiment_shift'] / found['sentiment_random']:.1f} times",
            f"{found['sentiment_random']:.2f}: the strongest of 100 random directions of its length",
        ),
        (
            "its logit lens: positive among the 20 most boosted, negative among the 20 most suppressed",
            "8, 8",
            f"{found['lens'][0]}, {found['lens'][1]}",
            "",
        ),
        (
            "patching the country's own token flips the capital: early layer, late layer",
            "90%, at most 10%",
            f"{max(flips['country'][:4]):.0%}, {flips['country'][-1]:.0%}",
            "",
        ),
        (
            "patching the last token does: early layer, late layer",
            "at most 10%, 90%",
            f"{flips['last'][0]:.0%}, {max(flips['last'][-4:]):.0%}",
            "",
        ),
        (
            "a probe for the mood of the sentence before: at the embeddings, in the middle",
            "at most 65%, 95%",
            f"{probe[0]:.0%}, {max(probe[5:9]):.0%}",
            "50% by chance",
        ),
    ]
    for name in ("formality", "tense", "topic"):
        own = found[name]
        wanted = "cosine with sentiment within 0.2" if name == "formality" else ""
        reached = f"{own['shift']:.2f}" + (f", cosine {own['cosine_with_sentiment']:.2f}" if wanted else "")
        table.append((f"{name}, the same measure", wanted, reached, f"{own['random']:.2f}: strongest of 100 random"))
    layer, head = found["head"]
    others = sorted(x for row in found["head_map"] for x in row)
    return [
        *table,
        (
            f"without head {head} of layer {layer}: what is left of the indirect-object logit difference; capitals",
            "half, 90%",
            f"{found['head_difference_left']:.0%}, {found['head_capitals_left']:.0%}",
            f"next strongest head leaves {others[1]:.0%}, the median head {others[len(others) // 2]:.0%}",
        ),
        ("median residual norm, last layer over first", "at most 30", f"{found['norm_growth']:.1f}", ""),
    ]


def markdown(found: dict[str, Any]) -> str:
    """The table."""
    head = ["| ability | wanted | reached | control |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows(found))])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--write", type=Path, help="replace the table between the marks of this page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = markdown(report(Subject(options.folder)))
    print(table)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        options.write.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
