"""What an interactive session shows of results: a line or a table, never all their tensors."""

from __future__ import annotations

import torch

import steersman as sm


def test_values_and_erasers_are_one_line() -> None:
    values = sm.LayerValues({2: torch.zeros(4, 8), 3: torch.zeros(4, 8)}, site="mlp_out", name="means")
    assert repr(values) == "LayerValues('means', layers 2-3, [4, 8] each, mlp_out)"
    assert repr(sm.LayerValues({n: torch.zeros(n, 8) for n in (1, 2, 3)})) == (
        "LayerValues(layers 1-3, tensors of several shapes each)"
    )
    eraser = sm.fit_eraser({5: torch.randn(40, 4)}, [0, 1] * 20)
    assert repr(eraser) == "Eraser(layers 5, rank 1, resid_post)"
