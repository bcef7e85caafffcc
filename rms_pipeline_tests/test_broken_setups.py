"""Set-ups that cannot work: each is found before a sync, in a sentence that says what to do."""

import errno
import http.server
import io
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from psycopg2 import sql
from rich.console import Console

from rms_pipeline.console import prepare
from rms_pipeline.defs.instance_storage import keeps_history_here, open_instance, upgrade_storage
from rms_pipeline.doctor import examine
from rms_pipeline.doctor.dagsters import check_webserver
from rms_pipeline.doctor.finding import Examination
from rms_pipeline.doctor.printing import print_findings
from rms_pipeline.errors import remedy_of
from rms_pipeline.mirror.database import DatabaseError
from rms_pipeline.mirror.embedded import start_embedded
from rms_pipeline.mirror.ownership import claim_mirror
from rms_pipeline.mirror.postgres_errors import no_connection
from rms_pipeline.mirror.schema import HEAD, current_version
from rms_pipeline.project_files import ProjectFolderUnusable, lay_out
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import Settings, SettingsError, load_settings, settings
from rms_pipeline.web import dagster_api
from rms_pipeline.web.dagster_api import DagsterUnavailable
from rms_pipeline_tests.conftest import database_at, with_our_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.processes import PROJECT, SECRET_KEY, command, environment_for, free_port
from rms_pipeline_tests.servers import administrator

pytestmark = pytest.mark.new_connections

Change = Callable[[pytest.MonkeyPatch, Path], None]


def set_to(**values: str) -> Change:
    def change(patch: pytest.MonkeyPatch, _: Path) -> None:
        for name, value in values.items():
            patch.setenv(name, value)

    return change


def home(make: Callable[[Path], Path | str]) -> Change:
    def change(patch: pytest.MonkeyPatch, folder: Path) -> None:
        patch.setenv("DAGSTER_HOME", str(make(folder)))

    return change


def dotenv(content: bytes) -> Change:
    def change(_: pytest.MonkeyPatch, folder: Path) -> None:
        (folder / ".env").write_bytes(content)

    return change


def a_folder_for_dotenv(_: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / ".env").mkdir()


def in_a_folder_that_is_gone(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "gone").mkdir()
    patch.chdir(folder / "gone")
    (folder / "gone").rmdir()


def a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "disk space"),
        (errno.EACCES, "Allow this user"),
        (errno.EROFS, "writable"),
        (errno.EMFILE, "ulimit"),
        (errno.ECONNRESET, ""),
    ],
)
def test_the_advice_about_a_file_is_about_what_is_wrong_with_it(number: int, said: str) -> None:
    assert said in (remedy_of(OSError(number, os.strerror(number))) or "")


def test_a_file_in_the_way_of_the_embedded_server_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(DatabaseError) as raised:
        start_embedded(tmp_path / "state")
    for part in ("Not a directory", str(tmp_path / "state"), "Move what is there away", "POSTGRES"):
        assert part in str(raised.value)


