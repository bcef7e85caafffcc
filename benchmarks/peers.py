"""`initial_sync` beside its peers and the floor, on one API server and one PostgreSQL.

    python benchmarks/peers.py [--rows 20000] [--rounds 3] [--server embedded|15]
                               [--postgres-url URL] [--beside COMMIT]

Without a choice: on the embedded server, and on PostgreSQL 15 where it is installed. Every way runs
in a process of its own, on an empty database that has the tables; rounds are interleaved, figures
are medians. dlt takes part when it is installed: `pip install -e '.[benchmarks]'`.

`seconds`: from the first call that the API server sees to the last commit. `process`: from exec to
exit. `ratio`: seconds to those of the floor. `processors`: seconds of processors, of the way and of
PostgreSQL, which other work on the machine hardly changes. With `--beside`, `initial_sync` as it
was at that commit takes part. Three floors have two writers: the first fills the columns that the
table had at first, the second all that are read from the record, and the third also the pages, the
words, the names and the fingerprints. `initial_sync` is the command
`rms-pipeline sync initial`: pages landed and read back, merged, deletions settled, counts
certified, checks run.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import ground
from ways import ALL_COLUMNS

from rms_pipeline.collections.opportunities import OPPORTUNITIES

FLOOR, FLOOR_OF_TWO = "floor: fetch, decode, one COPY", "floor with two writers"
WHOLE_FLOOR = "floor with two writers, every mapped column"
STORED_FLOOR = "floor with two writers, all that a sync stores"
OURS, DLT = "**initial_sync**", "dlt `rest_api`, merge"
Way = Callable[[ground.Api, str], ground.Outcome]


def plainly(way: str) -> Way:
    """One of `ways.py`."""

    def run(api: ground.Api, url: str) -> ground.Outcome:
        command = [sys.executable, str(ground.HERE / "ways.py"), way, api.url, url]
        before = ground.processors_of_server(url)
        env = ground.environment(url, api.url, RUNTIME__DLTHUB_TELEMETRY="false")
        api.reset()
        child = ground.measured(command, env)
        said = json.loads(child.output.splitlines()[-1])
        seconds = said["committed_at"] - api.first_call_at()
        processors = child.processors + ground.processors_of_server(url) - before
        return ground.Outcome(
            seconds, child.seconds, processors, child.megabytes, api.calls(), said["rows"]
        )

    return run


def initial_sync(api: ground.Api, url: str) -> ground.Outcome:
    return ground.sync("initial", api, url)


def then(commit: str) -> str:
    """The name of `initial_sync` as it was at `commit`."""
    return f"`initial_sync` of {commit}"


WAYS: dict[str, Way] = {
    "fetching the pages and nothing else": plainly("fetch"),
    FLOOR: plainly("floor"),
    FLOOR_OF_TWO: plainly("floor-of-two"),
    WHOLE_FLOOR: plainly("whole-floor"),
    STORED_FLOOR: plainly("stored-floor"),
    OURS: initial_sync,
    DLT: plainly("dlt"),
    "one upsert a row, autocommit": plainly("upsert"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", choices=["embedded", "15"])
    parser.add_argument("--postgres-url", help="a server to make databases on")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="ways whose name holds a word")
    parser.add_argument("--beside", metavar="COMMIT", help="a commit to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        carry_out(options, Path(folder))


def carry_out(options: argparse.Namespace, folder: Path) -> None:
    filled = set(ALL_COLUMNS.split(", "))
    assert filled == {*OPPORTUNITIES.mapped, "synced_at"}, "the floor leaves out a mapped column"
    ways = {
        name: way
        for name, way in WAYS.items()
        if not options.only or any(word in name for word in options.only)
    }
    if not importlib.util.find_spec("dlt"):
        ways = {name: way for name, way in ways.items() if not name.startswith("dlt")}
        print("dlt is not installed: pip install -e '.[benchmarks]'", file=sys.stderr)
    projects: dict[str, Path] = {}
    if options.beside:
        project = ground.taken_out(options.beside, folder)
        projects = {then(options.beside): project}
        ways[then(options.beside)] = partial(ground.sync, "initial", project=project)
    with ground.api_of(options.rows) as api:
        for server in ground.servers(options.postgres_url or options.server):
            chosen = options.postgres_url or options.server
            with ground.a_server(server) as url:
                ground.headline(
                    f"{options.rows:,} opportunities into {ground.postgresql(url)}"
                    f"{' (embedded)' if server == 'embedded' else ''},"
                    f" medians of {options.rounds} rounds",
                    url,
                    kilobytes=api.kilobytes,
                    also=() if chosen else ("--server", server),
                )
                compare(api, url, ways, projects, options)


def compare(
    api: ground.Api,
    url: str,
    ways: dict[str, Way],
    projects: dict[str, Path],
    options: argparse.Namespace,
) -> None:
    outcomes: dict[str, list[ground.Outcome]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            with ground.new_database(url) as empty:
                ground.prepare(empty, api, projects.get(name, ground.PROJECT))
                outcome = way(api, empty)
            assert outcome.rows == options.rows, f"{name}: {outcome.rows} rows"
            outcomes[name].append(outcome)
            print(f"{name}: {outcome}", file=sys.stderr, flush=True)
    medians = {
        name: [
            ground.median([getattr(o, what) for o in runs])
            for what in ("seconds", "process", "memory", "calls", "processors")
        ]
        for name, runs in outcomes.items()
    }
    floor = medians.get(FLOOR)
    ground.table(
        ["way", "seconds", "ratio", "process, s", "processors, s", "peak memory, MB", "API calls"],
        [
            [
                name,
                f"{seconds:.2f}",
                f"{seconds / floor[0]:.2f}" if floor else "",
                f"{process:.2f}",
                f"{processors:.2f}",
                f"{memory:.0f}",
                f"{calls:.0f}",
            ]
            for name, (seconds, process, memory, calls, processors) in medians.items()
        ],
    )
    ground.judge(list(asked(medians, options.beside)))


def asked(medians: dict[str, list[float]], beside: str | None) -> Iterator[ground.Asked]:
    if OURS not in medians:
        return
    seconds, _, memory, _, processors = medians[OURS]
    if FLOOR in medians:
        yield ground.Asked(
            "`initial_sync`, in times of the floor's seconds", seconds / medians[FLOOR][0], most=1.6
        )
    if FLOOR_OF_TWO in medians:
        yield ground.Asked(
            "`initial_sync`, in times of the seconds of two writers",
            seconds / medians[FLOOR_OF_TWO][0],
            most=1.5,
        )
    if WHOLE_FLOOR in medians:
        yield ground.Asked(
            "`initial_sync`, in times of two writers that fill every mapped column",
            seconds / medians[WHOLE_FLOOR][0],
            most=1.5,
        )
    if STORED_FLOOR in medians:
        yield ground.Asked(
            "`initial_sync`, in times of two writers that store all that it stores",
            seconds / medians[STORED_FLOOR][0],
            most=1.5,
        )
    if beside and then(beside) in medians:
        before = medians[then(beside)]
        yield ground.Asked(f"`initial_sync`, of {beside}, seconds", seconds / before[0], most=1.1)
        yield ground.Asked(
            f"`initial_sync`, of {beside}, processors", processors / before[-1], most=1.1
        )
    if DLT in medians:
        their_seconds, _, their_memory, _, _ = medians[DLT]
        yield ground.Asked("faster than dlt, times", their_seconds / seconds, least=2.5)
        yield ground.Asked("peak memory, of dlt's", memory / their_memory, most=0.5)


if __name__ == "__main__":
    main()
