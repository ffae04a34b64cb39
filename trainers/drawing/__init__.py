"""Pictures, curves and event files; a run never fails for them."""
