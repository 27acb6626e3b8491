"""The closed forms: whatever the maps, the new matrix and bias do to an input what the maps do around the old ones."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steersman.engines.weights.changes import Change, is_diagonal
from steersman.operations.maps import AffineMap


def draw_map(width: int, rank: int, generator: torch.Generator) -> AffineMap:
    write, read = (torch.randn(width, rank, generator=generator).double() for _ in range(2))
    return AffineMap(write, read, torch.randn(rank, generator=generator).double())


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    ranks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    inputs_first=st.booleans(),
    sides=st.sampled_from(["inputs", "outputs", "both"]),
    scale=st.sampled_from([1.0, 0.22]),
)
def test_the_new_matrix_and_bias_do_what_the_maps_do(
    seed: int, sizes: tuple[int, int], ranks: tuple[int, int], inputs_first: bool, sides: str, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    out, into = sizes
    weight = torch.randn(out, into, generator=generator).double()
    bias, x = torch.randn(out, generator=generator).double(), torch.randn(5, into, generator=generator).double()
    before = draw_map(into, ranks[0], generator) if sides != "outputs" else None
    after = draw_map(out, ranks[1], generator) if sides != "inputs" else None
    stored = weight.T.contiguous() if inputs_first else weight
    new = Change("matrix", inputs=before, outputs=after, inputs_first=inputs_first).apply(stored)
    added = None if after is None else after.offset / scale
    carried = None if before is None else ("w", before)
    shift = Change("bias", outputs=after, added=added, carried=carried, inputs_first=inputs_first).apply(bias, stored)
    found = scale * (x @ (new if inputs_first else new.T) + shift)
    expected = scale * ((x if before is None else before(x)) @ weight.T + bias)
    expected = expected if after is None else after(expected)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_experts_and_tables() -> None:
    generator = torch.Generator().manual_seed(0)
    operation = draw_map(6, 2, generator)
    matrix, _ = operation.matrices()
    experts = torch.randn(3, 6, 4, generator=generator).double()
    assert torch.allclose(Change("matrix", outputs=operation).apply(experts), matrix @ experts)
    turned = experts.transpose(1, 2).contiguous()
    found = Change("matrix", outputs=operation, inputs_first=True).apply(turned)
    assert torch.allclose(found, (matrix @ experts).transpose(1, 2))
    table = torch.randn(9, 6, generator=generator).double()
    added = torch.randn(6, generator=generator).double()
    plain = AffineMap(operation.write, operation.read, torch.zeros(2).double())
    assert torch.allclose(Change("table", outputs=plain, added=added).apply(table), table @ matrix.T + added)


def test_a_gain_takes_a_diagonal_map_only() -> None:
    eye = torch.eye(5).double()
    half = AffineMap(-0.5 * eye, eye, torch.zeros(5).double())
    gain = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]).double()
    assert is_diagonal(half)
    assert torch.allclose(Change("gain", outputs=half).apply(gain), 0.5 * gain)
    assert torch.allclose(1 + Change("gain", outputs=half, plus_one=True).apply(gain), 0.5 * (1 + gain))
    direction = torch.ones(5, 1).double() / 5**0.5
    assert not is_diagonal(AffineMap(-direction, direction, torch.zeros(1).double()))
    axis: Tensor = eye[:, :1]
    assert is_diagonal(AffineMap(-axis, axis, torch.zeros(1).double()))


def test_large_matrices_are_rewritten_in_parts(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(11, 13, generator=generator)
    before, after = draw_map(13, 2, generator), draw_map(11, 3, generator)
    change = Change("matrix", inputs=before, outputs=after)
    whole = change.apply(weight)
    monkeypatch.setattr("steersman.engines.weights.changes._CHUNK", 20)
    assert torch.allclose(change.apply(weight), whole, rtol=1e-6, atol=1e-6)
