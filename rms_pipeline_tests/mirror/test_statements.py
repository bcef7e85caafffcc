"""Statements that stand in files."""

import re
from pathlib import Path

import pytest

from rms_pipeline.mirror import statements
from rms_pipeline.mirror.statements import described

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
