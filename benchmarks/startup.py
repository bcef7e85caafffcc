"""How long the command and a run take to start: `python benchmarks/startup.py [--times 7]`.

On the embedded server, which runs, with a mirror of 2,000 opportunities. `status` is from exec to
exit; a run's start from exec to its first call of the API; the rest of a run is `growth.py`'s.
"""

import argparse
import sys
import time

import ground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=7)
    options = parser.parse_args()
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
            command: [ground.rms_pipeline(command, env=env).seconds for _ in range(options.times)]
            for command in ("--help", "status", "doctor")
        }
        bare = [
            ground.measured([sys.executable, "-c", ""], env).seconds for _ in range(options.times)
        ]
        starts = []
        for _ in range(options.times):
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
