"""What a model family defines, and what its losses may depend on."""
