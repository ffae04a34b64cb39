"""The training loop, and its work between steps."""
