__version__ = "0.2.0"  # where troupe is sent to a cluster, no other tells it
