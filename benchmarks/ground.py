"""What every benchmark stands on: PostgreSQL, an API in a process of its own, measured children,
tables.

Tables are printed as Markdown with the machine, the versions and the command above them, so that
`README.md` here can hold what was printed and nothing else.
"""

import contextlib
import hashlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import psycopg2
from pydantic import SecretStr
from tabulate import tabulate

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import start_embedded, stop_embedded
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN
from rms_pipeline.settings import child_environment
from rms_pipeline_tests.processes import why_not_here
from rms_pipeline_tests.servers import (
    POSTGRESQL_15,
    administrator,
    embedded_postgresql,
    installed_postgresql,
    url_of,
)
from rms_pipeline_tests.servers import (
    new_database as new_database,
)

PROJECT = Path(__file__).parent.parent
HERE = Path(__file__).parent
# So wide a window holds every row, whatever the way it comes.
EVERYTHING_DAYS = 20_000

if _reason := why_not_here():
    sys.exit(_reason)


def servers(choice: str | None) -> list[str]:
    """`choice`, else the embedded server and, where it is installed, PostgreSQL 15."""
    if choice is not None:
        return [choice]
    return ["embedded", *(["15"] if (POSTGRESQL_15 / "initdb").exists() else [])]


@contextlib.contextmanager
def a_server(choice: str, kept: Path | None = None) -> Iterator[str]:
    """The URL of a server: "embedded", "15", or that of one which runs already.

    With `kept`, a folder, it is an embedded one whose files stay there.
    """
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        try:
            yield start_embedded(kept)
        finally:
            stop_embedded(kept)
    elif choice == "embedded":
        with embedded_postgresql() as url:
            yield url
    elif choice == "15":
        with installed_postgresql() as url:
            yield url
    else:
        yield choice


# The invented days are beside the day on which they were made.
_DAYS_KEPT = 5


def kept_database(server: str, name: str, like: str, make: Callable[[str], None]) -> str:
    """The URL of the database of this name. Unless there is one that was made to the end, from the
    same `like` and in the last days, `make` gets its URL and fills it.
    """
    today = (ask(server, "SELECT current_date") - date(1970, 1, 1)).days
    mark = hashlib.sha256(like.encode()).hexdigest()
    known = (
        f"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{name}'"
    )
    found, _, made = str(ask(server, known) or "").partition(" of day ")
    if found != mark or today - int(made) > _DAYS_KEPT:
        with administrator(server) as run:
            run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            run(f"CREATE DATABASE {name}")
        make(url_of(server, name))
        with administrator(server) as run:
            run(f"COMMENT ON DATABASE {name} IS '{mark} of day {today}'")
    return url_of(server, name)


def database_at(url: str) -> Database:
    return Database(SecretStr(url), SecretStr(url))


