"""Rows made again from their own data, and the version of the mapping they were filled with."""

import itertools
import logging
import threading
from typing import Any

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror import redecode as redecoding
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.mapping import is_mapping_current, note_mapping
from rms_pipeline.mirror.redecode import redecode
from rms_pipeline.mirror.schema import migrate
from rms_pipeline_tests.mirror.test_merge import fetch_all, merge_at, record
from rms_pipeline_tests.processes import wait_until

DAMAGE = (
    "UPDATE opportunities SET name = 'wrong', starts_at = NULL, charge_total = 7, owner_id = 9"
    " RETURNING id"
)
SHOWN = (
    "SELECT id, name, starts_at, charge_total, owner_id, synced_at FROM opportunities ORDER BY 1"
)
VERSION = "SELECT value FROM mirror_state WHERE name = 'mapping_version'"


def fill(database: Database, count: int) -> list[tuple[Any, ...]]:
    records = [
        record(id=i, subject=f"Hire {i}", starts_at="2026-05-01T08:00:00Z", charge_total="12.50")
        for i in range(1, count + 1)
    ]
    merge_at(database, 1, 2, *records)
    return fetch_all(database, SHOWN)


def lower_version(database: Database) -> None:
    fetch_all(
        database,
        "UPDATE mirror_state SET value = '0' WHERE name = 'mapping_version' RETURNING value",
    )


def test_migrate_makes_rows_again_that_another_mapping_filled_and_notes_its_own(
    database: Database,
) -> None:
    before = fill(database, 450)
    versions = fetch_all(database, "SELECT * FROM opportunity_versions ORDER BY id")
    fetch_all(database, DAMAGE)
    migrate(database)
    assert fetch_all(database, SHOWN) != before
    lower_version(database)
    migrate(database)
    assert fetch_all(database, SHOWN) == before
    assert fetch_all(database, VERSION) == [(str(OPPORTUNITIES.version),)]
    assert fetch_all(database, "SELECT * FROM opportunity_versions ORDER BY id") == versions


