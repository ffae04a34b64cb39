"""Shared foundations: errors, paths, timeouts."""
