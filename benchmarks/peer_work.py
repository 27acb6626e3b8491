"""Run by ``benchmarks.peers`` inside a peer's environment, where nothing of Steersman is installed."""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

BATCH = 32


def loaded(folder: str) -> tuple[Any, Any]:
    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    named = json.loads(Path(folder, "tokenizer_config.json").read_text())  # its class has a name in each release
    words = {key: named[key] for key in ("bos_token", "eos_token")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(folder, "tokenizer.json")), pad_token=named["eos_token"], padding_side="left", **words
    )
    return hf, tokenizer


def repeng(folder: str, work: dict[str, Any]) -> Callable[[], object]:
    from repeng import ControlModel, ControlVector, DatasetEntry

    hf, tokenizer = loaded(folder)
    model = ControlModel(hf, [work["layer"]])
    dataset = [DatasetEntry(p, n) for p, n in zip(work["positive"], work["negative"], strict=True)]
    return lambda: ControlVector.train(model, tokenizer, dataset, batch_size=BATCH, method="pca_center")


def steering_vectors(folder: str, work: dict[str, Any]) -> Callable[[], object]:
    from steering_vectors import train_steering_vector

    hf, tokenizer = loaded(folder)
    pairs = list(zip(work["positive"], work["negative"], strict=True))
    return lambda: train_steering_vector(hf, tokenizer, pairs, layers=[work["layer"]], batch_size=BATCH)


def batches(tokenizer: Any, work: dict[str, Any]) -> Iterator[Any]:
    texts = [*work["positive"], *work["negative"]]
    for start in range(0, len(texts), BATCH):
        yield tokenizer(texts[start : start + BATCH], return_tensors="pt", padding=True)


def difference(rows: list[Any]) -> Any:
    found = torch.cat(rows)
    return found[: len(found) // 2].mean(0) - found[len(found) // 2 :].mean(0)


def pyvene(folder: str, work: dict[str, Any]) -> Callable[[], object]:
    import pyvene as pv

    hf, tokenizer = loaded(folder)
    collect = {"layer": work["layer"], "component": "block_output", "intervention_type": pv.CollectIntervention}
    model = pv.IntervenableModel([collect], model=hf)

    def run() -> object:
        rows = []
        with torch.inference_mode():
            for batch in batches(tokenizer, work):
                last = batch["input_ids"].shape[1] - 1
                (_, collected), _ = model(
                    {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]},
                    unit_locations={"base": last},
                )
                rows.append(torch.cat([one.reshape(-1, hf.config.hidden_size) for one in collected]))
        return difference(rows)

    return run


def nnsight(folder: str, work: dict[str, Any]) -> Callable[[], object]:
    from nnsight import LanguageModel

    hf, tokenizer = loaded(folder)
    model: Any = LanguageModel(hf, tokenizer=tokenizer)

    def run() -> object:
        rows = []
        with torch.inference_mode():
            for batch in batches(tokenizer, work):
                with model.trace(dict(batch)) as tracer:
                    output = model.model.layers[work["layer"]].output
                    found = (output if isinstance(output, torch.Tensor) else output[0])[:, -1].save()
                    tracer.stop()
                rows.append(found)
        return difference(rows)

    return run


class Stop(Exception):  # noqa: N818
    pass


def limit(folder: str, work: dict[str, Any]) -> Callable[[], object]:
    """The bare forward pass: batches of similar length, no head, stopped after the layer."""
    hf, tokenizer = loaded(folder)
    rows = sorted((tokenizer(text)["input_ids"] for text in [*work["positive"], *work["negative"]]), key=len)
    groups: list[list[list[int]]] = [[]]
    for row in rows:
        if groups[-1] and len(row) * (len(groups[-1]) + 1) > work["budget"]:
            groups.append([])
        groups[-1].append(row)
    made = []
    for group in groups:
        columns = max(map(len, group))
        mask = torch.tensor([[0] * (columns - len(row)) + [1] * len(row) for row in group])
        ids = torch.tensor([[0] * (columns - len(row)) + row for row in group])
        made.append({"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp_min(0)})

    def stop(*_: object) -> None:
        raise Stop

    hf.model.layers[work["layer"]].register_forward_hook(stop)

    def run() -> None:
        with torch.inference_mode():
            for batch in made:
                with contextlib.suppress(Stop):
                    hf.model(**batch, use_cache=False)

    return run


def seconds(job: Callable[[], object]) -> float:
    begun = time.process_time()
    job()
    return time.process_time() - begun


def main() -> None:
    peer, folder = sys.argv[1:]
    torch.set_num_threads(1)
    work = json.loads(Path(folder, "work.json").read_text())
    jobs = {"repeng": repeng, "steering-vectors": steering_vectors, "pyvene": pyvene, "nnsight": nnsight}
    ours, base = jobs[peer](folder, work), limit(folder, work)
    ours(), base()
    shares = []
    for number in range(work["runs"]):
        pair = [seconds(job) for job in ((ours, base) if number % 2 else (base, ours))]
        mine, bare = pair if number % 2 else pair[::-1]
        shares.append(bare / mine)
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(shares, k=len(shares))) for _ in range(2000))
    low, high = medians[50], medians[1949]
    versions = f"{peer} {version(peer)}, transformers {version('transformers')}, torch {version('torch')}"
    print(f"{statistics.median(shares):.2f} [{low:.2f}, {high:.2f}]  (n = {len(shares)}; {versions})")


if __name__ == "__main__":
    main()
