"""What is measured about a steered model, one idea a file."""
