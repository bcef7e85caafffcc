"""From every older version with rows to this one: nothing is lost, and syncs go on."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg2
import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.schema import HEAD, current_version, full_sync_wanted, migrate
from rms_pipeline.mirror.sync_metadata import latest_syncs
from rms_pipeline.mirror.walks import has_full_sync, watermarks
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.conftest import dagsters_tables, database_at
from rms_pipeline_tests.mirror.releases import ANALYST, MADE_AT, RELEASES, load_release
from rms_pipeline_tests.mirror.upgrades import columns_kept, lost, rows_of, versions
from rms_pipeline_tests.rows import asking, query
from rms_pipeline_tests.servers import new_database
from rms_pipeline_tests.sync.conftest import Mirror

pytestmark = pytest.mark.slow
ROWS = (
    "SELECT id, name, subject, starts_at, ends_at, opportunity_status, updated_at_rms, venue_name,"
    " organisation_id, organisation_name, owner_name, charge_total, total_value, data, synced_at"
    " FROM {} ORDER BY id"
)
# What an upgrade may add to: the rows that describe the mirror itself.
# Words are made as rows are decoded again, which no version had done when it made their tables.
GROWING = {"mirror_state", "walks", "opportunity_words", "known_names"}


# With every change: the first, those with which the most moved, and the newest. The others are in
# the drills. Where no program was landed with a version, a dump is migrated to it, and from there.
# That is an upgrade of the dump in two steps, so most of these are for the long form.
OFTEN = {"0001", "0013", max(RELEASES), versions()[-2]}
IN_TWO_STEPS = {"0030", "0041"}


def is_for_the_long_form(version: str) -> bool:
    return version not in {*RELEASES, *IN_TWO_STEPS}


@pytest.fixture(
    scope="module",
    params=some_in_drills(
        sorted({*versions()[:-1], *RELEASES}), OFTEN.__contains__, long=is_for_the_long_form
    ),
)
def old_url(request: pytest.FixtureRequest, embedded_url: str) -> Iterator[str]:
    with new_database(embedded_url) as url:
        load_release(url, request.param)
        yield url


def counts(database: Database) -> dict[str, int]:
    with asking(database) as ask:
        tables = ask(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            " AND tablename <> 'rms_pipeline_alembic_version'"
        )
        return {t: ask(f"SELECT count(*) FROM {t}")[0][0] for (t,) in tables}


def history_for(url: str, role: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM sync_metadata LIMIT 0")
        # Before 0020 a sync had no number of its own.
        run = "run_id" if "run_id" in {c.name for c in cursor.description or ()} else "id"
        cursor.execute(f"SET ROLE {role}")
        cursor.execute(
            f"SELECT {run}, sync_type, status, metadata ->> 'watermark' FROM sync_metadata"
        )
        found = cursor.fetchall()
    connection.close()
    return sorted(found)


def test_an_older_version_with_its_rows_is_brought_up_to_date_and_goes_on(
    old_url: str, client_for: Callable[..., CurrentRmsClient]
) -> None:
    database = database_at(old_url)
    before = counts(database)
    kept = [query(database, ROWS.format(t)) for t in ("opportunities",
            "deleted_opportunities")]  # fmt: skip
    columns = columns_kept(database)
    rows = rows_of(database, columns)
    history = history_for(old_url, "postgres")
    assert before["opportunities"] >= 22
    assert history
    with dagsters_tables(database):
        pass
    with database.session() as connection:
        assert current_version(connection) == HEAD
        assert has_full_sync(connection, OPPORTUNITIES) or before.get("walks") is None
        assert len(latest_syncs(connection, 100)) == len(history)
        found = watermarks(connection, OPPORTUNITIES)
        wanted = full_sync_wanted(connection)
    after = counts(database)
    assert {t: after[t] for t in before if t not in GROWING} == {
        t: n for t, n in before.items() if t not in GROWING
    }
    assert [query(database, ROWS.format(t)) for t in ("opportunities",
            "deleted_opportunities")] == kept  # fmt: skip
    assert lost(rows, rows_of(database, columns)).keys() <= GROWING
    assert history_for(old_url, ANALYST) == history
    mapping = query(database, "SELECT value FROM mirror_state WHERE name = 'mapping_version'")
    assert mapping == [(str(OPPORTUNITIES.version),)]
    store = Store(24, today=MADE_AT)
    with SandboxServer(store) as sandbox:
        window = Window(MADE_AT - timedelta(30), MADE_AT + timedelta(365))
        mirror = Mirror(database, sandbox, client_for, watermarks=found, window=window)
        changed = store.ids()[1]
        store.edit(changed, {"subject": "Edited after the upgrade"})
        if found:
            mirror.incremental_sync()
            assert mirror.differences({changed}) == {}
        mirror.full_sync()
        mirror.close()
        assert mirror.differences() == {}
    if wanted:
        with database.session() as connection:
            assert full_sync_wanted(connection) is None


def test_an_upgrade_that_needs_the_api_again_says_so_until_a_full_sync_has_come(
    database: Database,
) -> None:
    query(
        database,
        "INSERT INTO mirror_state VALUES ('full_sync_wanted', json_build_object('since', now(),"
        " 'because', 'Venues are not stored yet.')::text)",
    )
    with database.session() as connection:
        assert full_sync_wanted(connection) == "Venues are not stored yet."
    walk = (
        "INSERT INTO walks (kind, runs, started_at, settled_at) VALUES ('full', '{r}', %s, now())"
    )
    query(database, walk, MADE_AT - timedelta(9_000))
    migrate(database)
    with database.session() as connection:
        assert full_sync_wanted(connection) == "Venues are not stored yet."
    query(database, walk, MADE_AT + timedelta(90_000))
    with database.session() as connection:
        assert full_sync_wanted(connection) is None
