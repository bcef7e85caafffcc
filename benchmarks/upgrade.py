"""How long an upgrade takes, beside what `migrate --plan` says before it.

    python benchmarks/upgrade.py [--rows 20000] [--from 0018] [--server embedded|15]
        [--postgres-url URL]

A mirror of the schema `--from` with so many opportunities of the sandbox is upgraded to this
program's. Seconds of the migrations, which lock tables, and of `rms-pipeline migrate` after them,
which decodes what is stored and locks few rows at a time; then the rates that `mirror/plan.py`
reckons with, as they were here, the calls that the account's API saw, and what the rows hold then.
"""

import argparse
import time

import ground
from pydantic import SecretStr

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.plan import plan_upgrade
from rms_pipeline.mirror.schema import upgrade_tables
from rms_pipeline.sandbox import Store
from rms_pipeline.sandbox.records import LISTED

# Records differ by their ids; there need not be as many different ones as rows.
_DIFFERENT = 500


def fill(database: Database, rows: int) -> None:
    """As a full sync would leave them, without its pages."""
    store = Store(_DIFFERENT)
    records = [(store.body(id_, LISTED) or b"").decode() for id_ in store.ids()]
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE samples (n bigint, data jsonb)")
        for n, record in enumerate(records):
            cursor.execute("INSERT INTO samples VALUES (%s, %s)", (n, record))
        cursor.execute(
            "INSERT INTO opportunities (id, name, opportunity_status, starts_at, ends_at,"
            " updated_at_rms, charge_total, data, synced_at)"
            " SELECT i, coalesce(data ->> 'subject', 'none'), data ->> 'status_name',"
            " nullif(data ->> 'starts_at', '')::timestamptz,"
            " nullif(data ->> 'ends_at', '')::timestamptz,"
            " nullif(data ->> 'updated_at', '')::timestamptz, 0,"
            " jsonb_set(data, '{id}', to_jsonb(i)), now()"
            " FROM generate_series(1, %s) AS i JOIN samples ON n = i %% %s",
            (rows, len(records)),
        )
        cursor.execute(
            "INSERT INTO opportunity_versions (id, asked_at, answered_at)"
            " SELECT id, now(), now() FROM opportunities"
        )
    with database.session() as connection:
        connection.autocommit = True
        connection.cursor().execute("VACUUM ANALYZE")


def measure(url: str, api: ground.Api, rows: int, version: str) -> None:
    database = Database(SecretStr(url), SecretStr(url))
    upgrade_tables(database, version)
    fill(database, rows)
    plan = plan_upgrade(database)
    api.reset()
    start = time.perf_counter()
    upgrade_tables(database)
    locked = time.perf_counter() - start
    start = time.perf_counter()
    ground.rms_pipeline("migrate", env=ground.environment(url, api.url))
    decoding = time.perf_counter() - start
    ground.table(
        [f"{rows:,} opportunities, from {version}", "planned, s", "measured, s"],
        [
            ["the migrations, which lock tables", f"{plan.seconds_locked:.1f}", f"{locked:.1f}"],
            [
                "decoding, and views",
                f"{sum(d.seconds for d in plan.decoded):.1f}",
                f"{decoding:.1f}",
            ],
        ],
    )
    size = sum(t.size_bytes for t in plan.touched if "rewritten" in t.work)
    print(
        f"Rewritten: {size / 1e6:,.0f} MB, {size / 1e6 / locked:.0f} MB a second. "
        f"Decoded: {rows / decoding:,.0f} rows a second.\n"
    )
    # Each is false of no row, if all is well.
    unfilled = ground.ask(
        url,
        "SELECT count(*) FROM opportunities o WHERE number IS DISTINCT FROM data ->> 'number'"
        " OR custom_fields IS DISTINCT FROM data -> 'custom_fields' OR NOT EXISTS"
        " (SELECT FROM opportunity_words w WHERE w.id = o.id)",
    )
    unremembered = ground.ask(
        url,
        "SELECT count(*) FROM (SELECT id FROM opportunities EXCEPT SELECT opportunity_id"
        " FROM opportunity_history WHERE valid_to IS NULL AND NOT deleted) n",
    )
    ground.judge(
        [
            ground.Asked("calls of the API", api.calls(), most=0),
            ground.Asked("rows with a column that was not filled", unfilled, most=0),
            ground.Asked("rows of which no history began", unremembered, most=0),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--from", dest="version", default="0018")
    parser.add_argument("--server", choices=["embedded", "15"])
    parser.add_argument("--postgres-url", help="a server to make databases on")
    options = parser.parse_args()
    for server in ground.servers(options.postgres_url or options.server):
        with (
            ground.api_of(10) as api,
            ground.a_server(server) as url,
            ground.new_database(url) as empty,
        ):
            ground.headline(f"An upgrade of {options.rows:,} opportunities", url)
            measure(empty, api, options.rows, options.version)


if __name__ == "__main__":
    main()
