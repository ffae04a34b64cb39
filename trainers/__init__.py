"""How the runs of troupe learn: settings, families, data, and the one training loop."""

from trainers.base import old_names

__distribution__ = "troupe"

old_names.install_finder()