def test_a_terminal_without_the_marks_of_the_doctor_tells_a_problem_from_what_is_fine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong() -> Settings:
        raise SettingsError("RMS_TIME_ZONE is not the name of a time zone.")

    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", written)
    print_findings(wrong, as_json=False, out=Console(file=written))
    written.flush()
    written.seek(0)
    assert written.read().startswith("x settings")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (home(lambda _: "somewhere"), ["DAGSTER_HOME", "not an absolute path"]),
        (home(lambda f: f / "absent"), ["DAGSTER_HOME", "is not a folder", "absent"]),
        (home(lambda f: f), ["DAGSTER_HOME", "no dagster.yaml in it"]),
        (home(a_file), ["DAGSTER_HOME", "is not a folder"]),
        # These lines would be left out, and another account or database be used.
        (
            dotenv(b'RMS_SYNC_DAYS_BACK=3\nPOSTGRES_URL="postgresql://u:secret@h/d\n'),
            ["Line 2", ".env"],
        ),
        (dotenv(b"POSTGRES_URL postgresql://u:secret@h/d"), ["Line 1", "NAME=value"]),
        (dotenv(b"CURRENT_RMS_API_KEY='a'b"), ["Line 1", ".env"]),
        (a_folder_for_dotenv, [".env", "is not a file"]),
        (in_a_folder_that_is_gone, ["working folder cannot be used"]),
        (dotenv("RMS_SYNC_DAYS_BACK=3".encode("utf-16")), [".env", "UTF-8"]),
        (dotenv("# Grüße\n".encode("latin-1")), [".env", "UTF-8", "byte 5"]),
        (dotenv(b"RMS_SYNC_DAYS_BACK=soon"), ["RMS_SYNC_DAYS_BACK", "Example"]),
        (set_to(CURRENT_RMS_SUBDOMAIN="acme"), ["CURRENT_RMS_API_KEY is missing"]),
        (set_to(CURRENT_RMS_API_KEY="key"), ["CURRENT_RMS_SUBDOMAIN is missing"]),
        (set_to(RMS_TIME_ZONE="London"), ["RMS_TIME_ZONE", ": write Europe/London."]),
        (set_to(RMS_TIME_ZONE="america/new york"), [": write America/New_York."]),
        (set_to(RMS_TIME_ZONE="'Europe/London'"), ["RMS_TIME_ZONE is in quotes"]),
        (set_to(POSTGRES_URL='"postgresql://u:secret@h/d"'), ["POSTGRES_URL is in quotes"]),
        (set_to(POSTGRES_URL="postgresql://u:secret@h:99999/d"), ["65535"]),
        (set_to(POSTGRES_URL="mysql://u:p@h/d"), ["POSTGRES_URL", "postgresql://"]),
        (set_to(POSTGRES_URL_NON_POOLING="postgresql://h/d"), ["POSTGRES_URL is missing"]),
        (set_to(CURRENT_RMS_BASE_URL="http://rms.example"), ["unencrypted"]),
        (set_to(CURRENT_RMS_REQUESTS_PER_MINUTE="-1"), ["CURRENT_RMS_REQUESTS_PER_MINUTE"]),
        (set_to(RMS_API_TOKEN="short"), ["RMS_API_TOKEN", "16 characters"]),
        (set_to(RMS_DAGSTER_URL="localhost:3000"), ["RMS_DAGSTER_URL", "http"]),
        (set_to(RMS_SCHEMA='a"b'), ["RMS_SCHEMA"]),
        (set_to(RMS_SCHEMA="Acme"), ["RMS_SCHEMA", "a-z"]),
        (set_to(RMS_SCHEMA="acme-hire"), ["RMS_SCHEMA", "a-z"]),
        (set_to(RMS_SCHEMA="a" * 41), ["RMS_SCHEMA", "40"]),
        (set_to(RMS_SCHEMA="dagster"), ["RMS_SCHEMA", "Dagster"]),
        (set_to(RMS_SCHEMA="pg_catalog"), ["RMS_SCHEMA", "PostgreSQL"]),
    ],
)
def test_a_configuration_that_cannot_work_is_named_with_what_to_do(
    change: Change, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in os.environ if n.startswith(("RMS_", "CURRENT_RMS_", "POSTGRES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    change(monkeypatch, tmp_path)
    settings.cache_clear()
    with pytest.raises(SettingsError) as raised:
        prepare()
    for part in said:
        assert part in str(raised.value)
    assert "secret" not in str(raised.value)
    (first, *_) = examine(prepare)
    assert (first.check, first.level) == ("settings", "problem")
    settings.cache_clear()


def test_a_wrong_dagster_home_ends_a_command_with_exit_code_2(
    empty_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(empty_url, sandbox, DAGSTER_HOME="relative/folder")
    for arguments in (["sync", "initial"], ["rebuild"], ["up"], ["migrate"]):
        done = command(*arguments, environment=environment)
        assert done.returncode == 2, done.stderr
        assert "DAGSTER_HOME" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_dotenv_file_with_a_mark_of_its_encoding_is_read_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("RMS_SYNC_DAYS_BACK=3", encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    assert load_settings().days_back == 3


def test_what_a_dotenv_file_may_hold_is_read_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(
        "# a note\r\n\r\nexport RMS_SYNC_DAYS_BACK = 3 # days\r\nRMS_TIME_ZONE='Europe/London'\r\n"
        'EMPTY=\r\nALONE\r\nOTHER="two\nlines"\n'
    )
    monkeypatch.chdir(tmp_path)
    assert (load_settings().days_back, load_settings().time_zone) == (3, "Europe/London")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "storage: [\n",
            "is not YAML (expected the node content, but found '<stream end>' in line 2",
        ),
        ("storage: &a\n\t- b\n", "is not YAML"),
        ("nonsense: 1\n", 'unexpected config entry "nonsense"'),
        ("storage:\n  postgres:\n    postgres_url: [secret]\n", "storage"),
        (
            "storage:\n  custom:\n    module: not_there\n    class: Secrets\n",
            "import module not_there",
        ),
    ],
)
def test_a_dagster_yaml_that_dagster_cannot_use_is_named_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, said: str
) -> None:
    (tmp_path / "dagster.yaml").write_text(written)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    settings.cache_clear()
    with pytest.raises(SettingsError) as raised:
        open_instance()
    settings.cache_clear()
    assert str(tmp_path / "dagster.yaml") in str(raised.value)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700


def test_a_variable_that_nobody_reads_is_told_with_the_name_that_was_meant(
    configured: pytest.MonkeyPatch,
) -> None:
    configured.setenv("RMS_TIMEZONE", "Europe/London")
    configured.setenv("CURRENT_RMS_SUBDOMAINS", "acme")
    settings.cache_clear()
    first = itertools.takewhile(lambda f: f.check == "settings", examine(settings))
    told = [(f.level, f.found, f.advice) for f in first]
    assert [level for level, _, _ in told] == ["ok", "warning", "warning"]
    assert "CURRENT_RMS_SUBDOMAINS" in told[1][1]
    assert told[1][2] == "Did you mean CURRENT_RMS_SUBDOMAIN?"
    assert told[2][2] == "Did you mean RMS_TIME_ZONE?"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(30)) as server:
        yield server


