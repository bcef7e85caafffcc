"""Runs a job that has no command of its own, in order to be killed: python -m ... JOB."""

import sys
import uuid

import dagster as dg

from rms_pipeline.console import prepare
from rms_pipeline.definitions import build_defs
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.run_workers import announced


def main(job: str) -> int:
    database = open_database(prepare(instance=True))
    with dg.DagsterInstance.get() as instance:
        run = str(uuid.uuid4())
        with announced(database, run):
            result = (
                build_defs()
                .resolve_job_def(job)
                .execute_in_process(instance=instance, run_id=run, raise_on_error=False)
            )
    return 0 if result.success else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
