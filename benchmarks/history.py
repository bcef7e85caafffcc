"""What remembering costs: bytes a version, and how long a merge takes that finds all changed.

    python benchmarks/history.py [--rows 5000] [--server embedded|15] [--postgres-url URL]

A merge of `rows` opportunities that are new, one that finds them the same, and one that finds two
fields of each changed, without HTTP and without Dagster: seconds and rows a second. Then what is
asked of the history, in milliseconds.
"""

import argparse
import json
import time
from datetime import datetime

import ground
import msgspec
from psycopg2.extensions import connection as Connection  # noqa: N812
from pydantic import SecretStr
from tabulate import tabulate

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.records import read_record
from rms_pipeline.mirror.database import Database, clock_of
from rms_pipeline.mirror.merge import merge
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.sandbox import Store
from rms_pipeline.sandbox.records import LISTED

PAGE = 100
ASKED = (
    ("the table as of then, all columns but the record",
     "SELECT sum(charge_total) FROM opportunities_as_of(%s)"),
    ("the counts as of then", "SELECT * FROM status_counts_as_of(%s)"),
    ("one opportunity as of then, with its record",
     "SELECT data FROM opportunity_as_of((SELECT min(id) FROM opportunities), %s)"),
    ("what is on hire on a day",
     "SELECT id FROM opportunities WHERE hire && tstzrange(%s, now() + interval '1 day')"),
)  # fmt: skip


def edited(record: bytes) -> bytes:
    """The record with two fields changed, as one edit changes them."""
    fields = json.loads(record)
    fields["subject"] = f"{fields['subject']}, edited"
    fields["custom_fields"]["job_code"] = "edited"
    fields["updated_at"] = "2030-01-01T00:00:00.000Z"
    return json.dumps(fields).encode()


def merged(connection: Connection, records: list[bytes]) -> float:
    """Seconds."""
    clock = clock_of(connection)
    start = time.perf_counter()
    for first in range(0, len(records), PAGE):
        now = clock()
        page = [read_record(msgspec.Raw(r), OPPORTUNITIES) for r in records[first : first + PAGE]]
        merge(connection, OPPORTUNITIES, "run", page, asked_at=now, answered_at=now)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--server", choices=["embedded", "15"])
    parser.add_argument("--postgres-url", help="a server to make databases on")
    options = parser.parse_args()
    store = Store(options.rows)
    records = [store.body(id_, LISTED) or b"" for id_ in store.ids()]
    for server in ground.servers(options.postgres_url or options.server):
        with ground.a_server(server) as url, ground.new_database(url) as empty:
            ground.headline(f"What {options.rows:,} opportunities cost to remember", url)
            measure(Database(SecretStr(empty), SecretStr(empty)), records)


def measure(database: Database, records: list[bytes]) -> None:
    migrate(database)
    with database.session() as connection:
        rows: list[tuple[str, str]] = []

        def note(what: str, seconds: float) -> None:
            rows.append((what, f"{seconds:.2f} s, {len(records) / seconds:,.0f} a second"))

        note("all new", merged(connection, records))
        note("all the same", merged(connection, records))
        then = moment(connection)
        note("all changed, in two fields", merged(connection, [edited(r) for r in records]))
        start = time.perf_counter()
        refresh_status_counts(database, "Europe/London")
        rows.append(("counts, with those of the day", f"{time.perf_counter() - start:.2f} s"))
        for table in (OPPORTUNITIES.past, OPPORTUNITIES.changes):
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT pg_total_relation_size('{table}') / count(*), count(*) FROM {table}"
                )
                size, count = cursor.fetchone() or (0, 0)
            rows.append((f"bytes a row of {table}, indexes included", f"{size:,} ({count:,} rows)"))
        for what, question in ASKED:
            start = time.perf_counter()
            with connection.cursor() as cursor:
                cursor.execute(question, (then,))
                cursor.fetchall()
            rows.append((what, f"{1_000 * (time.perf_counter() - start):.0f} ms"))
    print(tabulate(rows, ["what", "found"], tablefmt="github"))


def moment(connection: Connection) -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    assert row is not None
    found: datetime = row[0]
    return found


if __name__ == "__main__":
    main()
