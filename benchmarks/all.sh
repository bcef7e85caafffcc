#!/usr/bin/env bash
# Every figure of benchmarks/README.md anew: about 25 minutes, on a machine that does nothing else.
#
#     benchmarks/all.sh > benchmarks/RESULTS.md
#
# Needs `pip install -e '.[benchmarks]'` in .venv for the comparison with dlt.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python

echo "# Results"
echo
$python benchmarks/peers.py
$python benchmarks/startup.py
$python benchmarks/growth.py
$python benchmarks/limit.py
