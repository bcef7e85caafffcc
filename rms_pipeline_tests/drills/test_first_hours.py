"""The pages of docs/first-hour/ and the tutorial, followed from top to bottom: every command, every
query and every piece of code on them is run."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline_tests.conftest import new_database
from rms_pipeline_tests.drills import programs
from rms_pipeline_tests.drills.conftest import Tell
from rms_pipeline_tests.processes import PROJECT, SECRET_KEY, environment_for
from rms_pipeline_tests.servers import POSTGRESQL_15

PAGES = PROJECT / "docs/first-hour"
# Of the tutorial: `.ci/run` and drills/test_up.py run the README's, which are the same.
ELSEWHERE = {
    "python3 -m venv .venv",
    ".venv/bin/pip install -q -r requirements.lock -e .",
    ".venv/bin/rms-pipeline up",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the heading it stands below, and the comment before it."""

    heading: str
    comment: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found, heading = [], ""
    pattern = (
        r"^#+ (?P<heading>[^\n]+)$|(?:^<!-- (?P<comment>[^\n]*?) -->\n)?"
        r"^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    )
    for match in re.finditer(pattern, page.read_text(), re.MULTILINE | re.DOTALL):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append(Block(heading, match["comment"] or "", match["language"], match["text"]))
    return found


@dataclass
class Reader:
    """Follows a page. `connect` opens a connection, as a role where one is named; `said` is what
    the last command printed; `before` prepares what a heading speaks of; `instead` leads what a
    file of the page asks to the sandbox."""

    environment: dict[str, str]
    folder: Path
    connect: Callable[[str], Connection]
    names: dict[str, object] = field(default_factory=dict)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)
    said: str = ""
    followed: int = 0

    def follow(self, page: Path) -> None:
        heading = ""
        for block in blocks(page):
            if block.heading != heading:
                heading = block.heading
                self.before.get(heading, lambda: None)()
            if block.comment.startswith("not run:"):
                continue
            {"sh": self._run, "sql": self._ask, "python": self._code, "text": self._expect}[
                block.language
            ](block)
            self.followed += 1
        assert self.followed > 2, page

    def _run(self, block: Block) -> None:
        self.said = ""
        environment = dict(self.environment)
        if block.comment == "fails":
            environment["CURRENT_RMS_API_KEY"] = "a-revoked-key"
        if block.comment == "restored":
            environment["POSTGRES_URL"] = environment["NEW_URL"]
            environment["POSTGRES_URL_NON_POOLING"] = environment["NEW_URL"]
        for line in block.text.splitlines():
            if line in ELSEWHERE or "=" in line.split()[0]:
                continue
            done = run_line(line, environment, self.folder)
            self.said += done.stdout + done.stderr
            assert "Traceback" not in self.said, self.said
            if block.comment == "fails":
                assert done.returncode == 1, (line, self.said)
            elif block.comment != "any exit code":
                assert done.returncode == 0, f"{line}: {self.said[-3000:]}"

    def _ask(self, block: Block) -> None:
        role = block.comment.removeprefix("sql: ") if block.comment.startswith("sql: ") else ""
        with contextlib.closing(self.connect(role)) as connection, connection.cursor() as cursor:
            for statement in block.text.split(";")[:-1]:
                cursor.execute(statement)
                assert cursor.description is not None, statement

    def _code(self, block: Block) -> None:
        if block.comment.startswith("file: "):
            path = self.folder / block.comment.removeprefix("file: ")
            path.parent.mkdir()
            text = block.text
            for part, instead in self.instead.items():
                assert part in text
                text = text.replace(part, instead)
            path.write_text(text)
            (path.parent / "__init__.py").touch()
        else:
            exec(compile(block.text, str(block.heading), "exec"), self.names)

    def _expect(self, block: Block) -> None:
        for line in block.text.splitlines():
            assert line in self.said, (line, self.said)


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(60), api_key=SECRET_KEY) as server:
        yield server


