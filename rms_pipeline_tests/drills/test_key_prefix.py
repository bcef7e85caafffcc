"""A web service and a command for an account whose definitions have a key prefix, in a Dagster of
somebody else's."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from rms_pipeline.doctor.dagsters import check_webserver
from rms_pipeline.doctor.finding import Examination
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import Settings, load_settings
from rms_pipeline.web.dagster_api import DagsterUnavailable, code_locations
from rms_pipeline_tests.conftest import database_at, new_database, with_all_tables
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    Dagster,
    command,
    environment_for,
    query,
    wait_until,
)
from rms_pipeline_tests.web.conftest import BEARER, serving

_THEIRS = """
import dagster as dg
from rms_pipeline import build_defs

defs = dg.Definitions.merge(
    *(build_defs(key_prefix=name, schedules=False) for name in ("acme", "globex"))
)
"""
_WORKSPACE = "load_from: [{python_file: {relative_path: theirs.py, location_name: rentals}}]"


@dataclass(frozen=True)
class Theirs:
    """The Dagster, and the mirror that it fills."""

    url: str
    database: Database
    sandbox: SandboxServer
    environment: dict[str, str]

    def settings(self, **values: str) -> Settings:
        given = {"RMS_COLLECTIONS": "opportunities", "RMS_DAGSTER_URL": self.url}
        return load_settings(_env_file=None, **given, **values)

    def post(self, kind: str, **values: str) -> requests.Response:
        current = self.settings(**values)
        with serving(self.database, self.sandbox, current=current, dagster_url=self.url) as web:
            return requests.post(f"{web.url}/api/sync/{kind}", headers=BEARER, timeout=120)


@pytest.fixture(scope="module")
def theirs(embedded_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    folder: Path = tmp_path_factory.mktemp("theirs")
    (folder / "theirs.py").write_text(_THEIRS)
    (folder / "workspace.yaml").write_text(_WORKSPACE)
    with (
        SandboxServer(Store(40), api_key=SECRET_KEY) as sandbox,
        new_database(embedded_url, with_all_tables(embedded_url)) as url,
    ):
        environment = environment_for(url, sandbox)
        dagster = Dagster(
            environment, folder / "dagster.log", workspace=str(folder / "workspace.yaml")
        )

        def is_loaded() -> bool:
            try:
                found = code_locations(dagster.url).get("rentals")
            except DagsterUnavailable:
                return False
            return found is not None and bool(found.jobs)

        try:
            wait_until(is_loaded)
            yield Theirs(dagster.url, database_at(url), sandbox, environment)
        finally:
            dagster.end(signal.SIGTERM)


def runs(theirs: Theirs) -> list[tuple[Any, ...]]:
    return query(theirs.environment, "SELECT pipeline_name, status FROM dagster.runs ORDER BY id")


def test_syncs_are_launched_by_the_prefixed_names_and_known_by_their_own(theirs: Theirs) -> None:
    answer = theirs.post("initial", RMS_KEY_PREFIX="acme")
    assert answer.status_code == 200, answer.text
    assert answer.json()["syncType"] == "initial_sync"
    assert answer.json()["recordsSynced"] > 0
    assert runs(theirs) == [("acme__initial_sync", "SUCCESS")]
    keys = query(
        theirs.environment,
        "SELECT DISTINCT asset_key FROM dagster.event_logs"
        " WHERE dagster_event_type = 'ASSET_MATERIALIZATION'",
    )
    assert {str(key) for (key,) in keys} == {
        f'["acme", "{name}"]' for name in ("raw_rms_pages", "opportunities", "status_counts")
    }
    # The command of the same settings is the same account's.
    environment = theirs.environment | {"RMS_KEY_PREFIX": "acme", "RMS_DAGSTER_LOCATION": "rentals"}
    some = str(theirs.sandbox.store.ids()[0])
    for arguments in (("sync", "incremental"), ("refresh", some), ("rebuild",)):
        done = command(*arguments, environment=environment)
        assert done.returncode == 0, done.stderr
    names = ("acme__initial_sync", "acme__incremental_sync", "acme__webhook_refresh")
    assert runs(theirs) == [(name, "SUCCESS") for name in (*names, "acme__rebuild")]
    types = query(theirs.environment, "SELECT sync_type, status FROM sync_metadata ORDER BY id")
    assert types == [(name.removeprefix("acme__"), "completed") for name in names]


def looked_at(theirs: Theirs, **values: str) -> tuple[str, str]:
    (finding,) = check_webserver(Examination(theirs.settings(**values)))
    return finding.level, finding.found


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, ["no job initial_sync", "acme__initial_sync, globex__initial_sync", "RMS_KEY_PREFIX"]),
        (
            {"RMS_KEY_PREFIX": "initech", "RMS_DAGSTER_LOCATION": "rentals"},
            ["no job initech__initial_sync in the code location rentals", "acme__initial_sync"],
        ),
        (
            {"RMS_KEY_PREFIX": "acme", "RMS_DAGSTER_LOCATION": "nowhere"},
            ["no job acme__initial_sync in", "nowhere", "RMS_DAGSTER_LOCATION=rentals"],
        ),
        (
            {"RMS_KEY_PREFIX": "initech", "RMS_DAGSTER_LOCATION": "nowhere"},
            ["no code location nowhere", "it has rentals", "RMS_DAGSTER_LOCATION"],
        ),
    ],
)
def test_a_job_that_dagster_has_not_is_named_with_those_that_it_has(
    theirs: Theirs, values: dict[str, str], said: list[str]
) -> None:
    before = runs(theirs)
    answer = theirs.post("initial", **values)
    assert answer.status_code == 503
    for words in (f"Dagster at {theirs.url} has", *said):
        assert words in answer.json()["error"]
    assert runs(theirs) == before
    level, found = looked_at(theirs, **values)
    assert level == "problem"
    assert "rentals" in found or "acme__initial_sync" in found


@pytest.mark.parametrize("location", [{}, {"RMS_DAGSTER_LOCATION": "rentals"}])
def test_the_doctor_finds_the_jobs_of_the_prefix(theirs: Theirs, location: dict[str, str]) -> None:
    level, found = looked_at(theirs, RMS_KEY_PREFIX="acme", **location)
    assert (level, theirs.url in found) == ("ok", True)
