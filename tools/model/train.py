"""Make the demo model from nothing: corpus, tokenizer, training, and a standard Hugging Face folder.

    python -m tools.model.train --seed 0 --out candidates/a

One thread, a fixed number of steps, deterministic kernels and no clock in the schedule. Bytes are the same again only
where arithmetic is: another processor or build of torch rounds otherwise, and training carries that on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tools.model.forward import document_mask, forward
from tools.model.muon import Muon
from tools.model.penalties import Penalties
from tools.model.rows import batches
from tools.model.start import initialise
from tools.model.tokenizer import split_words, train_tokenizer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    steps: int = 2600
    width: int = 128
    heads: int = 4
    blocks: int = 13
    inner: int = 384
    vocabulary: int = 2048
    matrix_rate: float = 0.015
    split: int = 1
    batch: int = 1024
    other_rate: float = 3e-3
    decay: float = 0.1
    warmup: int = 60
    embedding_scale: float = 0.05
    early: int = 3
    late: int = 2
    edge: float = 0.05
    middle: float = 0.003
    growth: float = 0.1

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: warm-up, flat for a sixth of the steps, then down in a line to zero."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return min(1.0, (1 - step / self.steps) * 1.2)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A plain GPT-2, initialised from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=recipe.width,
        n_layer=recipe.blocks,
        n_head=recipe.heads,
        n_inner=recipe.inner,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = GPT2LMHeadModel(config)
    initialise(model, recipe.embedding_scale)
    return model


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, out: Path, checkpoint_every: int = 0) -> GPT2LMHeadModel:
    """Train by `recipe`; checkpoints, if asked for, go to `out/step-N`."""
    model = new_model(recipe, tokenizer)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    chosen = {id(p) for p in matrices}
    parts = {id(block.attn.c_attn.weight): 3 for block in model.transformer.h} if recipe.split else {}
    muon = Muon(matrices, parts, decay=recipe.decay)
    others = [p for p in model.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.95), weight_decay=0.0)
    penalties = Penalties(recipe.early, recipe.late, recipe.edge, recipe.middle, recipe.growth)
    source = batches(tokenizer, recipe.seed, recipe.batch)
    started = time.process_time()
    for step in range(recipe.steps):
        rows = next(source)
        loss, penalty = losses(model, rows, penalties, step / recipe.steps)
        (loss + penalty).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = recipe.other_rate * recipe.rate(step)
        adam.step()
        muon.step(recipe.matrix_rate * recipe.rate(step))
        model.zero_grad()
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"the loss is {loss.item()} at step {step}")
        if step % 50 == 0:
            spent = time.process_time() - started
            print(
                f"step {step} loss {loss.item():.3f} penalty {penalty.item():.3f} cpu {spent:.0f}s",
                flush=True,
            )
        if checkpoint_every and step and step % checkpoint_every == 0:
            save(model, tokenizer, out / f"step-{step}")
    return model


def losses(
    model: GPT2LMHeadModel, rows: torch.Tensor, penalties: Penalties, progress: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the next token, but for the BOS of a next document, and the penalties."""
    inputs, targets = rows[:, :-1], rows[:, 1:]
    bos = model.config.bos_token_id
    trace = forward(model, inputs, document_mask(inputs, bos))
    targets = targets.masked_fill(targets == bos, -100)
    loss = F.cross_entropy(trace.logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    return loss, penalties(trace, progress)


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """A standard folder with fp16 weights; `model` itself stays as it is."""
    half = GPT2LMHeadModel(model.config)
    half.load_state_dict(model.state_dict())
    half.tie_weights()
    half.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=40,
        do_sample=False,
    )
    half.half().save_pretrained(out)
    save_tokenizer(tokenizer, out)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The tokenizer's files, with the chat template in its configuration and the class name that all versions know."""
    tokenizer.save_pretrained(out)
    (out / "chat_template.jinja").unlink(missing_ok=True)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": tokenizer.chat_template}
    path.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """The command line: every field of the recipe is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint-every", type=int, default=0)
    for field in dataclasses.fields(Recipe):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    out, every = options.pop("out"), options.pop("checkpoint_every")
    recipe = Recipe(**options)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tokenizer = train_tokenizer(recipe.vocabulary)
    if broken := split_words(tokenizer):
        raise RuntimeError(f"words of more than one token: {broken}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1) + "\n")
    save(train(recipe, tokenizer, out, every), tokenizer, out)


if __name__ == "__main__":
    main()
