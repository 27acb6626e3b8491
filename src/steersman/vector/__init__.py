"""Steering vectors, what can be done with them, and the model they were made for."""

from .origin import Origin, check_text
from .steering_vector import VECTOR_FILE, SteeringVector

__all__ = ["VECTOR_FILE", "Origin", "SteeringVector", "check_text"]
