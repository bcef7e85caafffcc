"""README, CONTRIBUTING and .env.example name what there is, and nothing that is not there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from rms_pipeline.cli.main import app
from rms_pipeline.settings import Settings

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text()
SETTINGS = (PROJECT / "docs/reference/settings.md").read_text()
VARIABLES = sorted(str(f.validation_alias) for f in Settings.model_fields.values())


def section(title: str, page: str = README) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def commands(of: typer.Typer, before: str = "rms-pipeline") -> Iterator[str]:
    for command in of.registered_commands:
        assert command.callback is not None
        yield f"{before} {command.name or command.callback.__name__.replace('_', '-')}"
    for group in of.registered_groups:
        assert group.typer_instance is not None
        if group.typer_instance.info.invoke_without_command:
            yield f"{before} {group.name}"
        yield from commands(group.typer_instance, f"{before} {group.name}")


def commands_told_of() -> set[str]:
    """First cells of the table, without arguments: what is in capitals or brackets."""
    cells = re.findall(r"^\| `(rms-pipeline [^`]+)` \|", section("Commands"), re.MULTILINE)
    return {re.sub(r"( [A-Z\[].*)$", "", cell) for cell in cells}


def test_the_readme_lists_exactly_the_commands_that_there_are() -> None:
    assert commands_told_of() == set(commands(app))


def test_the_page_of_settings_lists_exactly_the_variables_that_are_read() -> None:
    assert sorted(re.findall(r"^\| `([A-Z_]+)` \|", SETTINGS, re.MULTILINE)) == VARIABLES


def test_every_variable_that_the_readme_names_is_read() -> None:
    named = set(re.findall(r"^([A-Z_]+)=", README, re.MULTILINE))
    assert named
    assert named <= set(VARIABLES)


def test_the_example_of_an_environment_names_each_variable_once() -> None:
    example = (PROJECT / ".env.example").read_text()
    assert sorted(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE)) == VARIABLES


def test_the_example_of_an_environment_is_one_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every line filled in: those that have no value get one."""
    example = (PROJECT / ".env.example").read_text()
    filled = re.sub(r"^#([A-Z_]+=.*)$", r"\1", example, flags=re.MULTILINE)
    for name, value in {
        "CURRENT_RMS_API_KEY": "a-key",
        "POSTGRES_URL_NON_POOLING": "postgresql:///rms",
        "RMS_WEBHOOK_TOKEN": "t" * 16,
        "RMS_WEBHOOK_TOKEN_PREVIOUS": "p" * 16,
        "RMS_API_TOKEN": "t" * 16,
    }.items():
        assert f"\n{name}=\n" in f"{filled}\n", name
        filled = filled.replace(f"\n{name}=\n", f"\n{name}={value}\n")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(filled)
    read = Settings(_env_file=tmp_path / ".env")  # type: ignore[call-arg]
    assert read.model_fields_set == set(Settings.model_fields)


def test_what_the_page_of_settings_gives_as_a_default_is_the_default() -> None:
    told = dict(re.findall(r"^\| `([A-Z_]+)` \|[^|]*\| (.*?) ?\|", SETTINGS, re.MULTILINE))
    fields = Settings.model_fields
    assert told["RMS_SYNC_DAYS_BACK"] == f"`{fields['days_back'].default}`"
    assert told["RMS_SYNC_DAYS_AHEAD"] == f"`{fields['days_ahead'].default}`"
    assert told["RMS_DAGSTER_URL"] == f"`{fields['dagster_url'].default}`"
    limit = told["CURRENT_RMS_REQUESTS_PER_MINUTE"]
    assert limit == f"`{fields['requests_per_minute'].default}`"
    assert told["CURRENT_RMS_SUBDOMAIN"] == ""


def test_every_path_that_readme_and_contributing_name_is_there() -> None:
    architecture = section("The house", CONTRIBUTING)
    text = README + CONTRIBUTING + (PROJECT / "docs/explanation/layout.md").read_text()
    paths = set(re.findall(r"`((?:rms_pipeline|rms_pipeline_tests)/[\w./]+)`", text))
    paths |= set(re.findall(r"\]\(((?:docs|benchmarks)/[\w./-]+|[A-Z]+\.md)\)", text))
    paths |= set(re.findall(r"(?<![\w./])((?:docs|rms_pipeline_tests)/[\w/]+\.py)", text))
    assert len(re.findall(r"`rms_pipeline/[\w./]+`", architecture)) > 20
    assert [path for path in sorted(paths) if not (PROJECT / path).exists()] == []


def test_every_folder_of_the_package_has_its_line_in_the_house() -> None:
    architecture = section("The house", CONTRIBUTING)
    for folder in (PROJECT / "rms_pipeline").iterdir():
        if (folder / "__init__.py").exists():
            assert f"`rms_pipeline/{folder.name}/`" in architecture, folder.name


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150