@pytest.fixture
def mirror_url(embedded_url: str) -> Iterator[str]:
    """A mirror without rows."""
    with copy_of(embedded_url, with_our_tables(embedded_url)) as url:
        yield url


@pytest.fixture
def configured(
    mirror_url: str, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """A mirror without rows, of the sandbox's account."""
    monkeypatch.setenv("POSTGRES_URL", mirror_url)
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT))
    monkeypatch.setenv("CURRENT_RMS_SUBDOMAIN", SANDBOX_SUBDOMAIN)
    monkeypatch.setenv("CURRENT_RMS_API_KEY", SANDBOX_API_KEY)
    monkeypatch.setenv("CURRENT_RMS_BASE_URL", sandbox.url)
    monkeypatch.setenv("CURRENT_RMS_REQUESTS_PER_MINUTE", "0")
    settings.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    settings.cache_clear()


def finding(check: str) -> tuple[str, str]:
    """What this check finds. Those after it are not made."""
    settings.cache_clear()
    found = examine(settings)
    return next((f.level, f"{f.found} {f.advice}") for f in found if f.check == check)


def webserver() -> tuple[str, str]:
    """What the last check finds, without all others before it."""
    settings.cache_clear()
    (found,) = check_webserver(Examination(settings()))
    return found.level, f"{found.found} {found.advice}"


def other_url(url: str, *, database: str | None = None, user: str | None = None) -> str:
    head, _, query = url.partition("?")
    place, _, name = head.rpartition("/")
    if user is not None:
        place = f"postgresql://{user}@{place.rpartition('@')[2]}"
    return f"{place}/{database or name}?{query}"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"database": "not_there"}, ["does not exist", "CREATE DATABASE not_there"]),
        ({"user": "nobody_here"}, ["does not exist", "CREATE ROLE nobody_here"]),
        ({"database": "Hire-Desk"}, ['CREATE DATABASE "Hire-Desk"']),
        ({"user": "rms.sync"}, ['CREATE ROLE "rms.sync"']),
    ],
)
def test_a_database_that_lets_nobody_in_is_told_with_the_remedy(
    configured: pytest.MonkeyPatch, mirror_url: str, changed: dict[str, str], said: list[str]
) -> None:
    configured.setenv("POSTGRES_URL", other_url(mirror_url, **changed))
    level, text = finding("database")
    assert level == "problem"
    assert all(part in text for part in said), text


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u@127.0.0.1:1/d", "server is up"),
        ("postgresql://u@no-such-host.invalid/d", "Check the host"),
    ],
)
def test_a_server_that_does_not_answer_is_told_with_the_remedy(url: str, said: str) -> None:
    with pytest.raises(DatabaseError, match=said):
        database_at(url).connect()


