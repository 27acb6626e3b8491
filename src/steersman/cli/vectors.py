"""From what the command line names (``-v happy:1.5@10``, ``--plan p.safetensors``) to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .failures import InputError

if TYPE_CHECKING:
    from ..model import SteeringModel
    from ..plan import Plan
    from ..shape import ModelShape
    from ..vector import SteeringVector
    from .session import Run

#: operation -> the option that it needs
OPERATIONS = {"add": None, "ablate": None, "clamp": "value", "affine": "alpha", "rotate": "angle"}


def make_plan(run: Run, model: SteeringModel) -> Plan:
    """The plan that the steering options of a run mean on a model, checked against it."""
    document, entries = parts(run, model)
    plan = assemble(run, document, entries)
    plan.actions(model.shape)
    return plan


def sketch_plan(run: Run, shape: ModelShape) -> tuple[Plan | None, list[str]]:
    """The same without a model's weights, and the names of packaged vectors that only a run can extract.

    The plan is None if there are any.
    """
    names = [name for name in _named(run) if _is_packaged(run, name)]
    if names:
        check_operation(run)
        return None, names
    document, entries = parts(run, None)
    plan = assemble(run, document, entries)
    plan.actions(shape)
    return plan, []


def parts(run: Run, model: SteeringModel | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The vectors of a run as a spec, and the named vectors it speaks of."""
    from .. import spec

    check_operation(run)
    items: list[dict[str, Any]] = []
    entries: dict[str, Any] = {}
    for token in run.steering["vector"] or []:
        item = spec.parse_token(token)
        vector = find(run, item["vector"], model)
        name = vector.name or Path(item["vector"]).stem
        if name in entries and entries[name] != vector:
            name = item["vector"]
        items.append({**item, "vector": name, **_operation(run)})
        entries[name] = vector
        if run.steering["operation"] == "ablate" and "layers" not in item:
            entries[name] = _chosen_direction(vector)
    return {"interventions": items}, entries


def assemble(run: Run, document: Mapping[str, Any], entries: Mapping[str, Any]) -> Plan:
    """The plan of ``--plan``, then that of the vectors."""
    from ..plan import Plan

    saved = run.steering["plan"]
    before = Plan()
    if saved is not None:
        before = Plan.load(saved)
        run.inputs.append(Path(saved))
    return before + Plan.from_spec(document, entries)


def check_operation(run: Run) -> None:
    """Raise InputError unless the operation exists and has the options it needs, and no others."""
    operation = run.steering["operation"]
    if operation not in OPERATIONS:
        close = get_close_matches(operation, OPERATIONS, 1)
        raise InputError(
            f"--operation {operation} is unknown",
            fix=f"did you mean {close[0]}?" if close else f"use one of {', '.join(OPERATIONS)}",
        )
    for other, option in OPERATIONS.items():
        given = option is not None and run.steering[option] is not None
        if given and other != operation:
            raise InputError(
                f"--{option} belongs to --operation {other}, not to {operation}",
                fix=f"add --operation {other}, or leave --{option} out",
            )
        if option is not None and other == operation and not given:
            raise InputError(f"--operation {operation} needs --{option}", fix=f"for example --{option} 1.0")
    if run.steering["unit"] is not None and (operation != "add" or run.steering["unit"] not in ("norm", "gap")):
        raise InputError(
            "--unit counts the strength of --operation add", fix="use --unit norm or --unit gap, with --operation add"
        )


def find(run: Run, name: str, model: SteeringModel | None) -> SteeringVector:
    """A vector by path, by name in ``--vectors``, packaged with the demo, or on the hub.

    Raises:
        InputError: there is none, with what is there instead.
    """
    from ..vector import SteeringVector

    folder: Path = run.steering["vectors"]
    for path in _places(name, folder):
        if path.is_file():
            run.inputs.append(path)
            return SteeringVector.load(path)
    if _is_packaged(run, name) and model is not None:
        from .. import demo

        pairs = demo.pairs(demo.VECTORS[name])
        run.note(f"{name}: extracted from {len(pairs)} packaged pairs")
        with run.working(f"extracting {name}"):
            return demo.vector(name, model)
    if name.count("/") == 1 and not name.endswith(".safetensors") and not name.startswith((".", "/")):
        return _from_hub(name)
    raise _missing(name, folder)


def _operation(run: Run) -> dict[str, Any]:
    names = ("operation", "value", "alpha", "angle", "unit", "positions")
    return {name: run.steering[name] for name in names if run.steering[name] is not None}


def _places(name: str, folder: Path) -> list[Path]:
    own = Path(name).expanduser()
    return [
        *([own, own / "vector.safetensors"] if own.suffix == ".safetensors" or len(own.parts) > 1 else []),
        folder / f"{name}.safetensors",
        folder / name / "vector.safetensors",
    ]


def _named(run: Run) -> list[str]:
    from .. import spec

    return [spec.parse_token(token)["vector"] for token in run.steering["vector"] or []]


def _is_packaged(run: Run, name: str) -> bool:
    from ..demo import VECTORS

    return name in VECTORS and not any(path.is_file() for path in _places(name, run.steering["vectors"]))


def _from_hub(name: str) -> SteeringVector:
    from ..vector import SteeringVector

    try:
        return SteeringVector.from_pretrained(name)
    except OSError as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"no vector {name}",
            why=f"there is no such file here, and the hub says: {first}",
            fix="check the name, the network, and HF_TOKEN if it is private",
        ) from error


def _missing(name: str, folder: Path) -> InputError:
    from ..demo import VECTORS

    if name.endswith(".safetensors") or Path(name).parent != Path("."):
        path = Path(name)
        near = [p.name for p in path.parent.glob("*.safetensors")] if path.parent.is_dir() else []
        close = get_close_matches(path.name, near, 1)
        fix = f"did you mean {path.parent / close[0]}?" if close else "check the path"
        return InputError(f"there is no vector file {name}", fix=fix)
    there = sorted({p.stem for p in folder.glob("*.safetensors")}) if folder.is_dir() else []
    close = get_close_matches(name, [*there, *VECTORS], 1)
    where = "the current folder" if folder == Path(".") else str(folder)
    why = f"in {where}: {_listed(there)}; packaged: {', '.join(VECTORS)}"
    fix = f"did you mean {close[0]!r}?" if close else "name one of these, a file, or extract one with: steer extract"
    return InputError(f"there is no vector {name!r}", why=why, fix=fix)


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:8])
    return ", ".join(shown) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if shown else "none"


def _chosen_direction(vector: SteeringVector) -> Any:
    """The one direction of a vector that is removed everywhere."""
    if vector.layer is None:
        raise InputError(
            f"{vector.label} has no chosen layer", why="its quality was not measured", fix="name one: NAME@LAYER"
        )
    return vector[vector.layer]
