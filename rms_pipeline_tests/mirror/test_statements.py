"""Statements that stand in files, and what is sent with statements."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rms_pipeline.mirror import statements
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statements import array_of, described

FILES = sorted(statements._QUERIES.glob("*.sql"))
CODE = "".join(path.read_text() for path in Path(statements.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_says_what_it_gives_and_is_run_by_somebody(path: Path) -> None:
    text = path.read_text()
    assert re.match(r"-- [A-Z].{40}", text), "it begins with a sentence on what it is"
    assert f'"{path.stem}"' in CODE
    # psycopg2 would take it for a value.
    assert not re.search(r"%(?!\(\w+\)s|%)", text)


def test_comments_are_not_sent_and_what_is_named_is_put_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "_QUERIES", tmp_path)
    (tmp_path / "made_for_a_test.sql").write_text(
        "-- Tells of @table@, 100 %.\nSELECT id, '--' FROM @table@\n    -- Why.\nWHERE @which@\n"
    )
    told = described("made_for_a_test", table="things", which="true")
    assert told == "SELECT id, '--' FROM things\nWHERE true\n"
    with pytest.raises(KeyError, match="which"):
        described("made_for_a_test", table="things")


_MOMENT = datetime(2026, 3, 29, 1, 30, 0, 123_456, tzinfo=UTC)
_ODD = [
    "",
    "NULL",
    "null",
    "a,b",
    "{}",
    '"',
    "\\",
    '\\"',
    "'",
    " b ",
    "\t\n\r",
    "%s",
    "é🥗",
    "E'\\\\'",
]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text[]", [*_ODD, None]),
        ("text[]", []),
        ("bigint[]", [2**63 - 1, -(2**63), 0, None]),
        ("timestamptz[]", [_MOMENT, _MOMENT.replace(microsecond=0), None]),
    ],
)
def test_an_array_arrives_value_by_value_as_it_was_sent(
    emptied: Database, kind: str, values: list[Any]
) -> None:
    with emptied.session() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT %s::{kind}", (array_of(values),))
        assert cursor.fetchone() == (values,)
