"""The families of models that are known by name, and what their blocks have: read from the layouts and the tests."""

from __future__ import annotations

from tests.models import FAMILIES as TESTED
from tests.models import tiny

from steersman.engines.vllm.places import VERIFIED
from steersman.model.architecture.families import FAMILIES, Family

INTRODUCTION = """# Families of models

Known by name are the families below; others are looked for by the structure of their modules. Either way nothing is
believed before it is proved on the model at hand: at load, a tiny forward pass checks in every block that the parts
found add up to the residual stream, and a second one writes noise at every site and checks where it arrives. A model
that does not pass is refused with the equation that failed.

*tested* are those of which a small random model goes through all tests of the hook engine.
"""


def page() -> str:
    """The page, in Markdown."""
    tested = {str(tiny(name).config.get_text_config().model_type) for name in TESTED}
    return "\n".join([
        INTRODUCTION,
        "| `model_type` | blocks | attention | MLP | `resid_mid` | tested | sites inside blocks in vLLM |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_row(name, layout, name in tested) for name, layout in sorted(FAMILIES.items())),
        "",
        "Mixtures of experts have no single set of neurons (`mlp_post`), parallel blocks no residual stream between",
        "attention and MLP (`resid_mid`); both are refused by name where they are asked for.",
        "",
    ])  # fmt: skip


def _row(name: str, layout: Family, tested: bool) -> str:
    cells = [
        f"`{name}`",
        f"`{layout.decoder}.{layout.blocks}`",
        f"`{layout.attention}`",
        f"`{layout.mlp}`",
        _middle(layout),
        "yes" if tested else "",
        "yes" if name in VERIFIED else "",
    ]
    return f"| {' | '.join(cells)} |"


def _middle(layout: Family) -> str:
    if layout.parallel is True:
        return "no: parallel"
    if layout.parallel:
        return f"unless {' or '.join(f'`{flag}`' for flag in layout.parallel)}"
    return "yes" if layout.middle else "no"
