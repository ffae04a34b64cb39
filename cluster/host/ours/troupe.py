"""Stands for the package `troupe` of troupe."""

from troupe_packages import load

load(__name__)
