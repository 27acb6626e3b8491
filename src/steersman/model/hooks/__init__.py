"""The reference engine. Every other engine is held to it: same plan, same logits."""

from .applied import Applied
from .engine import HookEngine, Run
from .held import Context, Contexts, HeldTree
from .reading import read_sites
from .rows import FindMarker, Row

__all__ = ["Applied", "Context", "Contexts", "FindMarker", "HeldTree", "HookEngine", "Row", "Run", "read_sites"]
