"""How long the questions of docs/how-to/questions.md take, and the views that answer them.

    python benchmarks/questions.py [--rows 100000] [--times 5] [--server embedded|15]
        [--postgres-url URL] [--processors]

A mirror of so many opportunities: records of the sandbox, spread over four years, 4,000 venues and
8,000 customers; a tenth of them was changed twice. Milliseconds at the median of `--times`, of
PostgreSQL alone, for planning and all rows of the answer. Under 50 is asked where an index can
serve, under 1,000 where all must be read. Then what a column for an account's own field takes.
With `--processors`, milliseconds of processors instead, of PostgreSQL's process for the connection
and without parallel workers: other work on the machine hardly changes them. The server must run on
this machine, on Linux.
"""

import argparse
import re
import statistics
import time
from pathlib import Path

import ground
import msgspec
from psycopg2.extensions import connection as Connection  # noqa: N812
from tabulate import tabulate

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.records import read_record
from rms_pipeline.insight.fields import own_fields
from rms_pipeline.mirror.custom_fields import note_keys
from rms_pipeline.mirror.database import Database, clock_of
from rms_pipeline.mirror.merge import merge
from rms_pipeline.mirror.promoted import Promoted, promote
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.mirror.views import views
from rms_pipeline.sandbox import Store
from rms_pipeline.sandbox.records import LISTED

PAGE = Path(__file__).parent.parent / "docs/how-to/questions.md"
ASKED = re.compile(r"<!-- question: (index|all) -->\n```sql\n(.*?);\n```", re.DOTALL)
LIMITS = {"index": 50, "all": 1_000}
# Records differ by their ids; there need not be as many different ones as rows.
DIFFERENT = 2_000
SPREAD = """
    INSERT INTO opportunities ({columns})
    SELECT {values}
    FROM opportunities o CROSS JOIN generate_series(1, {copies}) AS copy
"""
HISTORY = """
    INSERT INTO mirror_state (name, value) VALUES ('history_began', '2020-01-01 00:00:00Z')
    ON CONFLICT (name) DO UPDATE SET value = excluded.value;
    INSERT INTO opportunity_versions (id, asked_at, answered_at, valid_from)
    SELECT id, now(), now(), '2020-01-01' FROM opportunities ON CONFLICT DO NOTHING;
    UPDATE opportunities SET confirmed_at = created_at_rms + random() * interval '40 days'
    WHERE opportunity_status IN (SELECT name FROM statuses WHERE phase = 'confirmed');
    INSERT INTO opportunity_past (opportunity_id, valid_from, valid_to, deleted, opportunity_status,
        charge_total, difference)
    SELECT id, now() - interval '2 years' + part * interval '200 days',
        now() - interval '2 years' + (part + 1) * interval '200 days', false, 'Provisional',
        charge_total, '[]'
    FROM opportunities, generate_series(0, 1) AS part WHERE id % 10 = 0;
    UPDATE opportunity_versions SET valid_from = now() - interval '330 days' WHERE id % 10 = 0;
    INSERT INTO opportunity_changes (opportunity_id, field, old_value, new_value, changed_at,
        seen_at)
    SELECT id, field, before, after, at, at FROM (
        SELECT id, f.*, created_at_rms + random() * interval '90 days' AS at
        FROM opportunities CROSS JOIN (VALUES ('state_name', 'Enquiry', 'Quotation'),
            ('opportunity_status', 'Open', 'Reserved'), ('charge_total', '1', '2'),
            ('subject', 'a', 'b'), ('ends_at', 'a', 'b')) AS f (field, before, after)
        WHERE field IN ('state_name', 'opportunity_status') OR id % 10 = 0) c;
"""
# What is another one in each copy, within four years and among so many.
OTHERS = {
    "id": "o.id + copy * 1000000",
    "venue_id": "(random() * 4000)::bigint",
    "organisation_id": "(random() * 8000)::bigint",
}
MOVED = "o.{0} + (copy * 1461.0 / {1} - 1100) * interval '1 day'"


