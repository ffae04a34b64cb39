"""What is worth trying in troupe: a search space for each family, plain values."""
