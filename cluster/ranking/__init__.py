"""The record of a search, and which of its points is the best, beyond chance."""
