"""Run folders: created, locked, read, removed, and mirrored to a bucket."""
