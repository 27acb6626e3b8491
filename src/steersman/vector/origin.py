"""The model that a vector, an eraser or values were made for."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InterventionError
from ..shape import ModelShape


@dataclass(frozen=True)
class Origin:
    """The model a vector was made for: enough to refuse another one, and to name it in the message."""

    model: str
    model_type: str
    n_layers: int
    d_model: int
    fingerprint: str

    def __post_init__(self) -> None:
        for name in ("model", "model_type", "fingerprint"):
            if not isinstance(getattr(self, name), str):
                raise InterventionError(f"the origin's {name} must be text, got {getattr(self, name)!r}")

    @classmethod
    def of(cls, shape: ModelShape) -> Origin:
        """The origin of vectors made on a model of this shape."""
        return cls(shape.name, shape.model_type, shape.n_layers, shape.d_model, shape.fingerprint)


def check_text(value: object, what: str) -> None:
    """Raise :class:`InterventionError` unless ``value`` is text or None."""
    if value is not None and not isinstance(value, str):
        raise InterventionError(f"{what} must be text, got {value!r}")
