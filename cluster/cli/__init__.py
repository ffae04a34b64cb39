"""The command line and the calls from Python: arguments in, one request out."""
