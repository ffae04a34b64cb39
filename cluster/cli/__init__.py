"""The command line and the Python API: arguments in, one request out."""
