"""Typed settings: their declaration, their reading, and rules across them."""
