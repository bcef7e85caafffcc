"""Findings, for people or for scripts."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from rms_pipeline.doctor import Level, examine
from rms_pipeline.settings import Settings

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}
_MARKS = {Level.OK: "✔", Level.WARNING: "!", Level.PROBLEM: "✘"}
# For a terminal whose character set has no such marks.
_PLAIN_MARKS = {Level.OK: "+", Level.WARNING: "!", Level.PROBLEM: "x"}


def print_findings(settings: Callable[[], Settings], *, as_json: bool, out: Console) -> bool:
    """Prints each finding on its own line as it arrives, or all as one line of JSON. Returns
    whether none is a problem."""
    if hasattr(sys.stdout, "reconfigure"):
        # What Current RMS sent may have characters that the terminal does not know.
        sys.stdout.reconfigure(errors="replace")
    marks = _MARKS if _can_show("".join(_MARKS.values())) else _PLAIN_MARKS
    found = []
    for finding in examine(settings):
        found.append(finding)
        if not as_json:
            advice = f" {finding.advice}" if finding.advice else ""
            text = " ".join(f"{finding.found}{advice}".split())
            line = Text.assemble(
                (marks[finding.level], _COLOURS[finding.level]), f" {finding.check:<16} {text}"
            )
            out.print(line, soft_wrap=True, highlight=False)
    healthy = all(f.level is not Level.PROBLEM for f in found)
    if as_json:
        json.dump({"healthy": healthy, "findings": [asdict(f) for f in found]}, sys.stdout)
        sys.stdout.write("\n")
    return healthy


def _can_show(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
