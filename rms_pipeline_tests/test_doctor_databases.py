"""What the doctor says of a database that people or its administrator have worked on."""

import dataclasses
import importlib.resources
import time
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster._daemon.types import DaemonHeartbeat
from pydantic import SecretStr

from rms_pipeline.account import client_for
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.defs.instance_storage import open_instance
from rms_pipeline.doctor.dagsters import check_daemon
from rms_pipeline.doctor.databases import check_alterations, check_rights, check_time_zone
from rms_pipeline.doctor.finding import Examination, Finding, Level
from rms_pipeline.doctor.syncs import check_syncs
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.obstacles import COLUMNS, TRIGGERS, obstacles
from rms_pipeline.mirror.run_workers import announced, worker_sessions
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.mirror.sync_runs import note_launch
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.processes import command, environment_for
from rms_pipeline_tests.rows import query

pytestmark = pytest.mark.new_connections

ROLE = "rms_examined"


def examination(database: Database) -> Examination:
    return Examination(load_settings(), database=database)


def of_role(database: Database) -> Database:
    url = database.url.get_secret_value().replace("//postgres:@", f"//{ROLE}:@")
    return dataclasses.replace(database, url=SecretStr(url), session_url=SecretStr(url))


@pytest.fixture
def ready(ready_url: str) -> Iterator[Database]:
    """A database that `migrate` has made, and a role that may do nothing in it yet."""
    database = database_at(ready_url)
    query(database, f"DROP ROLE IF EXISTS {ROLE}; CREATE ROLE {ROLE} LOGIN")
    yield database
    query(database, f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")


def rights(database: Database) -> Finding:
    (found,) = check_rights(examination(of_role(database)))
    return found


def test_what_is_expected_of_our_tables_is_what_migrations_make(database: Database) -> None:
    with database.session() as connection:
        assert obstacles(connection) == []
    made = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attnum > 0"
    found = query(database, f"{made} AND attrelid = 'opportunities'::regclass")
    assert dict(found) == COLUMNS["opportunities"]
    ours = "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE 'rms_%'"
    assert set(query(database, ours)) == TRIGGERS


@pytest.mark.parametrize(
    ("statement", "told", "stops"),
    [
        ("CREATE RULE r AS ON UPDATE TO opportunities DO INSTEAD NOTHING", "The rule r", True),
        ("CREATE RULE r AS ON DELETE TO walks WHERE old.id = 1 DO INSTEAD NOTHING", "rule r", True),
        (
            "CREATE TABLE log (id bigint); CREATE RULE r AS ON INSERT TO opportunity_versions DO"
            " ALSO INSERT INTO log VALUES (new.id)",
            "adds a command to what a sync writes",
            True,
        ),
        ("CREATE TABLE archive () INHERITS (opportunities)", "archive inherits from", True),
        (
            "ALTER TABLE opportunities REPLICA IDENTITY NOTHING; CREATE PUBLICATION sent FOR TABLE"
            " opportunities",
            "publication sent includes opportunities",
            False,
        ),
        ("ALTER TABLE opportunities DISABLE TRIGGER rms_content_update", "switched off", False),
        ("DROP TRIGGER rms_notify_webhook_events ON webhook_events", "were dropped", False),
        ("DROP SEQUENCE content_of_opportunities", "were dropped", False),
        ("ALTER TABLE opportunities RENAME subject TO title", "subject of opportunities", False),
        (
            # A view of ours keeps it from being done by mistake.
            "ALTER TABLE opportunities DROP venue_name CASCADE",
            "venue_name of opportunities was",
            False,
        ),
        (
            "DROP VIEW opportunity_history CASCADE; ALTER TABLE deleted_opportunities"
            " ALTER total_value TYPE numeric(6, 1)",
            "total_value of deleted_opportunities is now numeric(6,1)",
            False,
        ),
    ],
)
def test_the_doctor_names_an_obstacle_before_a_sync_meets_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, statement: str, told: str, stops: bool
) -> None:
    query(database, statement)
    (found,) = check_alterations(examination(database))
    assert found.level is Level.PROBLEM
    assert told in found.found
    assert found.advice
    if stops:
        with SandboxServer(Store(1)) as sandbox:
            current = load_settings(CURRENT_RMS_BASE_URL=sandbox.url)
            with (
                pytest.raises(DatabaseError, match=told),
                client_for(current, database, OPPORTUNITIES),
            ):
                pass


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE log (id bigint); CREATE RULE r AS ON UPDATE TO opportunities DO ALSO INSERT"
        " INTO log VALUES (new.id)",
        "CREATE RULE r AS ON UPDATE TO opportunities DO INSTEAD NOTHING; ALTER TABLE opportunities"
        " DISABLE RULE r",
        "CREATE PUBLICATION sent FOR ALL TABLES",
        "ALTER TABLE opportunities REPLICA IDENTITY NOTHING; CREATE PUBLICATION sent FOR TABLE"
        " opportunities WITH (publish = 'insert')",
        "ALTER TABLE opportunities ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE opportunities ADD depot text NOT NULL DEFAULT '', ADD CHECK (id > 0)",
        "CREATE TABLE more (LIKE opportunities INCLUDING ALL)",
    ],
)
def test_what_is_in_nobodys_way_is_no_problem(database: Database, statement: str) -> None:
    query(database, statement)
    (found,) = check_alterations(examination(database))
    assert found.level is Level.OK, found


