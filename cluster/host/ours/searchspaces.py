"""Stands for the package `searchspaces` of troupe."""

from troupe_packages import load

load(__name__)