def test_migrate_killed_between_batches_ends_right_when_it_runs_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fill(database, 450)
    fetch_all(database, DAMAGE)
    lower_version(database)
    rewrite, calls = redecoding._rewrite, itertools.count()

    def dying(*arguments: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return rewrite(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(redecoding, "_rewrite", dying)
        with pytest.raises(KeyboardInterrupt):
            migrate(database)
    wrong = "SELECT count(*) FROM opportunities WHERE name = 'wrong'"
    assert fetch_all(database, wrong) == [(250,)]
    assert fetch_all(database, VERSION) == [("0",)]
    migrate(database)
    assert fetch_all(database, SHOWN) == before
    assert fetch_all(database, VERSION) == [(str(OPPORTUNITIES.version),)]


def test_migrate_says_in_the_log_how_far_the_decoding_is(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, 450)
    lower_version(database)
    monkeypatch.setattr(redecoding, "_TOLD_EVERY", 0.0)
    with caplog.at_level(logging.INFO, logger=redecoding.__name__):
        migrate(database)
    assert [record.getMessage() for record in caplog.records if "450" in record.getMessage()] == [
        f"Decoding opportunities again from their stored records: {done} of 450 rows."
        for done in (200, 400, 450)
    ]


def test_rows_that_are_right_are_not_written(database: Database) -> None:
    fill(database, 30)
    places = fetch_all(database, "SELECT id, ctid, xmin FROM opportunities ORDER BY id")
    done = redecode(database, OPPORTUNITIES, "again")
    assert (done.rows, done.rewritten, done.failed) == (30, 0, 0)
    assert fetch_all(database, "SELECT id, ctid, xmin FROM opportunities ORDER BY id") == places


def test_a_row_whose_data_is_absent_or_of_another_stays_as_it_is_and_is_named_once(
    database: Database,
) -> None:
    fill(database, 4)
    fetch_all(database, "UPDATE opportunities SET data = NULL, name = 'a' WHERE id = 1 RETURNING 1")
    fetch_all(
        database,
        "UPDATE opportunities SET data = '{\"id\": 9}', name = 'b' WHERE id = 2 RETURNING 1",
    )
    fetch_all(database, "UPDATE opportunities SET name = 'c' WHERE id = 3 RETURNING 1")
    for _ in range(2):
        done = redecode(database, OPPORTUNITIES, "again")
        assert (done.rows, done.failed) == (4, 2)
    names = fetch_all(database, "SELECT name FROM opportunities ORDER BY id")
    assert names == [("a",), ("b",), ("Hire 3",), ("Hire 4",)]
    assert fetch_all(database, "SELECT opportunity_id, field FROM sync_faults ORDER BY 1") == [
        (1, "data"),
        (2, "data"),
    ]


def test_it_waits_for_a_merge_that_holds_the_rows_and_keeps_what_that_wrote(
    database: Database,
) -> None:
    fill(database, 3)
    with database.session() as merging, merging.cursor() as cursor:
        cursor.execute("SELECT FROM opportunity_versions WHERE id = 2 FOR UPDATE")
        thread = threading.Thread(
            target=redecode, args=(database, OPPORTUNITIES, "again"), daemon=True
        )
        thread.start()
        cursor.execute(
            "UPDATE opportunities SET subject = 'Newer', name = 'Newer',"
            ' data = data || \'{"subject": "Newer"}\' WHERE id = 2'
        )
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
    assert fetch_all(database, "SELECT name FROM opportunities WHERE id = 2") == [("Newer",)]


def test_an_older_version_writes_no_rows_beside_a_newer_one(database: Database) -> None:
    before = fill(database, 3)
    raised = str(int(OPPORTUNITIES.version) + 1)
    fetch_all(
        database,
        f"INSERT INTO mirror_state VALUES ('mapping_writers', '{raised}') ON CONFLICT (name)"
        " DO UPDATE SET value = excluded.value RETURNING value",
    )
    with pytest.raises(
        DatabaseError, match="newer version of this program has taken over this mirror"
    ):
        merge_at(database, 3, 4, record(id=1, subject="By the older mapping"))
    with pytest.raises(
        DatabaseError, match="newer version of this program has taken over this mirror"
    ):
        redecode(database, OPPORTUNITIES, "run")
    assert fetch_all(database, SHOWN) == before


def test_the_version_of_the_mapping_only_ever_goes_up(database: Database) -> None:
    raised = str(int(OPPORTUNITIES.version) + 1)
    fetch_all(
        database,
        f"UPDATE mirror_state SET value = '{raised}' WHERE name = 'mapping_version' RETURNING name",
    )
    migrate(database)
    with database.session() as connection:
        assert is_mapping_current(connection, OPPORTUNITIES)
        note_mapping(connection, OPPORTUNITIES)
    assert fetch_all(database, VERSION) == [(raised,)]


def test_rows_that_an_older_version_was_just_writing_are_decoded_again(
    database: Database,
) -> None:
    """Whoever had not seen yet that a newer version is there has committed before it begins."""
    fill(database, 3)
    lower_version(database)
    older = database.connect()
    with older.cursor() as cursor:
        cursor.execute("INSERT INTO opportunity_versions (id) VALUES (4)")
        cursor.execute(
            "INSERT INTO opportunities (id, name, data) SELECT 4, 'wrong',"
            " jsonb_set(data, '{id}', '4') FROM opportunities WHERE id = 1"
        )
    newer = threading.Thread(target=migrate, args=(database,))
    newer.start()
    waits = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    wait_until(lambda: fetch_all(database, f"{waits} AND wait_event_type = 'Lock'"))
    older.commit()
    older.close()
    newer.join()
    assert fetch_all(database, "SELECT name FROM opportunities WHERE id = 4") == [("Hire 1",)]
