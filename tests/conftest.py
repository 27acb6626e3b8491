"""What all tests share."""

from __future__ import annotations

import torch
from hypothesis import Phase, settings

torch.set_num_threads(1)  # the models are too small to gain from threads, and lose much

settings.register_profile(
    "steersman", derandomize=True, deadline=None, database=None, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("steersman")
