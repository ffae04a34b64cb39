"""Typed settings: declaration, parsing, and rules across settings."""