def test_policies_that_hide_rows_from_our_user_are_told(ready: Database) -> None:
    query(
        ready,
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE};"
        "ALTER TABLE opportunities ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY few ON opportunities TO {ROLE} USING (id < 0)",
    )
    (found,) = check_alterations(examination(of_role(ready)))
    assert found.level is Level.PROBLEM
    assert f"rows of opportunities from the user {ROLE}" in found.found
    assert f"ALTER ROLE {ROLE} BYPASSRLS;" in found.advice


def test_each_right_that_a_sync_needs_is_told_until_what_is_advised_was_granted(
    ready: Database,
) -> None:
    schemas = ("public", "dagster")
    query(ready, f"GRANT USAGE ON SCHEMA public TO {ROLE}")
    query(ready, "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    assert "may not write to (or read)" in rights(ready).found
    for right, of, missing in (
        ("ALL", "TABLES IN SCHEMA public", "dagster."),
        ("ALL", "TABLES IN SCHEMA dagster", "dagster."),
        ("USAGE", "SCHEMA dagster", "_id_seq"),
        ("ALL", "SEQUENCES IN SCHEMA dagster", "content_of_opportunities"),
    ):
        what = of if of.startswith("SCHEMA") else f"ALL {of}"
        query(ready, f"GRANT {right} ON {what} TO {ROLE}")
        found = rights(ready)
        assert found.level is Level.PROBLEM
        assert missing in found.found
        assert all(f"IN SCHEMA {schema} TO" in found.advice for schema in schemas)
    query(ready, found.advice[found.advice.index("GRANT") :])
    assert rights(ready).level is Level.WARNING


def test_a_schema_that_may_not_be_used_or_is_not_there_is_told(ready: Database) -> None:
    query(ready, f"GRANT CREATE ON SCHEMA public TO {ROLE}; REVOKE USAGE ON SCHEMA public FROM"
                 " PUBLIC")  # fmt: skip
    found = rights(ready)
    assert found.level is Level.PROBLEM
    assert f'GRANT USAGE, CREATE ON SCHEMA public TO "{ROLE}";' in found.advice
    query(ready, "ALTER SCHEMA public RENAME TO moved")
    found = rights(ready)
    assert "has no schema public" in found.found
    assert f'CREATE SCHEMA public AUTHORIZATION "{ROLE}";' in found.advice


def test_without_a_schema_for_its_tables_migrate_says_what_to_do(empty_url: str) -> None:
    database = database_at(empty_url)
    query(database, "DROP SCHEMA public")
    with pytest.raises(DatabaseError, match=r"no schema public.*CREATE SCHEMA IF NOT EXISTS"):
        migrate(database)


@pytest.mark.parametrize("words", ["status", "sync incremental", "refresh 1", "migrate"])
def test_a_command_whose_user_lacks_a_right_says_so_in_words(ready: Database, words: str) -> None:
    query(
        ready,
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE};REVOKE ALL ON sync_runs FROM {ROLE}",
    )
    with SandboxServer(Store(1)) as sandbox:
        environment = environment_for(of_role(ready).url.get_secret_value(), sandbox)
        done = command(*words.split(), environment=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Error: The user of POSTGRES_URL lacks a privilege" in done.stderr.replace("\n", " ")


def test_a_heartbeat_of_another_time_is_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with open_instance() as instance:
        kinds = [k for k, told in instance.get_daemon_statuses().items() if told.required]
        for ago, level, words in (
            (60, "ok", "alive"),
            (600, "warning", "last heartbeat 10 min ago"),
            (-60, "ok", "alive"),
            (-3_600, "warning", "60 min ahead of this machine's clock"),
        ):
            for kind in kinds:
                instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - ago, kind, "1"))
            (found,) = check_daemon(examination(database_at("postgresql://nowhere/")))
            assert found.level == level
            assert words in found.found


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Europe/London", "Europe/London"),
        # PostgreSQL takes the next four for abbreviations, without summer time.
        ("CET", "Europe/Brussels"),
        ("EET", "Europe/Athens"),
        ("MET", "Europe/Brussels"),
        ("WET", "Europe/Lisbon"),
    ],
)
def test_a_time_zone_has_summer_time_in_the_database_as_it_has_on_the_pages(
    given: str, kept: str, migrated: Database
) -> None:
    zone = load_settings(_env_file=None, RMS_TIME_ZONE=given).time_zone
    assert zone == kept
    july = datetime(2026, 7, 1, 12, tzinfo=UTC)
    ((there,),) = query(migrated, "SELECT %s::timestamptz AT TIME ZONE %s", july, zone)
    for name in (given, zone):
        assert there == july.astimezone(zoneinfo.ZoneInfo(name)).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("name", "rules", "level", "words"),
    [
        ("Europe/London", "Europe/London", "ok", "the same"),
        # Rules of another year, as it were: an hour later all year.
        ("Europe/London", "Europe/Paris", "warning", "begin at another time than on pages"),
        ("Mars/Olympus", "Europe/Paris", "problem", "does not know the time zone Mars/Olympus"),
    ],
)
def test_time_zones_that_the_database_knows_otherwise_are_told(
    name: str, rules: str, level: str, words: str, migrated: Database, tmp_path: Path
) -> None:
    with importlib.resources.files("tzdata.zoneinfo").joinpath(rules).open("rb") as file:
        ours = file.read()
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(ours)
    paths = zoneinfo.TZPATH
    current = load_settings().model_copy(update={"time_zone": name})
    zoneinfo.reset_tzpath([tmp_path])
    zoneinfo.ZoneInfo.clear_cache(only_keys=[name])
    try:
        (found,) = check_time_zone(Examination(current, database=migrated))
    finally:
        zoneinfo.reset_tzpath(paths)
        zoneinfo.ZoneInfo.clear_cache(only_keys=[name])
    assert found.level == level
    assert words in found.found


def test_a_sync_whose_process_lives_and_gets_nowhere_is_named_with_its_session(
    ready: Database,
) -> None:
    def found() -> dict[str, Finding]:
        return {f.check: f for f in check_syncs(examination(ready))}

    with announced(ready, "run-1"), ready.session() as connection:
        note_launch(connection, "run-1", "incremental_sync")
        connection.commit()
        assert "running sync" not in found()
        query(ready, "UPDATE sync_runs SET launched_at = now() - interval '45 minutes'")
        (session,) = worker_sessions(connection, "run-1")
        told = found()["running sync"]
        assert "no progress for 45 minutes" in told.found
        assert session in told.found
        query(
            ready,
            "INSERT INTO sync_progress (run, stage, pages, pages_expected, records,"
            " records_expected) VALUES ('run-1', 'fetching', 1, 2, 3, 4)",
        )
        assert "running sync" not in found()
    # Whoever is dead is told of elsewhere.
    query(ready, "DELETE FROM sync_progress")
    assert "running sync" not in found()
