"""The version of troupe: package metadata is not available when the code is sent to a cluster."""

__version__ = "0.2.0"
