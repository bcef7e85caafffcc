"""The web service's own time for what people look at: `python benchmarks/dashboard.py
[--rows 100000 500000] [--times 15]`.

A real mirror of 2,000 opportunities is multiplied inside PostgreSQL to the size asked for, with
9,000 syncs (90 days) in Dagster's history, 25,000 webhooks of the last week and as many changes,
and asked for over HTTP from `rms-pipeline web`. Transferred bytes are compressed, as a browser
takes them; "first view" counts the page and the files it names.
"""

import argparse
import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import ground
import requests

from rms_pipeline.mirror.summary import refresh_status_counts

TOKEN = "a-token-for-this-benchmark"
SEED_ROWS, SYNCS, EVENTS = 2_000, 9_000, 25_000
FIRST_VIEW, DASHBOARD = "first view of the dashboard", "/api/dashboard"
# Median in ms and transferred kB of each look.
Looks = dict[str, tuple[float, float]]

_MULTIPLY = (
    # Ids of the account are below a million.
    "INSERT INTO opportunities SELECT o.id + n * 1000000, name, subject, description,"
    " starts_at, ends_at, opportunity_status, created_at_rms,"
    " updated_at_rms - n * interval '1 minute', venue_name, organisation_id, organisation_name,"
    " owner_id, owner_name, charge_total, total_value, data, synced_at, last_webhook_at"
    " FROM opportunities o, generate_series(1, {times}) AS n WHERE o.id < 1000000"
)
_HISTORY = (
    "INSERT INTO dagster.runs (run_id, snapshot_id, pipeline_name, status, run_body,"
    " create_timestamp, update_timestamp, start_time, end_time) SELECT run_id || n, snapshot_id,"
    " 'incremental_sync', status, run_body, create_timestamp - n * interval '1 hour',"
    " update_timestamp, start_time - n * 3600, end_time - n * 3600"
    " FROM dagster.runs, generate_series(1, {syncs}) AS n WHERE status = 'SUCCESS'",
    "INSERT INTO dagster.run_tags (run_id, key, value) SELECT run_id || n, key, value"
    " FROM dagster.run_tags, generate_series(1, {syncs}) AS n",
    "INSERT INTO dagster.event_logs (run_id, event, dagster_event_type, timestamp, step_key,"
    " asset_key) SELECT run_id || n, event, dagster_event_type, timestamp, step_key, asset_key"
    " FROM dagster.event_logs, generate_series(1, {syncs}) AS n"
    " WHERE dagster_event_type = 'ASSET_MATERIALIZATION'",
    "INSERT INTO sync_runs (run_id, sync_type, status, launched_at, started_at, ended_at,"
    " records_synced, metadata) SELECT run_id || n, 'incremental_sync', status,"
    " launched_at - n * interval '1 hour', started_at - n * interval '1 hour',"
    " ended_at - n * interval '1 hour', records_synced, metadata"
    " FROM sync_runs, generate_series(1, {syncs}) AS n WHERE status = 'completed'",
    "INSERT INTO webhook_events (action_id, action_type, subject_type, opportunity_id, received_at,"
    " processed_at) SELECT n, 'update', 'Opportunity', 1000 + n % 3000,"
    " now() - n * interval '24 s', now() FROM generate_series(1, {events}) AS n",
    "INSERT INTO opportunity_changes (opportunity_id, field, old_value, new_value, changed_at)"
    " SELECT 1000 + n % 3000, 'opportunity_status', 'Open', 'Reserved', now()"
    " FROM generate_series(1, {events}) AS n",
    "VACUUM ANALYZE",
)
_LOOKS = (
    (FIRST_VIEW, "/"),
    ("/fragments/overview, every 5 s", "/fragments/overview"),
    ("/fragments/sync, every 1 to 5 s", "/fragments/sync"),
    (DASHBOARD, "/api/dashboard"),
    ("/api/sync/status", "/api/sync/status"),
    ("list, newest edits first", "/opportunities"),
    ("list of a status by value", "/opportunities?status=Reserved&sort=-value"),
    ("search by part of a name", "/opportunities?q=dance+fl"),
    ("search by number", "/opportunities?q=00001234"),
    ("one opportunity", "/opportunities/{id}"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 500_000])
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--server", choices=["embedded", "15"], default="embedded")
    options = parser.parse_args()
    with (
        ground.api_of(SEED_ROWS) as api,
        ground.a_server(options.server) as server,
        ground.new_database(server) as url,
    ):
        ground.headline("What people look at", url, kilobytes=api.kilobytes)
        ground.prepare(url, api)
        ground.sync("initial", api, url)
        for statement in _HISTORY:
            ground.carry_out(url, statement.format(syncs=SYNCS, events=EVENTS))
        looks: dict[int, Looks] = {}
        with web(url, api) as session:
            for rows in sorted(options.rows):
                grow(url, rows)
                looks[rows] = measure(session, url, options.times)
    ground.judge(asked(looks))


