"""Where workers live: a local Ray, a Ray cluster, or a pool of processes."""
