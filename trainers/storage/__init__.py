"""Files that are whole or not there: checkpoints, tensors, locks, caches."""
