"""What an intervention does to the tokens it touches: one file per operation, pure maps in :mod:`.maps`."""

from .ablate import Ablate
from .add import Add
from .base import Action, Direction, Intervention
from .clamp import Affine, Clamp
from .components import Mean, Resample, Zero
from .custom import Custom
from .erase import Erase
from .maps import AffineMap, Map, Tokens
from .replace import Replace
from .rotate import Rotate

#: operation name in a spec -> class
OPERATIONS: dict[str, type[Intervention]] = {
    cls.operation: cls for cls in (Add, Ablate, Clamp, Affine, Erase, Rotate, Replace, Zero, Mean, Resample, Custom)
}

__all__ = [
    "OPERATIONS", "Ablate", "Action", "Add", "Affine", "AffineMap", "Clamp", "Custom", "Direction", "Erase",
    "Intervention", "Map", "Mean", "Replace", "Resample", "Rotate", "Tokens", "Zero",
]  # fmt: skip
