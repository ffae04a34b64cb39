"""This machine: signals, hardware, environment, and what a run requires of them."""
