"""The vectors that the embedded model is served with, and what was measured of them: its first screen shows both.

The vectors and their sweeps are files of the package, which ``python -m tools.measured`` makes with this server's own
jobs. Vectors extracted on another machine would differ in their last bits, and what was measured would not be of them.
"""

from __future__ import annotations

import json
from typing import Any

from ..demo import MEASURED_FOLDER, VECTORS, pairs
from ..demo.steering import PROMPTS
from ..files.atomic import replacing
from ..model import SteeringModel
from .job_schema import SweepRequest
from .jobs import JOB_FILE
from .pairs import PairStore
from .settings import Settings
from .vectors import Presets, Vectors
from .work import SWEEP_FILE

#: Strength and layer at which the packaged vectors change the text, within the budget of the page.
PRESETS = {"happy": (1.0, 8), "formal": (0.5, 8)}
_STRENGTHS = [-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
_FORMAL_PROMPTS = [
    "The song is", "The hotel is", "Today the lesson was", "I think the soup is", "The match was", "The room is",
    "The garden is", "I think the story was", "The trip was", "Today the coffee was", "The dinner is", "The museum was",
]  # fmt: skip
_WORDS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "happy": (list(PROMPTS), ["wonderful", "great", "good", "lovely"], ["terrible", "awful", "bad", "boring"]),
    "formal": (_FORMAL_PROMPTS, ["rather", "truly"], ["super", "totally"]),
}


def request(name: str) -> SweepRequest:
    """The sweep of a packaged vector."""
    prompts, positive, negative = _WORDS[name]
    return SweepRequest(
        vector=name, prompts=prompts, positive=[f" {word}" for word in positive], strengths=_STRENGTHS,
        negative=[f" {word}" for word in negative], repetition=[PRESETS[name][1]],
    )  # fmt: skip


def prepare(model: SteeringModel, settings: Settings) -> None:
    """Put the packaged vectors and their sweeps into the server's folder, unless vectors of their names are there."""
    store, presets = Vectors(settings.folder, model.shape), Presets(settings.folder / "presets")
    kept = PairStore(settings.folder / "pairs")
    for name in VECTORS:
        if name not in store.names():
            found = store.put(name, (MEASURED_FOLDER / f"{name}.safetensors").read_bytes())
            kept.put(found["digest"], pairs(VECTORS[name]), found["metadata"].get("read"))
        if name not in presets.names():
            strength, layer = PRESETS[name]
            presets.put(name, {"interventions": [{"vector": name, "strength": strength, "layers": [layer]}]})
        measured = json.loads((MEASURED_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        if store.digests([name])[name] == measured["job"]["result"]["digest"]:
            _put_sweep(settings, measured)


def _put_sweep(settings: Settings, measured: dict[str, Any]) -> None:
    """The job of a sweep, as if it had run here."""
    folder = settings.folder / "jobs" / measured["job"]["id"]
    folder.mkdir(parents=True, exist_ok=True)
    for file, document in ((SWEEP_FILE, measured["sweep"]), (JOB_FILE, measured["job"])):
        with replacing(folder / file) as temporary:
            temporary.write_text(json.dumps(document), encoding="utf-8")
