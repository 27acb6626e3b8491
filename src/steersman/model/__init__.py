"""A Hugging Face decoder: its parts, its tokens, the hooks that steer it."""

from .steering_model import SteeringModel

__all__ = ["SteeringModel"]
