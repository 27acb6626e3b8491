"""The parts of the vLLM engine that need no vLLM, held to the operations themselves and to brute force."""

import json
import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models import tiny

import steersman as sm
from steersman.engines.vllm.blocks import block_key, program_keys
from steersman.engines.vllm.kernel import steer
from steersman.engines.vllm.packing import pack
from steersman.engines.vllm.places import shape_from
from steersman.engines.vllm.requests import Compiler, FrontEnd, Resolved, carried
from steersman.engines.vllm.segments import resolve
from steersman.engines.vllm.tables import Capacity, Program, Tables
from steersman.engines.vllm.worker import WorkerSteering
from steersman.errors import MismatchError, UnsupportedError
from steersman.positions import Positions
from steersman.registry import Registry

WIDTH, CAPACITY = 8, Capacity(tokens=64, slots=32, rows=40, rank=6)


def shape():
    config = tiny("llama", hidden_size=WIDTH, num_attention_heads=2, num_key_value_heads=2).config
    return shape_from(config, "tiny")


def drawn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def two_class(seed=0):
    layers = range(3)
    return sm.SteeringVector(
        {layer: drawn(WIDTH, seed=seed + layer) for layer in layers},
        projections=dict.fromkeys(layers, (-1.0, 2.0)),
    )


OPERATIONS = {
    "add": lambda: sm.Add(drawn(WIDTH), 1.5, layers=1, positions="all"),
    "ablate": lambda: sm.Ablate(drawn(WIDTH), layers=1),
    "ablate a plane": lambda: sm.Ablate(drawn(2, WIDTH), 0.5, layers=1),
    "clamp": lambda: sm.Clamp(drawn(WIDTH), 2.0, layers=1),
    "clamp above": lambda: sm.Clamp(drawn(WIDTH), 0.1, side="above", layers=1),
    "clamp below": lambda: sm.Clamp(drawn(WIDTH), 0.1, side="below", strength=0.7, layers=1),
    "affine": lambda: sm.Affine(two_class(), 0.3, layers=1),
    "zero": lambda: sm.Zero(sm.block(1)),
    "half zero": lambda: sm.Zero(sm.block(1), strength=0.5),
    "mean": lambda: sm.Mean(sm.block(1), drawn(WIDTH, seed=4)),
    "replace": lambda: sm.Replace(drawn(WIDTH, seed=5), layers=1, positions="all"),
    "erase": lambda: sm.Erase(sm.Eraser({1: (drawn(WIDTH, 2, seed=6), drawn(WIDTH, 2, seed=7), drawn(WIDTH, seed=8))})),
}


def computed(plan, h, residual=None, scale=1.0):
    """What the kernel makes of tokens that are all steered, at ``resid_post`` of block 1."""
    packed = pack(sm.Plan(plan).actions(shape()))
    place = ("resid_post", 1)
    tables = Tables([("resid_post", 0), place], WIDTH, CAPACITY, torch.device("cpu"))
    tables.scales[place] = scale
    states = resolve(packed, len(h), 2, list(range(len(h))), lambda text: None)
    keys = program_keys("plan", states.programs)
    slots = tables.slots_for({key: Program(packed, own) for key, own in zip(keys, states.programs, strict=True)})
    tables.steer([(s.start, s.stop, slots[keys[s.program]]) for s in states.overlapping(0, len(h))])
    hidden = h.clone()
    at = tables.places[place]
    steer(
        hidden,
        residual,
        tables.bank,
        tables.entries[at],
        tables.factors[at],
        tables.tokens,
        tables.gates,
        tables.work[at],
        tables.index,
    )
    return hidden


def test_only_places_that_have_something_to_do_are_busy():
    there = [("resid_post", 0), ("resid_post", 1)]
    tables = Tables(there, WIDTH, CAPACITY, torch.device("cpu"))
    packed = pack(sm.Plan([sm.Add(drawn(WIDTH), layers=1)]).actions(shape()))
    states = resolve(packed, 3, 2, list(range(3)), lambda text: None)
    slot = tables.slots_for({"plan": Program(packed, states.programs[0])})["plan"]
    assert tables.busy == [False, False]
    tables.steer([(0, 3, slot)])
    assert tables.busy == [False, True]
    tables.steer([])
    assert tables.busy == [False, False]


