#!/usr/bin/env bash
# Every figure of benchmarks/README.md anew, written there: about 30 minutes, on a machine that does
# nothing else. Needs `.venv/bin/pip install -e '.[benchmarks]'` for the comparison with dlt.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
results=$(mktemp)
trap 'rm -f "$results"' EXIT

for script in peers.py startup.py growth.py limit.py dashboard.py \
    "freshness.py edits" "freshness.py burst" "freshness.py sensor"; do
    echo "+ $script" >&2
    # shellcheck disable=SC2086
    $python benchmarks/$script | tee -a "$results"
done

$python - "$results" <<'PYTHON'
import pathlib
import sys

readme = pathlib.Path("benchmarks/README.md")
head, marker, _ = readme.read_text().partition("<!-- results -->\n")
printed = pathlib.Path(sys.argv[1]).read_text().strip()
readme.write_text(f"{head}{marker}\n{printed}\n")
PYTHON
