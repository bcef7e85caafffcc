"""Phrases that readers did not understand stay out of the texts that people read."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rms_pipeline_tests.processes import PROJECT

# Each was in an error, a page or the docs once. The words beside it say the same directly.
INSTEAD = {
    "an address waits": "calls wait, or an event waits",
    "told of": "announced, reported or named",
    "tells of": "announces, reports or names",
    "tell of": "announce, report or name",
    "nobody need": "it is not necessary to",
    "who may": "who can, or which role has the right to",
    "come to nothing": "lost, or it stores nothing",
    "came to nothing": "lost, or it stored nothing",
    "is no more": "does not exist any more, or is at most",
    "as it came": "as received",
    "as they came": "as received",
    "so may be": "can also be",
    "cannot be had": "is not available",
    "row that somebody has locked": "row locked by another session",
    "whoever": "the person who, or each process that",
    "none goes": "no row is deleted",
    "nobody knows when": "the day is not known",
    "beside earlier": "compared with earlier",
    "in times of": "compared with",
    "goes without saying": "is the default",
    "leads on": "links to the next page",
    "speaks of": "covers",
    "speak of": "cover",
    "tells us of": "sends to this mirror",
    "rows that are here": "rows",
    "not here yet": "not mirrored yet",
    "goes on where it": "continues where it",
    "all the same": "nevertheless, or it has no effect",
    "the one or the other": "name both",
    "comes to be": "becomes",
    "came to be": "became",
    "type at will": "free text",
    "as somebody asked": "this was chosen",
    "touch these days": "fall on these days",
}
_RIDDLES = re.compile(rf"\b({'|'.join(map(re.escape, INSTEAD))})\b", re.IGNORECASE)


def _read_as_text() -> Iterator[Path]:
    """Pages of docs (the reference too: it holds help, settings, comments of tables, metrics and
    routes), the files beside the README, and the templates."""
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        yield PROJECT / name
    yield from sorted((PROJECT / "docs").rglob("*.md"))
    yield from sorted((PROJECT / "rms_pipeline" / "web" / "templates").glob("*.html"))


def _said_by_code(path: Path) -> Iterator[tuple[int, str]]:
    """Texts in the code that are no docstrings: errors, advice, labels and descriptions."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield node.lineno, node.value


def riddles(text: str) -> list[str]:
    """The phrases of `INSTEAD` in `text`, each with what to write in its place."""
    return [f"{m[0]!r}: write {INSTEAD[m[0].lower()]}" for m in _RIDDLES.finditer(text)]


def test_texts_that_people_read_hold_no_phrase_that_readers_did_not_understand() -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {said}"
        for path in _read_as_text()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for said in riddles(line)
    ]
    for path in sorted((PROJECT / "rms_pipeline").rglob("*.py")):
        # What a migration said is frozen.
        if "versions" not in path.parts:
            found += [
                f"{path.relative_to(PROJECT)}:{number}: {said}"
                for number, text in _said_by_code(path)
                for said in riddles(text)
            ]
    assert found == []


@pytest.mark.parametrize("phrase", sorted(INSTEAD))
def test_each_such_phrase_is_found(phrase: str) -> None:
    assert riddles(f"Here {phrase} is written.")
    assert not riddles("Another session locks this row. Run the sync again.")