def wanted(plan, h):
    for action in sm.Plan(plan).actions(shape()):
        h = h + action.strength * (action.map(h) - h)
    return h


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_what_its_map_says(name):
    h = drawn(9, WIDTH, seed=1) * 3
    expected = wanted([OPERATIONS[name]()], h)
    assert not torch.allclose(expected, h)
    torch.testing.assert_close(computed([OPERATIONS[name]()], h), expected, rtol=1e-5, atol=1e-5)
    half = drawn(9, WIDTH, seed=2)
    torch.testing.assert_close(computed([OPERATIONS[name]()], h - half, half) + half, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        computed([OPERATIONS[name]()], h / 0.22, scale=0.22) * 0.22, expected, rtol=1e-5, atol=1e-5
    )


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=2, max_size=3))
def test_operations_are_applied_in_the_order_of_the_plan(names):
    plan = [OPERATIONS[name]() for name in names]
    h = drawn(5, WIDTH, seed=3)
    torch.testing.assert_close(computed(plan, h), wanted(plan, h), rtol=1e-4, atol=1e-4)


def test_tokens_that_are_not_steered_keep_their_bits():
    h = drawn(6, WIDTH, seed=1).to(torch.bfloat16)
    out = computed([sm.Add(drawn(WIDTH), 2.0, layers=1, positions="prompt[1:3]")], h)
    assert torch.equal(out[[0, 3, 4, 5]], h[[0, 3, 4, 5]])
    assert not torch.equal(out[1:3], h[1:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", ["prompt[2:5]", "prompt[::2]", "prompt[-1]", "prompt[0]+prompt[3:5]"])
@pytest.mark.parametrize("name", ["add", "ablate"])
def test_runs_of_tokens_and_scattered_ones_are_steered_alike(name, positions, dtype):
    def plan():
        other = sm.Add(drawn(WIDTH, seed=9), -0.5, layers=1, positions=positions)
        own = sm.Add(drawn(WIDTH), 1.5, layers=1, positions=positions)
        return [own if name == "add" else sm.Ablate(drawn(WIDTH), layers=1, positions=positions), other]

    h, residual = drawn(6, WIDTH, seed=1).to(dtype), drawn(6, WIDTH, seed=2).to(dtype)
    steered = sorted({p for span in Positions.parse(positions).resolve(6, lambda text: None) for p in span})
    out = computed(plan(), h, residual)
    expected = h.clone()
    full = h.float() + residual.float()
    expected[steered] = (h.float() + wanted(plan(), full) - full)[steered].to(dtype)  # rounded once
    exact = dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=1e-5 if exact else 8e-3, atol=1e-5 if exact else 1e-4)
    others = [position for position in range(6) if position not in steered]
    assert torch.equal(out[others], h[others])


def test_one_vector_at_many_strengths_is_one_row():
    vector = drawn(WIDTH)
    packed = [pack(sm.Plan(sm.Add(vector, s, layers=1)).actions(shape())) for s in (1.0, 2.0, -3.0)]
    tables = Tables([("resid_post", 1)], WIDTH, CAPACITY, torch.device("cpu"))
    for number, each in enumerate(packed):
        programs = resolve(each, 3, 4, None, lambda text: None).programs
        tables.slots_for({f"{number}": Program(each, programs[0])})
    assert tables.occupancy == {"slots": 3, "rows": 1}


def test_slots_and_rows_are_given_up_by_age_and_used_again():
    tables = Tables([("resid_post", 1)], WIDTH, Capacity(8, 4, 4, 2), torch.device("cpu"))
    for number in range(50):
        packed = pack(sm.Plan(sm.Add(drawn(WIDTH, seed=number), layers=1)).actions(shape()))
        states = resolve(packed, 3, 4, None, lambda text: None).programs[0]
        slot = tables.slots_for({f"{number}": Program(packed, states)})[f"{number}"]
        row = int(tables.entries[0, slot, 1])
        assert torch.equal(tables.bank[row], drawn(WIDTH, seed=number))
    assert tables.occupancy == {"slots": 4, "rows": 4}


POSITIONS = ("last", "generation", "last+generation", "prompt", "all", "prompt[1:4]", "prompt[-3]", "prompt[::2]",
             "generation[0:3]", "generation[1::2]", "prompt[0]+generation[2]")  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(POSITIONS), min_size=1, max_size=3), st.integers(4, 12), st.integers(4, 9))