def ask(url: str, statement: str) -> Any:
    """The first column of the first row."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
            return row[0] if row else None
    finally:
        connection.close()


def carry_out(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


class Api:
    """The sandbox in a process of its own, every record rendered before it is asked for.

    `kilobytes` is the average size of a record.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        began = self._answer()
        self.url = str(began["url"])
        self.kilobytes = float(began["average_bytes"]) / 1000

    def reset(self) -> None:
        """Forgets which calls came."""
        self.tell("reset")

    def calls(self) -> int:
        return int(self.tell("stats")["calls"])

    def first_call_at(self) -> float:
        """Seconds since 1970 at which the first call since `reset` came."""
        return float(self.tell("stats")["first"])

    def edit(self, count: int) -> None:
        """Changes the subject of so many opportunities."""
        self.tell(f"edit {count}")

    def tell(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the API server ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def api_of(rows: int, *, latency: float = 0, requests_per_minute: int = 0) -> Iterator[Api]:
    """An account of `rows` opportunities; `latency` in seconds, a limit of 0 is none."""
    command = [sys.executable, str(HERE / "api_server.py"), str(rows), str(latency)]
    process = subprocess.Popen(
        [*command, str(requests_per_minute)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    try:
        yield Api(process)
    finally:
        process.terminate()
        process.wait()


def environment(url: str, api_url: str, **changes: str | None) -> dict[str, str]:
    """For `rms-pipeline` on the database and the API, without a limit, over all there is."""
    values: dict[str, str | None] = {
        "POSTGRES_URL": url,
        "POSTGRES_URL_NON_POOLING": url,
        "CURRENT_RMS_SUBDOMAIN": SANDBOX_SUBDOMAIN,
        "CURRENT_RMS_API_KEY": SANDBOX_API_KEY,
        "CURRENT_RMS_BASE_URL": api_url,
        "CURRENT_RMS_REQUESTS_PER_MINUTE": "0",
        "RMS_SYNC_DAYS_BACK": str(EVERYTHING_DAYS),
        "RMS_SYNC_DAYS_AHEAD": str(EVERYTHING_DAYS),
        "DAGSTER_HOME": str(PROJECT),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        # An installed package has its bytecode.
        "PYTHONDONTWRITEBYTECODE": None,
    }
    return child_environment(**(values | changes))


@dataclass(frozen=True, slots=True)
class Measured:
    """A child that ended well: seconds from exec to exit, peak resident memory in MB, seconds of
    processors, stdout."""

    seconds: float
    megabytes: float
    processors: float
    output: str


def measured(
    command: Sequence[str], env: Mapping[str, str] | None = None, project: Path = PROJECT
) -> Measured:
    """Runs `command` to its end. Raises RuntimeError with its stderr when it fails."""
    helper = [sys.executable, "-S", "-E", str(HERE / "run_measured.py")]
    child = subprocess.run(
        [*helper, *command], env=env, cwd=project, capture_output=True, text=True
    )
    said, _, last = child.stderr.rstrip().rpartition("\n")
    if child.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {said[-3_000:]}")
    seconds, megabytes, processors = map(float, last.split())
    return Measured(seconds, megabytes, processors, child.stdout)


def rms_pipeline(*arguments: str, env: Mapping[str, str], project: Path = PROJECT) -> Measured:
    """The command, measured; that of another commit where `project` is its folder."""
    env = {**env, "PYTHONPATH": str(project)}
    return measured([sys.executable, "-m", "rms_pipeline.cli", *arguments], env, project)


def taken_out(commit: str, folder: Path) -> Path:
    """The project as it was at `commit`, in a folder within `folder`."""
    place = folder / commit
    place.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit], cwd=PROJECT, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(place)], input=archive.stdout, check=True)
    return place


