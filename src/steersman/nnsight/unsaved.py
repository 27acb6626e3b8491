"""What stands for a name that a trace bound but did not bring out: using it says why it is not there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from nnsight.tracing.util import push

from ..errors import NotSavedError


class Unsaved:
    """A name without its value. Anything done with it raises NotSavedError; only printing it does not."""

    def __init__(self, name: str, saved: bool) -> None:
        why = (
            f"the line that saves {name!r} was never run: nothing after an open `for ... in tracer.iter[:]` or "
            "`tracer.all()` loop is, since the loop ends with the model. Put the line above the loop, into a second "
            "`with tracer.invoke():`, or write the loop as `with tracer.all():`"
            if saved
            else f"{name!r} was computed inside a trace and not kept: end the expression that computes it with .save()"
        )
        object.__setattr__(self, "_why", why)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotSavedError(object.__getattribute__(self, "_why"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._refuse()

    def __repr__(self) -> str:
        return f"<{object.__getattribute__(self, '_why')}>"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for item in _leaves([*args, *(kwargs or {}).values()]):
            if isinstance(item, Unsaved):
                item._refuse()

    __call__ = __getitem__ = __setitem__ = __iter__ = __len__ = __bool__ = __contains__ = __reduce_ex__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __matmul__ = __rmatmul__ = __neg__ = __pow__ = __rpow__ = __abs__ = __float__ = __int__ = __index__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __array__ = __enter__ = __exit__ = _refuse


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _leaves(item)
    else:
        yield value


def leave_notes(frame: Any, node: ast.With | ast.AsyncWith, known: set[str]) -> None:
    """Put an :class:`Unsaved` into the frame for every name that its trace bound, and that it now lacks."""
    if not isinstance(frame, FrameType):
        return
    missing: dict[str, bool] = {}
    for name, value in bound(node.body):
        if name not in known and (name not in frame.f_locals or isinstance(frame.f_locals[name], Unsaved)):
            missing[name] = missing.get(name, False) or _saves(value)
    push(frame, {name: Unsaved(name, saved) for name, saved in missing.items()})


def known_names(frame: Any) -> set[str]:
    """The names that have a value before a trace."""
    return {name for name, value in frame.f_locals.items() if not isinstance(value, Unsaved)}


def forget_notes(scope: dict[str, Any]) -> None:
    """Take the notes of earlier traces out of what a block sees, so that they hide no name of its siblings."""
    for name in [name for name, value in dict.items(scope) if isinstance(value, Unsaved)]:
        dict.pop(scope, name)


def bound(body: list[Any]) -> Iterator[tuple[str, ast.AST | None]]:
    """The names that a block binds, with what they are bound to; functions and comprehensions have their own."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            continue
        value = getattr(node, "value", None) if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) else None
        targets = [*getattr(node, "targets", []), getattr(node, "target", None)] if value is not None else []
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, value
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, None
        yield from bound(list(ast.iter_child_nodes(node)))


def _saves(value: ast.AST | None) -> bool:
    """Whether an expression ends with ``.save()``, or is ``nnsight.save(...)``."""
    if not isinstance(value, ast.Call):
        return False
    function = value.func
    return (isinstance(function, ast.Attribute) and function.attr == "save") or (
        isinstance(function, ast.Name) and function.id == "save"
    )
