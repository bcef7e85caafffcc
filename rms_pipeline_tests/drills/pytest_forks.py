"""Pytest in forks of one process that has imported what does not belong to this project.

Each fork imports our modules anew, out of the folder that it is told. `PytestForks` starts this
file by its path, so that the process that forks knows none of them.
"""

import atexit
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Done:
    """`code` is the exit code of pytest, and `said` is what it printed."""

    code: int
    said: str


class PytestForks:
    """The process that forks, until the end of this context. It imports `names` first."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __enter__(self) -> "PytestForks":
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> Done:
        """Run pytest in a folder. Raises EOFError if the process that forks has ended."""
        asked = {"arguments": list(arguments), "folder": str(folder), "environment": environment}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        if not (answer := self._process.stdout.readline()):
            raise EOFError("the process that forks has ended")
        return Done(**json.loads(answer))


def _serve() -> None:
    # The folder of this file: what is in it are tests, and no modules.
    sys.path.pop(0)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out:
            if (pid := os.fork()) == 0:
                _become(json.loads(line), out.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            out.seek(0)
            done = {"code": code, "said": out.read().decode(errors="replace")}
        sys.stdout.write(json.dumps(done) + "\n")
        sys.stdout.flush()


def _become(asked: dict[str, Any], out: int) -> None:
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.path.insert(0, asked["folder"])
        sys.argv = ["pytest", *asked["arguments"]]
        import pytest

        code = int(pytest.main(asked["arguments"]))
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
