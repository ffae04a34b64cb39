"""Imported last in a process that others are forked from: what was imported stays, and each run in them looks through
its own objects alone when it has ended (`gc.collect` in `trainers/run.py`)."""

import gc

gc.collect()
gc.freeze()
