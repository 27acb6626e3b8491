"""A server that has torch, transformers and nnsight, but not this package: runs what a remote trace was written to.

    python remote_server.py MODEL REQUESTS

Each file of the folder REQUESTS is answered beside it with what the request saved, as an NDIF server would.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class NotInstalled(MetaPathFinder):
    """Refuses to import this package."""

    def find_spec(self, name: str, *args: Any) -> None:
        if name.partition(".")[0] in ("steersman", "tests"):
            raise ModuleNotFoundError(f"No module named {name!r} on the server", name=name)


sys.meta_path.insert(0, NotInstalled())

import torch  # noqa: E402
from nnsight.modeling.transformers import TransformersModel  # noqa: E402
from nnsight.schema.request import RequestModel  # noqa: E402
from nnsight.tracing import globals as remembered  # noqa: E402
from nnsight.tracing import tracer as tracing  # noqa: E402

torch.set_num_threads(1)


def main(model_folder: str, requests: str) -> None:
    """Answer every request."""
    model = TransformersModel(model_folder, task="text-generation", dispatch=True)
    for path in sorted(Path(requests).glob("*.request")):
        tracer = RequestModel.deserialize(path.read_bytes(), model._remoteable_persistent_objects())
        frame = tracer.info.frame
        tracing.inc()
        try:
            tracer.execute(tracer.info.code)
            kept = {name: value for name, value in frame.f_locals.items() if id(value) in tracing._saves()}
        except Exception as error:
            kept = {"error": f"{type(error).__name__}: {error}"}
        finally:
            tracing.dec()
            remembered.SOURCES.clear()  # each request is a process of its own
            remembered.BLOCKS.clear()
        torch.save(kept, path.with_suffix(".answer"))


if __name__ == "__main__":
    main(*sys.argv[1:])