def test_a_role_or_database_that_is_closed_is_told_with_the_statement_that_opens_it(
    empty_url: str,
) -> None:
    role, name = f"shut_{os.getpid()}", f"shut-{os.getpid()}"
    with administrator(empty_url) as run:
        run(f"CREATE ROLE {role} NOLOGIN")
        run(f'CREATE DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            for changed, said in (
                ({"user": role}, f"ALTER ROLE {role} LOGIN;"),
                ({"database": name}, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true;'),
            ):
                with pytest.raises(DatabaseError) as raised:
                    database_at(other_url(empty_url, **changed)).connect()
                assert said in str(raised.value)
                run(said)
                database_at(other_url(empty_url, **changed)).connect().close()
        finally:
            run(f'DROP DATABASE "{name}"')
            run(f"DROP ROLE {role}")


_AT = 'connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        (
            'root certificate file "/rms/.postgresql/root.crt" does not exist\nEither provide the '
            "file, use the system's trusted roots with sslrootcert=system, or change sslmode to "
            "disable server certificate verification.",
            "Add sslrootcert=",
        ),
        ("SSL error: certificate verify failed", "Add sslrootcert="),
        (
            'server certificate for "db.example.com" does not match host name "127.0.0.1"',
            "as the server's certificate names it",
        ),
        ('FATAL:  unrecognized configuration parameter "a"', "Correct `options`"),
        ('FATAL:  invalid value for parameter "work_mem": "oops"', "Correct `options`"),
        ('invalid integer value "abc" for connection option "connect_timeout"', "this parameter"),
        ('invalid sslmode value: "requre"', "this parameter"),
        ("timeout expired", "no firewall"),
        ("Connection refused", "In a container this address is the container itself"),
    ],
)
def test_what_libpq_says_of_a_connection_is_told_once_with_the_remedy(
    heard: str, said: str
) -> None:
    """These are texts of libpq. With TLS it tries twice, and says twice why it failed."""
    told = no_connection(psycopg2.OperationalError(f"{_AT}{heard}\n{_AT}{heard}\n"))
    assert said in told
    assert told.count(_AT) == 1
    assert "  " not in told
    assert "disable" not in told


def test_a_mirror_of_another_account_is_a_problem(
    configured: pytest.MonkeyPatch, mirror_url: str
) -> None:
    claim_mirror(database_at(mirror_url), "acme", sandbox=SANDBOX_SUBDOMAIN)
    level, text = finding("account")
    assert level == "problem"
    assert "mirrors the account acme" in text
    assert "CURRENT_RMS_SUBDOMAIN" in text


def test_the_sandboxs_mirror_that_is_to_become_a_real_one_is_said_to_make_room(
    configured: pytest.MonkeyPatch, mirror_url: str
) -> None:
    claim_mirror(database_at(mirror_url), SANDBOX_SUBDOMAIN, sandbox=SANDBOX_SUBDOMAIN)
    configured.setenv("CURRENT_RMS_SUBDOMAIN", "acme")
    level, text = finding("account")
    assert level == "warning"
    assert "replaces them with those of acme" in text


def test_a_user_that_may_read_but_not_write_is_a_problem(
    configured: pytest.MonkeyPatch, mirror_url: str
) -> None:
    name = f"reader_{os.getpid()}"
    with psycopg2.connect(mirror_url) as admin, admin.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        cursor.execute(f"GRANT CREATE ON SCHEMA public TO {name}")
    admin.close()
    try:
        configured.setenv("POSTGRES_URL", other_url(mirror_url, user=name))
        level, text = finding("rights")
        assert level == "problem"
        assert "may not write" in text
        assert f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}" in text.replace('"', "")
    finally:
        with psycopg2.connect(mirror_url) as admin, admin.cursor() as cursor:
            cursor.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
        admin.close()


