"""The wheel, built and installed, in a folder that holds nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from rms_pipeline.sandbox import SANDBOX_API_KEY, SandboxServer, Store
from rms_pipeline.settings import PROJECT_FILES
from rms_pipeline_tests.processes import PROJECT, environment_for


def test_the_wheel_works_in_an_empty_folder(empty_url: str, tmp_path: Path) -> None:
    wheels, site, empty = tmp_path / "wheels", tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    source = tmp_path / "source"
    shutil.copytree(PROJECT / "rms_pipeline", source / "rms_pipeline")
    for name in (*PROJECT_FILES, "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source / name)
    pip = [sys.executable, "-m", "pip"]
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    install = ["install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    with SandboxServer(Store(30)) as sandbox:
        environment = environment_for(
            empty_url, sandbox, PYTHONPATH=str(site), CURRENT_RMS_API_KEY=SANDBOX_API_KEY
        )
        done = subprocess.run(
            [sys.executable, "-m", "rms_pipeline.cli", "sync", "initial", "--json"],
            env=environment,
            cwd=empty,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recordsSynced"] > 0
    assert {p.name for p in empty.iterdir()} >= set(PROJECT_FILES)