@pytest.fixture
def reader(postgresql_15_url: str, sandbox: SandboxServer, tmp_path: Path) -> Iterator[Reader]:
    """With an empty database on a server that has pg_dump and psql beside it."""
    with new_database(postgresql_15_url) as url:

        def connect(role: str) -> Connection:
            connection = psycopg2.connect(url)
            if role:
                with connection.cursor() as cursor:
                    cursor.execute(f"SET ROLE {role}")
            return connection

        folder = tmp_path / "project"
        folder.mkdir()
        environment = environment_for(
            url,
            sandbox,
            PATH=f"{Path(sys.executable).parent}:{POSTGRESQL_15}:{os.environ['PATH']}",
            POSTGRES_URL=url,
            POSTGRES_URL_NON_POOLING=url,
            ACME_SUBDOMAIN=SANDBOX_SUBDOMAIN,
            ACME_API_KEY=SECRET_KEY,
            RENTAL_POSTGRES_URL=url,
        )
        yield Reader(environment, folder, connect)


def run_line(
    line: str, environment: dict[str, str], folder: Path
) -> "subprocess.CompletedProcess[str]":
    """Run a line as a shell does. A program of this Python without anything that only a shell
    understands is a fork (`programs.py`)."""
    words = shlex.split(line)
    # A program in the virtual environment of the page is that of this one.
    words[0] = words[0].removeprefix(".venv/bin/")
    if shlex.quote(line.replace(" ", "")) == line.replace(" ", "") and programs.words_of(words):
        return programs.run(words, environment, folder, 300)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def run(reader: Reader, line: str) -> None:
    done = run_line(line, reader.environment, reader.folder)
    assert done.returncode == 0, done.stderr


def test_an_operator_in_month_two(reader: Reader, postgresql_15_url: str, tell: Tell) -> None:
    run(reader, "rms-pipeline sync initial")

    def leave_a_dead_letter() -> None:
        with contextlib.closing(reader.connect("")) as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO webhook_events (action_id, action_type, subject_type, opportunity_id,"
                " dead_at, error) SELECT 1, 'update', 'Opportunity', min(id), now(), 'Refused.'"
                " FROM opportunities"
            )
            connection.commit()

    with new_database(postgresql_15_url) as new_url:
        reader.environment["NEW_URL"] = new_url
        reader.before["Webhooks became dead letters"] = leave_a_dead_letter
        reader.follow(PAGES / "operator.md")
        with contextlib.closing(psycopg2.connect(new_url)) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM opportunities")
            assert cursor.fetchall()[0][0] > 20
            cursor.execute("SELECT count(*) FROM webhook_events WHERE processed_at IS NULL")
            assert cursor.fetchall() == [(0,)]
    tell(f"first hours: operator.md, {reader.followed} blocks followed")


def test_the_first_hour_of_an_analyst(
    reader: Reader, tell: Tell, capsys: pytest.CaptureFixture[str]
) -> None:
    run(reader, "rms-pipeline sync initial")
    url = reader.environment["POSTGRES_URL"]
    reader.names["URL"] = url.replace("postgresql://", "postgresql+psycopg2://", 1)
    try:
        reader.follow(PAGES / "analyst.md")
        assert "day" in capsys.readouterr().out
    finally:
        with contextlib.closing(psycopg2.connect(url)) as connection:
            for role in ("rms_reader_with_money", "rms_reader_without_money"):
                with connection.cursor() as cursor:
                    cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
            connection.commit()
    tell(f"first hours: analyst.md, {reader.followed} blocks followed")


def test_the_first_hour_of_a_data_engineer(
    reader: Reader, sandbox: SandboxServer, tell: Tell
) -> None:
    home = reader.folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}")
    key = 'api_key=dg.EnvVar("ACME_API_KEY")'
    reader.instead[key] = f"{key}, base_url={sandbox.url!r}, requests_per_minute=0"
    reader.environment["DAGSTER_HOME"] = str(home)
    reader.follow(PAGES / "data-engineer.md")
    with contextlib.closing(reader.connect("")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT status, records_synced > 20 FROM acme.sync_metadata")
        assert cursor.fetchall() == [("completed", True)]
    assert sandbox.requests
    tell(f"first hours: data-engineer.md, {reader.followed} blocks followed")


def test_the_tutorial_of_a_newcomer(reader: Reader, tell: Tell) -> None:
    (reader.folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    run(reader, "rms-pipeline sync initial")
    reader.follow(PROJECT / "docs/tutorial.md")
    tell(f"first hours: tutorial.md, {reader.followed} blocks followed")


def test_every_page_of_a_first_hour_is_followed() -> None:
    text = Path(__file__).read_text()
    for page in PAGES.glob("*.md"):
        assert f'"{page.name}"' in text, page
    readme = (PROJECT / "README.md").read_text()
    for line in ELSEWHERE:
        assert line in readme
