"""The one training loop, and what it does between steps."""
