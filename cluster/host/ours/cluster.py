"""Stands for the package `cluster` of troupe."""

from troupe_packages import load

load(__name__)
