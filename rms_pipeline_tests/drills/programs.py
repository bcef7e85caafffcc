"""Installed programs as forks of one process that has imported what they need (`forks.py`).

A program spends 2 s of a processor on its imports, and a deployment has six of them. Each is still
a process of its own, as are those that it starts. `test_deploy.py`, `test_workers.py` and
`drills/test_up.py` start real ones.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from rms_pipeline_tests.forks import Child, installed


def words_of(command: Sequence[str]) -> list[str] | None:
    """Return what a fork runs for a command line, or None if that is no program of this Python."""
    first, *words = command
    if Path(first).name.startswith("python"):
        return words[1:] if words[:1] == ["-m"] else None
    program = installed(first)
    return None if program is None else [program, *words]


def start(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    log: int | IO[bytes],
    *,
    imports: Sequence[str] = (),
) -> Child:
    """The program in a process, whose children are forked too. It is the head of its own group, and
    imports what its children need besides.
    """
    words = words_of(command)
    assert words is not None, command
    return Child(
        *words,
        env=env,
        cwd=cwd,
        stdout=log,
        stderr=log,
        start_new_session=True,
        warm=True,
        imports=imports,
    )


def run(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    words = words_of(command)
    assert words is not None, command
    pipe = subprocess.PIPE
    with Child(*words, env=env, cwd=cwd, stdout=pipe, stderr=pipe, warm=True) as process:
        try:
            out, err = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode is not None
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)
