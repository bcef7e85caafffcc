#!/usr/bin/env bash
# Every figure of benchmarks/README.md anew, written there: about 25 minutes, on a machine that does
# nothing else. Needs `.venv/bin/pip install -e '.[benchmarks]'` for the comparison with dlt.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
results=$(mktemp)
trap 'rm -f "$results"' EXIT

for script in peers startup growth limit; do
    echo "+ $script.py" >&2
    $python "benchmarks/$script.py" | tee -a "$results"
done

$python - "$results" <<'PYTHON'
import pathlib
import sys

readme = pathlib.Path("benchmarks/README.md")
head, marker, _ = readme.read_text().partition("<!-- results -->\n")
printed = pathlib.Path(sys.argv[1]).read_text().strip()
readme.write_text(f"{head}{marker}\n{printed}\n")
PYTHON
