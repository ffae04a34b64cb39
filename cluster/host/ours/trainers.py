"""Stands for the package `trainers` of troupe."""

from troupe_packages import load

load(__name__)
