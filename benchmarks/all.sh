#!/usr/bin/env bash
# Every figure of benchmarks/README.md anew, written there when all came: about 30 minutes, on a machine
# that does nothing else. Needs `.venv/bin/pip install -e '.[benchmarks]'` for the comparison with dlt,
# and Debian's postgresql-15.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
$python -c 'import dlt'
results=$(mktemp)
trap 'echo "Not all came. What did is in $results." >&2' ERR

while read -r script; do
    echo "+ $script" >&2
    # shellcheck disable=SC2086
    $python benchmarks/$script </dev/null | tee -a "$results"
done <<'SCRIPTS'
peers.py --rows 20000 --rounds 3 --server embedded
peers.py --rows 20000 --rounds 3 --server 15
proof.py --rows 20000
startup.py --times 7
growth.py --rows 2000 20000 200000 500000
raw_pages.py --rows 20000
million.py --rows 100000
limit.py --rows 50000 --latencies 0.2 0.7 3
dashboard.py --rows 100000 500000 --times 15
pages.py --rows 8000 1000000 --times 9
combinations.py --rows 1000000
find.py --rows 1000000 --times 9 --server embedded
syncs.py --syncs 9000 --times 9
freshness.py edits --edits 200 --per-second 2
freshness.py burst --events 5000 --opportunities 300 --seconds 30
freshness.py sensor --edits 20
history.py --rows 5000
ingest.py --rows 10000 --rounds 3 --beside b23baa8
questions.py --rows 100000
upgrade.py --rows 100000
SCRIPTS

$python - "$results" <<'PYTHON'
import pathlib
import sys

readme = pathlib.Path("benchmarks/README.md")
head, marker, _ = readme.read_text().partition("<!-- results -->\n")
printed = pathlib.Path(sys.argv[1]).read_text().strip()
readme.write_text(f"{head}{marker}\n{printed}\n")
PYTHON
rm "$results"
