"""The table of abilities of the embedded model, measured now; of several seeds of its recipe, side by side.

python -m tools.model.card [--write docs/model.md]
python -m tools.model.card --folders candidates/seed0 candidates/seed1 --names "seed 0" "seed 1" --write docs/model.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tools.model.abilities import fresh
from tools.model.abilities.report import report
from tools.model.abilities.subject import Subject

SHIPPED = Path(__file__).parents[2] / "src" / "steersman" / "demo" / "model"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
FRESH_BEGIN, FRESH_END = "<!-- fresh: begin -->", "<!-- fresh: end -->"
Found = dict[str, Any]
#: ability, wanted, and a cell for one model
Row = tuple[str, str, Callable[[Found], str]]


def measure(folder: Path, randoms: int = 100) -> Found:
    """Everything, of one model folder; `fresh` holds what is measured on `tools/model/fresh`."""
    subject = Subject(folder)
    found: Found = report(subject, randoms)
    return found | {"fresh": fresh.report(subject, found["layer"], found["head"], randoms)}


def share(name: str) -> Callable[[Found], str]:
    """A cell with a share."""
    return lambda found: f"{found[name]:.1%}"


def sentiment(found: Found) -> str:
    """The sentiment vector's effect, and the strongest of the random directions."""
    shift, control = found["sentiment_shift"], found["sentiment_random"]
    return f"{shift:.2f} at layer {found['layer']}; control {control:.2f}, so {shift / control:.1f} times"


def attribute(name: str) -> Callable[[Found], str]:
    """The same for another attribute."""

    def cell(found: Found) -> str:
        own = found[name]
        cosine = f"; cosine {own['cosine_with_sentiment']:.2f}" if name == "formality" else ""
        return f"{own['shift']:.2f}; control {own['random']:.2f}{cosine}"

    return cell


def head(found: Found) -> str:
    """The head that the indirect object needs most, beside its peers."""
    (layer, index), others = found["head"], sorted(x for row in found["head_map"] for x in row)
    return (
        f"head {index} of layer {layer}: {found['head_difference_left']:.0%}, {found['head_capitals_left']:.0%}; next "
        f"strongest head {others[1]:.0%}, median {others[len(others) // 2]:.0%}"
    )


ROWS: tuple[Row, ...] = (
    ("capitals, in sentence frames never seen", "95%", share("capitals")),
    ("capitals by two steps, frames never seen", "", share("capitals_two_hop")),
    ("indirect objects, frames and names never seen there", "95%", share("indirect_object")),
    ("agreement over an attractor, likewise", "95%", share("agreement")),
    ("copying lists, likewise", "95%", share("copying")),
    (
        "sentiment from three pairs: change of P(positive) - P(negative) from -2 to +2",
        "0.5, and 3 times the control",
        sentiment,
    ),
    (
        "its logit lens: positive among the 20 most boosted, negative among the 20 most suppressed",
        "8, 8",
        lambda found: f"{found['lens'][0]}, {found['lens'][1]}",
    ),
    (
        "patching the country's own token flips the capital: early layer, late layer",
        "90%, at most 10%",
        lambda found: f"{max(found['flips']['country'][:4]):.0%}, {found['flips']['country'][-1]:.0%}",
    ),
    (
        "patching the last token does: early layer, late layer",
        "at most 10%, 90%",
        lambda found: f"{found['flips']['last'][0]:.0%}, {max(found['flips']['last'][-4:]):.0%}",
    ),
    (
        "a probe for the mood of the sentence before: at the embeddings, in the middle (chance 50%)",
        "at most 65%, 95%",
        lambda found: f"{found['mood_probe'][0]:.0%}, {max(found['mood_probe'][5:9]):.0%}",
    ),
    ("formality, the same measure as sentiment", "cosine with sentiment within 0.2", attribute("formality")),
    ("tense, likewise", "", attribute("tense")),
    ("topic, likewise", "", attribute("topic")),
    ("without one head: what is left of the indirect-object logit difference; capitals", "half, 90%", head),
    (
        "median residual norm, last layer over first",
        "at most 30",
        lambda found: f"{found['norm_growth']:.1f}",
    ),
)


def interval(name: str) -> Callable[[Found], str]:
    """A share of `fresh` with its 95% interval."""

    def cell(found: Found) -> str:
        value, low, high, _ = found["fresh"][name]
        return f"{value:.1%} ({low:.1%} to {high:.1%})"

    return cell


FRESH_ROWS: tuple[Row, ...] = (
    ("capitals (n = 828)", "", interval("capitals")),
    ("indirect objects, names of the corpus's stories (n = 300)", "", interval("indirect_object_known_words")),
    ("agreement over an attractor, nouns of the corpus (n = 300)", "", interval("agreement_known_words")),
    ("copying lists of words the corpus lists (n = 393 words)", "", interval("copying_known_words")),
    ("indirect objects, names that occur nowhere in the corpus", "", interval("indirect_object_fresh_words")),
    ("agreement, nouns that occur nowhere in the corpus (chance 50%)", "", interval("agreement_fresh_words")),
    ("copying words that occur nowhere in the corpus", "", interval("copying_fresh_words")),
    (
        "patching the country's own token: early layer, late layer",
        "",
        lambda found: (
            f"{max(found['fresh']['flips']['country'][:4]):.0%}, {found['fresh']['flips']['country'][-1]:.0%}"
        ),
    ),
    (
        "patching the last token: early layer, late layer",
        "",
        lambda found: f"{found['fresh']['flips']['last'][0]:.0%}, {max(found['fresh']['flips']['last'][-4:]):.0%}",
    ),
    (
        "sentiment, twelve new prompts and 100 other random directions",
        "",
        lambda found: sentiment(found | found["fresh"]),
    ),
    (
        "without the same head: indirect-object logit difference left; capitals",
        "",
        lambda found: f"{found['fresh']['head_difference_left']:.0%}, {found['fresh']['head_capitals_left']:.0%}",
    ),
)


def markdown(rows: Sequence[Row], models: dict[str, Found]) -> str:
    """A table with a column for each model; the column of what was wanted only where something was."""
    wanted = any(want for _, want, _ in rows)
    head = ["ability", *(["wanted"] if wanted else []), *models]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for ability, want, cell in rows:
        cells = [ability, *([want] if wanted else []), *(cell(found) for found in models.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between(page: str, begin: str, end: str, table: str) -> str:
    """A page with what stands between two marks replaced."""
    before, after = page.split(begin)[0], page.split(end)[1]
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folders", type=Path, nargs="+", default=[SHIPPED], help="model folders, or saved .json figures"
    )
    parser.add_argument("--names", nargs="+", help="the columns' names; by default the folders'")
    parser.add_argument("--save", type=Path, help="save the figures of every folder in this one, to be read again")
    parser.add_argument("--write", type=Path, help="replace the tables between the marks of this page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.names or (["reached"] if options.folders == [SHIPPED] else [path.stem for path in options.folders])
    if len(names) != len(options.folders):
        parser.error("--names needs one for each of --folders")
    models: dict[str, Found] = {}
    for name, path in zip(names, options.folders, strict=True):
        models[name] = json.loads(path.read_text()) if path.suffix == ".json" else measure(path)
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            (options.save / f"{name}.json").write_text(json.dumps(models[name], indent=1) + "\n")
    tables = markdown(ROWS, models), markdown(FRESH_ROWS, models)
    print("\n\n".join(tables))
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        page = between(page, BEGIN, END, tables[0])
        options.write.write_text(between(page, FRESH_BEGIN, FRESH_END, tables[1]), encoding="utf-8")


if __name__ == "__main__":
    main()
