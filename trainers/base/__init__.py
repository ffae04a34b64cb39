"""What everything stands on: errors, paths, timeouts."""
