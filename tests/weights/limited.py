"""Writes a changed checkpoint of 200 MB under a limit of 100 MB; run by a test in a process of its own."""

from __future__ import annotations

import json
import resource
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import steersman as sm
from steersman.engines.weights import check_bakeable
from steersman.engines.weights.source import INDEX, Source
from steersman.engines.weights.writing import Entry, write_checkpoint, write_shard
from steersman.model.architecture import find_architecture

ROOM = 100_000_000


def data_size() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmData")


config = AutoConfig.for_model(
    "llama", vocab_size=4000, hidden_size=512, intermediate_size=2048, num_hidden_layers=24, num_attention_heads=8
)
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
parameters = list(model.named_parameters())
total = sum(p.numel() * 2 for _, p in parameters)
with tempfile.TemporaryDirectory() as where:
    folder, out = Path(where) / "base", Path(where) / "out"
    folder.mkdir(), out.mkdir()
    weights: dict[str, str] = {}
    for start in range(0, len(parameters), 20):
        group = parameters[start : start + 20]
        weights |= {name: f"{start}.safetensors" for name, _ in group}
        write_shard(folder / f"{start}.safetensors", [
            Entry(name, torch.bfloat16, tuple(p.shape), lambda p=p: torch.rand(p.shape, dtype=torch.bfloat16))
            for name, p in group
        ])  # fmt: skip
    (folder / INDEX).write_text(json.dumps({"weight_map": weights}))
    changes = check_bakeable(find_architecture(model, prove=False), sm.Ablate(torch.ones(512))).changes
    source = Source(folder, model)
    limit = data_size() + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    assert total > 2 * ROOM, total
    try:
        held = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
        raise SystemExit(f"the limit does not bite: {len(held)}")
    except (MemoryError, RuntimeError, OSError):
        held = []
    write_checkpoint(source, changes, out)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    assert size > total, (size, total)
print("too large to load, and written")
