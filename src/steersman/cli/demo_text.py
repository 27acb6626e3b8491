"""What ``steer demo`` says."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from .console import WIDEST, escape, fancy, figures, plural, show

if TYPE_CHECKING:
    from ..demo.choosing import Choice
    from ..demo.means import Mean
    from ..demo.movement import Movement
    from ..demo.tour import Tour

_BAR = 36


def what_next(found: Tour) -> list[tuple[str, str]]:
    """Commands that work as they stand, and what for."""
    return [
        (
            f'steer generate demo "The weather today is" -v happy:{found.choice.strength:g}@{found.layer} --compare',
            "a prompt of yours",
        ),
        ("steer chat demo -v formal:1", "talk to it; try /strength -1"),
        ("steer extract demo --pairs formal -o formal.safetensors", "a direction of your own"),
        ("steer doctor demo", "what a model is checked for"),
    ]


def render(out: Any, found: Tour) -> None:
    """Print the tour on a rich console."""
    example = found.movement.example
    size = f"{found.parameters / 1e6:.1f}M parameters, {found.layers} layers"
    out.print(f"[bold]Steersman[/] on its embedded model: {size}, trained on synthetic English")
    _heading(out, 1, "A direction", "does the model still know the mood of the sentence before?")
    _separation(out, found)
    _heading(out, 2, "Which layer, how strong", "a sweep: what it does to the next word, and what it breaks")
    _choice(out, found.choice)
    _heading(out, 3, "Steering", f"add it at layer {found.layer} while the model writes")
    _continuations(out, found)
    _heading(out, 4, "Its effect, and the control", "P(positive words) - P(negative words) at the next token")
    _effects(out, found)
    _heading(out, 5, "Information moves", f"{escape(example.prompt)} ... {example.own}")
    _movement(out, found.movement)
    _heading(out, 6, "Next", "")
    commands = what_next(found)
    width = max(len(command) for command, _ in commands)
    for command, why in commands:
        out.print(f"  [cyan]{escape(command):<{width}}[/]  [dim]{why}[/]", soft_wrap=True)


def _heading(out: Any, number: int, title: str, text: str) -> None:
    out.print()
    out.print(f"[bold]{number}  {title}[/]" + (f"  [dim]{text}[/]" if text else ""))
    out.print()


# -- separation -----------------------------------------------------------------------------------------------------


def _separation(out: Any, found: Tour) -> None:
    positive, negative = (escape(text) for text in found.sample)
    half = found.examples // 2
    out.print(f"  The mean of {half} differences, read at the last word, which is the same on both sides:")
    out.print(f'  "{positive}" - "{negative}"')
    out.print()
    table = figures(
        "layer",
        f"held-out accuracy ({_marks(out)[2]} shuffled labels)",
        "",
        "95%",
        "shuffled",
        "AUROC",
        left=2,
        indent=2,
    )
    for row in found.separation:
        told = row.low > row.shuffled
        table.add_row(
            f"  {row.layer:>2}",
            _bar(out, row.accuracy, row.shuffled, told),
            f"{row.accuracy:.2f}",
            f"{row.low:.2f}-{row.high:.2f}",
            f"{row.shuffled:.2f}",
            f"{row.auroc:.3f}",
        )
    show(out, table)
    _caption(
        out,
        f"n = {found.examples} texts in folds by sentence frame. "
        "Many layers know it; where to steer is another matter.",
    )


def _marks(out: Any) -> tuple[str, str, str]:
    """Filled, empty and control."""
    return ("━", "─", "┃") if fancy(out) else ("=", ".", "|")


def _bar(out: Any, value: float, control: float, told: bool) -> str:
    full, empty, mark = _marks(out)
    filled, at = round(value * _BAR), min(round(control * _BAR), _BAR - 1)
    colour = "cyan" if told else "blue"
    cells = [f"[{colour}]{full}[/]" if i < filled else f"[dim]{empty}[/]" for i in range(_BAR)]
    cells[at] = f"[magenta]{mark}[/]"
    return "".join(cells)


# -- choosing -------------------------------------------------------------------------------------------------------


def _choice(out: Any, found: Choice) -> None:
    table = figures("layer", "strength", "effect", "95%", "random 95%", "p", "KL", "", left=1, indent=2)
    for cell in found.cells:
        chosen = cell.layer == found.layer
        mark = "chosen" if chosen else "" if cell.within else "over the budget"
        table.add_row(
            f"  {cell.layer:>2}",
            f"{cell.strength:+g}",
            _signed(cell.effect.value),
            f"{_signed(cell.effect.low)} to {_signed(cell.effect.high)}",
            f"{_signed(cell.random_low)} to {_signed(cell.random_high)}",
            f"{cell.p_value:.3f}",
            f"{cell.kl:.3f}",
            mark,
            style="bold" if chosen else None,
        )
    show(out, table)
    strengths = ", ".join(f"{strength:g}" for strength in found.strengths)
    asked = found.in_words
    _caption(
        out, f"Of strengths {strengths} the one that does most within {found.max_kl:g} nats of KL per neutral token."
    )
    _caption(
        out,
        f"n = {found.prompts} prompts; random: {found.random} directions of the same length; p for the best of "
        f"{len(found.cells)} layers, >= {1 / (1 + found.random):.3f}.",
    )
    _caption(
        out,
        f"Layer {found.layer} at {found.strength:+g}: {found.held_out:+.2f} on the {found.held_out_prompts} prompts "
        f"kept from the choice. Asking in words instead: {asked.value:+.2f}.",
    )
    _caption(out, f"Left out of a whole sweep: {', '.join(found.left_out)}.")


# -- steering -------------------------------------------------------------------------------------------------------


def _continuations(out: Any, found: Tour) -> None:
    from rich.table import Table

    strengths = list(found.continuations[0].texts)
    prompt = 2 + max(len(row.prompt) for row in found.continuations)
    text = (WIDEST - prompt - 2 - len(strengths) * 9) // len(strengths)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("  prompt", width=prompt)
    for strength in strengths:
        table.add_column("", width=5, style="dim", justify="right")
        table.add_column(f"{strength:+g}" if strength else "0: unsteered", width=text, style=_colour(strength))
    for row in found.continuations:
        cells = [cell for s in strengths for cell in (f"{row.balance[s]:+.2f}", escape(_ended(row.texts[s])))]
        table.add_row(f"  {escape(row.prompt)}", *cells)
    show(out, table)
    _caption(out, "Before each text: P(positive words) - P(negative words) at its first token.")


def _colour(strength: float) -> str:
    return "magenta" if strength < 0 else "cyan" if strength > 0 else "default"


def _ended(text: str) -> str:
    """A text up to its first sentence's end, which is enough to see its mood."""
    text = " ".join(text.split())
    ends = [text.find(mark) for mark in ".!?" if mark in text]
    return text[: min(ends) + 1] if ends else text + " ..."