def asked(looks: dict[int, Looks]) -> list[ground.Asked]:
    """What is asked for at a size is judged at the largest one that was measured up to it."""
    small = max((rows for rows in looks if rows <= 100_000), default=min(looks))
    large = max((rows for rows in looks if rows <= 500_000), default=min(looks))
    ms, kilobytes = looks[small][FIRST_VIEW]
    return [
        ground.Asked(f"{FIRST_VIEW}, {small:,} rows, ms", ms, most=200),
        ground.Asked(f"{FIRST_VIEW}, {small:,} rows, kB", kilobytes, most=100),
        ground.Asked(f"{DASHBOARD}, {large:,} rows, ms", looks[large][DASHBOARD][0], most=100),
    ]


def grow(url: str, rows: int) -> None:
    there = int(ground.ask(url, "SELECT count(*) FROM opportunities"))
    if there == SEED_ROWS or there < rows:
        ground.carry_out(url, "DELETE FROM opportunities WHERE id >= 1000000")
        ground.carry_out(url, _MULTIPLY.format(times=rows // SEED_ROWS - 1))
        ground.carry_out(url, "VACUUM ANALYZE opportunities")
    refresh_status_counts(ground.database_at(url), "Europe/London")


def measure(session: "Session", url: str, times: int) -> Looks:
    """Prints what each look takes, and returns it."""
    rows = int(ground.ask(url, "SELECT count(*) FROM opportunities"))
    id_ = ground.ask(url, "SELECT min(id) FROM opportunities")
    recount = []
    for _ in range(3):
        began = time.monotonic()
        refresh_status_counts(ground.database_at(url), "Europe/London")
        recount.append(1000 * (time.monotonic() - began))
    lines = []
    found: Looks = {}
    for what, path in _LOOKS:
        looks = [session.look(path.format(id=id_)) for _ in range(times + 1)]
        # The first one fills caches, PostgreSQL's and the connection's.
        seconds = sorted(look[0] for look in looks[1:])
        size = looks[-1][1] + (session.files() if path == "/" else 0)
        median, kilobytes = found[what] = 1000 * ground.median(seconds), size / 1000
        lines.append([what, f"{median:.0f}", f"{1000 * seconds[-1]:.0f}", f"{kilobytes:.1f}"])
    lines.append(["recounting the summaries", f"{ground.median(recount):.0f}", "", ""])
    ground.table([f"{rows:,} opportunities", "median, ms", "longest, ms", "transferred, kB"], lines)
    return found


class Session:
    """A person who is signed in, on one connection to the web service of that `process`."""

    def __init__(self, url: str, process: int) -> None:
        self._url = url
        self.process = process
        self._session = requests.Session()
        self._session.get(f"{url}/?token={TOKEN}", timeout=60).raise_for_status()

    def look(self, path: str) -> tuple[float, int]:
        """Seconds until the whole answer is there, and its bytes on the wire."""
        began = time.monotonic()
        answer = self._session.get(f"{self._url}{path}", timeout=60, stream=True)
        body = answer.raw.read(decode_content=False)
        seconds = time.monotonic() - began
        answer.raise_for_status()
        return seconds, len(body) + sum(len(k) + len(v) + 4 for k, v in answer.headers.items())

    def files(self, path: str = "/") -> int:
        """Bytes on the wire of what that page names: style, scripts, icon."""
        page = self._session.get(f"{self._url}{path}", timeout=60).text
        return sum(self.look(path)[1] for path in set(re.findall(r'"(/static/[^"]+)"', page)))


@contextlib.contextmanager
def web(url: str, api: ground.Api) -> Iterator[Session]:
    """`rms-pipeline web`, and somebody at it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = ground.environment(
        url, api.url, RMS_API_TOKEN=TOKEN, RMS_WEBHOOK_TOKEN=TOKEN, RMS_TIME_ZONE="Europe/London"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "rms_pipeline.cli", "web", "--port", str(port)],
        env=env,
        cwd=ground.PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    where = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1_800):
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{where}/healthz", timeout=2).ok:
                    break
            time.sleep(0.1)
        yield Session(where, process.pid)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
