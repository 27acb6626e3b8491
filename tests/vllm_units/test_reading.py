"""What is read of a request does not depend on the steps that it was run in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.engines.vllm.reading import Reading, Readings, read
from steersman.engines.vllm.settings import Settings
from steersman.errors import SpecError

WIDTH, PLACE = 8, ("attn_out", 1)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_rows_means_and_norms_come_out_in_any_chunks(data):
    length = data.draw(st.integers(2, 12))
    tokens = data.draw(st.lists(st.integers(0, length - 1), min_size=1, unique=True))
    average, norms = data.draw(st.booleans()), data.draw(st.booleans())
    values = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(length))
    readings = Readings({PLACE: 0.5}, WIDTH, 16, torch.device("cpu"))
    readings.begin("r", Reading("k", tuple(tokens), average, norms), length)
    start = 0
    restart = data.draw(st.integers(0, length))  # preempted once: run again from the first token
    while start < length:
        count = data.draw(st.integers(1, length - start))
        others = data.draw(st.integers(0, 4))
        readings.expect(["other", "r"], [others, count], [3, start])
        hidden = torch.cat([torch.full((others, WIDTH), 9.0), values[start : start + count]]) / 0.5
        read(hidden - 1.0, torch.ones_like(hidden), readings.stores[PLACE], readings.wanted)
        readings.collect()
        start += count
        if start >= restart > 0:
            start, restart = 0, 0
            if "r" not in readings._open:
                break
    found = readings.take(["k"])
    wanted = values[tokens].double().mean(0, keepdim=True).float() if average else values[tokens]
    torch.testing.assert_close(found["k/attn_out.1"], wanted, rtol=1e-5, atol=1e-5)
    assert ("k/attn_out.1/norms" in found) == norms
    if norms:
        torch.testing.assert_close(found["k/attn_out.1/norms"], values[1:].norm(dim=-1), rtol=1e-5, atol=1e-5)
    assert readings.take(["k"]) == {}


def test_nothing_is_copied_where_nothing_is_read():
    readings = Readings({PLACE: 1.0}, WIDTH, 16, torch.device("cpu"))
    readings.begin("r", Reading("k", (5,), False, False), 8)
    readings.expect(["r"], [4], [0])
    read(torch.ones(4, WIDTH), None, readings.stores[PLACE], readings.wanted)
    assert not readings.stores[PLACE].any()
    readings.expect(["r"], [4], [4])
    read(torch.ones(4, WIDTH), None, readings.stores[PLACE], readings.wanted)
    assert bool(readings.stores[PLACE][:4].all())
    readings.forget()
    readings.collect()
    assert readings.take(["k"]) == {}
    readings.end("r")
    assert readings._open == {}


def test_sums_of_low_precision_are_made_in_float32():
    store, wanted = torch.zeros(3, WIDTH), torch.ones(1, dtype=torch.int32)
    hidden, residual = torch.randn(2, WIDTH).bfloat16(), torch.randn(2, WIDTH).bfloat16() * 100
    read(hidden, residual, store, wanted)
    assert torch.equal(store[:2], hidden.float() + residual.float())


def test_what_is_no_reading_is_refused():
    assert Reading.from_extra({"other": 1}) is None
    same = Reading("k", (1, 0), True, False)
    assert Reading.from_extra({"steersman.read": same.plain()}) == same
    for wrong in ("x", 3, {}, {"key": "k", "tokens": ["a"], "average": 1, "norms": 0}):
        with pytest.raises(SpecError, match=r"steersman\.read"):
            Reading.from_extra({"steersman.read": wrong})
    for tokens in ((), (4,), (-1,), (1, 1)):
        with pytest.raises(SpecError):
            Reading("k", tokens, False, False).check(4)


def test_places_to_capture_are_settings():
    assert Settings.parse({"capture": ["resid_post.8", "attn_out.0"]}).capture == (("resid_post", 8), ("attn_out", 0))
    for wrong in ("z.1", "resid_post", "resid_post.-1", 3):
        with pytest.raises(SpecError, match="a component"):
            Settings.parse({"capture": [wrong]})
