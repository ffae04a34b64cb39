#!/usr/bin/env bash
# Whether the tests pass where the machine has other work: beside two busy processes, so many times in a row.
# Usage: tests/beside_load.sh TIMES [WORDS OF pytest ...], as in `tests/beside_load.sh 5` and `tests/beside_load.sh 2 --all`
set -euo pipefail
cd "$(dirname "$0")/.."
times="$1"
shift
busy=()
trap 'kill "${busy[@]}" 2>/dev/null || true' EXIT
for _ in 1 2; do
  python -c 'while True: sum(range(10_000))' &
  busy+=($!)
done
for number in $(seq "$times"); do
  echo "run $number of $times, beside two busy processes"
  pytest -q -p no:cacheprovider "$@"
done
