"""`troupe report`: the page of runs and searches."""
