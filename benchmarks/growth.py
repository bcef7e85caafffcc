"""What syncs cost by the size of the account: does anything grow faster than the account does?

    python benchmarks/growth.py [--rows 2000 20000 200000 500000] [--server embedded|15]
                                [--postgres-url URL] [--beside COMMIT]

For each size: a first `initial_sync`, a second over unchanged data (of up to 20,000 the median of
three), an incremental sync after five edits, each the command `rms-pipeline sync` in a process of
its own without a limit; how long `status_counts` and each check took, read from Dagster's history
of the second one. The API server keeps all records in memory: have 4 GB to spare for 500,000.
With `--beside`, the code of that commit is measured in the same way, with the same records, right
after this one at each size; both are compared by the processors of the command and of PostgreSQL.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ground
import psycopg2

EDITS = 5
SMALL = 20_000
# What is asked of a bigger account, in times of one of so many records.
COMPARED_WITH = 20_000
STEPS = (
    "SELECT step_key, extract(epoch FROM max(timestamp) - min(timestamp))::float8"
    " FROM dagster.event_logs WHERE step_key IS NOT NULL"
    " AND dagster_event_type IN ('STEP_START', 'STEP_SUCCESS') AND run_id ="
    " (SELECT run_id FROM dagster.runs ORDER BY id DESC LIMIT 1) GROUP BY step_key ORDER BY 1"
)
WAITED = (
    "SELECT extract(epoch FROM sum(fetched_at - asked_at))::float8 FROM raw_rms_pages"
    " WHERE walk = (SELECT max(id) FROM walks)"
)
WRITTEN = (
    "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables"
    " WHERE relname IN ('opportunities', 'opportunity_versions', 'raw_rms_pages')"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000, 20_000, 200_000, 500_000])
    parser.add_argument("--server", choices=["embedded", "15"], default="embedded")
    parser.add_argument("--postgres-url", help="a server to make databases on")
    parser.add_argument("--beside", metavar="COMMIT", help="a commit to compare with")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        ground.a_server(options.postgres_url or options.server) as server,
    ):
        projects = {"now": ground.PROJECT}
        if options.beside:
            projects[options.beside] = ground.taken_out(options.beside, Path(folder))
        ground.headline("By the size of the account", server)
        found: dict[str, Found] = {name: Found([], [], {}) for name in projects}
        for rows in options.rows:
            for name, project in projects.items():
                # An account of its own for each: the edits of one would be news to the other.
                with ground.api_of(rows) as api, ground.new_database(server) as url:
                    measure(api, url, rows, project, found[name])
    for name, each in found.items():
        if len(found) > 1:
            print(f"{name}:\n")
        show(each, options.rows)
    ground.judge(list(asked(sorted(found["now"].full, key=lambda syncs: syncs.rows))))
    if options.beside:
        compare(found["now"], found[options.beside], options.beside)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one program: by size, and by step of the second sync by size."""

    full: "list[Syncs]"
    small: "list[tuple[list[str], ground.Outcome]]"
    steps: dict[str, list[str]]


def measure(api: ground.Api, url: str, rows: int, project: Path, found: Found) -> None:
    ground.prepare(url, api, project)
    found.full.append(full_syncs(api, url, rows, project))
    for step, seconds in durations(url).items():
        found.steps.setdefault(step, []).append(f"{seconds:.2f}")
    found.small.append(incremental_sync(api, url, rows, project))


def compare(now: Found, then: Found, commit: str) -> None:
    """By processors, which other work on the machine hardly changes."""
    rows, judged = [], []
    for new, old, (_, small), (_, small_then) in zip(
        now.full, then.full, now.small, then.small, strict=True
    ):
        pairs = {
            "first sync": (new.first, old.first),
            "second sync, all the same": (new.second, old.second),
            "incremental sync": (small, small_then),
        }
        for kind, (one, other) in pairs.items():
            ratio = one.processors / other.processors
            rows.append(
                [
                    f"{new.rows:,}: {kind}",
                    *(f"{o.processors:.2f}" for o in (other, one)),
                    f"{ratio:.2f}",
                    *(f"{o.seconds:.2f}" for o in (other, one)),
                ]
            )
            judged.append(ground.Asked(f"{kind} of {new.rows:,}, of {commit}", ratio, most=1.1))
    ground.table(
        [
            "of processors",
            f"{commit}, s",
            "now, s",
            "now, of then",
            f"{commit}, s by the clock",
            "now, s by the clock",
        ],
        rows,
    )
    ground.judge(judged)


