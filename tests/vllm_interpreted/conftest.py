"""Triton's interpreter in place of a GPU: what vLLM runs there by default runs here, slowly."""

import os
import types

os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}

import triton.backends

# vLLM's CPU build takes Triton for present only if it has a backend for CPUs; the interpreter needs none.
triton.backends.backends.setdefault(
    "cpu", types.SimpleNamespace(driver=types.SimpleNamespace(is_active=lambda: True), compiler=None)
)

from tests.vllm.conftest import engine, models  # noqa: E402, F401