def _effects(out: Any, found: Tour) -> None:
    own, three = found.directions
    strengths = list(own.effect.balance)
    steps = [f"{s:+g}" if s else "0" for s in strengths]
    table = figures("  direction", *steps, "shift", "95%", "random: mean", "strongest", "p")
    for direction in found.directions:
        effect = direction.effect
        table.add_row(
            f"  {direction.name}, {plural(direction.pairs, 'pair')}" if direction is own else f"  {direction.name}",
            *(f"{effect.balance[s].value:+.2f}" for s in strengths),
            f"[bold]{effect.shift.value:+.2f}[/]",
            f"{effect.shift.low:+.2f} to {effect.shift.high:+.2f}",
            f"{effect.typical:.2f}",
            f"{effect.strongest:.2f}",
            f"{effect.p_value:.3f}",
        )
    show(out, table)
    control = len(own.effect.random)
    _caption(
        out,
        f"Means over n = {own.effect.shift.n} prompts; random: {control} directions of the same length, same layer; "
        f"p >= {1 / (1 + control):.3f}.",
    )
    _caption(
        out,
        f'Three pairs: "I love this! It\'s fantastic" and so on; its cosine with the first direction is '
        f"{three.cosine:.2f}.",
    )


def _caption(out: Any, text: str) -> None:
    for line in wrap(text, WIDEST - 2):
        out.print(f"  [dim]{line}[/]")


def _signed(value: float) -> str:
    """Two decimals, and no minus before zero."""
    return f"{round(value, 2) + 0.0:+.2f}"


# -- movement -------------------------------------------------------------------------------------------------------


def _movement(out: Any, found: Movement) -> None:
    example = found.example
    best = max(range(len(example.subject)), key=lambda layer: example.subject[layer])
    out.print(
        f"  Give the country's token, at layer {best}, the residual it has in {escape(example.source)!r}:\n"
        f"  P({example.answer}) goes from {example.before:.2f} to [bold]{example.subject[best]:.2f}[/]. "
        f"By layer, over {found.own.n} pairs of countries:"
    )
    out.print()
    table = figures("  exchanged at", *(str(layer) for layer in range(len(found.subject))))
    rows = (("the country", found.subject), ("the last token", found.last), ("control: a third one's", found.control))
    for name, means in rows:
        table.add_row(f"  {name}", *(_shade(mean) for mean in means))
    show(out, table)
    widest = max((mean.high - mean.low) / 2 for _, row in rows for mean in row)
    _caption(
        out,
        f"P(the other country's capital), {found.other.value:.2f} untouched; n = {found.own.n}, "
        f"95% within {widest:.2f} either way.",
    )
    story = _story(found.subject, found.last)
    if story:
        _caption(out, story)


def _shade(mean: Mean) -> str:
    text = f"{mean.value:.2f}".removeprefix("0") if mean.value < 0.995 else "1.0"
    return f"[bold cyan]{text}[/]" if mean.value >= 0.5 else f"[dim]{text}[/]"


def _story(subject: Sequence[Mean], last: Sequence[Mean]) -> str:
    """In one sentence what the two rows say, if they say it."""
    early = [layer for layer, mean in enumerate(subject) if mean.value >= 0.5]
    late = [layer for layer, mean in enumerate(last) if mean.value >= 0.5]
    if not early or not late or max(early) >= len(subject) - 1:
        return ""
    return f"Up to layer {max(early)} the country's own token decides, from layer {min(late)} on the last one."
