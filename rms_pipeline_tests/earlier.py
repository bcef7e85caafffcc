"""Programs of earlier releases, out of this repository's history."""

import contextlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import requests

from rms_pipeline_tests.processes import PROJECT, free_port, wait_until

# What people may have installed, from 0.1.0 on: schema and commit of each. The newest first.
LANDED = {"0038": "2920d0a", "0036": "9918889", "0024": "e66141b", "0017": "b23baa8"}


def has_history(commit: str) -> bool:
    """Whether this clone has the commit: a shallow one does not."""
    asked = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(asked, cwd=PROJECT, capture_output=True).returncode == 0


class Old:
    """The program of an earlier release, in a folder of its own."""

    def __init__(self, commit: str, folder: Path, environment: dict[str, str]) -> None:
        parts = ("rms_pipeline", "dagster.yaml", "workspace.yaml", "pyproject.toml")
        packed = subprocess.run(
            ["git", "archive", commit, *parts], cwd=PROJECT, capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        self._folder = folder
        # Found in a folder above the working one when it is not set.
        self._environment = {"POSTGRES_URL_NON_POOLING": environment["POSTGRES_URL"], **environment}

    def start(
        self, *arguments: str, out: int | IO[bytes] = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "rms_pipeline.cli", *arguments],
            cwd=self._folder,
            env=self._environment,
            stdout=out,
            stderr=out,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @contextlib.contextmanager
    def serving(self, log: Path) -> Iterator[str]:
        port = free_port()
        with log.open("ab") as out:
            process = self.start("web", "--port", str(port), out=out)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: _answers(url) or process.poll() is not None, timeout=120)
            assert process.poll() is None, log.read_text()
            yield url
        finally:
            process.terminate()
            process.wait(60)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.RequestException:
        return False
