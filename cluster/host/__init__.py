"""This machine: signals, hardware, environment, and the requirements of a run."""
