"""Every command, query and piece of code on the pages of docs/ is one that our programs take.

What the pages of docs/first-hour/ and the tutorial say is also done from top to bottom, by
drills/test_first_hours.py; what the page of questions answers, by insight/test_questions.py.
"""

import contextlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import pytest
import sqlalchemy
import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from rms_pipeline.cli.main import app
from rms_pipeline.settings import Settings
from rms_pipeline_tests.processes import PROJECT

PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted((PROJECT / "docs").glob("*/*.md")),
]
SHELL = {"sh", "bash"}
# How an address of a database is shown to readers.
PLACEHOLDER = re.compile(r"postgresql\+psycopg2://\S*?(?=\")")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    fence = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    return [
        Block(page, language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE))
        for page in PAGES
        for indent, language, text in fence.findall(page.read_text())
        if language in languages
    ]


def commands() -> list[tuple[str, str]]:
    """Each command `rms-pipeline` of a block or within a line, with the name of its page."""
    found = [
        (str(block.page.relative_to(PROJECT)), line)
        for block in blocks(*SHELL)
        for line in block.text.splitlines()
    ]
    for page in PAGES:
        without_blocks = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
        spans = re.findall(r"`([^`\n]+)`", without_blocks)
        found += [(str(page.relative_to(PROJECT)), span) for span in spans]
    ours = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:\S*/)?rms-pipeline( .*)?$")
    return sorted({(page, line.strip()) for page, line in found if ours.match(line.strip())})


def demand_accepted(line: str) -> None:
    """Raises what the command would say of a wrong use. Runs nothing."""
    words = shlex.split(line.partition(" | ")[0], comments=True)
    while not words[0].endswith("rms-pipeline"):
        words.pop(0)
    # `ID...` of a table of commands stands for numbers.
    words = [re.sub(r"^\[?ID\b.*", "1", word) for word in words[1:] if word not in {"&", "..."}]
    command = typer.main.get_command(app)
    context = None
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        context = command.context_class(command, parent=context)
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]}"
        command = found
        words.pop(0)
    # A group alone, such as `rms-pipeline fields`, stands for the family.
    if words and "--version" not in words:
        command.make_context(command.name, words, parent=context)


def statements() -> list[tuple[Path, str]]:
    """Each statement of SQL that PostgreSQL can plan, with its page."""
    found = []
    for block in blocks("sql"):
        for statement in re.sub(r"--.*", "", block.text).split(";"):
            if re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b", statement):
                found.append((block.page, statement))
    return found


def test_each_command_of_a_page_is_one_that_there_is() -> None:
    found = commands()
    assert len(found) > 80
    for page, line in found:
        try:
            demand_accepted(line)
        except (TyperException, AssertionError) as refused:
            pytest.fail(f"{page}: {line}: {refused}")


@pytest.mark.parametrize(
    "line", ["rms-pipeline sink", "rms-pipeline sync initial --fast", "rms-pipeline refresh one"]
)
def test_a_command_that_there_is_not_would_be_found(line: str) -> None:
    with pytest.raises((TyperException, AssertionError)):
        demand_accepted(line)


def test_postgresql_can_plan_each_query_of_a_page(ready_url: str) -> None:
    found = statements()
    assert len({page for page, _ in found}) > 6
    with contextlib.closing(psycopg2.connect(ready_url)) as connection:
        for page, statement in found:
            try:
                # The account of an example has a schema of its own.
                ours = re.sub(r"\bacme\.", "", statement)
                connection.cursor().execute(f"EXPLAIN {ours}")
            except psycopg2.Error as refused:
                pytest.fail(f"{page.name}: {statement}: {refused}")


def test_the_example_with_pandas_sums_by_the_month_of_the_start(ready_url: str) -> None:
    (block,) = (b for b in blocks("python") if b.page.name == "analyse.md")
    address = sqlalchemy.make_url(ready_url).set(drivername="postgresql+psycopg2")
    shown = address.render_as_string(hide_password=False)
    code = PLACEHOLDER.sub(lambda _: shown, block.text)
    with contextlib.closing(psycopg2.connect(ready_url)) as connection, connection.cursor() as rows:
        assert by_month(code) == {}
        for number, (start, charge) in enumerate(
            [("2999-01-31 23:30+00", "1.50"), ("2999-02-01 00:00+00", "2"), ("2999-02-03", None)]
        ):
            rows.execute(
                "INSERT INTO opportunities (id, name, data, synced_at, starts_at, charge_total)"
                " VALUES (%s, 'A job', '{}', now(), %s, %s)",
                (number + 1, start, charge),
            )
        connection.commit()
    assert by_month(code) == {"2999-01": 1.5, "2999-02": 2}


def by_month(code: str) -> dict[str, float]:
    names: dict[str, Any] = {}
    exec(code, names)
    return {str(month): float(value) for month, value in names["by_month"].items()}


def test_code_and_shell_of_every_page_can_be_read() -> None:
    for block in blocks("python", "py"):
        compile(block.text, str(block.page), "exec")
    for block in blocks(*SHELL):
        read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        assert read.returncode == 0, f"{block.page.name}: {read.stderr}"


def test_every_variable_that_a_page_sets_is_read() -> None:
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    for block in blocks(*SHELL, "ini"):
        for name in re.findall(r"(?<![-\w])((?:RMS|CURRENT_RMS|POSTGRES)_\w+)=", block.text):
            assert name in known, f"{block.page.name}: {name}"
