"""Loads a package of troupe from where it is installed, whatever else has its name on the path.

The folder of this file comes first on the path of child processes. It has our four names and no other, so nothing else
that is installed beside our packages changes its place there.
"""

import importlib.util
import os
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))


def load_package(name: str) -> None:
    """Import the package of this name, in place of the module in this folder that has it."""
    folder = os.path.join(ROOT, name)
    file = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
