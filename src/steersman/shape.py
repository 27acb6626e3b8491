"""What a plan needs to know of a model before it can be checked against it: numbers and names, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import MismatchError, SiteUnavailableError
from .sites import RESIDUAL_WIDTH, WRITERS, Sites


@dataclass(frozen=True)
class ModelShape:
    """The dimensions of a decoder, the sites it lacks, and who it is.

    Attributes:
        name: what to call the model in messages: its hub id or path, else its ``model_type``.
        model_type: Hugging Face's name of the architecture.
        fingerprint: hex digest of the configuration's architecture (not of the weights).
        n_layers, d_model, n_heads, d_head: as usual; ``d_head`` is the width of one head of ``z``.
        d_mlp: the number of neurons of each layer, None where the MLP is not a single one.
        unavailable: the reason why a ``(component, layer)`` does not exist in this model.
    """

    name: str
    model_type: str
    fingerprint: str
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_mlp: tuple[int | None, ...]
    unavailable: Mapping[tuple[str, int], str] = field(default_factory=lambda: {})

    def layer(self, index: int, what: str = "the plan") -> int:
        """Resolve a layer index, negative ones from the end; raise :class:`MismatchError` when out of range."""
        if not -self.n_layers <= index < self.n_layers:
            raise MismatchError(
                f"{what} names layer {index}, but {self.name} has {self.n_layers} layers: 0 to {self.n_layers - 1}"
            )
        return index % self.n_layers

    def units(self, component: str, layer: int) -> int:
        """The number of heads (``z``) or neurons (``mlp_post``) of a layer."""
        if component == "z":
            return self.n_heads
        count = self.d_mlp[layer]
        if count is None:
            self.require(component, layer)
            raise SiteUnavailableError(f"{self.name} has no single MLP in layer {layer}, so no {component!r}")
        return count

    def width(self, component: str, layer: int) -> int:
        """The number of values one token has at a site, heads flattened: ``n_heads * d_head`` for ``z``."""
        if component in RESIDUAL_WIDTH:
            return self.d_model
        return self.n_heads * self.d_head if component == "z" else self.units(component, layer)

    def require(self, component: str, layer: int) -> None:
        """Raise :class:`SiteUnavailableError` with the reason if the model has no such site."""
        reason = self.unavailable.get((component, layer))
        if reason is not None:
            raise SiteUnavailableError(f"{self.name} has no {component!r} in layer {layer}: {reason}")

    def expand(self, sites: Sites, what: str = "the plan") -> list[tuple[int, tuple[int, ...] | None]]:
        """The (layer, units) pairs of a choice of sites, each checked to exist: layers ascending, units as named."""
        wanted = range(self.n_layers) if sites.layers is None else sites.layers
        found: list[tuple[int, tuple[int, ...] | None]] = []
        for index in sorted({self.layer(layer, what) for layer in wanted}):
            self.require(sites.component, index)
            found.append((index, None if sites.units is None else self._units(sites, index, what)))
        return found

    def _units(self, sites: Sites, layer: int, what: str) -> tuple[int, ...]:
        count = self.units(sites.component, layer)
        kind = "head" if sites.component == "z" else "neuron"
        assert sites.units is not None
        for unit in sites.units:
            if not -count <= unit < count:
                raise MismatchError(
                    f"{what} names {kind} {unit} of layer {layer}, but {self.name} has {count} {kind}s there: "
                    f"0 to {count - 1}"
                )
        return tuple(dict.fromkeys(unit % count for unit in sites.units))

    def writers(self) -> list[tuple[str, int]]:
        """Every site that writes the residual stream, in forward order; :class:`SiteUnavailableError` if unknown."""
        found = [("resid_pre", 0)]
        for layer in range(self.n_layers):
            for component in ("attn_out", "mlp_out"):
                if (component, layer) in self.unavailable:
                    raise SiteUnavailableError(
                        f"{self.name}: {WRITERS!r} needs every attn_out and mlp_out, and layer {layer} has no "
                        f"{component!r}: {self.unavailable[component, layer]}; name sites instead, for example "
                        'layers="all" for the resid_post of every layer'
                    )
                found.append((component, layer))
        return found
