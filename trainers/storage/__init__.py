"""Files that are complete or absent: checkpoints, tensors, locks, caches."""
