"""Engines: what carries a plan out. Each is a folder that could be deleted without touching another."""
