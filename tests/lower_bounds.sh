#!/usr/bin/env bash
# The lower bounds in pyproject.toml, tried: an environment with the oldest versions that they allow, and the fast tests.
# Not part of .ci/run: it installs a second torch. Usage: tests/lower_bounds.sh [FOLDER FOR THE ENVIRONMENT]
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-$(mktemp -d)}"
"${PYTHON:-python3.11}" -m venv "$folder"
. "$folder/bin/activate"
pip install --quiet --upgrade pip
python - > "$folder/oldest.txt" <<'PYTHON'
import re
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for requirement in project["dependencies"]:
    print(re.sub(r">=([0-9.]+)", r"==\1.*", requirement))
PYTHON
cat "$folder/oldest.txt"
pip install --quiet -r "$folder/oldest.txt"
pip install --quiet --no-deps -e .
pip install --quiet pytest pytest-timeout pytest-xdist hypothesis jsonschema
pytest
