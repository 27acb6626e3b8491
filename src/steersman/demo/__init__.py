"""The embedded model, its packaged contrast pairs, and the tour that ``steer demo`` gives."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from ..data import ContrastPairs
    from ..model import SteeringModel
    from ..vector import SteeringVector

_HERE = Path(str(files("steersman"))) / "demo"
MODEL_FOLDER = _HERE / "model"
DATA_FOLDER = _HERE / "data"
#: the packaged vectors as files, and what was measured of them
MEASURED_FOLDER = _HERE / "measured"

#: packaged sets of contrast pairs, and what they are about
PAIRS = {
    "sentiment": "opinions, positive and negative",
    "formal": "opinions, formal and casual",
}
#: packaged vectors: name -> the set they are extracted from
VECTORS = {"happy": "sentiment", "formal": "formal"}


def demo_model(**options: Any) -> SteeringModel:
    """The embedded model, loaded anew: small, offline, genuinely trained.

    Args:
        options: as of :meth:`steersman.SteeringModel.from_pretrained`.
    """
    from ..model import SteeringModel

    return SteeringModel.from_pretrained("demo", **options)


def pairs(which: str, **options: Any) -> ContrastPairs:
    """A packaged set of contrast pairs, one of :data:`PAIRS`.

    Args:
        which: the set.
        options: as of :meth:`steersman.ContrastPairs.from_jsonl`; the pairs' name is that of the set unless given.
    """
    from ..data import ContrastPairs

    if which not in PAIRS:
        raise DataError(f"there is no packaged set {which!r}; use one of {', '.join(PAIRS)}")
    options["name"] = options.get("name") or which
    return ContrastPairs.from_jsonl(DATA_FOLDER / f"{which}.jsonl", **options)


def vector(name: str, model: SteeringModel) -> SteeringVector:
    """A packaged vector, one of :data:`VECTORS`, extracted from its pairs on a model."""
    from ..extraction import extract

    if name not in VECTORS:
        raise DataError(f"there is no packaged vector {name!r}; use one of {', '.join(VECTORS)}")
    return extract(model, pairs(VECTORS[name]), name=name)


def words(name: str) -> list[str]:
    """The packaged words ``"positive"`` or ``"negative"``."""
    return (DATA_FOLDER / f"{name}.txt").read_text(encoding="utf-8").split()


__all__ = [
    "DATA_FOLDER", "MEASURED_FOLDER", "MODEL_FOLDER", "PAIRS", "VECTORS", "demo_model", "pairs", "vector", "words",
]  # fmt: skip
