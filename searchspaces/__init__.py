"""Recommended search spaces, one per family, as plain values."""

__distribution__ = "troupe"
