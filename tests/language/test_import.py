"""Importing the package costs next to nothing, and everything it promises is there and described."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import steersman
from steersman import errors

HEAVY = ("torch", "transformers", "numpy", "pydantic", "safetensors", "huggingface_hub", "pandas", "sklearn", "scipy")


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(found.stdout.split())


def test_importing_the_package_and_listing_it_loads_nothing_heavy() -> None:
    assert not loaded_after("import steersman; dir(steersman); steersman.__all__; steersman.__version__") & set(HEAVY)


def test_the_sites_and_positions_are_words_that_need_no_torch() -> None:
    assert not loaded_after("from steersman import heads, after, site; heads(1, 2); after('x')") & set(HEAVY)


def test_the_language_knows_tensors_but_no_models() -> None:
    found = loaded_after("import steersman.plan, steersman.eraser, steersman.values")
    assert "torch" in found
    assert not found & {"transformers", "steersman.model", "sklearn", "pandas", "huggingface_hub"}


@pytest.mark.parametrize("name", steersman.__all__)
def test_every_public_name_is_there_and_has_a_docstring(name: str) -> None:
    value = getattr(steersman, name)
    assert name in dir(steersman)
    assert inspect.getdoc(value)
    assert value.__doc__, f"{name} has no docstring of its own"


def test_what_is_exported_is_what_is_loaded_lazily_and_what_type_checkers_see() -> None:
    assert set(steersman.__all__) == set(steersman._PUBLIC)
    tree = ast.parse(Path(steersman.__file__).read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name for node in ast.walk(typed) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(steersman.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'steersman' has no attribute 'happiness'"):
        steersman.happiness  # noqa: B018


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_one_of_ours_and_one_of_pythons(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.SteersmanError)
    assert kind.__doc__
    if kind is not errors.SteersmanError:
        assert issubclass(kind, ValueError | RuntimeError | NotImplementedError | NameError | ImportError)


def test_all_errors_are_exported() -> None:
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert defined == set(errors.__all__)
