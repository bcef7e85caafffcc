"""The view `sync_metadata` read whole: `python benchmarks/syncs.py [--syncs 9000] [--times 9]`.

One real full sync, one incremental and one that failed are multiplied, in Dagster's history and in
ours, to the number of 90 days at 100 a day. Read once with rows as text, as psql and most tools ask
for them, and once with every JSON value made a Python object. It also runs on older versions, which
keep no rows of their own.
"""

import argparse
import contextlib
import time
from collections.abc import Callable

import ground
import psycopg2
import psycopg2.extensions

ALL = "SELECT * FROM sync_metadata"
DAY = "SELECT * FROM sync_metadata WHERE started_at > now() - interval '1 day'"
NEWEST = "SELECT * FROM sync_metadata ORDER BY started_at DESC LIMIT 5"
_MULTIPLY = (
    "INSERT INTO dagster.runs (run_id, snapshot_id, pipeline_name, status, run_body,"
    " create_timestamp, update_timestamp, start_time, end_time) SELECT run_id || n, snapshot_id,"
    " pipeline_name, status, run_body, create_timestamp - n * interval '45 min', update_timestamp,"
    " start_time - n * 2700, end_time - n * 2700"
    " FROM dagster.runs, generate_series(1, {times}) AS n",
    "INSERT INTO dagster.run_tags (run_id, key, value) SELECT run_id || n, key, value"
    " FROM dagster.run_tags, generate_series(1, {times}) AS n",
    "INSERT INTO dagster.event_logs (run_id, event, dagster_event_type, timestamp, step_key,"
    " asset_key) SELECT run_id || n, event, dagster_event_type, timestamp, step_key, asset_key"
    " FROM dagster.event_logs, generate_series(1, {times}) AS n WHERE dagster_event_type"
    " IN ('ASSET_MATERIALIZATION', 'STEP_FAILURE', 'PIPELINE_FAILURE')",
)
_MULTIPLY_OURS = (
    "INSERT INTO sync_runs (run_id, sync_type, status, launched_at, started_at, ended_at,"
    " records_synced, records_failed, error, metadata) SELECT run_id || n, sync_type, status,"
    " launched_at - n * interval '45 min', started_at - n * interval '45 min',"
    " ended_at - n * interval '45 min', records_synced, records_failed, error, metadata"
    " FROM sync_runs, generate_series(1, {times}) AS n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--syncs", type=int, default=9_000)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--server", choices=["embedded", "15"], default="embedded")
    options = parser.parse_args()
    with (
        ground.api_of(200) as api,
        ground.a_server(options.server) as server,
        ground.new_database(server) as url,
    ):
        ground.headline("The syncs of 90 days", url, kilobytes=api.kilobytes)
        ground.prepare(url, api)
        ground.sync("initial", api, url)
        ground.sync("incremental", api, url)
        env = ground.environment(url, api.url, CURRENT_RMS_API_KEY="wrong")
        with contextlib.suppress(RuntimeError):
            ground.rms_pipeline("sync", "incremental", env=env)
        times = options.syncs // 3 - 1
        for statement in _MULTIPLY:
            ground.carry_out(url, statement.format(times=times))
        if ground.ask(url, "SELECT to_regclass('sync_runs') IS NOT NULL"):
            ground.carry_out(url, _MULTIPLY_OURS.format(times=times))
        ground.carry_out(url, "VACUUM ANALYZE")
        count = int(ground.ask(url, "SELECT count(*) FROM sync_metadata"))
        lines, whole = [], 0.0
        for what, statement, as_text in (
            (f"{ALL}, as text", ALL, True),
            (f"{ALL}, as Python objects", ALL, False),
            ("those of a day, as text", DAY, True),
            ("the newest five, as text", NEWEST, True),
        ):
            seconds = sorted(timed(reader(url, as_text), statement) for _ in range(options.times))
            median = 1000 * ground.median(seconds)
            whole = whole or median
            lines.append([what, f"{median:.1f}", f"{1000 * seconds[-1]:.1f}"])
        ground.table([f"{count:,} syncs", "median, ms", "longest, ms"], lines)
    ground.judge([ground.Asked(f"{ALL} of {count:,} syncs, ms", whole, most=100)])


def reader(url: str, as_text: bool) -> Callable[[str], int]:
    """Reads all rows of a statement over one connection, which is warm."""
    connection = psycopg2.connect(url)
    if as_text:
        psycopg2.extensions.register_type(
            psycopg2.extensions.new_type((3802,), "JSONB", lambda value, _: value), connection
        )

    def read(statement: str) -> int:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return len(cursor.fetchall())

    read(ALL)
    return read


def timed(read: Callable[[str], int], statement: str) -> float:
    began = time.monotonic()
    read(statement)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
