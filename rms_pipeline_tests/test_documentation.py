"""The documentation is what the code says, and a site without broken links or foreign hosts."""

import contextlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
from fastapi import APIRouter, FastAPI

from rms_pipeline.settings import Settings
from rms_pipeline_tests.processes import PROJECT

REFERENCE = PROJECT / "docs/reference"


@pytest.fixture
def made(ready_url: str) -> dict[str, str]:
    """What docs/make_reference.py would write now."""
    pages = runpy.run_path(str(PROJECT / "docs/make_reference.py"))["pages"]
    with contextlib.closing(psycopg2.connect(ready_url)) as connection:
        written: dict[str, str] = pages(connection)
    return written


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING -" not in built.stderr
    return folder


def test_the_pages_of_reference_are_what_the_code_says(made: dict[str, str]) -> None:
    kept = {path.name: path.read_text() for path in REFERENCE.glob("*.md")}
    assert kept == made, "run python docs/make_reference.py"


def test_everything_of_the_reference_has_its_words(made: dict[str, str]) -> None:
    for page, column in (("settings.md", 1), ("metrics.md", 3), ("dagster.md", -1)):
        rows = [line.split(" | ") for line in made[page].splitlines() if line.startswith("| `")]
        assert len(rows) > 10, page
        assert [row[0] for row in rows if len(row[column].strip("| ")) < 10] == [], page
    columns = [line for line in made["tables.md"].splitlines() if line.startswith("| `")]
    assert len(columns) > 500
    assert [line for line in columns if len(line.split(" | ")[-1].strip("| ")) < 5] == []
    for field in Settings.model_fields.values():
        assert field.description
        assert field.description.endswith("."), field.validation_alias


def test_the_reference_finds_pages_of_routers_in_routers_with_the_prefixes_of_all() -> None:
    inner, outer, web = APIRouter(prefix="/inner"), APIRouter(prefix="/outer"), FastAPI()
    inner.get("/page")(lambda: None)
    outer.include_router(inner)
    web.include_router(outer, include_in_schema=False)
    hidden = runpy.run_path(str(PROJECT / "docs/make_reference.py"))["hidden"]
    assert "/outer/inner/page" in hidden(web)


def test_each_example_of_a_function_is_a_query_of_it(made: dict[str, str], ready_url: str) -> None:
    functions = made["tables.md"].partition("## Functions")[2]
    examples = re.findall(r"^\| `(\w+)\(.* `(SELECT [^`]*)` \|$", functions, re.M)
    assert len(examples) > 10
    with contextlib.closing(psycopg2.connect(ready_url)) as connection:
        for name, example in examples:
            assert f"{name}(" in example
            # The history of an empty mirror would refuse to be asked.
            connection.cursor().execute(f"EXPLAIN {example}")


def test_the_site_asks_no_foreign_host_for_anything(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"([^\"]+)\"", page.read_text())
        loaded += re.findall(
            r"<link[^>]* rel=\"stylesheet\"[^>]* href=\"([^\"]+)\"", page.read_text()
        )
        assert [address for address in loaded if "//" in address] == [], page


def test_every_page_is_in_the_navigation() -> None:
    listed = (PROJECT / "mkdocs.yml").read_text()
    for page in (PROJECT / "docs").rglob("*.md"):
        assert page.relative_to(PROJECT / "docs").as_posix() in listed, page
