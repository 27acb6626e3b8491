from __future__ import annotations

import pytest

from steersman import demo
from steersman.demo.tour import Tour, tour


@pytest.fixture(scope="session")
def model():
    """The embedded model."""
    if not (demo.MODEL_FOLDER / "config.json").is_file():
        pytest.skip("the embedded model is not there")
    return demo.demo_model()


@pytest.fixture(scope="session")
def found(model) -> Tour:
    """The whole tour, taken once."""
    return tour(model)
