"""What of deploy/ can be checked by reading it. drills/test_deploy.py runs its processes."""

import re
import subprocess
import sys
from pathlib import Path

from rms_pipeline.settings import Settings
from rms_pipeline_tests.processes import PROJECT

DEPLOY = PROJECT / "deploy"
BIN = Path(sys.executable).parent


def checked(program: str, *arguments: str) -> str:
    command = [str(BIN / program), *arguments]
    done = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr if done.returncode else ""


def test_the_dockerfile_has_none_of_the_faults_that_its_linter_knows() -> None:
    assert checked("hadolint", "Dockerfile") == ""


def test_the_compose_file_follows_the_schema_of_compose() -> None:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    assert checked("check-jsonschema", *schema, "compose.yaml") == ""


def test_every_variable_that_compose_asks_for_is_in_the_example() -> None:
    compose = (DEPLOY / "compose.yaml").read_text()
    example = re.findall(r"^([A-Z_]+)=", (DEPLOY / "example.env").read_text(), re.MULTILINE)
    assert set(re.findall(r"\$\{([A-Z_]+):\?", compose)) <= set(example)


def test_compose_sets_only_variables_that_are_read() -> None:
    compose = (DEPLOY / "compose.yaml").read_text()
    ours = set(re.findall(r"^    ((?:RMS|CURRENT_RMS|POSTGRES_URL)[A-Z_]*): ", compose, re.M))
    read = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert len(ours) > 5
    assert ours <= read


def test_the_image_runs_as_a_user_who_is_given_by_number_and_is_not_root() -> None:
    """As a number: Kubernetes cannot tell that a name is not root."""
    assert re.search(r"^USER [1-9]\d+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
