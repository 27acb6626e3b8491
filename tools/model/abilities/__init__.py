"""What a saved model folder can do, measured on text that its corpus never held."""
