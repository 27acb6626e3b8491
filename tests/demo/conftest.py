from __future__ import annotations

import pytest

from steersman import demo
from steersman.demo.tour import Tour, tour


@pytest.fixture(scope="session")
def model():
    """The embedded model."""
    return demo.demo_model()


@pytest.fixture(scope="session")
def found(model) -> Tour:
    """The whole tour, taken once."""
    return tour(model)
