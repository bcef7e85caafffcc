"""Databases of every older version, with rows in every table, brought to this one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.schema import HEAD, migrate, upgrade_tables
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.core import full_sync
from rms_pipeline_tests.mirror.upgrades import Rows, add, filled_at, lost, rows_of, versions
from rms_pipeline_tests.rows import insert, insert_opportunities, query
from rms_pipeline_tests.servers import new_database

pytestmark = pytest.mark.slow
# From which all migrations are made in one go with every change: the first, and where much moves.
STRAIGHT = {"0001", "0024"}


@dataclass(frozen=True)
class Walked:
    """One database, brought from version to version, with rows of each put in at that version."""

    database: Database
    columns: dict[str, dict[str, list[str]]]
    before: dict[str, Rows]


@pytest.fixture(scope="module")
def walked(embedded_url: str) -> Iterator[Walked]:
    with new_database(embedded_url) as url:
        made = Walked(database_at(url), {}, {})
        for number, version in enumerate(versions()):
            upgrade_tables(made.database, version)
            added = add(made.database, 1 + 3 * number)
            made.columns[version], made.before[version] = added
        migrate(made.database)
        yield made


@pytest.mark.parametrize("version", versions())
def test_what_a_table_held_at_any_version_is_there_at_the_last(
    walked: Walked, version: str
) -> None:
    before = walked.before[version]
    assert all(len(rows) == 3 for rows in before.values())
    once = rows_of(walked.database, walked.columns[version])
    # A row may be added, such as a version for a deleted row that had none; none changes or goes.
    assert lost(before, once) == {}


def test_once_all_is_brought_up_to_date_nothing_changes_and_the_next_sync_completes(
    walked: Walked, client_for: Callable[..., CurrentRmsClient], window: Window
) -> None:
    columns = walked.columns[HEAD]
    once = rows_of(walked.database, columns)
    migrate(walked.database)
    assert rows_of(walked.database, columns) == once
    next_sync_completes(walked.database, client_for, window)


def next_sync_completes(
    database: Database, client_for: Callable[..., CurrentRmsClient], window: Window
) -> None:
    assert query(database, "SELECT count(*) FROM raw_rms_pages WHERE walk IS NULL") == [(0,)]
    with SandboxServer(Store(20)) as sandbox:
        done = full_sync(database, client_for(sandbox.url), window)
    assert done.merged.result.created > 0


@pytest.mark.parametrize("version", some_in_drills(versions(), STRAIGHT.__contains__))
def test_an_upgrade_keeps_every_row_of_every_table_and_the_next_sync_completes(
    empty_url: str,
    version: str,
    client_for: Callable[..., CurrentRmsClient],
    window: Window,
) -> None:
    """All migrations after `version` in one transaction, as whoever upgrades has them."""
    database = database_at(empty_url)
    columns = filled_at(database, version)
    before = rows_of(database, columns)
    assert all(len(rows) == 3 for rows in before.values())
    migrate(database)
    once = rows_of(database, columns)
    assert lost(before, once) == {}
    migrate(database)
    assert rows_of(database, columns) == once
    next_sync_completes(database, client_for, window)


def test_pages_that_were_landed_before_there_were_walks_belong_to_one_for_each_run(
    empty_url: str,
) -> None:
    database = database_at(empty_url)
    filled_at(database, "0001")
    migrate(database)
    found = query(
        database,
        "SELECT p.run, w.runs, w.kind, w.completed_at = p.fetched_at FROM raw_rms_pages p"
        " JOIN walks w ON w.id = p.walk ORDER BY p.id",
    )
    assert found == [(f"run {n}", [f"run {n}"], "full", True) for n in (1, 2, 3)]


def test_an_earlier_rename_loses_its_person_and_every_other_change_keeps_it(empty_url: str) -> None:
    database = database_at(empty_url)
    upgrade_tables(database, "0044")
    insert_opportunities(
        database,
        {"owner_id": 1, "owner_name": "Ann Lee", "organisation_id": 7, "organisation_name": "Acme"},
        {"owner_id": None, "owner_name": "Ann"},
    )
    seen = [datetime(2026, 6, day, tzinfo=UTC) for day in range(1, 7)]

    def line(at: int, field: str, old: str, new: str, **fields: Any) -> dict[str, Any]:
        row = {"opportunity_id": 1, "field": field, "old_value": old, "new_value": new}
        return row | {"changed_by": "Ada", "seen_at": seen[at], "seen_by": "a sync"} | fields

    lines = [
        line(0, "owner_name", "Ann", "Ann Lee"),  # A rename.
        line(0, "reference", "A", "B"),
        line(1, "owner_name", "Bob", "Ann"),
        line(1, "owner_id", "2", "1"),
        line(2, "owner_name", "Ann", "Ann Lee", seen_by=None),  # Somebody wrote it by hand.
        line(3, "owner_name", "Bob", "Ann", opportunity_id=2),  # Without ids, another person.
        line(4, "organisation_name", "Acme Ltd", "Acme"),  # It had no customer before.
        line(5, "organisation_id", "", "7"),
        line(5, "venue_name", "Hall", "Barn"),
    ]
    insert(database, "opportunity_changes", lines)
    migrate(database)
    kept = "SELECT seen_at, field FROM opportunity_changes WHERE changed_by IS NULL"
    assert query(database, kept) == [(seen[0], "owner_name")]
    assert query(database, "SELECT count(*) FROM opportunity_changes") == [(len(lines),)]
