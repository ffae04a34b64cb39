"""Images, curves and event files; their errors never fail a run."""
