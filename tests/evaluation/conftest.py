from __future__ import annotations

from functools import cache

import pytest
import torch
from tests.models import tiny, tiny_tokenizer

import steersman as sm
from steersman import demo


@cache
def tiny_model(family: str) -> sm.SteeringModel:
    """A tiny random model. Shared: leave it as you find it."""
    return sm.SteeringModel(tiny(family), tiny_tokenizer())


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> sm.SteeringModel:
    return tiny_model(request.param)


@pytest.fixture
def gpt2() -> sm.SteeringModel:
    return tiny_model("gpt2")


@pytest.fixture(scope="session")
def embedded() -> sm.SteeringModel:
    """The embedded model."""
    return demo.demo_model()


@pytest.fixture(scope="session")
def happy(embedded: sm.SteeringModel) -> sm.SteeringVector:
    return demo.vector("happy", embedded)


@pytest.fixture(scope="session")
def mood():
    """Words of mood after a prompt."""
    return sm.contrast([f" {word}" for word in demo.words("positive")], [f" {word}" for word in demo.words("negative")])


@pytest.fixture
def direction(model: sm.SteeringModel) -> torch.Tensor:
    return torch.randn(model.d_model, generator=torch.Generator().manual_seed(11)) * 2
