"""What ``steer eval`` and ``steer sweep`` have in common: what is measured, on what, and beside which controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .arguments import own
from .failures import InputError
from .inputs import read_lines, read_prompts
from .session import Run

if TYPE_CHECKING:
    from ..evaluation import Target


def _target(*names: str, **more: Any) -> Any:
    return own(*names, rich_help_panel="Target", **more)


def data(*names: str, **more: Any) -> Any:
    """An option about what is measured on."""
    return own(*names, rich_help_panel="Data", **more)


Positive = Annotated[
    list[str] | None,
    _target("--positive", metavar="TEXT", help='A continuation that is wanted, such as " great"; repeat for more.'),
]
Negative = Annotated[
    list[str] | None, _target("--negative", metavar="TEXT", help="A continuation that is not; with --positive.")
]
Choices = Annotated[
    Path | None,
    _target(
        "--choices",
        metavar="FILE",
        help="Multiple-choice questions: JSON lines with question, answer_matching_behavior and "
        "answer_not_matching_behavior.",
    ),
]
Regex = Annotated[
    str | None, _target("--regex", metavar="PATTERN", help="The share of generated texts in which this is found.")
]
Probe = Annotated[
    Path | None,
    _target(
        "--probe",
        metavar="FILE",
        help="What a saved probe of two classes reads at the last token; see steer probe -o.",
    ),
]
ProbeLayer = Annotated[
    int | None,
    _target(
        "--probe-layer",
        metavar="N",
        help="Where it reads. Steering moves what is read at its own layer by construction: read later.",
        show_default="its best",
    ),
]
Instruction = Annotated[
    str | None,
    _target(
        "--instruction",
        metavar="TEXT",
        help="Asks for the same in words, to compare steering with.",
        show_default="made from the target",
    ),
]
Prompts = Annotated[
    Path | None,
    data("--prompts", metavar="FILE", help="One prompt a line, or JSON lines with prompt and source."),
]
Neutral = Annotated[
    Path | None,
    data(
        "--neutral",
        metavar="FILE",
        help="Texts on which nothing should change, one a line.",
        show_default="packaged",
    ),
]
Random = Annotated[int, own("--random", metavar="N", min=0, help="Random directions of the control.")]
MaxKl = Annotated[float, own("--max-kl", metavar="X", help="The KL budget, nats per affected token.")]


class Asked:
    """A target as the command line names it, checked before anything is loaded.

    Attributes:
        given: the option that names it, or None.
        prompts, sources: what it is measured after; None for a target that brings its own.

    Raises:
        InputError: two targets, half a one, or prompts where there should be none, or none where there should.
    """

    def __init__(
        self, run: Run, positive: list[str] | None, negative: list[str] | None, choices: Path | None, regex: str | None,
        probe: Path | None, probe_layer: int | None, instruction: str | None, prompts: Path | None,
    ) -> None:  # fmt: skip
        if bool(positive) != bool(negative):
            raise InputError("--positive and --negative go together", fix="give at least one of each")
        named = (("--positive", positive), ("--choices", choices), ("--regex", regex), ("--probe", probe))
        given = [name for name, value in named if value]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are two targets", fix="give one, and run it again for the other")
        if given and choices is None and prompts is None:
            raise InputError(f"{given[0]} is measured on prompts", fix="add --prompts FILE, one prompt a line")
        if choices is not None and prompts is not None:
            raise InputError("--choices brings its own questions", fix="leave --prompts out")
        if probe_layer is not None and probe is None:
            raise InputError("--probe-layer says where a probe reads", fix="add --probe FILE")
        self.given = given[0] if given else None
        self._sides = (positive or [], negative or [])
        self._choices, self._regex, self._instruction, self._seed = choices, regex, instruction, run.seed
        self._probe, self._probe_layer = probe, probe_layer
        self.prompts: list[Any] | None = None
        self.sources: list[str] | None = None
        if prompts is not None:
            self.prompts, self.sources = read_prompts(prompts)
        run.inputs += [path for path in (prompts, choices, probe) if path is not None]

    def required(self) -> Target:
        """The target; InputError if none is named."""
        target = self.target()
        if target is None:
            raise InputError(
                "no target given", fix="--positive TEXT and --negative TEXT, such as ' great' and ' awful'"
            )
        return target

    def target(self) -> Target | None:
        """The target, or None if none is named.

        Raises:
            DataError, FileFormatError: a file that does not hold what it should.
        """
        from ..evaluation import ActivationTarget, RegexRate, contrast, multiple_choice

        if self._choices is not None:
            return multiple_choice(self._choices, instruction=self._instruction)
        if self._regex is not None:
            return RegexRate(self._regex, instruction=self._instruction, seed=self._seed)
        if self._probe is not None:
            from ..probe import LinearProbe

            reader = LinearProbe.load(self._probe)
            return ActivationTarget(reader, layer=self._probe_layer, instruction=self._instruction)
        return contrast(*self._sides, instruction=self._instruction) if self.given else None


def neutral_texts(run: Run, neutral: Path | None) -> list[str] | None:
    """The neutral texts given; None for the packaged ones."""
    if neutral is None:
        return None
    run.inputs.append(neutral)
    return read_lines(neutral)


__all__ = [
    "Asked", "Choices", "Instruction", "MaxKl", "Negative", "Neutral", "Positive", "Probe", "ProbeLayer", "Prompts",
    "Random", "Regex", "neutral_texts",
]  # fmt: skip
