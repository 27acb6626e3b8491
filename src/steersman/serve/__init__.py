"""``steer serve``: the OpenAI-compatible API, steered per request, and the page.

Needs the extra ``serve``. :func:`create_app` makes the application from a model; :func:`run` serves it,
and :func:`background` does so in a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import create_app
    from .running import background, run
    from .settings import Limits, Settings

__all__ = ["Limits", "Settings", "background", "create_app", "run"]

_WHERE = {"create_app": "app", "run": "running", "background": "running", "Limits": "settings", "Settings": "settings"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
