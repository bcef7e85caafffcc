"""What people filter, sort and add up by: columns made of the record, hires, phases of statuses."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg2
import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.window import Window
from rms_pipeline.defs import asset_checks
from rms_pipeline.mirror.browse import Criteria, list_opportunities
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.overview import read_overview
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.mirror.statuses import CONFIRMED, LOST, OPEN
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.core import full_sync
from rms_pipeline_tests.mirror.releases import RELEASES, load_release
from rms_pipeline_tests.mirror.test_merge import merge_at, record
from rms_pipeline_tests.rows import query

# Where a column has another name than its field.
FIELDS = {"tags": "tag_list"}
ADDED = tuple(c for c in OPPORTUNITIES.columns[15:] if c.is_mapped)
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def as_read(kind: str, value: Any) -> Any:
    """What the record holds, as psycopg2 reads it out of a column of that kind."""
    if value is None or value == "":
        return None
    if kind == "timestamptz":
        return datetime.fromisoformat(value)
    return Decimal(str(value)) if kind == "numeric" else value


def demand_filled(database: Database, table: str) -> None:
    """Raises unless each added column holds what `data` says."""
    names = ", ".join(c.name for c in ADDED)
    rows = query(database, f"SELECT data, {names} FROM {table} ORDER BY id")
    assert rows
    for data, *values in rows:
        wanted = [as_read(c.kind, data.get(FIELDS.get(c.name, c.name))) for c in ADDED]
        assert dict(zip(names.split(", "), values, strict=True)) == dict(
            zip(names.split(", "), wanted, strict=True)
        )


def test_a_sync_fills_every_column_from_the_record(
    database: Database, client_for: Callable[..., CurrentRmsClient], window: Window
) -> None:
    with SandboxServer(Store(40)) as sandbox:
        full_sync(database, client_for(sandbox.url), window)
    demand_filled(database, "opportunities")
    counts = ", ".join(f"count({c.name})" for c in ADDED)
    (filled,) = query(database, f"SELECT {counts} FROM opportunities")
    # The sandbox has no projects.
    empty = {c.name for c, count in zip(ADDED, filled, strict=True) if not count}
    assert empty == {"project_id"}
    assert query(database, "SELECT count(*) FROM sync_faults") == [(0,)]
    assert query(
        database,
        "SELECT count(*) FROM opportunities WHERE profit IS DISTINCT FROM"
        " (data ->> 'charge_total')::numeric - (data ->> 'provisional_cost_total')::numeric",
    ) == [(0,)]


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES[-1:])
def test_an_upgrade_fills_every_column_of_rows_that_are_there_without_the_api(
    empty_url: str, release: str
) -> None:
    load_release(empty_url, release)
    database = database_at(empty_url)
    migrate(database)
    demand_filled(database, "opportunities")
    demand_filled(database, "deleted_opportunities")
    assert query(
        database, "SELECT count(*) FROM opportunities WHERE hire IS NULL AND ends_at > starts_at"
    ) == [(0,)]


def at(day: int) -> str:
    return f"2026-05-{day:02}T12:00:00Z"


@pytest.mark.parametrize(
    ("fields", "hire"),
    [
        ({"starts_at": at(1), "ends_at": at(3)}, (1, 3)),
        ({"starts_at": at(1), "ends_at": at(1)}, (1, 1)),
        ({"starts_at": at(2), "ends_at": at(3), "deliver_starts_at": at(1)}, (1, 3)),
        ({"starts_at": at(2), "ends_at": at(3), "collect_ends_at": at(4)}, (2, 4)),
        ({"starts_at": at(1), "ends_at": at(3), "deliver_starts_at": "",
          "collect_ends_at": None}, (1, 3)),
        ({"deliver_starts_at": at(1), "collect_ends_at": at(4)}, (1, 4)),
        ({"starts_at": at(3), "ends_at": at(1), "collect_ends_at": at(5)}, (3, 5)),
        ({"starts_at": at(1), "ends_at": at(3), "open_ended_rental": True}, (1, None)),
        ({"starts_at": at(3), "ends_at": at(1), "open_ended_rental": "Yes"}, (3, None)),
        ({"starts_at": at(1), "open_ended_rental": True}, (1, None)),
        ({"ends_at": at(1), "open_ended_rental": True}, None),
        ({"starts_at": at(3), "ends_at": at(1)}, None),
        ({"starts_at": at(1), "ends_at": at(3), "deliver_starts_at": at(4)}, None),
        ({"starts_at": at(1)}, None),
        ({"ends_at": at(1)}, None),
        ({"starts_at": "", "ends_at": None}, None),
        ({"starts_at": "soon", "ends_at": at(3)}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_hire_is_what_its_dates_make_with_both_ends(
    emptied: Database, fields: dict[str, Any], hire: tuple[int, int | None] | None
) -> None:
    merge_at(emptied, 1, 2, record(id=1, **fields))
    ((found,),) = query(emptied, "SELECT hire FROM opportunities")
    if hire is None:
        assert found is None
        return
    starts, ends = hire
    assert found.lower == NOON.replace(day=starts)
    assert found.upper == (None if ends is None else NOON.replace(day=ends))
    assert (found.lower_inc, found.upper_inc) == (True, ends is not None)


def test_a_row_that_ends_before_it_starts_breaks_no_query_and_is_named_by_a_check(
    emptied: Database,
) -> None:
    merge_at(
        emptied,
        1,
        2,
        record(id=1, starts_at=at(1), ends_at=at(3)),
        record(id=2, starts_at=at(3), ends_at=at(1)),
        record(id=3, starts_at=at(3)),
        record(id=4),
    )
    on_hire = "SELECT id FROM opportunities WHERE hire && tstzrange(%s, %s)"
    assert query(emptied, on_hire, at(2), at(4)) == [(1,)]
    found = asset_checks._hires(emptied)
    assert not found.passed
    assert "The first are 2." in (found.description or "")
    assert found.metadata["without_a_hire"].value == 1
    query(emptied, "DELETE FROM opportunities WHERE id = 2")
    assert asset_checks._hires(emptied).passed


def test_a_cost_that_is_absent_makes_no_profit_that_is_wrong(emptied: Database) -> None:
    merge_at(
        emptied,
        1,
        2,
        record(id=1, charge_total="100.10", provisional_cost_total="60.05"),
        record(id=2, charge_total="100.10", provisional_cost_total=""),
        record(id=3, provisional_cost_total="60"),
        record(id=4, charge_total="10", provisional_cost_total="60"),
    )
    assert query(emptied, "SELECT profit FROM opportunities ORDER BY id") == [
        (Decimal("40.05"),), (None,), (None,), (Decimal("-50"),)
    ]  # fmt: skip


def test_a_field_that_is_not_of_its_columns_kind_costs_that_field_only(emptied: Database) -> None:
    odd = {"rating": "high", "invoiced": "perhaps", "tag_list": "VIP", "weight_total": "heavy"}
    done = merge_at(emptied, 1, 2, record(id=1, subject="Gala", store_id="3", **odd))
    assert done.created == 1
    assert query(
        emptied, "SELECT subject, store_id, rating, invoiced, tags, weight_total FROM opportunities"
    ) == [("Gala", 3, None, None, None, None)]
    assert query(emptied, "SELECT array_agg(field ORDER BY field) FROM sync_faults") == [
        (sorted(odd),)
    ]


def test_a_custom_field_is_found_through_an_index(emptied: Database) -> None:
    merge_at(
        emptied,
        1,
        2,
        *(record(id=i, custom_fields={"po_received": "Yes" if i == 7 else ""}) for i in range(99)),
        record(id=100, custom_fields=[]),
    )
    wanted = 'SELECT id FROM opportunities WHERE custom_fields @> \'{"po_received": "Yes"}\''
    assert query(emptied, wanted) == [(7,)]
    with emptied.session() as connection, connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL enable_seqscan = off; EXPLAIN {wanted}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "opportunities_custom_fields_idx" in plan


# Statuses and their phases


def listed(database: Database, status: str) -> list[int]:
    with database.session() as connection:
        found = list_opportunities(connection, Criteria(status=status, sort="name"), limit=50)
    return sorted(one.id for one in found)


def worths(database: Database) -> dict[str, Decimal]:
    refresh_status_counts(database, "UTC")
    with database.session() as connection:
        view = read_overview(connection, "UTC")
    return {p: view.worth(p) for p in (OPEN, CONFIRMED, LOST)}


def test_phases_begin_as_they_were_and_are_peoples_to_edit(database: Database) -> None:
    names = ("Open", "Provisional", "Postponed", "Reserved", "Active", "Completed", "Cancelled",
             "Lost", "Dead", "Invented", None)  # fmt: skip
    merge_at(
        database,
        1,
        2,
        *(record(id=n, status_name=name, charge_including_tax_total=str(2**n))
          for n, name in enumerate(names)),
    )  # fmt: skip
    assert listed(database, "is:confirmed") == [3, 4, 5]
    assert listed(database, "is:closed") == [6, 7, 8]
    assert listed(database, "is:undecided") == [0, 1, 2, 9, 10]
    assert listed(database, "is:open") == [0, 1, 2, 3, 4, 5, 9, 10]
    assert worths(database) == {"open": 1 + 2 + 4 + 512 + 1024, "confirmed": 56, "lost": 448}
    query(database, "UPDATE statuses SET phase = 'confirmed' WHERE name = 'Provisional'")
    query(database, "DELETE FROM statuses WHERE name = 'Lost'")
    query(database, "INSERT INTO statuses (name, phase) VALUES ('Invented', 'lost')")
    assert listed(database, "is:confirmed") == [1, 3, 4, 5]
    assert listed(database, "is:undecided") == [0, 2, 7, 10]
    assert worths(database) == {"open": 1 + 4 + 128 + 1024, "confirmed": 58, "lost": 832}
    migrate(database)
    assert listed(database, "is:confirmed") == [1, 3, 4, 5]


def test_a_status_that_the_table_does_not_name_is_open_and_a_check_names_it(
    emptied: Database,
) -> None:
    merge_at(emptied, 1, 2, record(id=1, status_name="Open"), record(id=2))
    assert asset_checks._statuses(emptied).passed
    merge_at(emptied, 3, 4, record(id=3, status_name="On ice"), record(id=4, status_name="On ice"))
    found = asset_checks._statuses(emptied)
    assert not found.passed
    assert "On ice (2)" in (found.description or "")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO statuses (name, phase) VALUES ('New', 'won')",
        "INSERT INTO statuses (name, colour) VALUES ('New', 'red')",
        "UPDATE statuses SET phase = NULL",
        "INSERT INTO statuses (name) VALUES ('Open')",
    ],
)
def test_a_phase_is_one_of_three_and_a_status_has_one(emptied: Database, statement: str) -> None:
    with pytest.raises(psycopg2.IntegrityError):
        query(emptied, statement)
