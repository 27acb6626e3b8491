"""The vectors that the embedded model is served with, so that its first screen shows a difference."""

from __future__ import annotations

from ..demo import VECTORS, pairs, vector
from ..model import SteeringModel
from .pairs import PairStore
from .settings import Settings
from .vectors import Presets, Vectors

#: Strength and layer at which the packaged vectors change the text and leave it text.
PRESETS = {"happy": (1.0, 8), "formal": (1.0, 8)}


def prepare(model: SteeringModel, settings: Settings) -> None:
    """Extract the packaged vectors into the server's folder, unless vectors of their names are there."""
    store, presets = Vectors(settings.folder, model.shape), Presets(settings.folder / "presets")
    kept = PairStore(settings.folder / "pairs")
    for name in VECTORS:
        if name not in store.names():
            found = vector(name, model)
            kept.put(store.save(name, found), pairs(VECTORS[name]), found.metadata.get("read"))
        if name not in presets.names():
            strength, layer = PRESETS[name]
            presets.put(name, {"interventions": [{"vector": name, "strength": strength, "layers": [layer]}]})
