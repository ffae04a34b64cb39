"""What users and scripts see: progress, tables, answers, streams."""
