"""Rows that are gone, where something else was learnt of them meanwhile."""

from datetime import timedelta

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import move_to_deleted
from rms_pipeline_tests.mirror.test_merge import T0, fetch_all, merge_at, record


@pytest.mark.parametrize(
    ("asked", "answered", "goes"),
    [(0, 1, False), (9, 11, True), (20, 21, True), (0, 30, True)],
    ids=["asked for before", "at the same time", "asked for later", "all around"],
)
def test_an_absence_takes_a_row_away_unless_that_was_fetched_after_it_was_known(
    emptied: Database, asked: int, answered: int, goes: bool
) -> None:
    merge_at(emptied, 10, 12, record(id=1, subject="There"), record(id=2, subject="Beside it"))
    gone = {1: (T0 + timedelta(seconds=asked), T0 + timedelta(seconds=answered))}
    with emptied.session() as connection:
        assert move_to_deleted(connection, OPPORTUNITIES, gone, "a test", "run").gone == (
            [1] if goes else []
        )
    rows = fetch_all(emptied, "SELECT id FROM opportunities ORDER BY id")
    assert rows == ([(2,)] if goes else [(1,), (2,)])
    assert fetch_all(emptied, "SELECT id FROM deleted_opportunities") == ([(1,)] if goes else [])
