"""``steer chat``: a conversation whose steering can be turned while it goes on."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import PromptError, SteersmanError
from .arguments import Model
from .console import escape
from .failures import InputError, explain
from .generate import describe, sampling
from .session import Run

if TYPE_CHECKING:
    from ..model import SteeringModel
    from ..plan import Plan

HELP = """\
/strength X    set the strength of every vector (/strength NAME X: of one)
/layer L       act at layer L, or several: 4-8, or 3,5 (/layer NAME L: for one vector)
/off  /on      stop steering, start again
/compare       answer the last message again, unsteered and steered
/save FILE     save the plan as it is now (.safetensors)
/plan          show it
/reset         forget the conversation
/help  /quit"""


def chat(
    run: Run,
    model: Model,
    system: Annotated[
        str | None, typer.Option("--system", show_envvar=False, metavar="TEXT", help="A system message.")
    ] = None,
) -> None:
    """Talk to a steered model; /help lists what can be changed on the way.

    Reads messages from stdin, one a line, so a pipe works too.
    """
    if run.dry_run:
        _plan(run, model)
        return
    loaded = run.load(model)
    from .vectors import assemble, parts

    document, entries = parts(run, loaded)
    fixed = assemble(run, {"interventions": []}, {})
    talk = Talk(run, loaded, fixed, document["interventions"], entries, sampling(run), system)
    talk.plan.actions(loaded.shape)
    talk.begin()
    for line in _lines(run):
        if not talk.hear(line):
            break
    if run.json_:
        from ..model.provenance import describe as describe_model

        run.emit("steersman.chat/1", {"model": describe_model(loaded), "turns": talk.turns, "plan": talk.plan.spec()})


def _lines(run: Run) -> Any:
    """Lines of stdin; a terminal is shown a prompt on stderr."""
    terminal = sys.stdin.isatty()
    while True:
        if terminal:
            run.err.print("[bold cyan]> [/]", end="")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


@dataclass
class Talk:
    """A conversation and the plan it is held under.

    Attributes:
        fixed: the saved plan, which the commands leave as it is.
        items: the interventions of the vectors, as specs; the commands change these.
        entries: the vectors by name.
        messages: the conversation so far.
        turns: what was said and under which plan, for ``--json``.
    """

    run: Run
    model: SteeringModel
    fixed: Plan
    items: list[dict[str, Any]]
    entries: dict[str, Any]
    settings: dict[str, Any]
    system: str | None = None
    on: bool = True
    messages: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    turns: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def plan(self) -> Plan:
        """What acts now."""
        from ..plan import Plan

        return self.fixed + Plan.from_spec({"interventions": self.items}, self.entries) if self.on else Plan()

    @property
    def templated(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.model.tokenizer, "chat_template", None))

    def begin(self) -> None:
        """Say what is there."""
        self.run.note(f"{self.model.shape.name}, {describe(self.plan)}; /help for commands, /quit to end")
        if not self.templated:
            self.run.note(
                "this tokenizer has no chat template: each line is continued as plain text, nothing is remembered"
            )
            if self.system is not None:
                raise InputError(
                    "--system needs a chat template, and this tokenizer has none", fix="leave --system out"
                )

    def hear(self, line: str) -> bool:
        """Act on one line; False ends the conversation."""
        if not line.startswith("/"):
            self._answer(line)
            return True
        name, *arguments = line[1:].split()
        if name in ("quit", "exit", "q"):
            return False
        action = getattr(self, f"_do_{name}", None) if name.isidentifier() else None
        if action is None:
            self.run.note(f"unknown command /{name}; /help lists them")
            return True
        try:
            action(*arguments)
        except TypeError:
            self.run.note(f"/{name} does not take {' '.join(arguments) or 'nothing'}; see /help")
        except (SteersmanError, OSError, ValueError) as error:
            self.run.note(f"not done: {explain(error)[0]}")
        return True

    # -- commands -------------------------------------------------------------------------------------------------

    def _do_help(self) -> None:
        self.run.err.print(HELP, markup=False)

    def _do_plan(self) -> None:
        self.run.note(describe(self.plan))

    def _do_on(self) -> None:
        self.on = True
        self._do_plan()

    def _do_off(self) -> None:
        self.on = False
        self.run.note("steering is off")

    def _do_reset(self) -> None:
        self.messages.clear()
        self.run.note("the conversation is forgotten")

    def _do_strength(self, first: str, second: str | None = None) -> None:
        name, value = (None, first) if second is None else (first, second)
        self._change(name, "strength", float(value))

    def _do_layer(self, first: str, second: str | None = None) -> None:
        from .. import spec

        name, value = (None, first) if second is None else (first, second)
        layers = spec.parse_token(f"x@{value}").get("layers")
        if layers is None:
            raise PromptError(f"{value!r} is neither a layer, a range such as 4-8, nor a list such as 3,5")
        self._change(name, "layers", layers)

    def _do_save(self, file: str) -> None:
        if not self.plan:
            raise PromptError("there is no plan to save; /on turns it on")
        self.plan.save(Path(file).expanduser())
        self.run.record(Path(file).expanduser(), details={"plan": self.plan.spec()})
        self.run.note(f"saved {file}")

    def _do_compare(self) -> None:
        asked = next((turn["user"] for turn in reversed(self.turns)), None)
        if asked is None:
            raise PromptError("say something first")
        prompt = self._prompt(self.messages[:-2], asked) if self.templated else asked
        plan, on = self.plan, self.on
        self.on = True
        plan, self.on = self.plan, on
        plain = self.model.generate(prompt, **self.settings).strip()
        steered = self.model.generate(prompt, steer=plan, **self.settings).strip()
        self.turns.append({"user": asked, "compare": {"unsteered": plain, "steered": steered}, "plan": describe(plan)})
        if not self.run.json_:
            self.run.out.print(f"[dim]unsteered[/]  {escape(plain)}")
            self.run.out.print(f"[dim]steered[/]    [cyan]{escape(steered)}[/]")

    def _change(self, name: str | None, key: str, value: Any) -> None:
        """Change one entry of the specs, if the plan that results fits the model."""
        wanted = [item for item in self.items if name in (None, item["vector"])]
        if not wanted:
            there = ", ".join(item["vector"] for item in self.items) or "none"
            raise PromptError(f"no vector named {name}; there are: {there}" if name else "there is no vector to change")
        before = [dict(item) for item in self.items]
        for item in wanted:
            item[key] = value
        try:
            self.plan.actions(self.model.shape)
        except SteersmanError:
            self.items[:] = before
            raise
        self._do_plan()

    # -- answering ------------------------------------------------------------------------------------------------

    def _prompt(self, history: list[dict[str, str]], text: str) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return [*system, *history, {"role": "user", "content": text}]

    def _answer(self, text: str) -> None:
        answer = ""
        try:
            for piece in self._pieces(text):
                answer += piece
                if not self.run.json_:
                    self.run.out.file.write(piece)
                    self.run.out.file.flush()
        except KeyboardInterrupt:
            self.run.note("\nstopped")
        except SteersmanError as error:
            self.run.note(f"no answer: {explain(error)[0]}")
            return
        if not self.run.json_:
            self.run.out.file.write("\n")
            self.run.out.file.flush()
        self.turns.append({"user": text, "assistant": answer.strip(), "plan": describe(self.plan)})
        if self.templated:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer.strip()}]

    def _pieces(self, text: str) -> Any:
        """The answer as it comes; the oldest turns are forgotten when the conversation no longer fits."""
        if not self.templated:
            return self.model.stream(text, steer=self.plan, **self.settings)
        while True:
            prompt = self._prompt(self.messages, text)
            try:
                self.model.check_length([self.model.tokens.encode(prompt)], self.settings["max_new_tokens"])
            except PromptError:
                if not self.messages:
                    raise
                del self.messages[:2]
                self.run.note("the conversation is longer than the model's context: its oldest turn is forgotten")
            else:
                return self.model.stream(prompt, steer=self.plan, **self.settings)


def _plan(run: Run, model: str) -> None:
    from .dryrun import cache_bytes, show_plan
    from .models import max_positions, outline
    from .vectors import sketch_plan

    found = outline(model, device=run.device, dtype=run.dtype)
    plan, packaged = sketch_plan(run, found.shape)
    context = max_positions(found.hf) or 2048
    text = describe(plan) if plan is not None else f"{', '.join(packaged)}, extracted first from packaged pairs"
    lines = [("plan", text), ("context", f"{context} tokens; an answer has at most {run.sampling['max_new_tokens']}")]
    document = {"plan": plan.spec() if plan is not None else None, "packaged": packaged, "context": context}
    show_plan(run, found, lines, document, extra_bytes=cache_bytes(found, 1, context))
