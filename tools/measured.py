"""Extracts the vectors that the embedded model is served with, and sweeps them, by the server's own jobs.

python -m tools.measured

Writes ``NAME.safetensors`` and ``NAME.json`` (the job, and the sweep that it found) for each packaged vector into the
package. To be run when the embedded model, its pairs or what a sweep measures have changed; a test measures a part of
it again.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steersman import SteeringModel
from steersman.demo import MEASURED_FOLDER, VECTORS, demo_model, vector
from steersman.serve import Settings
from steersman.serve.job_schema import SweepRequest
from steersman.serve.packaged import request
from steersman.serve.state import State
from steersman.serve.work import SWEEP_FILE


def measured(model: SteeringModel, content: bytes, asked: SweepRequest) -> dict[str, Any]:
    """The job of a sweep of a vector's file, and what it found.

    Raises:
        RuntimeError: the job failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        state = State(model, Settings(Path(folder), name="demo"))
        digest = state.vectors.put(asked.vector, content)["digest"]
        state.jobs.start()
        try:
            job = state.jobs.submit("sweep", asked.model_dump(mode="json") | {"digest": digest})
            while not job.ended:
                time.sleep(0.05)
                job = state.jobs.get(job.id)
            if job.status != "succeeded":
                raise RuntimeError(f"the sweep of {asked.vector} {job.status}: {job.error}")
            found = json.loads((state.jobs.folder(job.id) / SWEEP_FILE).read_text(encoding="utf-8"))
        finally:
            state.jobs.stop()
    return {"job": asdict(job), "sweep": found}


def main() -> None:
    """Extract and sweep every packaged vector."""
    model = demo_model()
    MEASURED_FOLDER.mkdir(exist_ok=True)
    for name in VECTORS:
        file = MEASURED_FOLDER / f"{name}.safetensors"
        vector(name, model).save(file)
        found = measured(model, file.read_bytes(), request(name))
        file.with_suffix(".json").write_text(json.dumps(found) + "\n", encoding="utf-8")
        best, cells = found["job"]["result"]["best"], len(found["sweep"]["rows"])
        print(f"{name}: best at layer {best['layer']}, strength {best['strength']:g}, of {cells} cells")


if __name__ == "__main__":
    main()
