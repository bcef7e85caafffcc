"""From an edit in the account to the row in PostgreSQL, and what a burst of webhooks costs.

    python benchmarks/freshness.py edits [--edits 200] [--per-second 2] [--latency-ms 300]
    python benchmarks/freshness.py burst [--events 5000] [--opportunities 300] [--seconds 30]
    python benchmarks/freshness.py sensor [--edits 20]

`edits`: the sandbox delivers real webhooks to `rms-pipeline web`; `sensor` the same with no web
service, events written into the queue and Dagster's daemon at work. `burst` posts events itself, to
time each acknowledgement. All on the account's limit of 120 requests a minute.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import ground
import psycopg2
import requests

from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline_tests.processes import free_port, wait_until

WAITING = "SELECT count(*) FROM webhook_events WHERE processed_at IS NULL"
TOKEN = "a-token-for-this-benchmark"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["edits", "burst", "sensor"])
    parser.add_argument("--edits", type=int)
    parser.add_argument("--per-second", type=float, default=2)
    parser.add_argument("--latency-ms", type=float, default=300)
    parser.add_argument("--events", type=int, default=5_000)
    parser.add_argument("--opportunities", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    sandbox = SandboxServer(Store(1_000), latency_ms=options.latency_ms, requests_per_minute=120)
    with ground.a_server("embedded") as url, sandbox:
        ground.headline(f"Freshness: {options.what}", url)
        if options.what == "burst":
            burst(url, sandbox, options)
        elif options.what == "edits":
            edits(url, sandbox, options.edits or 200, options)
        else:
            sensor(url, sandbox, options.edits or 20)


def edits(url: str, sandbox: SandboxServer, count: int, options: argparse.Namespace) -> None:
    with service(url, sandbox, "web") as where:
        headers = {"X-SUBDOMAIN": SANDBOX_SUBDOMAIN, "X-AUTH-TOKEN": SANDBOX_API_KEY}
        webhook = {"name": "benchmark", "event": "opportunity_update", "active": True}
        target = {"target_url": f"{where}/api/webhook/{TOKEN}"}
        requests.post(
            f"{sandbox.url}/webhooks",
            json={"webhook": webhook | target},
            headers=headers,
            timeout=10,
        ).raise_for_status()
        seconds = measure(url, sandbox, count, options.per_second)
    own = options.latency_ms / 1000
    report(f"edit to row, the API's own latency of {own:g} s included", seconds)
    ground.judge(
        [
            ground.Asked("median, s", ground.median(seconds), most=0.7 + own),
            ground.Asked("95th percentile, s", percentile(seconds, 0.95), most=1.5 + own),
        ]
    )


def sensor(url: str, sandbox: SandboxServer, count: int) -> None:
    """Without a web service: an outside writer puts each event into the queue."""

    def tell(id_: int) -> None:
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO webhook_events (subject_type, opportunity_id)"
                " VALUES ('Opportunity', %s)",
                (id_,),
            )

    with service(url, sandbox, "dagster"):
        # Once for nothing: the daemon's first evaluation loads the code.
        measure(url, sandbox, 1, 1, tell)
        seconds = measure(url, sandbox, count, 0.1, tell)
    report("event to row by the sensor alone", seconds)
    ground.judge([ground.Asked("median, s", ground.median(seconds), most=8)])


def measure(
    url: str,
    sandbox: SandboxServer,
    count: int,
    per_second: float,
    tell: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Seconds from each of `count` edits to its row."""
    ids = sandbox.store.ids()
    times: list[float] = []

    def edit_and_wait(number: int) -> None:
        id_, name = ids[number % len(ids)], f"Edit {time.monotonic_ns()}"
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            began = time.monotonic()
            sandbox.store.edit(id_, {"subject": name})
            tell(id_)
            while time.monotonic() - began < 60:
                cursor.execute("SELECT name FROM opportunities WHERE id = %s", (id_,))
                row = cursor.fetchone()
                if row is not None and row[0] == name:
                    times.append(time.monotonic() - began)
                    return
                time.sleep(0.01)
        raise TimeoutError(f"the edit of {id_} did not arrive within 60 s")

    with ThreadPoolExecutor(16) as pool:
        futures = []
        for number in range(count):
            futures.append(pool.submit(edit_and_wait, number))
            time.sleep(1 / per_second)
        for future in futures:
            future.result()
    return times


