"""Promises, as tests. A package of its own, since others install one of the same name."""
