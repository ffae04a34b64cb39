"""The version of troupe: where it is sent to a cluster, no metadata of a package tell it."""

__version__ = "0.2.0"
