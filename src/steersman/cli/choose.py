"""``steer choose``: when to steer, what to ablate, which of several ways, over which layers; plans with evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import choose_text as say
from .arguments import AutoLayers, Chart, Layers, Model, checked_file, layers_of, own
from .failures import InputError
from .inputs import read_prompts
from .session import Run, records
from .target_options import (
    Asked,
    Instruction,
    MaxKl,
    Negative,
    Neutral,
    Positive,
    Probe,
    ProbeLayer,
    Prompts,
    Random,
    Regex,
    data,
    neutral_texts,
)

if TYPE_CHECKING:
    from ..evaluation import Target
    from ..plan import Plan

With = Annotated[
    Path, data("--with", metavar="FILE", help="Prompts that show it: one a line, or JSON lines with prompt and source.")
]
Without = Annotated[Path, data("--without", metavar="FILE", help="Prompts that do not.")]
Down = Annotated[bool, own("--down", metavar="", help="The target should fall.")]
Output = Annotated[
    Path | None, own("--output", "-o", metavar="FILE", help="Where to save the plan with its evidence (.safetensors).")
]


def condition(
    run: Run,
    model: Model,
    shown: With,
    absent: Without,
    along: Annotated[
        str, own("--along", metavar="VECTOR", help="The direction that prompts are read along, as -v names one.")
    ],
    layers: Layers = "all",
    measure: Annotated[str, own("--measure", metavar="NAME", help="cosine or projection.")] = "cosine",
    neutral: Neutral = None,
    random: Random = 100,
    output: Output = None,
) -> None:
    """Find the layer and threshold that tell some prompts from others, by F1 (conditional steering).

    What -v and --plan say is saved with -o, acting on such prompts only.
    """
    target = checked_file(output, ".safetensors", "plans are saved in")
    steered = bool(run.steering["vector"] or run.steering["plan"])
    if target is not None and not steered:
        raise InputError("-o saves a plan, and there is none", fix="add -v NAME:STRENGTH@LAYER: what is done to them")
    sides, sources = _sides(run, shown, absent)
    options: dict[str, Any] = {
        "layers": layers_of(layers), "measure": measure, "random": random, "neutral": neutral_texts(run, neutral),
        "positive_sources": sources[0], "negative_sources": sources[1], "seed": run.seed,
    }  # fmt: skip
    if run.dry_run:
        say.plan(run, model, [*sides[0], *sides[1]], ("directions", f"{along}, and {random} random ones"), target)
        return
    loaded = run.load(model)
    from ..choosing import choose_condition
    from ..plan import Plan
    from .vectors import find, make_plan

    plan = make_plan(run, loaded) if steered else None
    with run.working("reading prompts"):
        found = choose_condition(loaded, find(run, along, loaded), *sides, **options)
    made = None
    if plan is not None:
        items: list[Any] = list(plan)
        made = Plan([replace(item, when=found.when) for item in items], found.evidence())
        made.actions(loaded.shape)
    _deliver(run, "condition", found.frame(), found.evidence(), made, target)
    say.condition(run, found, made, target)


def ablation(
    run: Run,
    model: Model,
    shown: With,
    absent: Without,
    positive: Positive = None,
    negative: Negative = None,
    regex: Regex = None,
    probe: Probe = None,
    probe_layer: ProbeLayer = None,
    layers: Layers = "all",
    position: Annotated[
        list[int] | None,
        own("--position", metavar="N", help="A token to read, from the end, such as -1; repeat for more.",
            show_default="those that all prompts end with"),
    ] = None,
    deepest: Annotated[float, own("--deepest", metavar="X", help="The part of the depth to look in.")] = 0.8,
    max_kl: MaxKl = 0.1,
    neutral: Neutral = None,
    random: Random = 100,
    output: Output = None,
) -> None:  # fmt: skip
    """Find the direction whose ablation takes a behaviour away, by three scores (as for refusal).

    With --positive alone its words are weighed against all others; above 0 the behaviour is the likelier.
    """
    path = checked_file(output, ".safetensors", "plans are saved in")
    target = _behaviour(run, positive, negative, regex, probe, probe_layer, shown)
    sides, sources = _sides(run, shown, absent)
    options: dict[str, Any] = {
        "target": target, "layers": layers_of(layers), "positions": position, "max_kl": max_kl, "deepest": deepest,
        "neutral": neutral_texts(run, neutral), "random": random, "seed": run.seed,
        "positive_sources": sources[0], "negative_sources": sources[1],
    }  # fmt: skip
    if run.dry_run:
        say.plan(run, model, [*sides[0], *sides[1]], ("target", target.kind), path)
        return
    loaded = run.load(model)
    from ..choosing import choose_ablation

    with run.working("scoring directions"):
        found = choose_ablation(loaded, *sides, **options)
    _deliver(run, "ablation", found.frame(), dict(found.plan.evidence or {}), found.plan, path)
    say.ablation(run, found, path)


def compare(
    run: Run,
    model: Model,
    way: Annotated[
        list[str] | None,
        own("--way", metavar="NAME=FILE", help="A saved plan that takes part, and what to call it; repeat for more."),
    ] = None,
    positive: Positive = None,
    negative: Negative = None,
    regex: Regex = None,
    probe: Probe = None,
    probe_layer: ProbeLayer = None,
    instruction: Instruction = None,
    prompts: Prompts = None,
    neutral: Neutral = None,
    max_kl: MaxKl = 0.1,
    down: Down = False,
    random: Random = 100,
    chart: Chart = None,
    output: Output = None,
) -> None:
    """Compare vectors and plans at one KL budget: each -v and each --way is brought to the strength that spends it."""
    path, drawn = _outputs(output, chart)
    asked = Asked(run, positive, negative, None, regex, probe, probe_layer, instruction, prompts)
    options: dict[str, Any] = {
        "target": asked.required(), "prompts": asked.prompts, "sources": asked.sources, "max_kl": max_kl,
        "sign": -1 if down else 1, "neutral": neutral_texts(run, neutral), "random": random, "seed": run.seed,
    }  # fmt: skip
    named = _named_ways(run, way or [])
    if run.steering["plan"] is not None:
        raise InputError("--plan is one plan, and several are compared", fix="--way NAME=FILE, once for each")
    if run.dry_run:
        names = [*(run.steering["vector"] or []), *named]
        say.plan(run, model, asked.prompts or [], ("ways", ", ".join(names)), path)
        return
    loaded = run.load(model)
    from ..choosing import compare as side_by_side

    with run.working("measuring") as progress:
        found = side_by_side(loaded, {**_ways(run, loaded), **named}, progress=progress, **options)
    if drawn is not None:
        found.chart(drawn)
    plan = found.plan()
    _deliver(run, "compare", found.frame(), dict(plan.evidence or {}), plan, path, drawn)
    say.compare(run, found, path)


def layers_and_weights(
    run: Run,
    model: Model,
    positive: Positive = None,
    negative: Negative = None,
    instruction: Instruction = None,
    prompts: Prompts = None,
    neutral: Neutral = None,
    layers: AutoLayers = "auto",
    shape: Annotated[
        str, own("--shape", metavar="NAME", help="kernel: a tent over the depth; weights: one for each layer.")
    ] = "kernel",
    trials: Annotated[int, own("--trials", metavar="N", min=1, help="Weights tried, besides single layers.")] = 100,
    max_kl: MaxKl = 0.1,
    down: Down = False,
    random: Random = 39,
    chart: Chart = None,
    output: Output = None,
) -> None:
    """Search over which layers, and how much in each, one vector does most within a KL budget. Needs optuna."""
    from .vectors import only_vector

    path, drawn = _outputs(output, chart)
    asked = Asked(run, positive, negative, None, None, None, None, instruction, prompts)
    name = only_vector(run, "a search over layers")
    options: dict[str, Any] = {
        "target": asked.required(), "prompts": asked.prompts, "sources": asked.sources, "shape": shape,
        "layers": layers if layers == "auto" else layers_of(layers), "max_kl": max_kl, "sign": -1 if down else 1,
        "trials": trials, "random": random, "neutral": neutral_texts(run, neutral), "seed": run.seed,
        "operation": run.steering["operation"],
        **{key: run.steering[key] for key in ("angle", "unit", "positions") if run.steering[key] is not None},
    }  # fmt: skip
    if run.dry_run:
        say.plan(run, model, asked.prompts or [], ("tried", f"single layers, and {trials} sets of weights"), path)
        return
    loaded = run.load(model)
    from ..choosing import choose_layers
    from .vectors import find

    with run.working("searching") as progress:
        found = choose_layers(
            loaded, find(run, name, loaded), **options,
            progress=lambda what, done, of: progress(f"{what}: {done} of {of}"),
        )  # fmt: skip
    if drawn is not None:
        found.chart(drawn)
    plan = found.plan()
    _deliver(run, "layers", found.frame(), dict(plan.evidence or {}), plan, path, drawn)
    say.layers(run, found, path)


# -- what is given ----------------------------------------------------------------------------------------------------


def _sides(run: Run, shown: Path, absent: Path) -> tuple[list[list[Any]], list[list[str] | None]]:
    """The two sets of prompts, and where the prompts of each come from."""
    both = [read_prompts(path) for path in (shown, absent)]
    run.inputs += [shown, absent]
    return [prompts for prompts, _ in both], [sources for _, sources in both]


def _behaviour(
    run: Run, positive: list[str] | None, negative: list[str] | None, regex: str | None, probe: Path | None,
    probe_layer: int | None, shown: Path,
) -> Target:  # fmt: skip
    """How strong a behaviour is; words alone are weighed against all others."""
    if positive and not negative and not (regex or probe):
        from ..evaluation import log_odds

        return log_odds(positive)
    asked = Asked(run, positive, negative, None, regex, probe, probe_layer, None, shown)
    run.inputs.remove(shown)  # the sides name it
    return asked.required()


def _outputs(output: Path | None, chart: Path | None) -> tuple[Path | None, Path | None]:
    return (
        checked_file(output, ".safetensors", "plans are saved in"),
        checked_file(chart, ".svg", "figures are drawn in", "--chart"),
    )


def _named_ways(run: Run, given: list[str]) -> dict[str, Plan]:
    """The saved plans that take part."""
    from ..plan import Plan

    found: dict[str, Plan] = {}
    for item in given:
        name, mark, path = item.partition("=")
        if not mark or not name or not path:
            raise InputError(f"--way {item} names no plan", fix="write NAME=FILE, such as mine=plan.safetensors")
        if name in found:
            raise InputError(f"two ways are called {name!r}", fix="give each a name of its own")
        found[name] = Plan.load(path)
        run.inputs.append(Path(path))
    return found


def _ways(run: Run, model: Any) -> dict[str, Plan]:
    """Each ``-v`` as a plan of its own."""
    from .vectors import make_plan

    tokens = list(dict.fromkeys(run.steering["vector"] or []))
    found: dict[str, Plan] = {}
    for token, name in zip(tokens, _short(tokens), strict=True):
        run.steering["vector"] = [token]
        found[name] = make_plan(run, model)
    run.steering["vector"] = tokens
    return found


def _short(tokens: Sequence[str]) -> list[str]:
    """``-v`` tokens without folders and endings, as long as they differ."""
    from .. import spec

    named = [str(spec.parse_token(token)["vector"]) for token in tokens]
    short = [Path(name).stem + token[len(name) :] for token, name in zip(tokens, named, strict=True)]
    return short if len(set(short)) == len(short) else list(tokens)


# -- what comes out ---------------------------------------------------------------------------------------------------


def _deliver(
    run: Run, kind: str, frame: Any, evidence: dict[str, Any], plan: Plan | None, output: Path | None,
    chart: Path | None = None,
) -> None:  # fmt: skip
    """Save the plan, the record of the run beside it, and print the document if that is what is wanted."""
    if output is not None and plan is not None:
        plan.save(output)
    written = [path for path in (output, chart) if path is not None]
    for folder in dict.fromkeys(path.parent for path in written):
        run.record(*[path for path in written if path.parent == folder], details={"evidence": evidence})
    if run.json_:
        spec = None if plan is None else {"digest": plan.digest, **plan.spec()}
        document = {
            "rows": records(frame),
            "evidence": evidence,
            "plan": spec,
            "output": str(output) if output else None,
        }
        run.emit(f"steersman.choose-{kind}/1", document)


#: name -> function, in the order of the help
CHOOSE = {"condition": condition, "ablation": ablation, "compare": compare, "layers": layers_and_weights}
