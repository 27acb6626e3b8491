"""Which engine carries out which operation, at which site and positions: asked of the engines, not written down.

Every cell is the answer of the engine's own check, the one that refuses a plan before any work, on a GPT-2 of the
embedded model's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import torch

import steersman as sm
from steersman.engines.vllm.packing import pack
from steersman.engines.vllm.places import shape_from
from steersman.engines.weights.baking import check_bakeable
from steersman.errors import SteersmanError
from steersman.folding import fold
from steersman.model.hooks.program import Program
from steersman.nnsight.compiling import compiled

LAYER = 5
POSITIONS: tuple[Any, ...] = (
    "all", "prompt", "last", "generation", "last+generation", "prompt[1:3]", "generation[0:8]", sm.after("the"),
)  # fmt: skip
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")

Check = Callable[[sm.Plan], Any]
Make = Callable[..., Any]


def engines(model: sm.SteeringModel) -> dict[str, Check]:
    """Each engine's check: it raises what the engine would."""
    shape = model.architecture.shape
    layout: Any = SimpleNamespace(shape=shape)
    vllm = shape_from(model.hf.config, "gpt2")
    return {
        "hooks": lambda plan: Program([plan.actions(shape)]),
        "nnsight": lambda plan: compiled(plan, layout),
        "weights": lambda plan: check_bakeable(model.architecture, plan),
        "vllm": lambda plan: pack(plan.actions(vllm)),
        "gguf": lambda plan: fold(plan.interventions),
    }


def operations(model: sm.SteeringModel) -> dict[str, Make]:
    """Each operation, as a function of where and on which tokens."""
    vector = sm.demo.vector("happy", model)
    direction = vector[LAYER]
    acts = sm.activations(
        model, ["The movie was great", "The movie was bad", "It was great", "It was bad"], layers=LAYER
    )
    eraser = sm.fit_eraser(acts, [1, 0, 1, 0], shrinkage=True)
    reference = torch.stack([direction, -direction])
    here: dict[str, Any] = {"layers": LAYER}
    return {
        "Add": lambda **where: sm.Add(direction, **here, **where),
        "Ablate, at the writers": lambda **where: sm.Ablate(direction, **_without_site(where)),
        "Ablate, at one layer": lambda **where: sm.Ablate(vector, **here, **where),
        "Clamp": lambda **where: sm.Clamp(vector, 0.0, **here, **where),
        "Clamp, one-sided": lambda **where: sm.Clamp(vector, 0.0, side="above", **here, **where),
        "Affine": lambda **where: sm.Affine(vector, 0.5, **here, **where),
        "Erase": lambda **where: sm.Erase(eraser, **_without_site(where)),
        "Rotate": lambda **where: sm.Rotate(vector, angle=0.5, **here, **where),
        "Replace": lambda **where: sm.Replace(direction, **here, **where),
        "Zero, of a block's attention": lambda **where: sm.Zero(sm.attention(LAYER), **_without_site(where)),
        "Zero, of heads": lambda **where: sm.Zero(sm.heads(LAYER, 1), **_without_site(where)),
        "Zero, of neurons": lambda **where: sm.Zero(sm.neurons(LAYER, [1, 2]), **_without_site(where)),
        "Mean, of a block's MLP": lambda **where: sm.Mean(
            sm.mlp(LAYER), sm.mean_activations(model, ["The movie was"], sites=sm.mlp("all")), **_without_site(where)
        ),
        "Resample, of a block's MLP": lambda **where: sm.Resample(sm.mlp(LAYER), reference, **_without_site(where)),
        "Custom": lambda **where: sm.Custom(lambda h, where: h, **here, **({"site": "resid_post"} | where)),
        "Add, under a condition": lambda **where: sm.Add(
            direction, layers=LAYER, when=sm.When(vector, layer=3, above=0.0), **where
        ),
        "Add, on a schedule": lambda **where: sm.Add(direction, sm.schedule([2.0, 1.0]), **here, **where),
    }


def _without_site(where: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in where.items() if key != "site"}


def takes(check: Check, make: Make, **where: Any) -> bool:
    """Whether an engine accepts the plan; anything but a refusal on purpose is a fault and is raised."""
    try:
        check(sm.Plan(make(**where)))
    except SteersmanError:
        return False
    return True


def page(model: sm.SteeringModel) -> str:
    """The page, in Markdown."""
    checks, makes = engines(model), operations(model)
    sited = {name: make for name, make in makes.items() if _names_a_site(make)}
    return "\n".join([
        "# What each engine can do",
        "",
        "Every cell is the answer of the engine's own check on a GPT-2, the one that refuses a plan before any work.",
        "A plan that an engine cannot carry out exactly is refused with the reason; none approximates.",
        "",
        "- **hooks** is the reference: forward hooks on any Hugging Face decoder.",
        "- **nnsight** is `apply(plan, model)` inside a trace. It runs no functions of yours: write them in the trace.",
        "- **weights** is `sm.bake`: an ordinary checkpoint acts at every token, always, so there is no other",
        "  position, schedule or condition, and a map that reads the stream in the middle of it has no weights",
        "  to go into.",
        "- **vllm** steers each request. A token's steering is fixed before the pass, so conditions are decided by the",
        "  client; heads and neurons are split over devices there, and refused.",
        "- **gguf** is llama.cpp's control vector, which adds to the stream after each block, at every token.",
        "",
        "## By operation and positions",
        "",
        *_table(["operation", *checks], (
            [name, *(_positions(check, make) for check in checks.values())] for name, make in makes.items()
        )),
        "",
        "*every* stands for `all`, `prompt`, `last`, `generation`, `last+generation`, ranges such as `prompt[1:3]` and",
        "`generation[0:8]`, and `after(\"marker\")`. The hook engine refuses a schedule on tokens before the last one",
        "of the prompt, which have no entry in it.",
        "",
        "## By operation and site",
        "",
        "With positions `all`; heads and neurons (`z`, `mlp_post`) are taken by `Zero`, `Mean` and `Resample`, above.",
        "",
        *_table(["operation", *checks], (
            [name, *(_sites(check, make) for check in checks.values())] for name, make in sited.items()
        )),
        "",
    ])  # fmt: skip


def _names_a_site(make: Make) -> bool:
    try:
        return make(positions="all", site="attn_out") != make(positions="all", site="resid_post")
    except SteersmanError:
        return False


def _positions(check: Check, make: Make) -> str:
    taken = [str(where) for where in POSITIONS if takes(check, make, positions=where)]
    if len(taken) == len(POSITIONS):
        return "every"
    return ", ".join(f"`{where}`" for where in taken) or "no"


def _sites(check: Check, make: Make) -> str:
    taken = [site for site in SITES if takes(check, make, positions="all", site=site)]
    return "all five" if len(taken) == len(SITES) else ", ".join(f"`{site}`" for site in taken) or "no"


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