def fill(connection: Connection, rows: int) -> None:
    store = Store(min(DIFFERENT, rows))
    records = [store.body(id_, LISTED) or b"" for id_ in store.ids()]
    now = clock_of(connection)()
    for first in range(0, len(records), 100):
        page = [read_record(msgspec.Raw(r), OPPORTUNITIES) for r in records[first : first + 100]]
        merge(connection, OPPORTUNITIES, "run", page, asked_at=now, answered_at=now)
    copies = max(rows // len(records) - 1, 0)
    columns = [*OPPORTUNITIES.mapped, "synced_at"]
    kinds = {column.name: column.kind for column in OPPORTUNITIES.table}
    values = [
        OTHERS.get(c)
        or (MOVED.format(c, copies) if kinds[c] == "timestamptz" and c != "synced_at" else f"o.{c}")
        for c in columns
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            SPREAD.format(columns=", ".join(columns), values=", ".join(values), copies=copies)
        )
        cursor.execute(HISTORY)
    connection.commit()


def measure(database: Database, rows: int, times: int, *, processors: bool) -> None:
    migrate(database)
    with database.session() as connection:
        fill(connection, rows)
    refresh_status_counts(database, "Europe/London")
    with database.session() as connection:
        connection.autocommit = True
        connection.cursor().execute("VACUUM ANALYZE")
    with database.session() as connection:
        start = time.perf_counter()
        note_keys(connection, OPPORTUNITIES)
        noted = time.perf_counter() - start
        asked = []
        for section in PAGE.read_text().split("\n## ")[1:]:
            heading = section.partition("\n")[0]
            asked += [(heading, served, query) for served, query in ASKED.findall(section)]
        asked += [(f"`{view.name}`, whole", "all", f"SELECT * FROM {view.name}") for view in views()
                  if "money" not in view.name]  # fmt: skip
        told = [
            [heading, *timed(connection, query, times, processors=processors), LIMITS[served]]
            for heading, served, query in asked
        ]
        heading = "ms of processors" if processors else "ms"
        print(tabulate(told, ["question", "rows", heading, "asked"], tablefmt="github"))
        start = time.perf_counter()
        found = own_fields(connection, OPPORTUNITIES)
        listed = time.perf_counter() - start
        start = time.perf_counter()
        done, _ = promote(
            connection, OPPORTUNITIES, Promoted("number_of_attendees", "attendees", "numeric")
        )
        connection.commit()
        promoted = time.perf_counter() - start
        of_one = "SELECT * FROM opportunity_fields WHERE attendees BETWEEN 100 AND 110"
        number, milliseconds = timed(connection, of_one, times, processors=processors)
    print(
        f"\nThe keys of the account's own fields noted in {noted:.1f} s; all {len(found)} listed "
        f"in {listed:.1f} s; one promoted in {promoted:.1f} s ({done.rows:,} rows), and then "
        f"{number:,} rows found by it in {milliseconds} ms."
    )


def timed(connection: Connection, query: str, times: int, *, processors: bool) -> tuple[int, str]:
    """How many rows came, and the median in milliseconds, as PostgreSQL found them."""
    found, milliseconds = 0, []
    for _ in range(times):
        with connection.cursor() as cursor:
            if processors:
                cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
            before = processor_milliseconds(connection) if processors else 0
            cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}")
            ((((plan,),)),) = cursor.fetchall()
        found = int(plan["Plan"]["Actual Rows"])
        milliseconds.append(
            processor_milliseconds(connection) - before
            if processors
            else plan["Planning Time"] + plan["Execution Time"]
        )
        connection.commit()
    return found, f"{statistics.median(milliseconds):.0f}"


def processor_milliseconds(connection: Connection) -> float:
    """What the process of the server has used of processors for this connection."""
    schedule = Path(f"/proc/{connection.get_backend_pid()}/schedstat")
    return int(schedule.read_text().split()[0]) / 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--server", choices=["embedded", "15"])
    parser.add_argument("--postgres-url", help="a server to make databases on")
    parser.add_argument("--processors", action="store_true", help="time of processors")
    options = parser.parse_args()
    for server in ground.servers(options.postgres_url or options.server):
        with ground.a_server(server) as url, ground.new_database(url) as empty:
            ground.headline(f"Questions about {options.rows:,} opportunities", url)
            measure(
                ground.database_at(empty),
                options.rows,
                options.times,
                processors=options.processors,
            )


if __name__ == "__main__":
    main()
