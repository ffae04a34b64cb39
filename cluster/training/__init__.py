"""`troupe train`: one run from its request to its result."""
