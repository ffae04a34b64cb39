"""The state of torch and the processor while a run computes."""