@pytest.mark.parametrize(
    ("limited", "most", "level", "said"),
    [
        ("ROLE {role}", 4, "problem", "ALTER ROLE {role} CONNECTION LIMIT -1;"),
        ("ROLE {role}", 12, "warning", "ALTER ROLE {role} CONNECTION LIMIT -1;"),
        ("DATABASE {database}", 4, "problem", "ALTER DATABASE {database} CONNECTION LIMIT -1;"),
        ("ROLE {role}", 60, "ok", "answers"),
    ],
)
def test_too_few_connections_are_named_before_a_sync_meets_them(
    configured: pytest.MonkeyPatch, mirror_url: str, limited: str, most: int, level: str, said: str
) -> None:
    names = {
        "role": f"few_{os.getpid()}",
        "database": mirror_url.partition("?")[0].rpartition("/")[2],
    }
    with psycopg2.connect(mirror_url) as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {names['role']} LOGIN")
        cursor.execute(f"ALTER {limited.format(**names)} CONNECTION LIMIT {most}")
    admin.close()
    try:
        configured.setenv("POSTGRES_URL", other_url(mirror_url, user=names["role"]))
        found, text = finding("database")
        assert found == level, text
        assert said.format(**names) in text
    finally:
        with psycopg2.connect(mirror_url) as admin, admin.cursor() as cursor:
            cursor.execute(f"DROP ROLE {names['role']}")
        admin.close()


def test_a_sync_that_gets_no_connection_says_whose_limit_it_is(
    configured: pytest.MonkeyPatch, mirror_url: str
) -> None:
    name = f"few_{os.getpid()}"
    with psycopg2.connect(mirror_url) as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
    admin.close()
    try:
        database = database_at(other_url(mirror_url, user=name))
        with database.session(), pytest.raises(DatabaseError) as raised:
            database.connect()
        assert f'ALTER ROLE "{name}" CONNECTION LIMIT -1;' in str(raised.value)
    finally:
        with psycopg2.connect(mirror_url) as admin, admin.cursor() as cursor:
            cursor.execute(f"DROP ROLE {name}")
        admin.close()


@pytest.mark.parametrize("table", ["opportunities", "walks", "run_workers"])
def test_a_table_that_is_missing_is_named(
    configured: pytest.MonkeyPatch, mirror_url: str, table: str
) -> None:
    with database_at(mirror_url).session() as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {table} CASCADE")
        cursor.execute("DROP VIEW IF EXISTS sync_metadata CASCADE")
        cursor.execute("CREATE VIEW sync_metadata AS SELECT 1 AS id")
    level, text = finding("tables")
    assert level == "problem"
    assert f"missing: {table}" in text
    assert "backup" in text


@pytest.mark.parametrize(
    ("version", "said"),
    [("9999", "Install that version or a later one"), ("0001", "rms-pipeline migrate")],
)
def test_tables_of_another_version_are_told_apart(
    configured: pytest.MonkeyPatch, mirror_url: str, version: str, said: str
) -> None:
    with database_at(mirror_url).session() as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE rms_pipeline_alembic_version SET version_num = %s", (version,))
    level, text = finding("tables")
    assert level == ("problem" if version == "9999" else "warning")
    assert said in text


