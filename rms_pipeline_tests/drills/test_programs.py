"""Programs as forks: they find what real processes would, and say what those would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rms_pipeline_tests.drills import programs

SAID = """
import os
import subprocess
import sys

print(os.getcwd(), sys.argv[1:], flush=True)
subprocess.check_call(["rms-pipeline", "--version"])
sys.exit(3)
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """The folder of the module `says`, which needs PYTHONPATH to be found."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/says.py").write_text(SAID)
    return tmp_path / "elsewhere"


def test_a_program_has_its_folder_its_modules_and_its_children(
    module: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "says", "a word"]
    bin_ = Path(sys.executable).parent
    environment = os.environ | {
        "PYTHONPATH": str(module),
        "PATH": f"{bin_}:{os.environ['PATH']}",
    }
    forked = programs.run(command, environment, tmp_path, 60)
    real = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert real.returncode == 3, real.stderr
    assert (forked.returncode, forked.stdout) == (3, real.stdout)


def test_only_programs_of_this_python_are_forked() -> None:
    assert programs.words_of(["dg", "dev"]) == [str(Path(sys.executable).parent / "dg"), "dev"]
    assert programs.words_of(["python", "-m", "dagster", "dev"]) == ["dagster", "dev"]
    for command in (["psql", "-c", ""], ["/usr/bin/redis-server"], ["python", "-c", ""], ["none"]):
        assert programs.words_of(command) is None
