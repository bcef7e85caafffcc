"""The full sync without Dagster: the sandbox over HTTP, a real PostgreSQL, and equality."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from psycopg2.extras import register_default_jsonb

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import ApiUnavailable, CurrentRmsError, Unauthorized
from rms_pipeline.current_rms.window import Window, iso
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import Faults, SandboxServer, Store, Switches
from rms_pipeline.sync.landing import LandedWalk, land_window
from rms_pipeline.sync.storing import MergedWalk
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.conftest import QUICK
from rms_pipeline_tests.core import full_sync

MakeClient = Callable[..., CurrentRmsClient]
DAY = timedelta(days=1)


MONEY = (
    *("charge_excluding_tax_total", "charge_including_tax_total", "tax_total", "weight_total"),
    *("provisional_cost_total", "predicted_cost_total", "actual_cost_total", "revenue"),
)


def sync(
    database: Database, client: CurrentRmsClient, window: Window, run: str = "first"
) -> tuple[LandedWalk, MergedWalk]:
    done = full_sync(database, client, window, run)
    return done.landed, done.merged


def rows(database: Database, columns: str = "*") -> dict[int, dict[str, Any]]:
    with database.session() as connection, connection.cursor() as cursor:
        # Reading JSON is most of what a comparison takes.
        register_default_jsonb(connection, loads=msgspec.json.decode)
        cursor.execute(f"SELECT {columns} FROM opportunities ORDER BY id")
        names = [c.name for c in cursor.description or ()]
        return {row[0]: dict(zip(names, row, strict=True)) for row in cursor.fetchall()}


def expected(record: dict[str, Any]) -> dict[str, Any]:
    """Which field becomes which column, written down a second time and without our decoder."""

    def time(value: str | None) -> str | None:
        return value.replace("Z", "+00:00") if value else None

    def nested(name: str) -> str | None:
        value: str | None = (record.get(name) or {}).get("name")
        return value

    def money(name: str) -> Decimal | None:
        return None if record.get(name) is None else Decimal(record[name])

    from_, to = (
        time(record.get(first) or record.get(otherwise))
        for first, otherwise in (
            ("deliver_starts_at", "starts_at"),
            ("collect_ends_at", "ends_at"),
        )
    )
    if record.get("open_ended_rental"):
        to = None
    has_period = from_ is not None and (
        record.get("open_ended_rental") or (to is not None and from_ <= to)
    )
    charge, cost = money("charge_total"), money("provisional_cost_total")
    stages = ("prep", "load", "deliver", "setup", "show", "takedown", "collect", "unload", "deprep")
    ends = [f"{stage}_{end}_at" for stage in stages for end in ("starts", "ends")]
    return {
        "id": record["id"],
        "name": record["subject"] or record["number"],
        "subject": record["subject"] or None,
        "description": record["description"] or None,
        "starts_at": time(record["starts_at"]),
        "ends_at": time(record["ends_at"]),
        "opportunity_status": record["status_name"] or record["state_name"],
        "created_at_rms": time(record["created_at"]),
        "updated_at_rms": time(record["updated_at"]),
        "venue_name": nested("venue"),
        "organisation_id": record["member_id"],
        "organisation_name": nested("member"),
        "owner_id": record["owned_by"],
        "owner_name": nested("owner"),
        "charge_total": Decimal(record["charge_total"]),
        "total_value": Decimal(record["charge_including_tax_total"]),
        **{name: record.get(name) or None for name in ("number", "reference", "state_name")},
        **{name: record.get(name) for name in ("store_id", "project_id", "venue_id", "rating")},
        **{name: record.get(name) for name in ("invoiced", "open_ended_rental", "custom_fields")},
        **{name: time(record.get(name)) for name in ("ordered_at", "quote_invalid_at", *ends)},
        **{name: money(name) for name in MONEY},
        "tags": record.get("tag_list"),
        "profit": None if charge is None or cost is None else charge - cost,
        "hire": [from_, to] if has_period else None,
        "data": record,
    }


def ids_in(store: Store, window: Window) -> list[int]:
    """What the mirror has to hold: overlap with the window, and records that lack a date."""
    start, end = iso(window.start), iso(window.end)
    inside = []
    for id_ in store.ids():
        starts, ends = store.value(id_, "starts_at"), store.value(id_, "ends_at")
        if starts is None or ends is None or (ends >= start and starts <= end):
            inside.append(id_)
    return inside


def truth(store: Store, window: Window) -> Iterator[dict[str, Any]]:
    for id_ in ids_in(store, window):
        record = store.get(id_)
        assert record is not None
        yield expected(record)


def mirrored(database: Database) -> Iterator[dict[str, Any]]:
    """The table row by row, as `expected` writes a row."""
    with database.session() as connection, connection.cursor("mirrored") as cursor:
        register_default_jsonb(connection, loads=msgspec.json.decode)
        cursor.execute("SELECT * FROM opportunities ORDER BY id")
        for values in cursor:
            row = dict(zip([c.name for c in cursor.description or ()], values, strict=True))
            assert row.pop("synced_at") is not None
            assert row.pop("last_webhook_at") is None
            # Not of the API's: what the mirror remembers.
            row.pop("confirmed_at")
            if row["hire"] is not None:
                row["hire"] = [written(row["hire"].lower), written(row["hire"].upper)]
            yield {column: written(value) for column, value in row.items()}


def written(value: Any) -> Any:
    """A time as the API writes it, everything else as it is."""
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value


def assert_equal(database: Database, store: Store, window: Window) -> int:
    """Every row equal to the truth, none missing, none besides; returns how many."""
    count = 0
    for found, wanted in itertools.zip_longest(mirrored(database), truth(store, window)):
        assert found == wanted
        count += 1
    return count


def assert_exact_sync(
    database: Database, client_for: MakeClient, window: Window, count: int
) -> None:
    store = Store(round(count * 1.2) + 20)
    for surplus in ids_in(store, window)[count:]:
        store.delete(surplus)
    with SandboxServer(store) as sandbox:
        done = full_sync(database, client_for(sandbox.url), window)
    assert done.merged.result.created == done.landed.distinct_records == count
    certificate = done.settled.certificate
    assert certificate.shown
    assert certificate.counted == certificate.mirrored == count
    assert (done.settled.deleted, certificate.repaired) == (0, 0)
    assert assert_equal(database, store, window) == count


@pytest.mark.parametrize(
    ("each_database", "count"),
    some_in_drills(
        [
            (server, count)
            for server in ("embedded", "postgresql-15")
            for count in (0, 1, 99, 100, 101, 1_000, 5_000)
        ],
        # On the second server, what takes more than one page.
        lambda case: case[1] == 101 or (case[0] == "embedded" and case[1] < 5_000),
    ),
    indirect=["each_database"],
)
def test_a_full_sync_makes_the_table_equal_to_the_api_field_by_field(
    each_database: Database, count: int, client_for: MakeClient, window: Window
) -> None:
    assert_exact_sync(each_database, client_for, window, count)


def test_lost_dead_long_and_undated_ones_are_mirrored_and_far_ones_are_not(
    database: Database, client_for: MakeClient, window: Window
) -> None:
    store = Store(400)
    # On most days the sandbox has some of these by itself.
    across = {"starts_at": iso(window.start - DAY), "ends_at": iso(window.start + DAY)}
    store.create({"subject": "Long", **across})
    # Lanes of several pages each.
    with SandboxServer(store, switches=Switches(max_per_page=12)) as sandbox:
        sync(database, client_for(sandbox.url), window)
    assert assert_equal(database, store, window) < 400
    found = list(mirrored(database))
    assert {"Lost", "Dead", "Cancelled", "Completed"} <= {r["opportunity_status"] for r in found}
    assert any(r["starts_at"] is None for r in found)
    assert any(r["starts_at"] and r["starts_at"] < window.start.isoformat() for r in found)


def test_a_second_sync_changes_nothing_but_synced_at_and_says_so(
    database: Database, client_for: MakeClient, window: Window
) -> None:
    with SandboxServer(Store(1_000)) as sandbox:
        sync(database, client_for(sandbox.url), window)
        before = rows(database)
        _, merged = sync(database, client_for(sandbox.url), window, "second")
    after = rows(database)
    assert merged.result.unchanged == len(before) > 800
    assert merged.result.created == merged.result.updated == merged.result.failed == 0
    for id_, row in after.items():
        assert row.pop("synced_at") > before[id_].pop("synced_at")
    assert after == before


def test_an_edit_is_updated_and_a_record_in_other_bytes_is_unchanged(
    database: Database, client_for: MakeClient, window: Window
) -> None:
    store = Store(50)
    ids = ids_in(store, window)
    with SandboxServer(store) as sandbox:
        sync(database, client_for(sandbox.url), window)
        store.edit(ids[0], {"subject": "Renamed"})
        record = store.get(ids[1], ())
        assert record is not None
        store.put(ids[1], dict(reversed(record.items())))
        _, merged = sync(database, client_for(sandbox.url), window, "second")
    assert (merged.result.updated, merged.result.unchanged) == (1, len(ids) - 1)
    assert rows(database)[ids[0]]["name"] == "Renamed"


UNSURE = {
    "no order": Switches(honours_sort=False),
    "no ranges of ids": Switches(honours_id_predicates=False),
    "null filters ignored": Switches(null_predicates="ignored"),
    "null filters refused": Switches(null_predicates="422"),
    "nested objects always": Switches(nested="always"),
    "archived ones too, and few a page": Switches(filtermode_default="all", default_per_page=12),
    "unknown filters ignored": Switches(unknown_predicate="ignored"),
}
# `test_api_facts.py` tries each of the others too, in every way of syncing.
HERE = ("no ranges of ids", "null filters refused", "archived ones too, and few a page")


@pytest.mark.parametrize(
    "switches",
    some_in_drills(UNSURE.values(), lambda each: each in map(UNSURE.get, HERE), UNSURE),
)
def test_whichever_way_the_unsure_facts_turn_out_the_copy_is_complete(
    database: Database, client_for: MakeClient, window: Window, switches: Switches
) -> None:
    store = Store(150)
    with SandboxServer(store, switches=replace(switches, max_per_page=12)) as sandbox:
        sync(database, client_for(sandbox.url), window)
    assert_equal(database, store, window)


def test_without_nested_objects_names_are_absent_and_nothing_else_is(
    database: Database, client_for: MakeClient, window: Window
) -> None:
    store = Store(50)
    with SandboxServer(store, switches=Switches(nested="never")) as sandbox:
        sync(database, client_for(sandbox.url), window)
    found = list(mirrored(database))
    assert [r["id"] for r in found] == ids_in(store, window)
    assert {r["organisation_name"] for r in found} == {None}
    assert all(r["organisation_id"] for r in found)


def test_an_api_that_limits_stalls_truncates_and_errs_still_ends_equal_to_the_truth(
    database: Database, client_for: MakeClient, window: Window
) -> None:
    store = Store(600)
    faults = Faults(
        probabilities={
            "error_500": 0.04,
            "error_503": 0.04,
            "truncated": 0.04,
            "broken_off": 0.04,
            "html_200": 0.04,
            "dropped": 0.04,
            "wrong_shape": 0.03,
            "slow": 0.03,
        },
        queue=["hang", "rate_limited"],
        slow_seconds=0.3,
        hang_seconds=3,
    )
    patience = replace(QUICK, read=2, answer=5)
    with SandboxServer(store, faults=faults) as sandbox:
        landed, _ = sync(database, client_for(sandbox.url, patience=patience), window)
    assert landed.retried_calls > 0
    assert landed.throttled_calls > 0
    assert_equal(database, store, window)


def test_an_api_that_never_recovers_fails_with_a_reason_and_no_page_is_lost(
    database: Database, client_for: MakeClient, window: Window
) -> None:
    store = Store(600)
    patience = replace(QUICK, attempts=3, throttled=1, backoff=0.01)
    with SandboxServer(store) as sandbox:
        served = 0

        def break_down(_: str) -> None:
            nonlocal served
            served += 1
            if served > 14:
                sandbox.faults.probabilities = {"error_502": 1.0}

        sandbox.before_request = break_down
        with pytest.raises(ApiUnavailable, match=r"3 attempts.*status 502.*run the sync again"):
            land_window(database, client_for(sandbox.url, patience=patience), window, "first")
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM raw_rms_pages")
        assert (cursor.fetchone() or (0,))[0] >= 1


def test_a_wrong_key_fails_at_once_with_advice(
    database: Database, client_for: MakeClient, window: Window
) -> None:
    with SandboxServer(Store(5)) as sandbox:
        wrong = client_for(sandbox.url, api_key="wrong-and-secret")
        with pytest.raises(Unauthorized, match="CURRENT_RMS_API_KEY") as caught:
            land_window(database, wrong, window, "first")
        assert len(sandbox.requests) == 1
    assert "wrong-and-secret" not in str(caught.value)


def test_a_redirect_is_not_followed(
    database: Database, client_for: MakeClient, window: Window
) -> None:
    faults = Faults(queue=["redirect"])
    with (
        SandboxServer(Store(5), faults=faults) as sandbox,
        pytest.raises(CurrentRmsError, match="redirect"),
    ):
        land_window(database, client_for(sandbox.url, patience=QUICK), window, "first")


def test_rows_deleted_and_created_while_the_list_is_read_cost_no_other_row(
    database: Database, client_for: MakeClient, window: Window
) -> None:
    store = Store(900)
    ids = store.ids()
    victims = iter(ids[::7])
    with SandboxServer(store) as sandbox:

        def move(_: str) -> None:
            for victim in itertools.islice(victims, 3):
                store.delete(victim)
            store.create({"subject": "Born during the walk"})

        sandbox.before_request = move
        sync(database, client_for(sandbox.url), window)
        sandbox.before_request = None
    survivors = set(ids_in(store, window)) & set(ids)
    assert survivors <= {row["id"] for row in mirrored(database)}


@pytest.mark.parametrize(
    ("rows", "per_page"), some_in_drills([(5_000, 100), (1_200, 25)], {(1_200, 25)}.__contains__)
)
def test_a_walk_costs_one_call_for_each_page_and_no_more_than_three_besides(
    database: Database, client_for: MakeClient, window: Window, rows: int, per_page: int
) -> None:
    store = Store(rows)
    with SandboxServer(store, switches=Switches(max_per_page=per_page)) as sandbox:
        landed, _ = sync(database, client_for(sandbox.url), window)
    assert landed.api_calls <= -(-landed.distinct_records // per_page) + 3
