"""Commands on existing runs, and on the machines that they need."""
