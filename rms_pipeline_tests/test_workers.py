"""Pytest's own processes: forks of one, or ordinary ones."""

import contextlib
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from rms_pipeline_tests import forks
from rms_pipeline_tests.servers import Prepared, embedded_postgresql, installed_postgresql, url_of
from rms_pipeline_tests.workers import nursery

# As pytest-xdist starts them.
ORDINARY = ("-u", "-c", "import sys;exec(eval(sys.stdin.readline()))")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # An address must be short.
    with tempfile.TemporaryDirectory(prefix="rms-test-workers-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def command(folder: Path) -> Iterator[str]:
    with nursery(folder, everything=False) as command:
        yield command


def started(command: str, code: str, **options: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [*shlex.split(command), *ORDINARY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **options},
    )
    assert process.stdin is not None
    process.stdin.write(f"{code!r}\n")
    process.stdin.flush()
    return process


def test_a_fork_has_the_input_the_environment_and_the_exit_code_of_what_stands_for_it(
    command: str,
) -> None:
    code = "import os\nprint(os.environ['OF_THIS'], sys.stdin.read())\nsys.exit(3)"
    process = started(command, code, OF_THIS="environment")
    assert process.communicate("and the rest", timeout=60)[0] == "environment and the rest\n"
    assert process.returncode == 3


def test_a_fork_that_is_killed_ends_what_stands_for_it(command: str) -> None:
    process = started(command, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_fork_ends_with_what_stands_for_it(command: str, number: int) -> None:
    process = started(command, "import os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()")
    assert process.stdout is not None
    fork = os.pidfd_open(int(process.stdout.readline()))
    process.send_signal(number)
    with process, os.fdopen(fork, "rb"):
        assert process.wait(60) == -number
        # What it wrote to ends too.
        assert process.stdout.read() == ""
        assert select.select([fork], [], [], 60)[0]


def test_a_fork_has_its_commands_forked_by_the_same_process(command: str) -> None:
    code = "from rms_pipeline_tests import forks\nprint(forks._made[0]._process)"
    assert started(command, code).communicate(timeout=60)[0] == "None\n"


@pytest.mark.parametrize("others", ["nobody", "somebody who never answers"])
def test_if_nobody_answers_it_is_an_ordinary_process(others: str) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        address = f"{folder}/address"
        if others != "nobody":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(address)
            listener.listen()
            listener.close()
        command = f"'{sys.executable}' -m rms_pipeline_tests.workers '{address}'"
        process = started(command, "print('rms_pipeline_tests.forks' in sys.modules)")
        assert process.communicate(timeout=60)[0] == "False\n"


def test_nobody_forks_at_an_address_that_is_gone(tmp_path: Path) -> None:
    assert not forks.share(str(tmp_path / "gone"))


def test_copies_of_what_was_prepared_are_servers_of_their_own_with_our_tables(
    command: str, folder: Path
) -> None:
    prepared = Prepared(folder)
    assert prepared.is_there()
    with (
        embedded_postgresql(in_memory=True, like=prepared.embedded) as first,
        embedded_postgresql(in_memory=True, like=prepared.embedded) as second,
        installed_postgresql(in_memory=True, like=prepared.postgresql_15) as third,
    ):
        for url in (first, second, third):
            with (
                contextlib.closing(psycopg2.connect(url_of(url, "template_ours"))) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("CREATE TABLE mine (); SELECT count(*) FROM opportunities")
                assert cursor.fetchall() == [(0,)]
                connection.commit()


def test_what_nobody_prepares_is_not_waited_for(tmp_path: Path) -> None:
    assert not Prepared(tmp_path).is_there()
