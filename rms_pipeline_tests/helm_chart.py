"""What the official Helm chart, version 1.13, makes of our values."""

from typing import Any

import yaml

from rms_pipeline_tests.processes import PROJECT

KINDS_OF_STORAGE = {
    "schedule_storage": ("dagster_postgres.schedule_storage", "PostgresScheduleStorage"),
    "run_storage": ("dagster_postgres.run_storage", "PostgresRunStorage"),
    "event_log_storage": ("dagster_postgres.event_log", "PostgresEventLogStorage"),
}


class Chart:
    """The official chart, as far as our values affect it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def instance(self) -> dict[str, Any]:
        """Return the dagster.yaml of its ConfigMap."""
        postgresql = self.values["postgresql"]
        daemon = self.values["dagsterDaemon"]
        monitoring = daemon["runMonitoring"]
        assert daemon["runCoordinator"]["type"] == "CustomRunCoordinator"
        assert self.values["runLauncher"]["type"] == "CustomRunLauncher"
        assert self.values["computeLogManager"]["type"] == "NoOpComputeLogManager"
        assert not daemon["runRetries"]["enabled"]
        storage = {
            "postgres_db": {
                "username": postgresql["postgresqlUsername"],
                "password": {"env": "DAGSTER_PG_PASSWORD"},
                "hostname": postgresql["postgresqlHost"],
                "db_name": postgresql["postgresqlDatabase"],
                "port": postgresql["service"]["port"],
                "params": postgresql.get("postgresqlParams", {}),
            }
        }
        return {
            "scheduler": {
                "module": "dagster.core.scheduler",
                "class": "DagsterDaemonScheduler",
            },
            **{
                name: {"module": module, "class": kind, "config": storage}
                for name, (module, kind) in KINDS_OF_STORAGE.items()
            },
            "run_launcher": self.values["runLauncher"]["config"]["customRunLauncher"],
            "run_coordinator": daemon["runCoordinator"]["config"]["customRunCoordinator"],
            "compute_logs": {
                "module": "dagster.core.storage.noop_compute_log_manager",
                "class": "NoOpComputeLogManager",
            },
            "run_monitoring": {
                "enabled": monitoring["enabled"],
                "start_timeout_seconds": monitoring["startTimeoutSeconds"],
                "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
                "poll_interval_seconds": monitoring["pollIntervalSeconds"],
                "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
            },
            "sensors": {"use_threads": True, "num_workers": 4},
            "schedules": {"use_threads": True, "num_workers": 4},
            "telemetry": {"enabled": self.values["telemetry"]["enabled"]},
            "retention": {
                "schedule": {
                    "purge_after_days": self.values["retention"]["schedule"]["purgeAfterDays"]
                },
                "sensor": {
                    "purge_after_days": self.values["retention"]["sensor"]["purgeAfterDays"]
                },
            },
            **self.values["additionalInstanceConfig"],
        }

    @property
    def deployment(self) -> dict[str, Any]:
        """Return the Deployment of the code location."""
        (found,) = self.values["dagster-user-deployments"]["deployments"]
        assert isinstance(found, dict)
        return found

    def workspace(self, host: str, port: int) -> dict[str, Any]:
        name = self.deployment["name"]
        server = {"host": host, "port": port, "location_name": name}
        return {"load_from": [{"grpc_server": server}]}


def values() -> dict[str, Any]:
    """Return the values of deploy/helm-values.yaml."""
    found: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "helm-values.yaml").read_text())
    return found


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the manifests of deploy/kubernetes.yaml, by kind and name."""
    found = yaml.safe_load_all((PROJECT / "deploy" / "kubernetes.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in found}
