"""What stands in for a recipe's vector and plan until they are there, so that every step can be checked before any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .recipe_file import Recipe
from .recipe_steps import Files, checked, named

if TYPE_CHECKING:
    from ..shape import ModelShape
    from ..vector import SteeringVector
    from .session import Run


class StandIns:
    """A vector and a plan of the same form as those to come, saved in a folder.

    Attributes:
        files: where they are.

    Raises:
        SteersmanError: a layer, site, position or option does not fit the model.
    """

    def __init__(self, run: Run, recipe: Recipe, folder: Path) -> None:
        from .models import outline

        self._run, self._recipe = run, recipe
        self._shape = outline(recipe.model, device=run.device, dtype=run.dtype).shape
        self._vector = _vector(recipe, self._shape)
        self.files = Files.of(recipe, folder).make_folders()
        self._vector.save(self.files.vector)

    def need_plan(self) -> None:
        """Save the plan, for a step that comes after those that make it."""
        if self.files.plan.is_file():
            return
        if "sweep" in self._recipe.tables:
            _swept(self._run, self._recipe, self._shape, self._vector).save(self.files.plan)
        elif self._recipe.plan is not None:
            _written(self._run, self._recipe, self._shape, self._vector).save(self.files.plan)


def _vector(recipe: Recipe, shape: ModelShape) -> SteeringVector:
    """A direction at each layer that the recipe extracts, of the right width."""
    import torch

    from ..extraction.methods import find_method
    from ..sites import Sites, layer_indices
    from ..vector import SteeringVector
    from .arguments import layers_of

    table = recipe.tables.get("extract", {})
    method = find_method(str(table.get("method", "mean_difference")))
    site = str(table.get("site") or method.site or "resid_post")
    layers = [layer for layer, _ in shape.expand(Sites(site, layer_indices(layers_of(table.get("layers", "all")))))]

    def direction(layer: int) -> Any:
        return torch.ones(shape.n_heads, shape.d_head) if site == "z" else torch.ones(shape.width(site, layer))

    return SteeringVector(
        {layer: direction(layer) for layer in layers}, site=site, name=recipe.name, layer=layers[len(layers) // 2],
        projections=dict.fromkeys(layers, (-1.0, 1.0)), norms=dict.fromkeys(layers, 1.0),
    )  # fmt: skip


def _swept(run: Run, recipe: Recipe, shape: ModelShape, vector: SteeringVector) -> Any:
    """The first plan that the sweep tries."""
    from ..sweeping.cells import maker, plan_of
    from ..sweeping.where import layers_of
    from . import arguments, lookup

    table = recipe.tables["sweep"]
    names = ("value", "alpha", "angle", "unit", "positions")
    options = {name: table[name] for name in names if name in table}
    given = str(table.get("layers", "auto"))
    if "vector" in table and lookup.local(table["vector"][0], recipe.folder) is not None:
        vector = lookup.find(run, table["vector"][0], recipe.folder, None)
    layer = layers_of(shape, vector, given if given == "auto" else arguments.layers_of(given))[0]
    return plan_of(maker(table.get("operation", "add"), options), vector, layer, 1.0)


def _written(run: Run, recipe: Recipe, shape: ModelShape, vector: SteeringVector) -> Any:
    """The plan that the recipe writes out; a packaged vector is stood in for."""
    from ..plan import Plan
    from . import lookup

    entries: dict[str, Any] = {}
    for name in named(recipe):
        own = (name == recipe.name and "extract" in recipe.tables) or lookup.is_packaged(name, recipe.folder)
        entries[name] = vector if own else lookup.find(run, name, recipe.folder, None)
    plan = Plan.from_spec(dict(recipe.plan or {}), entries)
    plan.actions(shape)
    return plan if any(entry is vector for entry in entries.values()) else checked(recipe, plan)
