"""What torch and the processor are set to while a run computes."""
