"""What a person or a script sees: progress, tables, answers, streams."""
