"""How long the command and a run take to start: `python benchmarks/startup.py [--times 7]`.

On the embedded server, which runs, with a mirror of 2,000 opportunities. `status` is from exec to
exit; a run's start from exec to its first call of the API; the rest of a run is `growth.py`'s.
`up` is measured as on its very first start: no database, no account, everything of its own; from
exec to the dashboard's first answer, to the first opportunity on it, to Dagster's, to "Ready".
`--only up` leaves the rest out.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ground
import requests

from rms_pipeline.settings import child_environment
from rms_pipeline_tests.processes import PROJECT, free_port

TOKEN = "a-token-for-this-benchmark"
# The command, with a state folder of its own.
_UP = """
from pathlib import Path
from rms_pipeline.settings import Settings
Settings.state_folder = property(lambda _: Path({folder!r}))
from rms_pipeline.cli.main import main
main()
"""
_MILESTONES = ("dashboard", "first opportunity", "Dagster's UI", "Ready")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--only", choices=["up", "commands"])
    options = parser.parse_args()
    if options.only != "up":
        commands(options.times)
    if options.only != "commands":
        first_starts(min(options.times, 3))


def first_starts(times: int) -> None:
    """The milestones of `up`, from nothing."""
    found = [first_start() for _ in range(times)]
    seconds = {name: [one[name] for one in found] for name in _MILESTONES}
    ground.table(
        ["rms-pipeline up, first start, to its", "median, s", "longest, s"],
        [row(name, seconds[name]) for name in _MILESTONES],
    )
    first = ground.median(seconds["dashboard"])
    ground.judge([ground.Asked("dashboard after `up` begins, median, s", first, most=10)])


def first_start() -> dict[str, float]:
    """Seconds from exec to each of the milestones, in a folder that is made for it."""
    # Not below a folder of this user only: the embedded server's user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="rms-benchmark-up-"))
    account = ("POSTGRES_URL", "POSTGRES_URL_NON_POOLING", "CURRENT_RMS_SUBDOMAIN",
               "CURRENT_RMS_API_KEY", "CURRENT_RMS_BASE_URL", "RMS_DAGSTER_URL")  # fmt: skip
    environment = child_environment(
        **dict.fromkeys(account), RMS_API_TOKEN=TOKEN, RMS_WEBHOOK_TOKEN=TOKEN
    )
    web, dagster, sandbox = free_port(), free_port(), free_port()
    ports = [f"--port={web}", f"--dagster-port={dagster}", f"--sandbox-port={sandbox}"]
    printed = folder / "up.log"
    bearer = {"Authorization": f"Bearer {TOKEN}"}

    def total() -> int:
        answer = requests.get(f"http://127.0.0.1:{web}/api/dashboard", headers=bearer, timeout=5)
        return int(answer.json()["total"]) if answer.ok else 0

    reached: dict[str, Callable[[], bool]] = {
        "dashboard": lambda: answers(f"http://127.0.0.1:{web}/"),
        "first opportunity": lambda: total() > 0,
        "Dagster's UI": lambda: answers(f"http://127.0.0.1:{dagster}/"),
        "Ready": lambda: "Ready" in printed.read_text(),
    }

    def answers(url: str) -> bool:
        return requests.get(url, headers=bearer, timeout=5).ok

    took: dict[str, float] = {}
    with printed.open("wb") as out:
        began = time.monotonic()
        up = subprocess.Popen(
            [sys.executable, "-c", _UP.format(folder=str(folder)), "up", *ports],
            env=environment,
            cwd=PROJECT,
            stdout=out,
            stderr=out,
        )
        try:
            while len(took) < len(reached):
                if up.poll() is not None or time.monotonic() - began > 300:
                    raise SystemExit(f"up did not come up: {printed.read_text()}")
                for name, is_reached in reached.items():
                    if name not in took and _is(is_reached):
                        took[name] = time.monotonic() - began
                time.sleep(0.05)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(timeout=120)
            shutil.rmtree(folder, ignore_errors=True)
    return took


def _is(reached: Callable[[], bool]) -> bool:
    try:
        return reached()
    except requests.RequestException:
        return False


def commands(times: int) -> None:
    """What runs on a mirror that is there."""
    with (
        ground.api_of(2_000) as api,
        ground.a_server("embedded") as server,
        ground.new_database(server) as url,
    ):
        ground.headline("Starting up", url, kilobytes=api.kilobytes)
        env = ground.environment(url, api.url)
        ground.prepare(url, api)
        ground.sync("initial", api, url)
        took = {
            command: [ground.rms_pipeline(command, env=env).seconds for _ in range(times)]
            for command in ("--help", "status", "doctor")
        }
        bare = [ground.measured([sys.executable, "-c", ""], env).seconds for _ in range(times)]
        starts = []
        for _ in range(times):
            api.reset()
            began = time.time()
            ground.rms_pipeline("sync", "incremental", "--json", env=env)
            starts.append(api.first_call_at() - began)
    ground.table(
        ["what", "median, s", "longest, s"],
        [
            row("Python alone", bare),
            *(row(f"rms-pipeline {command}", seconds) for command, seconds in took.items()),
            row("rms-pipeline sync incremental, to its first call", starts),
        ],
    )
    ground.judge(
        [ground.Asked("rms-pipeline status, median, s", ground.median(took["status"]), most=1)]
    )


def row(what: str, seconds: list[float]) -> list[str]:
    return [what, f"{ground.median(seconds):.2f}", f"{max(seconds):.2f}"]


if __name__ == "__main__":
    main()