def burst(url: str, sandbox: SandboxServer, options: argparse.Namespace) -> None:
    ids = sandbox.store.ids()[: options.opportunities]
    with service(url, sandbox, "web") as where:
        sandbox.requests.clear()
        acknowledged: list[float] = []
        local = threading.local()

        def post(number: int) -> None:
            session = getattr(local, "session", None) or requests.Session()
            local.session = session
            id_ = ids[number % len(ids)]
            sandbox.store.edit(id_, {"subject": f"Burst {number}"})
            body = {"action": {"id": number, "subject_id": id_, "subject_type": "Opportunity"}}
            began = time.monotonic()
            answer = session.post(f"{where}/api/webhook/{TOKEN}", json=body, timeout=30)
            acknowledged.append(time.monotonic() - began)
            answer.raise_for_status()

        futures: list[Future[None]] = []
        start = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            for number in range(options.events):
                wait = start + number * options.seconds / options.events - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                futures.append(pool.submit(post, number))
        took = time.monotonic() - start
        wait_until(lambda: ground.ask(url, WAITING) == 0)
        settled = time.monotonic() - start - took
        wrong = sum(
            ground.ask(url, f"SELECT name FROM opportunities WHERE id = {i}")
            != (sandbox.store.get(i) or {}).get("subject")
            for i in ids
        )
        calls = len(sandbox.requests)
    if failed := [f for f in futures if f.exception()]:
        print(f"first failure: {failed[0].exception()}", file=sys.stderr)
    good = len(futures) - len(failed)
    median, late = ground.median(acknowledged), percentile(acknowledged, 0.99)
    ground.table(
        ["burst", "found"],
        [
            ["events sent", f"{options.events:,}"],
            ["in seconds", f"{took:.1f}"],
            ["on so many opportunities", f"{len(ids):,}"],
            ["acknowledged", f"{good:,}"],
            ["acknowledgement, median, ms", f"{1000 * median:.1f}"],
            ["acknowledgement, 99th percentile, ms", f"{1000 * late:.1f}"],
            ["API calls", str(calls)],
            ["settled after the last event, s", f"{settled:.1f}"],
            ["rows that differ from the API", str(wrong)],
        ],
    )
    ground.judge(
        [
            ground.Asked("share of events acknowledged", good / options.events, least=1),
            ground.Asked("acknowledgement, 99th percentile, ms", 1000 * late, most=100),
            ground.Asked("API calls", calls, most=60),
            ground.Asked("settled after the last event, s", settled, most=10),
            ground.Asked("rows that differ from the API then", wrong, most=0),
        ]
    )


@contextmanager
def service(url: str, sandbox: SandboxServer, what: str) -> Iterator[str]:
    port = free_port()
    environment = ground.environment(
        url,
        sandbox.url,
        CURRENT_RMS_REQUESTS_PER_MINUTE="120",
        RMS_WEBHOOK_TOKEN=TOKEN,
        RMS_API_TOKEN=TOKEN,
    )
    web = ["-m", "rms_pipeline.cli", "web", "--port", str(port)]
    dagster = ["-m", "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, *(web if what == "web" else dagster)],
            env=environment,
            cwd=ground.PROJECT,
            stdout=log,
            stderr=log,
        )
        where = f"http://127.0.0.1:{port}"
        health = f"{where}/{'healthz' if what == 'web' else 'server_info'}"
        try:
            wait_until(lambda: child.poll() is not None or up(health))
            yield where
        finally:
            child.terminate()
            child.wait(timeout=60)


def up(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def report(what: str, seconds: list[float]) -> None:
    found = (ground.median(seconds), percentile(seconds, 0.95), max(seconds))
    ground.table(
        [what, "times", "median, s", "95th percentile, s", "longest, s"],
        [["", str(len(seconds)), *(f"{one:.2f}" for one in found)]],
    )


if __name__ == "__main__":
    main()