def test_syncs_work_on_an_instance_that_keeps_its_history_in_files(
    configured: pytest.MonkeyPatch, mirror_url: str, sandbox: SandboxServer, tmp_path: Path
) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    environment = environment_for(
        mirror_url, sandbox, DAGSTER_HOME=str(tmp_path), CURRENT_RMS_API_KEY=SANDBOX_API_KEY
    )
    done = command("migrate", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "keeps its history in another database, so its tables stay as they are" in " ".join(
        done.stdout.split()
    )
    for kind in ("initial", "incremental"):
        done = command("sync", kind, "--json", environment=environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["success"]
    told = json.loads(command("status", "--json", environment=environment).stdout)
    assert [s["status"] for s in told["sync"]["history"]] == ["completed", "completed"]
    answer = json.loads(command("doctor", "--json", environment=environment).stdout)
    found = {f["check"]: (f["level"], f["found"]) for f in answer["findings"]}
    assert found["history"][0] == "ok"
    assert "elsewhere" in found["history"][1]
    assert found["runs"][0] == "ok"
    assert (tmp_path / "history").is_dir()
    with database_at(mirror_url).session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('dagster') IS NULL")
        assert cursor.fetchone() == (True,)


def test_the_storage_of_somebody_elses_dagster_is_not_migrated(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(DagsterInstance, "upgrade", lambda *_: pytest.fail("it was upgraded"))
    assert not upgrade_storage(database_at(empty_url))
    with database_at(empty_url).session() as connection:
        assert current_version(connection) == HEAD


@pytest.mark.parametrize(
    ("storage", "is_ours"),
    [
        ("", False),
        ("storage:\n  sqlite:\n    base_dir: history\n", False),
        ("storage:\n  postgres:\n    postgres_url: postgresql://u@127.0.0.1:1/dagster\n", False),
        (
            "storage:\n  custom:\n    module: dagster_postgres\n    class: DagsterPostgresStorage\n"
            "    config:\n      postgres_url: postgresql://u@127.0.0.1:1/dagster\n",
            False,
        ),
        ((PROJECT / "dagster.yaml").read_text(), True),
    ],
)
def test_an_instance_is_told_to_be_ours_by_its_storage_without_being_opened(
    tmp_path: Path, storage: str, is_ours: bool
) -> None:
    (tmp_path / "dagster.yaml").write_text(storage or "telemetry:\n  enabled: false\n")
    assert keeps_history_here(InstanceRef.from_dir(str(tmp_path))) is is_ours


@contextmanager
def somebody_elses(answer: dict[str, object]) -> Iterator[str]:
    """A server that is not our Dagster; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_an_address_of_dagster_that_leads_nowhere_or_elsewhere_is_a_problem(
    configured: pytest.MonkeyPatch,
) -> None:
    assert finding("webserver")[0] == "ok"
    configured.setenv("RMS_DAGSTER_URL", f"http://127.0.0.1:{free_port()}")
    level, text = webserver()
    assert level == "problem"
    assert "RMS_DAGSTER_URL" in text
    with somebody_elses({"hello": "world"}) as url:
        configured.setenv("RMS_DAGSTER_URL", url)
        assert webserver()[0] == "problem"
    others = {"workspaceOrError": {"locationEntries": [{"name": "somebody"}]}}
    with somebody_elses({"data": others}) as url:
        configured.setenv("RMS_DAGSTER_URL", url)
        level, text = webserver()
        assert level == "problem"
        assert "has somebody" in text


@pytest.mark.parametrize("location", ["analytics", None])
def test_code_of_somebody_elses_project_that_cannot_be_loaded_is_named_whatever_it_is_called(
    configured: pytest.MonkeyPatch, location: str | None
) -> None:
    """As Dagster's webserver answers after a mistake in `analytics`, which has our definitions."""
    error = {"message": "Error occurred during the loading of Dagster definitions", "causes": [
        {"message": "SyntaxError: invalid syntax"}]}  # fmt: skip
    broken = {"name": "analytics", "loadStatus": "LOADED",
              "locationOrLoadError": {"__typename": "PythonError", **error}}  # fmt: skip
    configured.setenv("RMS_KEY_PREFIX", "acme")
    if location is not None:
        configured.setenv("RMS_DAGSTER_LOCATION", location)
    with somebody_elses({"data": {"workspaceOrError": {"locationEntries": [broken]}}}) as url:
        configured.setenv("RMS_DAGSTER_URL", url)
        level, text = webserver()
        assert level == "problem"
        assert "SyntaxError: invalid syntax" in text
        assert "RMS_KEY_PREFIX" not in text
        configured.setenv("RMS_DAGSTER_LOCATION", "rentals")
        assert "no code location rentals; it has analytics" in webserver()[1]


def test_two_code_locations_with_our_jobs_are_named_and_the_address_of_dagster_is_not_blamed(
    configured: pytest.MonkeyPatch,
) -> None:
    job = {"name": "initial_sync", "tags": [{"key": "rms/sync_type"}]}
    loaded = {"__typename": "RepositoryLocation",
              "repositories": [{"name": "__repository__", "jobs": [job]}]}  # fmt: skip
    both = [{"name": name, "loadStatus": "LOADED", "locationOrLoadError": loaded}
            for name in ("staging", "production")]  # fmt: skip
    with somebody_elses({"data": {"workspaceOrError": {"locationEntries": both}}}) as url:
        configured.setenv("RMS_DAGSTER_URL", url)
        level, text = webserver()
        assert level == "problem"
        assert text.startswith(f"Several code locations of Dagster at {url} have the job")
        assert "RMS_DAGSTER_LOCATION" in text
        configured.setenv("RMS_DAGSTER_LOCATION", "staging")
        assert webserver()[0] == "ok"


def test_a_variable_that_is_not_set_where_dagster_has_our_code_is_named_at_once() -> None:
    """As Dagster 1.13 answers a launch, shortened."""
    job = {"name": "acme__initial_sync", "tags": [{"key": "rms/sync_type"}]}
    loaded = {"__typename": "RepositoryLocation",
              "repositories": [{"name": "__repository__", "jobs": [job]}]}  # fmt: skip
    there = {"name": "analytics", "loadStatus": "LOADED", "locationOrLoadError": loaded}
    says = (
        "dagster._core.errors.DagsterInvalidConfigError: Error in config for job acme__initial_sync"
        "\n    Error 1: Post processing at path root:resources:acme__current_rms:config:api_key of"
        " original value {'env': 'ACME_API_KEY'} failed:\nYou have attempted to fetch the"
        ' environment variable "ACME_API_KEY" which is not set. In order for this execution to'
        " succeed it must be set in this environment."
    )
    refused = {"__typename": "PythonError", "message": says}
    answer = {"workspaceOrError": {"locationEntries": [there]}, "launchRun": refused}
    with (
        somebody_elses({"data": answer}) as url,
        pytest.raises(DagsterUnavailable, match="variable ACME_API_KEY is not set where the code"),
    ):
        dagster_api.launch(url, "acme__initial_sync")


def test_what_dagster_needs_is_laid_out_in_an_empty_folder_and_never_overwritten(
    tmp_path: Path,
) -> None:
    (tmp_path / "workspace.yaml").write_text("mine")
    assert lay_out(tmp_path) == [tmp_path / "dagster.yaml"]
    assert (tmp_path / "dagster.yaml").read_text() == (PROJECT / "dagster.yaml").read_text()
    assert (tmp_path / "workspace.yaml").read_text() == "mine"
    assert lay_out(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectFolderUnusable, match=r"cannot hold dagster\.yaml"):
        lay_out(tmp_path / "absent")


@pytest.mark.slow
def test_a_sync_that_ran_out_of_connections_names_the_limit_and_not_a_process_that_died(
    empty_url: str,
) -> None:
    """With a limit of 3 it has no connection left when its resources begin."""
    name = f"few_{os.getpid()}"
    few = other_url(empty_url, user=name)
    with SandboxServer(Store(5), api_key=SECRET_KEY) as sandbox:
        done = command("migrate", environment=environment_for(empty_url, sandbox))
        assert done.returncode == 0, done.stderr
        with administrator(empty_url) as run:
            run(f"CREATE ROLE {name} LOGIN IN ROLE postgres; ALTER ROLE {name} SET role = postgres")
            try:
                for most in (3, 4):
                    run(f"ALTER ROLE {name} CONNECTION LIMIT {most}")
                    environment = environment_for(few, sandbox)
                    done = command("sync", "initial", environment=environment)
                    assert done.returncode == 1
                    assert f'ALTER ROLE "{name}" CONNECTION LIMIT -1;' in " ".join(
                        done.stderr.split()
                    )
                    newest = "SELECT status, error FROM sync_metadata ORDER BY id DESC LIMIT 1"
                    ((status, error),) = run(newest)
                    assert status == "failed"
                    assert error.startswith("Cannot connect to PostgreSQL: ")
                    assert f'ALTER ROLE "{name}" CONNECTION LIMIT -1;' in error
                    assert "DatabaseError" not in done.stderr
                run(f"ALTER ROLE {name} CONNECTION LIMIT 1")
                done = command("migrate", environment=environment_for(few, sandbox))
                assert done.returncode == 1
                assert done.stderr.startswith("Error: Cannot connect to PostgreSQL: ")
                assert done.stderr.count("too many connections") == 1
            finally:
                run(f"DROP ROLE {name}")
