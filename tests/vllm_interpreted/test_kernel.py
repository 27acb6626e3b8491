"""The Triton kernel, interpreted, does what the torch path does."""

import pytest
import torch
from tests.vllm_units.test_vllm_units import CAPACITY, OPERATIONS, WIDTH, drawn, shape, worker_with

import steersman as sm
from steersman.engines.vllm.blocks import program_keys
from steersman.engines.vllm.kernel import steer
from steersman.engines.vllm.packing import pack
from steersman.engines.vllm.segments import resolve
from steersman.engines.vllm.tables import Program, Tables
from steersman.engines.vllm.triton_kernel import launch

TOKENS = 9


def tables_for(plan):
    """Tables in which the tokens of one prompt are steered by a plan, at ``resid_post`` of block 1."""
    packed = pack(sm.Plan(plan).actions(shape()))
    tables = Tables([("resid_post", 0), ("resid_post", 1)], WIDTH, CAPACITY, torch.device("cpu"))
    steering = resolve(packed, TOKENS, 2, list(range(TOKENS)), lambda text: None)
    keys = program_keys("plan", steering.programs)
    slots = tables.slots_for({key: Program(packed, own) for key, own in zip(keys, steering.programs, strict=True)})
    tables.steer([(s.start, s.stop, slots[keys[s.program]]) for s in steering.overlapping(0, TOKENS)])
    return tables


PLANS = {name: [make] for name, make in OPERATIONS.items()} | {
    "two": [OPERATIONS["clamp below"], OPERATIONS["ablate a plane"]],
    "some tokens": [lambda: sm.Add(drawn(WIDTH), 2.0, layers=1, positions="prompt[1:4]+prompt[-1]")],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PLANS)
def test_it_is_the_torch_path(name, dtype):
    tables = tables_for([make() for make in PLANS[name]])
    hidden = (drawn(TOKENS + 3, WIDTH, seed=1) * 3).to(dtype)  # three rows of padding behind the tokens
    for residual in (None, drawn(TOKENS + 3, WIDTH, seed=2).to(dtype)):
        arguments = tables.bank, tables.entries[1], tables.factors[1], tables.tokens, tables.gates
        expected, found = hidden.clone(), hidden.clone()
        steer(expected, residual, *arguments, tables.work[1], tables.index)
        launch(found, residual, *arguments)
        assert not torch.equal(expected, hidden)
        exact = dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-5 if exact else 1e-2, atol=1e-5 if exact else 2e-2)
        untouched = tables.tokens[: TOKENS + 3] == 0
        assert bool(untouched[TOKENS:].all())
        assert torch.equal(found[untouched], hidden[untouched])


@pytest.mark.parametrize("measure", ["cosine", "projection"])
@pytest.mark.parametrize("side", ["above", "below"])
def test_it_decides_conditions_and_keeps_to_them(side, measure, tmp_path):
    when = sm.When(drawn(WIDTH), layer=0, measure=measure, **{side: 0.1})
    items = [
        sm.Add(drawn(WIDTH, seed=3), layers=1, when=when),
        sm.Replace(drawn(WIDTH, seed=4), layers=2, positions="last", when=when),
    ]
    found = set()
    for seed in range(6):
        worker, _ = worker_with(items, 4, 5, tmp_path)
        tables = worker.tables
        worker.step(["r"], [4], [0])
        outputs = []
        for kernel in (steer, launch):
            tables.gates[1:] = 0.5
            for layer in range(3):
                hidden = drawn(4, WIDTH, seed=seed + 10 * layer)
                at = tables.places["resid_post", layer]
                where = [tables.bank, tables.entries[at], tables.factors[at], tables.tokens, tables.gates]
                where += [tables.work[at], tables.index] if kernel is steer else []
                kernel(hidden, None, *where)
                outputs.append(hidden)
            outputs.append(tables.gates.clone())
        for torch_path, triton_path in zip(outputs[:4], outputs[4:], strict=True):
            torch.testing.assert_close(triton_path, torch_path)
        found.add(float(tables.gates[1]))
    assert found == {0.0, 1.0}
