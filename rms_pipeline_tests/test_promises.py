"""Each promise of docs/promises.md has what shows it, and that is there."""

import ast
import re
import shlex
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PAGE = (PROJECT / "docs" / "promises.md").read_text()
SHOWN_BY = re.findall(r"^  - `([^`]+)`$", PAGE, re.MULTILINE)


def names_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_promise_is_one_sentence_with_something_under_it() -> None:
    promises = re.findall(r"^- (.*)\n((?:  .*\n)*)", PAGE, re.MULTILINE)
    assert len(promises) > 20
    for said, under in promises:
        assert re.fullmatch(r"[^.]*(?:`[^`]*`[^.]*)*\.", said), said
        assert under.splitlines(), said
        for line in under.splitlines():
            assert re.fullmatch(r"  - `[^`]+`", line), line


def test_every_test_that_a_promise_names_is_there() -> None:
    named = [shown.partition("::") for shown in SHOWN_BY if "::" in shown]
    assert len(named) > 30
    missing = [
        f"{path}::{test}"
        for path, _, test in named
        if not (PROJECT / path).exists() or test not in names_in(PROJECT / path)
    ]
    assert missing == []


def test_every_command_that_a_promise_names_can_be_run() -> None:
    commands = [shlex.split(shown) for shown in SHOWN_BY if "::" not in shown]
    assert commands
    for program, script, *_ in commands:
        assert program == "python"
        assert (PROJECT / script).exists(), script


def test_the_readme_leads_to_the_promises() -> None:
    assert "(docs/promises.md)" in (PROJECT / "README.md").read_text()
