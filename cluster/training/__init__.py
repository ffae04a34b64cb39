"""`troupe train`: one run, from request to result."""
