"""The synthetic corpus: one module for each kind of text."""
