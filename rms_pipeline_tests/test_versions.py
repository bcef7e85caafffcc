"""The version, the headings of the changelog, the schema and the files of deploy/ agree."""

import itertools
import re
import tomllib
from datetime import datetime
from importlib.metadata import PackageNotFoundError, metadata
from importlib.metadata import version as installed

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from rms_pipeline.mirror.plan import all_migrations
from rms_pipeline.mirror.schema import HEAD
from rms_pipeline_tests.processes import PROJECT

Number = tuple[int, int, int]


def project_version() -> str:
    return str(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"])


def number(text: str) -> Number:
    first, second, third = text.removesuffix(".dev0").split(".")
    return int(first), int(second), int(third)


def releases(changelog: str) -> list[tuple[Number, str]]:
    """Version and schema of each release, the newest first."""
    headings = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    assert headings[0] == "Unreleased"
    found = []
    for heading in headings[1:]:
        told = re.fullmatch(r"(\d+\.\d+\.\d+) \((\d+ \w+ \d{4}), schema (\d{4})\)", heading)
        assert told, f"{heading!r} is not like '0.2.0 (1 December 2026, schema 0027)'"
        datetime.strptime(told[2], "%d %B %Y")
        found.append((number(told[1]), told[3]))
    return found


def problems(version: str, changelog: str, schema: str, migrations: list[str]) -> list[str]:
    """What does not agree."""
    released = releases(changelog)
    (newest, its_schema), *_ = released
    unreleased = changelog.split("\n## ")[1].partition("\n")[2].strip()
    found = []
    if released != sorted(released, reverse=True) or len(dict(released)) != len(released):
        found.append("the releases are not in order")
    if {schema for _, schema in released} - set(migrations):
        found.append("a heading names a schema that there is not")
    for (later, its), (earlier, before) in itertools.pairwise(released):
        if its != before and later[:2] == earlier[:2]:
            found.append(f"{later} has a migration and raises the third number only")
    if version.endswith(".dev0"):
        if not unreleased:
            found.append("nothing is under Unreleased, so the version is the newest heading's")
        if number(version) <= newest:
            found.append("the next version is not above the newest heading's")
        if schema != its_schema and number(version)[:2] == newest[:2]:
            found.append("there is a migration, so the second number has to rise")
    else:
        if unreleased:
            found.append("something is under Unreleased, so the version ends in .dev0")
        if (number(version), schema) != (newest, its_schema):
            found.append("version and schema are not those of the newest heading")
    return found


def test_version_changelog_and_schema_agree() -> None:
    changelog = (PROJECT / "CHANGELOG.md").read_text()
    migrations = [m.version for m in all_migrations()]
    assert problems(project_version(), changelog, HEAD, migrations) == []


def changelog(*lines: str) -> str:
    return "\n".join(["# Changelog", "", *lines, ""])


RELEASED = "## 0.2.0 (1 December 2026, schema 0002)"


@pytest.mark.parametrize(
    ("version", "text", "schema", "told"),
    [
        ("0.2.0", changelog("## Unreleased", "- x", RELEASED), "0002", "ends in .dev0"),
        ("0.2.1.dev0", changelog("## Unreleased", RELEASED), "0002", "nothing is under"),
        ("0.2.0.dev0", changelog("## Unreleased", "- x", RELEASED), "0002", "not above"),
        ("0.2.1.dev0", changelog("## Unreleased", "- x", RELEASED), "0003", "second number"),
        ("0.2.0", changelog("## Unreleased", RELEASED), "0003", "not those of the newest"),
        ("0.2.0", changelog("## Unreleased", RELEASED.replace("2)", "9)")), "0009", "there is not"),
        (
            "0.2.0",
            changelog("## Unreleased", RELEASED, "## 0.3.0 (1 May 2026, schema 0001)"),
            "0002",
            "not in order",
        ),
        (
            "0.2.1",
            changelog("## Unreleased", "## 0.2.1 (2 December 2026, schema 0003)", RELEASED),
            "0003",
            "raises the third number only",
        ),
    ],
)
def test_what_does_not_agree_is_told(version: str, text: str, schema: str, told: str) -> None:
    found = problems(version, text, schema, ["0001", "0002", "0003"])
    assert any(told in problem for problem in found), found


def test_what_agrees_is_let_pass() -> None:
    known = ["0001", "0002", "0003"]
    released = changelog("## Unreleased", "", RELEASED)
    assert problems("0.2.0", released, "0002", known) == []
    for version, schema in (("0.2.1.dev0", "0002"), ("0.3.0.dev0", "0003"), ("1.0.0.dev0", "0002")):
        later = changelog("## Unreleased", "- x", RELEASED)
        assert problems(version, later, schema, known) == []


def test_the_installed_package_has_the_version_of_the_project() -> None:
    assert installed("rms-pipeline") == project_version(), "run .venv/bin/pip install -e . again"


def test_every_pinned_package_installs_on_the_first_of_each_python_that_we_name() -> None:
    """Debian 12 has 3.11.2, and keeps it."""
    refused = []
    for line in (PROJECT / "requirements.lock").read_text().splitlines():
        pin = Requirement(line)
        try:
            pinned = metadata(pin.name)
        except PackageNotFoundError:
            continue
        wants = SpecifierSet(str(pinned.json.get("requires_python", "")))
        for python in ("3.11.0", "3.12.0", "3.13.0"):
            is_for_it = pin.marker is None or pin.marker.evaluate({"python_full_version": python})
            is_it = pinned["Version"] in pin.specifier
            if is_for_it and is_it and python not in wants:
                refused.append(f"{line} wants Python {wants}, not {python}")
    assert refused == []


def test_the_files_of_deploy_name_this_version() -> None:
    for path in (PROJECT / "deploy").rglob("*.yaml"):
        for tag in re.findall(r"rms-pipeline:(\d[\w.]*)|tag: \"(\d[\w.]*)\"", path.read_text()):
            assert "".join(tag) == project_version(), path
