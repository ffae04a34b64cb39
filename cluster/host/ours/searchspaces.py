"""Stands for the package `searchspaces` of troupe."""

from troupe_packages import load_package

load_package(__name__)