def test_segments_select_what_positions_say(chosen, prompt_length, new_tokens):
    items = [sm.Add(drawn(WIDTH, seed=i), i + 1.0, layers=1, positions=p) for i, p in enumerate(chosen)]
    packed = pack(sm.Plan(items).actions(shape()))
    steering = resolve(packed, prompt_length, new_tokens, None, lambda text: None)
    rules = {rule: number for number, rule in enumerate(packed.rules)}
    for position in range(prompt_length + new_tokens - 1):
        here = [s for s in steering.segments if s.start <= position < s.stop]
        assert len(here) <= 1
        states = steering.programs[here[0].program] if here else (None,) * len(rules)
        for rule, number in rules.items():
            spans = rule.positions.resolve(prompt_length, lambda text: None)
            assert (states[number] is not None) == any(position in span for span in spans)
    assert Resolved("p", {}, steering).steering == type(steering).from_plain(steering.plain())


def test_a_schedule_starts_at_the_last_prompt_token_and_holds_its_last_value():
    packed = pack(sm.Plan(sm.Add(drawn(WIDTH), sm.schedule([3.0, 0.0, -2.0]), layers=1)).actions(shape()))
    steering = resolve(packed, 5, 20, None, lambda text: None)
    found = {}
    for segment in steering.segments:
        for position in range(segment.start, min(segment.stop, 12)):
            found[position] = steering.programs[segment.program][0].strength
    assert found == {4: 3.0, **dict.fromkeys(range(6, 12), -2.0)}


def test_blocks_are_keyed_by_what_is_steered_in_them_alone():
    packed = pack(sm.Plan(sm.Add(drawn(WIDTH), layers=1)).actions(shape()))
    steering = resolve(packed, 40, 30, None, lambda text: None)  # from token 39 on
    keys = program_keys("plan", steering.programs)
    assert block_key(steering, keys, 0, 16) is None
    assert block_key(steering, keys, 16, 32) is None
    assert block_key(steering, keys, 32, 48) == ("steersman", ((7, 16, keys[0]),))
    assert block_key(steering, keys, 48, 64) == ("steersman", ((0, 16, keys[0]),))
    assert program_keys("other plan", steering.programs) != keys


def test_what_cannot_be_carried_out_is_refused_with_the_reason():
    vector = two_class()
    cases = {
        "clean pass": sm.Add(vector, layers=0, when=sm.When(vector, layer=0, above=0.1)),
        "earlier step": sm.Add(vector, layers=1, positions="all", when=sm.When(vector, layer=0, above=0.1)),
        "rotation": sm.Rotate(vector, angle=0.5, layers=1),
        "a function": sm.Custom(lambda h, where: h, layers=1, site="resid_post", positions="all"),
    }
    for reason, item in cases.items():
        with pytest.raises(UnsupportedError, match=reason):
            pack(sm.Plan(item).actions(shape()))
    with pytest.raises(MismatchError, match="vLLM splits heads"):
        sm.Plan(sm.Zero(sm.heads(1, 0))).actions(shape())


def worker_with(plan, prompt_length, new_tokens, folder, gates=8):
    """A worker that has taken in one request, ``"r"``, and the registry is where its vectors are."""
    registry = Registry(folder)
    maker = FrontEnd(registry, shape(), CAPACITY, 40, 16)
    resolved = maker.resolve({"steersman": carried(plan, registry)}, prompt_length, new_tokens, None, None)
    capacity = Capacity(tokens=64, slots=32, rows=40, rank=6, gates=gates)
    tables = Tables([(site, layer) for layer in range(3) for site in ("mlp_out", "resid_post")], WIDTH, capacity,
                    torch.device("cpu"))  # fmt: skip
    worker = WorkerSteering(Compiler(registry, shape()), tables, [])
    extra = {"steersman": json.loads(json.dumps(resolved.plain()))}
    worker.observe([("r", extra, prompt_length)], [])
    return worker, extra


