"""What of deploy/ can be checked by reading it. drills/test_deploy.py runs its processes."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from rms_pipeline.defs.instance_storage import instance_of, keeps_history_here
from rms_pipeline.defs.run_launcher import LockedRunLauncher
from rms_pipeline.settings import Settings
from rms_pipeline.web.metrics import Metrics
from rms_pipeline_tests.helm_chart import Chart, manifests, values
from rms_pipeline_tests.processes import PROJECT

DEPLOY = PROJECT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
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


def test_each_metric_that_asks_for_an_alert_has_one_and_no_alert_names_another() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yaml").read_text())["groups"][0]["rules"]
    asked = re.sub('"[^"]*"', "", " ".join(rule["expr"] for rule in rules))
    used = set(re.findall(r"\brms_[a-z_]+", asked))
    metrics = list(Metrics().registry.collect())
    told = {m.name + "_total" * (m.type == "counter"): m.documentation for m in metrics}
    assert used <= told.keys()
    # What a person has to judge, and what those of all collections tell too.
    judged = {"rms_webhook_share", "rms_collection_webhook_share", "rms_webhook_queue_depth"}
    older = {"rms_mirror_complete", "rms_proof_age_seconds"}
    assert {name for name, text in told.items() if "Alert" in text} - judged - older == used
    assert all({"summary", "description"} == rule["annotations"].keys() for rule in rules)


def test_compose_sets_only_variables_that_are_read() -> None:
    compose = (DEPLOY / "compose.yaml").read_text()
    ours = set(re.findall(r"^    ((?:RMS|CURRENT_RMS|POSTGRES_URL)[A-Z_]*): ", compose, re.M))
    read = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert len(ours) > 5
    assert ours <= read


def test_the_image_runs_as_a_user_who_is_given_by_number_and_is_not_root() -> None:
    """As a number: Kubernetes cannot tell that a name is not root."""
    assert re.search(r"^USER [1-9]\d+$", DOCKERFILE, re.MULTILINE)


def test_the_instance_of_the_image_is_our_own_but_for_what_steps_print() -> None:
    own, image = (yaml.safe_load((f / "dagster.yaml").read_text()) for f in (PROJECT, DEPLOY))
    noop = {
        "module": "dagster.core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
    assert image == own | {"compute_logs": noop}
    assert " deploy/dagster.yaml workspace.yaml " in DOCKERFILE


def test_compose_checks_a_web_service_as_its_image_does() -> None:
    """Podman builds images without their own check."""
    of_image = re.search(r"^HEALTHCHECK (.*?) \\\n +CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert of_image
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in ("web-a", "web-b"):
        said = dict(services[name]["healthcheck"])
        assert said.pop("test") == ["CMD", *json.loads(of_image[2])]
        options = {f"--{key.replace('_', '-')}={value}" for key, value in said.items()}
        assert options == set(of_image[1].split())


def test_the_build_of_the_image_gets_what_it_copies_and_no_secret() -> None:
    only = (PROJECT / ".dockerignore").read_text().splitlines()
    given = {line[1:] for line in only if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert only[1] == "*"
    assert given == {name.removeprefix("./") for line in copied for name in line.split()}


def test_the_unit_of_systemd_does_not_repeat_what_a_wrong_setting_ends() -> None:
    unit = (DEPLOY / "systemd" / "rms-pipeline.service").read_text()
    assert "Restart=always\n" in unit
    assert "RestartPreventExitStatus=2\n" in unit
    # `up` makes files in its folder, so the folder has to be its user's before the unit starts.
    assert unit.index("chown -R rms:") < unit.index("systemctl enable")


def test_the_image_has_no_entry_point() -> None:
    """The Helm chart gives a code location arguments alone, which begin with `dagster`."""
    assert not re.search(r"^ENTRYPOINT", DOCKERFILE, re.MULTILINE)
    assert re.search(r'^CMD \["rms-pipeline", "web"', DOCKERFILE, re.MULTILINE)


def test_dagster_takes_the_instance_that_the_helm_chart_makes_of_our_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "p")
    instance = Chart(values()).instance()
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance))
    found = instance_of(tmp_path)
    assert not keeps_history_here(found)
    launcher = found.run_launcher_data
    assert launcher is not None
    assert isinstance(launcher.rehydrate(as_type=LockedRunLauncher), LockedRunLauncher)
    # As our own dagster.yaml has it.
    own = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    for name in ("run_launcher", "run_retries", "retention", "telemetry"):
        assert instance[name] == own[name], name
    assert instance["run_monitoring"] == own["run_monitoring"] | {"max_resume_run_attempts": 0}
    assert instance["run_coordinator"]["config"] == own["run_queue"]


def test_pods_on_kubernetes_have_one_image_the_secret_and_no_rights() -> None:
    found = values()
    deployment = Chart(found).deployment
    # The chart's own webserver would let in anybody.
    assert found["dagsterWebserver"] == {"replicaCount": 0}
    dagsters = [deployment, found["dagsterDaemon"]]
    image = f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    assert {str(each["image"]) for each in dagsters} == {str(deployment["image"])}
    pods = [m["spec"]["template"]["spec"] for m in manifests().values() if m["kind"] != "Service"]
    for pod in pods:
        (container,) = pod["containers"]
        assert container["image"] == image
        assert container["envFrom"] == [{"secretRef": {"name": "rms-pipeline"}}]
        assert container["securityContext"] == deployment["securityContext"]
        assert pod["securityContext"] == deployment["podSecurityContext"]
    # Who executes runs, and who asks the mirror whether they live.
    for each in (deployment, found["dagsterDaemon"]):
        assert each["envSecrets"] == [{"name": "rms-pipeline"}]
    assert f"USER {deployment['podSecurityContext']['runAsUser']}" in DOCKERFILE
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert deployment["image"]["tag"] == version


def test_our_manifests_name_what_the_chart_makes() -> None:
    found = values()
    passwords = found["global"]["postgresqlSecretName"]
    for (kind, _), manifest in manifests().items():
        if kind == "Service":
            continue
        pod = manifest["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        told = {each["name"]: each for each in container["env"]}
        # A release called dagster: its ConfigMaps are dagster-instance, dagster-workspace-yaml.
        maps = {v["name"]: v["configMap"] for v in pod["volumes"] if "configMap" in v}
        assert "dagster-instance" in maps
        assert all(found == {"name": name} for name, found in maps.items())
        assert set(maps) <= {"dagster-instance", "dagster-workspace-yaml"}
        mounted = next(m for m in container["volumeMounts"] if m["name"] == "dagster-instance")
        assert mounted["mountPath"] == f"{told['DAGSTER_HOME']['value']}/dagster.yaml"
        reference = told["DAGSTER_PG_PASSWORD"]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": passwords, "key": "postgresql-password"}
        known = {str(f.validation_alias) for f in Settings.model_fields.values()}
        assert set(told) <= known | {"DAGSTER_PG_PASSWORD"}


def test_the_page_about_kubernetes_explains_every_value_and_manifest() -> None:
    page = (PROJECT / "docs/how-to/kubernetes.md").read_text()
    for name in values():
        assert f"`{name}" in page, name
    for kind, name in manifests():
        assert f"`{name}`" in page, kind
    # Of the secret, what has no default that works in a cluster.
    for variable in ("POSTGRES_URL", "CURRENT_RMS_SUBDOMAIN", "CURRENT_RMS_API_KEY",
                     "RMS_API_TOKEN", "RMS_WEBHOOK_TOKEN", "RMS_DAGSTER_URL",
                     "RMS_PUBLIC_URL"):  # fmt: skip
        assert f"{variable}=" in page
