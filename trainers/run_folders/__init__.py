"""The folder of a run: made, locked, read, removed, and kept in a bucket."""
