"""Stands for the package `cluster` of troupe."""

from troupe_packages import load_package

load_package(__name__)