def show(found: Found, sizes: Sequence[int]) -> None:
    ground.table(
        [
            "records",
            "first, s",
            "ms a record",
            "second, s",
            "of the first",
            "peak MB, first",
            "second",
            "database, MB",
            "calls / 100 records",
            "KB a record",
        ],
        [syncs.row() for syncs in found.full],
    )
    ground.table(
        ["records", "incremental: API calls", "rows written", "seconds", "without the API"],
        [row for row, _ in found.small],
    )
    ground.table(
        ["step of the second sync, s", *(f"{rows:,}" for rows in sizes)],
        [[step, *seconds] for step, seconds in found.steps.items()],
    )


@dataclass(frozen=True, slots=True)
class Syncs:
    """A first full sync and one over unchanged data; `size` of the database in MB after the first,
    `kilobytes` those of a record."""

    rows: int
    first: ground.Outcome
    second: ground.Outcome
    size: float
    kilobytes: float

    @property
    def milliseconds(self) -> float:
        """Of the first sync, for each record."""
        return 1000 * self.first.seconds / self.rows

    def row(self) -> list[str]:
        return [
            f"{self.rows:,}",
            f"{self.first.seconds:.1f}",
            f"{self.milliseconds:.3f}",
            f"{self.second.seconds:.1f}",
            f"{self.second.seconds / self.first.seconds:.2f}",
            f"{self.first.memory:.0f}",
            f"{self.second.memory:.0f}",
            f"{self.size:,.0f}",
            f"{100 * self.first.calls / self.rows:.2f}",
            f"{self.kilobytes:.1f}",
        ]


def asked(syncs: Sequence[Syncs]) -> Iterator[ground.Asked]:
    """`syncs` by size. Flatness is asked for from `COMPARED_WITH` records up, where a sync's fixed
    costs no longer count."""
    large = [s for s in syncs if s.rows >= COMPARED_WITH] or list(syncs)
    base, biggest = large[0], large[-1]
    if biggest is not base:
        yield ground.Asked(
            f"peak memory at {biggest.rows:,}, of that at {base.rows:,}",
            biggest.first.memory / base.first.memory,
            most=1.2,
        )
        each = [s.milliseconds for s in large]
        yield ground.Asked(
            f"ms a record from {base.rows:,} up, most of least", max(each) / min(each), most=1.3
        )
    for one in syncs:
        yield ground.Asked(
            f"unchanged second sync of {one.rows:,}, of the first",
            one.second.seconds / one.first.seconds,
            most=0.6,
        )


def full_syncs(api: ground.Api, url: str, rows: int, project: Path = ground.PROJECT) -> Syncs:
    first = ground.sync("initial", api, url, project)
    size = ground.ask(url, "SELECT pg_database_size(current_database())") / 1e6
    seconds = []
    for _ in range(3 if rows <= SMALL else 1):
        # As before the first one: the server is done with what came before.
        ground.carry_out(url, "CHECKPOINT")
        seconds.append(ground.sync("initial", api, url, project))
    second = sorted(seconds, key=lambda outcome: outcome.seconds)[len(seconds) // 2]
    for outcome in (first, *seconds):
        assert outcome.rows == rows, outcome
        print(f"{rows}: {outcome}", file=sys.stderr, flush=True)
    return Syncs(rows, first, second, size, api.kilobytes)


def durations(url: str) -> dict[str, float]:
    """Seconds of each step of the last run."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(STEPS)
            return dict(cursor.fetchall())
    finally:
        connection.close()


def incremental_sync(
    api: ground.Api, url: str, rows: int, project: Path = ground.PROJECT
) -> tuple[list[str], ground.Outcome]:
    api.edit(EDITS)
    before = written(url)
    outcome = ground.sync("incremental", api, url, project)
    waited = ground.ask(url, WAITED)
    row = [
        f"{rows:,}",
        str(outcome.calls),
        str(written(url) - before),
        f"{outcome.seconds:.2f}",
        f"{outcome.seconds - waited:.2f}",
    ]
    return row, outcome


def written(url: str) -> int:
    # Counters arrive when a session has ended, and a moment later.
    time.sleep(1.5)
    return int(ground.ask(url, WRITTEN))


if __name__ == "__main__":
    main()
