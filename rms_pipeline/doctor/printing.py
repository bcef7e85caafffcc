"""Findings, for people or for scripts."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from rms_pipeline.doctor import Level, examine
from rms_pipeline.settings import Settings

_MARKS = {Level.OK: ("✔", "green"), Level.WARNING: ("!", "yellow"), Level.PROBLEM: ("✘", "red")}


def print_findings(settings: Callable[[], Settings], *, as_json: bool, out: Console) -> bool:
    """Prints each finding on its own line as it arrives, or all as one line of JSON. Returns
    whether none is a problem."""
    if hasattr(sys.stdout, "reconfigure"):
        # A terminal that does not know the marks shows others, and no traceback.
        sys.stdout.reconfigure(errors="replace")
    found = []
    for finding in examine(settings):
        found.append(finding)
        if not as_json:
            mark, colour = _MARKS[finding.level]
            advice = f" {finding.advice}" if finding.advice else ""
            text = " ".join(f"{finding.found}{advice}".split())
            line = Text.assemble((mark, colour), f" {finding.check:<16} {text}")
            out.print(line, soft_wrap=True, highlight=False)
    healthy = all(f.level is not Level.PROBLEM for f in found)
    if as_json:
        json.dump({"healthy": healthy, "findings": [asdict(f) for f in found]}, sys.stdout)
        sys.stdout.write("\n")
    return healthy