def at(worker, place, h):
    """What the kernel makes of the tokens of a pass at a place."""
    tables, hidden = worker.tables, h.clone()
    number = tables.places[place]
    steer(hidden, None, tables.bank, tables.entries[number], tables.factors[number], tables.tokens, tables.gates,
          tables.work[number], tables.index)  # fmt: skip
    return hidden


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 999), st.sampled_from(("above", "below")), st.sampled_from(("cosine", "projection")),
    st.sampled_from((0.0, 0.2, -0.4)), st.sampled_from(("add", "zero")),
)  # fmt: skip
def test_a_condition_is_decided_at_the_last_prompt_token_and_held(seed, side, measure, threshold, kind):
    when = sm.When(drawn(WIDTH, seed=seed), layer=0, measure=measure, **{side: threshold})
    vector = drawn(WIDTH, seed=7)
    where = {"layers": 1, "positions": "last+generation", "when": when}
    item = sm.Add(vector, 2.0, **where) if kind == "add" else sm.Replace(vector, **where)
    with tempfile.TemporaryDirectory() as folder:
        worker, extra = worker_with(item, 5, 9, folder)

    def expected(h, holds):
        return (h + 2 * vector if kind == "add" else vector.expand_as(h)) if holds else h

    worker.step(["r"], [3], [0])  # a chunk that ends before the last prompt token
    h = drawn(3, WIDTH, seed=seed + 1)
    assert torch.equal(at(worker, ("resid_post", 0), h), h)
    assert torch.equal(at(worker, ("resid_post", 1), h), h)

    worker.step(["other", "r"], [2, 2], [0, 3])
    below, above = drawn(4, WIDTH, seed=seed + 2), drawn(4, WIDTH, seed=seed + 3)
    assert torch.equal(at(worker, ("resid_post", 0), below), below)
    holds = bool(when.holds(below[3]))
    found = at(worker, ("resid_post", 1), above)
    torch.testing.assert_close(found[3], expected(above[3], holds))
    assert torch.equal(found[:3], above[:3])

    for position in range(5, 9):
        worker.step(["r"], [1], [position])
        h = drawn(1, WIDTH, seed=position)
        assert torch.equal(at(worker, ("resid_post", 0), h), h)
        torch.testing.assert_close(at(worker, ("resid_post", 1), h), expected(h, holds))

    worker.observe(
        [("r", extra, 5)], []
    )  # preempted, and announced anew: the prompt and what was generated in one pass
    worker.step(["r"], [8], [0])
    h = drawn(8, WIDTH, seed=seed + 4)
    assert torch.equal(at(worker, ("resid_post", 0), h), h)
    again = at(worker, ("resid_post", 1), h)
    torch.testing.assert_close(again[4:], expected(h[4:], holds))
    assert torch.equal(again[:4], h[:4])


def test_requests_of_one_plan_decide_for_themselves(tmp_path):
    when = sm.When(drawn(WIDTH), layer=0, above=0.0)
    item = sm.Add(drawn(WIDTH, seed=3), layers=1, when=when)
    worker, extra = worker_with(item, 4, 5, tmp_path)
    worker.observe([("s", extra, 4)], [])
    worker.step(["r", "s"], [4, 4], [0, 0])
    h = drawn(8, WIDTH, seed=2)
    h[3], h[7] = drawn(WIDTH), -drawn(WIDTH)
    at(worker, ("resid_post", 0), h)
    found = at(worker, ("resid_post", 1), h)
    assert not torch.equal(found[3], h[3])
    assert torch.equal(found[7], h[7])
    worker.step(["r", "s"], [1, 1], [4, 4])
    found = at(worker, ("resid_post", 1), h[:2])
    assert not torch.equal(found[0], h[0])
    assert torch.equal(found[1], h[1])
