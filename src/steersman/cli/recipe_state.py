"""What of a recipe is finished, kept in its folder, so that an interrupted one goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ..files.atomic import replacing
from .failures import InputError
from .recipe_file import Recipe
from .recipe_steps import Step, digest

STATE = "finished.json"
_FORMAT = "steersman.recipe-state/1"


class Finished:
    """The finished steps of a recipe.

    Attributes:
        path: the file that holds them.
        steps: name -> what it depended on, the digests of its outputs, its exit code and seconds.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.folder = recipe.output
        self.path = recipe.output / STATE
        self.steps: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                document = json.loads(self.path.read_text(encoding="utf-8"))
                if document["format"] != _FORMAT:
                    raise ValueError("it is of another format")
                self.steps = cast("dict[str, dict[str, Any]]", document["steps"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{self.path} is damaged", why=str(error), fix="add --anew to start over") from error
        elif recipe.output.is_dir() and any(recipe.output.iterdir()):
            raise InputError(f"the folder {recipe.output} holds something else", why=f"it has no {STATE}",
                             fix='name another: output = "..." in the recipe')  # fmt: skip

    def check(self, steps: Sequence[Step]) -> None:
        """Whether what is finished was made as it would be now, and nothing foreign would be overwritten.

        Raises:
            InputError: it was not, with the keys that differ; or a file to export to is there already.
        """
        for step in steps:
            before = self.steps.get(step.name)
            if before is not None and before["settings"] != _plain(step.settings):
                raise InputError(
                    f"{step.name} is finished with other settings: {_differing(before['settings'], step.settings)}",
                    why=f"what it made is in {self.folder}",
                    fix='--anew to start over, or another folder: output = "..." in the recipe',
                )
            for path in step.outputs:
                if step.name.startswith("export") and path.exists() and before is None and not _empty(path):
                    raise InputError(f"{path} is there already", why="this recipe has not made it",
                                     fix="remove it, or export under another name")  # fmt: skip

    def has(self, step: Step) -> bool:
        """Whether a step is finished, and all that it made is as it was."""
        before = self.steps.get(step.name)
        if before is None or before["settings"] != _plain(step.settings):
            return False
        made = {Path(path): is_now for path, is_now in before["outputs"].items()}
        return all(path.exists() and digest(path) == was for path, was in made.items())

    def add(self, step: Step, code: int, seconds: float) -> None:
        """Write down that a step is finished."""
        made = {str(path): digest(path) for path in step.outputs if path.exists()}
        self.steps[step.name] = {
            "settings": _plain(step.settings), "outputs": made, "code": code, "seconds": round(seconds, 3)
        }  # fmt: skip
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps({"format": _FORMAT, "steps": self.steps}, indent=2), encoding="utf-8")

    def remove(self) -> None:
        """Remove all that the recipe has made."""
        for step in self.steps.values():
            for path in map(Path, step["outputs"]):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for name in ("extract", "sweep", "plan", "eval", "generate"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.path.unlink(missing_ok=True)
        self.steps = {}


def _differing(before: dict[str, Any], now: Any) -> str:
    now = _plain(now)
    return ", ".join(sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)))


def _plain(settings: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dict(settings), default=str))


def _empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
