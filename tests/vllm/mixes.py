"""Random mixes of requests, and what the hook engine says they give."""

import copy
import random

import torch

import steersman as sm
from steersman.model.hooks import Row

MEMBERS = ("last", "generation", "last+generation", "prompt", "all", "prompt[1:4]", "prompt[-2]", "generation[1:4]",
           "prompt[::2]+generation[0:2]", "prompt[0]+last")  # fmt: skip
#: Those that treat all generated tokens alike, as it must be under speculative decoding.
ALIKE = tuple(member for member in MEMBERS if "generation[" not in member)


def vectors(model, count=4, seed=0):
    """Two-class vectors of random directions, with projections and norms."""
    generator = torch.Generator().manual_seed(seed)
    return [
        sm.SteeringVector(
            {layer: torch.randn(model.d_model, generator=generator) for layer in range(model.n_layers)},
            name=f"v{number}",
            projections=dict.fromkeys(range(model.n_layers), (-1.0, 2.0)),
            norms=dict.fromkeys(range(model.n_layers), 6.0),
        )
        for number in range(count)
    ]


def plan(model, pool, draw, members=MEMBERS):
    """One or two interventions of random kinds, schedules only where generated tokens may be told apart."""
    return sm.Plan([intervention(model, pool, draw, members) for _ in range(draw.choice((1, 1, 2)))])


def intervention(model, pool, draw, members):
    vector, layers = draw.choice(pool), sorted(draw.sample(range(model.n_layers), draw.choice((1, 2))))
    where = {"layers": layers, "positions": draw.choice(members)}
    site = draw.choice(("resid_post", "resid_post", "resid_pre", "attn_out", "mlp_out", "resid_mid"))
    tensor = vector[layers[0]]
    kind = draw.choice([kind for kind in range(11) if kind != 4 or members is MEMBERS])
    if kind < 3:
        return sm.Add(tensor, draw.choice((-2.0, 1.0, 3.0)), site=site, **where)
    if kind == 3:
        weights = {layer: draw.choice((0.5, 2.0)) for layer in layers}
        return sm.Add(vector, 0.5, unit="norm", layers=weights, positions=where["positions"])
    if kind == 4:
        return sm.Add(vector, sm.schedule([3.0, 0.0, -2.0, 1.0]), layers=layers)
    if kind == 5:
        return sm.Ablate(tensor)
    if kind == 6:
        return sm.Ablate(torch.stack([tensor, pool[0][0] + 1]), layers=layers, positions=where["positions"])
    if kind == 7:
        return sm.Clamp(tensor, draw.choice((-3.0, 4.0)), side=draw.choice(("both", "above", "below")), **where)
    if kind == 8:
        return sm.Affine(vector, draw.choice((0.0, 1.5)), **where)
    if kind == 9:
        return draw.choice((sm.Zero(sm.attention(layers)), sm.Mean(sm.mlp(layers), tensor * 0.5)))
    return sm.Replace(torch.stack([tensor, -tensor]), layers=layers, positions="prompt[0]+last")


def conditional(model, pool, draw, members=MEMBERS):
    """What acts under a condition, and something else while generating."""
    read = draw.randrange(model.n_layers - 1)
    when = sm.When(
        draw.choice(pool)[read], read, **{draw.choice(("above", "below")): 0.0},
        measure=draw.choice(("cosine", "projection")),
    )  # fmt: skip
    acts = draw.choice((sm.Add, sm.Add, sm.Ablate))
    layers = [draw.randrange(read + 1, model.n_layers)]
    site = draw.choice(("resid_post", "mlp_out"))
    positions = draw.choice(("last", "last+generation"))
    first = acts(3 * draw.choice(pool)[0], layers=layers, site=site, when=when, positions=positions)
    # the reference meets all tokens in one pass, and has its answer only above the layer that is read
    again, low = draw.choice(((when, read + 1), (None, 0)))
    other = sm.Clamp(draw.choice(pool)[0], 4.0, layers=[low], positions="generation", when=again)
    return sm.Plan([first, other])


def requests(model, count, seed, lengths=(3, 60), conditions=True, members=MEMBERS):
    """Prompts of random tokens, three in four with a plan, of which one in six has a condition."""
    draw = random.Random(seed)
    pool = vectors(model, seed=seed)
    vocabulary = model.hf.config.vocab_size
    prompts = [[draw.randrange(5, vocabulary) for _ in range(draw.randint(*lengths))] for _ in range(count)]
    kinds = [None, conditional if conditions else plan, plan, plan, None, plan, plan, plan]
    made = [kind(model, pool, draw, members) if (kind := kinds[number % 8]) else None for number in range(count)]
    return prompts, made


def logprobs(model, prompt, given, steer):
    """Log-probabilities of each token after ``prompt``, under the hook engine, teacher-forced on ``given``."""
    row = Row(len(prompt), tuple(prompt), model.tokens.find_marker, "prompt", 0)
    ids = torch.tensor([[*prompt, *given[:-1]]])
    with torch.inference_mode(), model._engine.call([sm.Plan.of(steer)], [row]):
        logits = model.hf(ids, use_cache=False).logits[0, len(prompt) - 1 :]
    return logits.double().log_softmax(-1)


def rounding(model, prompts, outputs):
    """How far the reference itself, in float32, is from the same model in float64, on these tokens, unsteered.

    Between two float32 implementations there can be no less. Random gains make it as large as 1e-5 in GPT-2.
    """
    exact = sm.SteeringModel(copy.deepcopy(model.hf).double(), model.tokenizer)
    worst = 0.0
    for prompt, output in zip(prompts, outputs, strict=True):
        tokens = list(output.outputs[0].token_ids)
        wanted = logprobs(exact, prompt, tokens, None)
        errors = (logprobs(model, prompt, tokens, None) - wanted).abs() / wanted.abs().clamp(min=1.0)
        worst = max(worst, float(errors.max()))
    return worst


def compare(model, prompts, plans, outputs):
    """Greedy tokens equal, and log-probabilities within 1e-5 or thrice the reference's own rounding, whichever is more.

    At least half of the steered requests change tokens.
    """
    tolerance = max(1e-5, 3 * rounding(model, prompts, outputs))
    assert tolerance < 5e-5
    worst, changed, steered = 0.0, 0, 0
    for prompt, steer, output in zip(prompts, plans, outputs, strict=True):
        found = output.outputs[0]
        tokens = list(found.token_ids)
        wanted = logprobs(model, prompt, tokens, steer)
        plain = logprobs(model, prompt, tokens, None)
        for step, (token, top) in enumerate(zip(tokens, found.logprobs, strict=True)):
            best = wanted[step].topk(2).values
            assert token == int(wanted[step].argmax()) or float(best[0] - best[1]) < 1e-4, (steer, step)
            for candidate, entry in top.items():
                error = abs(entry.logprob - float(wanted[step, candidate])) / max(1.0, abs(entry.logprob))
                worst = max(worst, error)
                assert error <= tolerance, (steer, step, entry.logprob, float(wanted[step, candidate]))
        if steer is not None:
            steered += 1
            changed += any(int(plain[step].argmax()) != token for step, token in enumerate(tokens))
    assert 2 * changed >= steered, f"only {changed} of {steered} steered requests changed a token: the test is void"
    return worst, changed, steered