def processors_of_server(url: str) -> float:
    """Seconds of processors that the server has taken since it began, its processes included. The
    clock lies beside other work, and these hardly do."""
    with contextlib.closing(psycopg2.connect(url)) as connection:
        backend = connection.info.backend_pid
        postmaster = int(Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1])
    tick = os.sysconf("SC_CLK_TCK")

    def fields(process: int) -> list[str]:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return ["0"] * 20

    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    total = sum(int(each) for each in fields(postmaster)[11:15])
    total += sum(int(each) for child in children for each in fields(int(child))[11:13])
    return total / tick


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it took to bring the account in. Seconds, MB.

    `seconds` run from the first call that the API server saw to the last commit of data, `process`
    from exec to exit. `processors` are those of the command and of PostgreSQL meanwhile.
    """

    seconds: float
    process: float
    processors: float
    memory: float
    calls: int
    rows: int


def sync(kind: str, api: Api, url: str, project: Path = PROJECT) -> Outcome:
    """`rms-pipeline sync KIND`, whose last data are `status_counts`: Dagster notes when they are
    there."""
    api.reset()
    before = processors_of_server(url)
    env = environment(url, api.url, DAGSTER_HOME=str(project))
    child = rms_pipeline("sync", kind, "--json", env=env, project=project)
    processors = child.processors + processors_of_server(url) - before
    last_commit = ask(
        url,
        "SELECT max(extract(epoch FROM timestamp AT TIME ZONE 'UTC'))::float8"
        " FROM dagster.event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'",
    )
    return Outcome(
        seconds=last_commit - api.first_call_at(),
        process=child.seconds,
        processors=processors,
        memory=child.megabytes,
        calls=api.calls(),
        rows=ask(url, "SELECT count(*) FROM opportunities"),
    )


def processors_of(process: int) -> float:
    """Milliseconds of a processor that the threads of a process have taken which still run."""
    taken = 0
    for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
        # Or it has just ended.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            taken += int(thread.read_text().split()[0])
    return taken / 1e6


def processors_of_database(url: str) -> float:
    """Milliseconds of a processor that the processes have taken which serve the database now."""
    name = url.partition("?")[0].rpartition("/")[2]
    taken = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (process / "cmdline").read_text()
            if title.startswith("postgres:") and f" {name} " in title:
                taken += processors_of(int(process.name))
    return taken


def prepare(url: str, api: Api, project: Path = PROJECT) -> None:
    """The tables, ours and Dagster's, and a server at rest."""
    env = environment(url, api.url, DAGSTER_HOME=str(project))
    rms_pipeline("migrate", env=env, project=project)
    carry_out(url, "CHECKPOINT")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a Markdown table; the first column is text, the others are numbers or text."""
    align = ["left", *["right"] * (len(headings) - 1)]
    print(
        tabulate(rows, headings, tablefmt="github", colalign=align, disable_numparse=True),
        flush=True,
    )
    print(flush=True)


@dataclass(frozen=True, slots=True)
class Asked:
    """A figure that is asked for: `found` is to be at most `most`, or at least `least`."""

    what: str
    found: float
    most: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool:
        return (self.most is None or self.found <= self.most) and (
            self.least is None or self.found >= self.least
        )

    def row(self) -> list[str]:
        limits = (("at most", self.most), ("at least", self.least))
        asked = [f"{word} {_short(limit)}" for word, limit in limits if limit is not None]
        return [
            self.what,
            " and ".join(asked),
            _short(self.found),
            "yes" if self.met else "**missed**",
        ]


def judge(asked: Sequence[Asked]) -> None:
    """Prints what is asked of the figures beside what was found."""
    if asked:
        table(["what", "asked for", "found", "met"], [a.row() for a in asked])


def _short(number: float) -> str:
    """At most three decimals, none of them a zero at the end."""
    return f"{number:,.3f}".rstrip("0").rstrip(".")


def postgresql(url: str) -> str:
    """The server's version."""
    return "PostgreSQL " + str(ask(url, "SHOW server_version")).split(" ")[0]


def headline(
    what: str, url: str, *, kilobytes: float | None = None, also: Sequence[str] = ()
) -> None:
    """Prints the command that runs, the machine, and what else the figures depend on: versions, and
    the average size of a record where there is one.

    `also` are arguments that were not given, and would make the command print just this.
    """
    command = shlex.join(["python", *_shown_arguments(), *also])
    print(f"### {what}\n\n`{command}`\n")
    lz4 = ask(
        url,
        "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'",
    )
    versions = [
        f"Python {platform.python_version()}",
        f"{postgresql(url)} ({'lz4' if lz4 else 'without lz4'})",
    ]
    for package in ("dagster", "dlt"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    size = f"; {kilobytes:.1f} KB a record on average" if kilobytes is not None else ""
    print(f"{machine()}; {', '.join(versions)}{size}.\n", flush=True)


def machine() -> str:
    """Cores, kind of processor, memory."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB"


def _shown_arguments() -> list[str]:
    script = Path(sys.argv[0]).resolve()
    shown = [str(script.relative_to(PROJECT)) if script.is_relative_to(PROJECT) else script.name]
    return [*shown, *("URL" if "://" in argument else argument for argument in sys.argv[1:])]
