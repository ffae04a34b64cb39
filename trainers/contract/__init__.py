"""What a model family says of itself, and what its losses may depend on."""
