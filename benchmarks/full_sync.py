"""Seconds and peak memory of a full sync and of a second one over unchanged data.

    python benchmarks/full_sync.py [--rows 20000] [--postgres-url URL]

The sandbox runs in a process of its own, without a limit; the database is an empty one on the
server of --postgres-url, else on the embedded server. DESIGN's figures are printed beside.
"""

import argparse
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg2
import requests
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import ProcessBudget
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import start_embedded, stop_embedded
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN
from rms_pipeline.sync.landing import land_window
from rms_pipeline.sync.storing import merge_walk

FLOOR_SECONDS = {"pglz": 6.8, "lz4": 5.4}
DLT_SECONDS = 21.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="opportunities of the sandbox")
    parser.add_argument("--postgres-url", help="a server to make a database on")
    options = parser.parse_args()
    folder = None
    url = options.postgres_url
    if url is None:
        folder = Path(tempfile.mkdtemp(prefix="rms-benchmark-"))
        url = start_embedded(folder)
    admin = psycopg2.connect(url)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS rms_benchmark WITH (FORCE)")
        cursor.execute("CREATE DATABASE rms_benchmark")
        cursor.execute("SHOW server_version")
        version = (cursor.fetchone() or ("?",))[0]
    head, _, query = url.partition("?")
    secret = SecretStr(f"{head.rpartition('/')[0]}/rms_benchmark?{query}")
    try:
        measure(Database(secret, secret), options.rows, version)
    finally:
        with admin.cursor() as cursor:
            cursor.execute("DROP DATABASE rms_benchmark WITH (FORCE)")
        admin.close()
        if folder is not None:
            stop_embedded(folder)
            shutil.rmtree(folder, ignore_errors=True)


def measure(database: Database, rows: int, version: str) -> None:
    migrate(database)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "rms_pipeline.cli", "sandbox", "--rows", str(rows)]
    command += ["--port", str(port), "--requests-per-minute", "0"]
    sandbox = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    base_url = f"http://127.0.0.1:{port}/api/v1"
    try:
        _await(base_url)
        print(f"PostgreSQL {version}, {rows:,} opportunities in the sandbox")
        for run in ("first", "second"):
            client = CurrentRmsClient(
                base_url=base_url,
                subdomain=SANDBOX_SUBDOMAIN,
                api_key=SecretStr(SANDBOX_API_KEY),
                budget=ProcessBudget(0),
                now=database.clock(),
            )
            window = Window.around(database.clock()(), days_back=30, days_ahead=365)
            began = time.monotonic()
            with client:
                landed = land_window(database, client, window, run)
            merged = merge_walk(database, landed.walk, run)
            seconds = time.monotonic() - began
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(
                f"{run:>6}: {seconds:6.2f} s (walk {landed.seconds:.2f}, merge "
                f"{merged.seconds:.2f}), {merged.result.stored:,} records, {landed.pages} pages, "
                f"{landed.bytes / 1e6:.0f} MB, {landed.api_calls} calls, peak {memory} MB"
            )
    finally:
        sandbox.terminate()
        sandbox.wait()
    print(
        f"DESIGN, 20,000 records elsewhere: floor {FLOOR_SECONDS['lz4']} s with lz4, "
        f"{FLOOR_SECONDS['pglz']} s with pglz, 147 MB; dlt {DLT_SECONDS} s, 459 MB"
    )


def _await(base_url: str) -> None:
    while True:
        try:
            requests.get(base_url, timeout=1)
            return
        except requests.RequestException:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
