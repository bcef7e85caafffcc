"""What a record no longer brings: what its row keeps of it, and what is said."""

import itertools
from typing import Any

import pytest
from msgspec import Raw

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.records import Record, read_record
from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.mirror.test_merge import fetch_all, merge_at, record

HALL = {"id": 5, "name": "Hall"}
SAID = "SELECT field, CASE WHEN problem LIKE '%keep%' THEN 'kept' ELSE 'lost' END FROM sync_faults"


def told(database: Database, *records: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Store each of `records` in turn as record 1 (unless it has an id), and return what is said
    of fields that no longer come.
    """
    moments = itertools.count(0, 2)
    for fields in records:
        at = next(moments)
        assert not merge_at(database, at, at + 1, record(**({"id": 1} | fields))).failed
    return fetch_all(database, f"{SAID} WHERE opportunity_id IS NULL ORDER BY 1, 2")


def venues(database: Database) -> list[tuple[Any, ...]]:
    return fetch_all(database, "SELECT name, venue_name FROM opportunities ORDER BY id")


@pytest.mark.parametrize("sent", [{}, {"venue": None}, {"venue": ""}], ids=str)
@pytest.mark.parametrize("id_", [5, "5"])
def test_a_name_is_kept_however_its_absence_is_written(
    emptied: Database, sent: dict[str, Any], id_: int | str
) -> None:
    whole = {"subject": "A", "venue_id": 5, "venue": HALL}
    assert told(emptied, whole, {"subject": "B", "venue_id": id_} | sent) == [("venue", "kept")]
    assert venues(emptied) == [("B", "Hall")]
    data = "SELECT data->'venue'->>'name' FROM opportunities"
    assert fetch_all(emptied, data) == [("Hall",)]


def test_a_row_that_kept_a_name_is_as_quickly_found_unchanged_as_any_other(
    emptied: Database,
) -> None:
    without: dict[str, Any] = {"subject": "B", "venue_id": 5}
    told(emptied, {"subject": "A", "venue_id": 5, "venue": HALL}, without)
    known = "SELECT fingerprint FROM opportunity_versions"
    received = record(id=1, **without)
    assert isinstance(received, Record)
    assert [bytes(f) for (f,) in fetch_all(emptied, known)] == [received.fingerprint]


def test_a_row_that_kept_a_name_and_has_a_fault_is_looked_at_by_each_sync(
    emptied: Database,
) -> None:
    """The fault is that of JSON which was mended before anything was kept."""
    told(emptied, {"subject": "A", "venue_id": 5, "venue": HALL})
    mended = b'{"id": 1, "subject": "B", "venue_id": 5, "weight": 1e200000}'
    merge_at(emptied, 9, 10, read_record(Raw(mended), OPPORTUNITIES))
    assert venues(emptied) == [("B", "Hall")]
    assert fetch_all(emptied, "SELECT fingerprint FROM opportunity_versions") == [(None,)]


def test_nothing_is_said_of_a_name_that_never_came(emptied: Database) -> None:
    without: dict[str, Any] = {"venue_id": 5, "venue": None}
    assert told(emptied, {"subject": "A"} | without, {"subject": "B"} | without) == []
    assert told(emptied, {"subject": "C", "venue_id": 5}) == []


def test_nothing_is_said_of_a_name_whose_id_was_taken_away(emptied: Database) -> None:
    whole = {"subject": "A", "venue_id": 5, "venue": HALL}
    assert told(emptied, whole, {"subject": "B", "venue_id": None}) == []
    assert venues(emptied) == [("B", None)]


def test_a_name_is_lost_with_its_id_and_that_is_said(emptied: Database) -> None:
    whole = {"subject": "A", "venue_id": 5, "venue": HALL}
    assert told(emptied, whole, {"subject": "B", "venue_id": 6}) == [("venue", "lost")]
    assert venues(emptied) == [("B", None)]


def test_what_no_longer_comes_is_said_once_by_a_run_whatever_the_number_of_rows(
    emptied: Database,
) -> None:
    whole = {"subject": "A", "venue_id": 5, "venue": HALL, "rating": 3}
    ids = range(1, 4)
    said = told(
        emptied,
        *({"id": id_} | whole for id_ in ids),
        *({"id": id_, "subject": "B", "venue_id": 5} for id_ in ids),
    )
    assert said == [("rating", "lost"), ("venue", "kept")]


def test_a_value_that_cannot_be_kept_is_not_called_lost(emptied: Database) -> None:
    whole = {"subject": "A", "charge_total": "10.0", "starts_at": "2026-01-01T00:00:00Z"}
    assert told(emptied, whole, {"subject": "B", "charge_total": "ten", "starts_at": []}) == []
