"""What a record costs on its way from a page into its rows, beside what it cost at another commit.

    python benchmarks/ingest.py [--rows 10000] [--rounds 3] [--beside COMMIT]
                                [--latencies 0 0.2] [--server embedded|15]

Without HTTP and without Dagster: pages of a hundred records are read and merged that are all new,
then all the same, then all changed in two fields, then some one at a time, as webhooks bring
them. Of each: microseconds a record of a processor in Python and in PostgreSQL, the least of the
rounds. A collection that keeps no history takes its turn in each round, so that it shows what the
history alone costs. Then the whole command `rms-pipeline sync initial` into an empty mirror, and
again, with each latency of the API's pages: seconds by the clock, and those of processors in the
command and in PostgreSQL. The commit to compare with is taken out of Git and measured in turn with
this code, on the same server, with the same records. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ground

from rms_pipeline.sandbox import Store
from rms_pipeline.sandbox.records import LISTED

KINDS = ("new", "the same", "changed in two fields", "changed, one at a time")
NOW, WITHOUT_HISTORY = "now", "now, no history"
# Each is (Python, PostgreSQL), in microseconds a record.
Costs = dict[str, tuple[float, float]]
_AT_MOST = 1.1


def edited(record: bytes, what: str = "edited") -> bytes:
    """The record with two fields changed, as one edit changes them."""
    fields = json.loads(record)
    fields["subject"] = f"{fields['subject']}, {what}"
    fields["custom_fields"]["job_code"] = what
    fields["updated_at"] = "2030-01-01T00:00:00.000Z"
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", metavar="COMMIT", help="a commit to compare with")
    parser.add_argument("--latencies", type=float, nargs="*", default=[0, 0.2])
    parser.add_argument("--server", choices=["embedded", "15"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records"
        store = Store(options.rows)
        bodies = [store.body(id_, LISTED) or b"" for id_ in store.ids()]
        records.write_text("\n".join(json.dumps([b.decode(), edited(b).decode()]) for b in bodies))
        programs = {NOW: ground.PROJECT}
        if options.beside:
            programs = {options.beside: ground.taken_out(options.beside, Path(folder)), **programs}
        for server in ground.servers(options.server):
            with ground.a_server(server) as url:
                ground.headline(f"What a record costs, of {options.rows:,}", url)
                compare(url, programs, records, options.rounds)
                for latency in options.latencies:
                    with ground.api_of(options.rows, latency=latency) as api:
                        compare_syncs(url, programs, api, latency, options.rounds)


def compare(url: str, programs: dict[str, Path], records: Path, rounds: int) -> None:
    found: dict[str, list[Costs]] = {name: [] for name in (*programs, WITHOUT_HISTORY)}
    for _ in range(rounds):
        for name in found:
            with ground.new_database(url) as empty:
                project = programs.get(name, ground.PROJECT)
                remembers = name != WITHOUT_HISTORY
                found[name].append(measured(project, empty, records, remembers=remembers))
    least = {name: _least(costs) for name, costs in found.items()}
    compare_history(least)
    if len(programs) == 1:
        return
    rows = []
    asked = []
    for kind in KINDS:
        row = [kind]
        for name in programs:
            row += [f"{each:.0f}" for each in (*least[name][kind], sum(least[name][kind]))]
        then, now = (sum(least[name][kind]) for name in programs)
        row.append(f"{now / then:.2f}")
        asked.append(ground.Asked(f"{kind}, in times of then", now / then, most=_AT_MOST))
        rows.append(row)
    headings = ["µs of a processor a record"]
    for name in programs:
        headings += [f"{name}: Python", "PostgreSQL", "both"]
    ground.table([*headings, "now, of then"], rows)
    ground.judge(asked)


def compare_history(least: dict[str, Costs]) -> None:
    """Print what this code takes with the history and without it."""
    rows, asked = [], []
    for kind in KINDS:
        without, with_ = (least[name][kind] for name in (WITHOUT_HISTORY, NOW))
        ratio = sum(with_) / sum(without)
        costs = (*without, sum(without), *with_, sum(with_))
        rows.append([kind, *(f"{each:.0f}" for each in costs), f"{ratio:.2f}"])
        asked.append(ground.Asked(f"{kind}, history on, in times of off", ratio, most=_AT_MOST))
    headings = ["µs of a processor a record"]
    for name in ("history off", "on"):
        headings += [f"{name}: Python", "PostgreSQL", "both"]
    ground.table([*headings, "on, of off"], rows)
    ground.judge(asked)


def _least(rounds: list[Costs]) -> Costs:
    return {kind: min((costs[kind] for costs in rounds), key=sum) for kind in KINDS}


def measured(project: Path, url: str, records: Path, *, remembers: bool = True) -> Costs:
    """Of the code in the folder `project`, by a process of its own."""
    mode = "--child" if remembers else "--child-without-history"
    child = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), mode, url, str(records)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
    )
    if child.returncode:
        raise RuntimeError(child.stderr[-3_000:])
    told: Costs = {kind: tuple(both) for kind, both in json.loads(child.stdout).items()}
    return told


# The whole commands

SYNCS = ("first sync", "second sync, all the same")
# Seconds by the clock, of processors in the command, and in PostgreSQL.
Took = dict[str, tuple[float, float, float]]


def compare_syncs(
    url: str, programs: dict[str, Path], api: ground.Api, latency: float, rounds: int
) -> None:
    found: dict[str, list[Took]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, project in programs.items():
            with ground.new_database(url) as empty:
                env = ground.environment(empty, api.url, DAGSTER_HOME=str(project))
                _command(project, env, url, "migrate")
                ground.carry_out(empty, "CHECKPOINT")
                found[name].append(
                    {kind: _command(project, env, url, "sync", "initial") for kind in SYNCS}
                )
    rows, asked = [], []
    for kind in SYNCS:
        row = [kind]
        least = {
            name: [min(took[kind][n] for took in rounds) for n in range(3)]
            for name, rounds in found.items()
        }
        for name in programs:
            row += [f"{seconds:.2f}" for seconds in least[name]]
        if len(programs) > 1:
            then, now = (least[name] for name in programs)
            ratios = now[0] / then[0], sum(now[1:]) / sum(then[1:])
            row += [f"{ratio:.2f}" for ratio in ratios]
            what = f"{kind}, {latency:g} s a page"
            asked.append(ground.Asked(f"{what}, by the clock", ratios[0], most=_AT_MOST))
            asked.append(ground.Asked(f"{what}, of processors", ratios[1], most=_AT_MOST))
        rows.append(row)
    headings = [f"`sync initial`, {latency:g} s a page, seconds"]
    for name in programs:
        headings += [f"{name}: clock", "command", "PostgreSQL"]
    if len(programs) > 1:
        headings += ["clock, of then", "processors, of then"]
    ground.table(headings, rows)
    ground.judge(asked)


def _command(
    project: Path, env: dict[str, str], url: str, *arguments: str
) -> tuple[float, float, float]:
    before = ground.processors_of_server(url)
    child = ground.rms_pipeline(*arguments, env=env, project=project)
    return child.seconds, child.processors, ground.processors_of_server(url) - before


# In the measured process, with whichever code that has


def child(url: str, path: Path, *, remembers: bool) -> None:
    from dataclasses import replace
    from functools import partial
    from typing import Any

    import msgspec
    from pydantic import SecretStr

    from rms_pipeline.mirror.database import Database, clock_of
    from rms_pipeline.mirror.merge import merge
    from rms_pipeline.mirror.schema import migrate

    read: Any
    store: Any
    try:
        from rms_pipeline.collections.opportunities import OPPORTUNITIES
        from rms_pipeline.current_rms.records import read_record

        # Events are told by lines of changes, which compare a row with its last version.
        collection = (
            OPPORTUNITIES if remembers else replace(OPPORTUNITIES, remembers=False, noted=())
        )
        read = lambda raw: read_record(raw, collection)  # noqa: E731
        store = lambda connection, *rest, **times: merge(  # noqa: E731
            connection, collection, *rest, **times
        )
    except ImportError:
        # Before there were collections.
        from rms_pipeline.current_rms import payloads  # type: ignore[attr-defined,unused-ignore]

        read, store = payloads.read_record, partial(merge)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    first, second = ([line[n].encode() for line in lines] for n in range(2))
    database = Database(SecretStr(url), SecretStr(url))
    migrate(database)
    told: Costs = {}
    with database.session() as connection:
        clock = clock_of(connection)
        backend = connection.info.backend_pid

        def servers() -> float:
            return int(Path(f"/proc/{backend}/schedstat").read_text().split()[0]) / 1e9

        def note(kind: str, records: list[bytes], page: int) -> None:
            python, server = time.process_time(), servers()
            for n in range(0, len(records), page):
                at = clock()
                found = [read(msgspec.Raw(r)) for r in records[n : n + page]]
                store(connection, "run", found, asked_at=at, answered_at=clock())
            each = 1e6 / len(records)
            told[kind] = (
                (time.process_time() - python) * each,
                (servers() - server) * each,
            )

        for kind, records in zip(KINDS, (first, first, second), strict=False):
            note(kind, records, 100)
        # The API has taken it back: two fields differ once more.
        note(KINDS[-1], [edited(r, "again") for r in first[:500]], 1)
    print(json.dumps(told))


if __name__ == "__main__":
    if sys.argv[1:2] in (["--child"], ["--child-without-history"]):
        child(sys.argv[2], Path(sys.argv[3]), remembers=sys.argv[1] == "--child")
    else:
        main()
