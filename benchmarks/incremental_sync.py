"""Calls, rows written and seconds of an incremental sync with five changes, by size of the mirror.

    python benchmarks/incremental_sync.py [--rows 10000 500000] [--postgres-url URL]

"own" seconds are those not spent waiting for the API: the sandbox looks through all its rows for
each list, which a real API does not.
"""

import argparse
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import ProcessBudget
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import start_embedded, stop_embedded
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.sync.landing import land_changes, land_window
from rms_pipeline.sync.storing import merge_walk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 500_000])
    parser.add_argument("--postgres-url", help="a database that may be emptied")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rms-benchmark-"))
    url = options.postgres_url or start_embedded(folder)
    try:
        print(f"{'rows':>9} {'calls':>6} {'rows written':>13} {'seconds':>8} {'own':>7}")
        for rows in options.rows:
            measure(url, rows)
    finally:
        if not options.postgres_url:
            stop_embedded(folder)
        shutil.rmtree(folder, ignore_errors=True)


def measure(url: str, rows: int) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    connection.close()
    database = Database(SecretStr(url), SecretStr(url))
    migrate(database)
    store = Store(rows)
    with SandboxServer(store) as sandbox:
        client = CurrentRmsClient(
            base_url=sandbox.url,
            subdomain=SANDBOX_SUBDOMAIN,
            api_key=SecretStr(SANDBOX_API_KEY),
            budget=ProcessBudget(0),
            now=database.clock(),
        )
        # Everything, so that the mirror is as big as the account.
        window = Window.around(datetime.now(UTC), days_back=20_000, days_ahead=20_000)
        landed = land_window(database, client, window, "full")
        merge_walk(database, landed.walk, "full")
        for id_ in store.ids()[:5]:
            store.edit(id_, {"subject": "Changed"})
        before, calls = written(database), client.counts.calls
        start = time.monotonic()
        changes = land_changes(database, client, [landed.watermark], "incremental")
        merged = merge_walk(database, changes.walk, "incremental")
        seconds = time.monotonic() - start
        assert merged.result.updated == 5
        own = seconds - waited(database, changes.walk)
        print(
            f"{rows:>9,} {client.counts.calls - calls:>6} {written(database) - before:>13}"
            f" {seconds:>8.3f} {own:>7.3f}",
            flush=True,
        )


def waited(database: Database, walk: int) -> float:
    """Seconds between asking and answer, over the pages of `walk`."""
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM sum(fetched_at - asked_at))::float8 FROM raw_rms_pages"
            " WHERE walk = %s",
            (walk,),
        )
        row = cursor.fetchone()
    return float(row[0]) if row else 0.0


def written(database: Database) -> int:
    with database.session() as connection, connection.cursor() as cursor:
        # Counters arrive when a session has ended, and a moment later.
        time.sleep(1.5)
        cursor.execute(
            "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
            " WHERE relname IN ('opportunities', 'opportunity_versions', 'raw_rms_pages')"
        )
        return int((cursor.fetchone() or (0,))[0])


if __name__ == "__main__":
    main()
