"""One sync in this process, recorded in Dagster's history like any other run."""

import contextlib
import json
import signal
import sys
import threading
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

import dagster as dg
from rich.console import Console

from rms_pipeline.cli.progress_bar import sync_progress
from rms_pipeline.definitions import build_defs
from rms_pipeline.defs.failures import in_words
from rms_pipeline.defs.instance_storage import keeps_history_here, open_instance
from rms_pipeline.defs.recording import why_failed
from rms_pipeline.defs.run_lock import fail_dead_runs
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.postgres_errors import postgres_error_in
from rms_pipeline.mirror.run_workers import announced
from rms_pipeline.mirror.schema import migrate_once
from rms_pipeline.mirror.sync_metadata import Sync, find_sync, outcome
from rms_pipeline.mirror.sync_runs import (
    DIED,
    NEVER_BEGAN,
    NO_REASON,
    SYNC_TYPES,
    end_run,
    note_launch,
)
from rms_pipeline.settings import DAGSTER_LOCATION, settings

_INTERRUPTED = (
    "The person or service that started this sync interrupted it. Stored data is "
    "intact. To complete it, run the sync again."
)
# What a row says that has no reason of its own.
_NO_REASONS = (DIED, NEVER_BEGAN, NO_REASON)
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class SyncFailed(RmsPipelineError):
    """The sync failed. The text is the reason."""


class RebuildFailed(RmsPipelineError):
    """The rebuild failed. The text is the reason."""


def run_sync(
    job_name: str, *, as_json: bool, console: Console, ops: Mapping[str, Any] | None = None
) -> Sync:
    """Runs `job_name` here, with a progress bar on `console` unless `as_json`.

    `ops` is the config of its assets, as in Dagster's launchpad. No name here has the prefix of
    RMS_KEY_PREFIX. Ctrl-C and SIGTERM end it at the next safe point, and stored data is intact.
    Raises SyncFailed.
    """
    database = open_database(settings())
    run_id, _ = _run(database, job_name, console if not as_json else None, ops or {})
    return _outcome(database, run_id)


def run_rebuild(console: Console) -> dict[str, int]:
    """Runs the job `rebuild` here, with a progress bar on `console`. Returns its counts by name.
    Ctrl-C and SIGTERM end it like a sync. Raises RebuildFailed."""
    database = open_database(settings())
    run_id, result = _run(database, "rebuild", console, {})
    if not _succeeded(result):
        with open_instance() as instance:
            reason = why_failed(instance, run_id)
        raise RebuildFailed(reason or "The rebuild failed. Look at its run in Dagster's UI.")
    return {
        name: int(str(value.value))
        for event in result.all_node_events
        if event.is_successful_output
        for name, value in event.step_output_data.metadata.items()
    }


def _run(
    database: Database, job_name: str, console: Console | None, ops: Mapping[str, Any]
) -> tuple[str, dg.ExecuteInProcessResult]:
    """The id of the run, and its result, also if it failed. A terminal shows its progress."""
    signal.signal(signal.SIGTERM, _interrupt)
    work = "rebuild" if job_name == "rebuild" else "sync"
    failed = RebuildFailed if work == "rebuild" else SyncFailed
    with open_instance() as instance:
        if not keeps_history_here(instance.get_ref()):
            # Opening it did not do so.
            migrate_once(database)
        fail_dead_runs(database, instance)
        job = build_defs().resolve_job_def(settings().in_dagster(job_name))
        run_id = str(uuid.uuid4())
        watched = console if console is not None and console.is_terminal else None
        is_sync = job_name in SYNC_TYPES
        noted = partial(note_launch, run=run_id, sync_type=job_name) if is_sync else None
        try:
            # Before Dagster knows of the run: killed in between, it must not count as starting.
            with (
                announced(database, run_id, noted),
                sync_progress(database, run_id, watched) if watched else contextlib.nullcontext(),
            ):
                result = _execute(job, instance, run_id, ops)
                if not _succeeded(result) and is_sync:
                    reason = why_failed(instance, run_id) or NO_REASON
                    _end_row(database, run_id, reason, unless_it_says_why=True)
                return run_id, result
        except KeyboardInterrupt:
            run = instance.get_run_by_id(run_id)
            if run is not None and not run.is_finished:
                instance.report_run_canceled(run, _INTERRUPTED)
            _end_row(database, run_id, _INTERRUPTED)
            raise failed(
                f"Interrupted. Stored data is intact; run the {work} again to complete it."
            ) from None
        except Exception as error:
            # Dagster could not write down what went on; nor, most likely, how it ended. Then
            # the next process ends the run.
            if (cause := postgres_error_in(error)) is None:
                raise
            said = in_words(cause, work)
            with contextlib.suppress(Exception):
                with database.session() as connection:
                    end_run(connection, run_id, said)
                if (run := instance.get_run_by_id(run_id)) is not None and not run.is_finished:
                    instance.report_run_failed(run, said)
            raise failed(said) from None


def print_failure(sync_type: str, error: RmsPipelineError) -> None:
    """`print_json` for a sync that has no row in the history or did not begin."""
    answer = {
        "success": False,
        "syncId": None,
        "runId": None,
        "syncType": sync_type,
        "recordsSynced": 0,
        "recordsFailed": 0,
        "duration": 0.0,
        "error": str(error),
    }
    json.dump(answer, sys.stdout)
    sys.stdout.write("\n")


def print_json(sync: Sync) -> None:
    """The answer of the sync API, on one line of stdout."""
    json.dump(outcome(sync), sys.stdout)
    sys.stdout.write("\n")


def _execute(
    job: dg.JobDefinition, instance: dg.DagsterInstance, run_id: str, ops: Mapping[str, Any]
) -> dg.ExecuteInProcessResult:
    tags = {
        **job.tags,
        # Filed under our code location in the UI; a retry by the daemon would run unasked.
        ".dagster/repository": f"__repository__@{settings().dagster_location or DAGSTER_LOCATION}",
        "dagster/max_retries": "0",
        # What the UI shows as "Launched by".
        "user": "command line",
    }
    return job.execute_in_process(
        instance=instance,
        run_id=run_id,
        run_config={
            **_QUIET,
            "ops": {settings().in_dagster(own): {"config": config} for own, config in ops.items()},
        },
        tags=tags,
        raise_on_error=False,
    )


def _succeeded(result: dg.ExecuteInProcessResult) -> bool:
    """By the events of this process: somebody may have deleted the run from Dagster's history."""
    return any(event.event_type is dg.DagsterEventType.RUN_SUCCESS for event in result.all_events)


def _outcome(database: Database, run_id: str) -> Sync:
    with database.session() as connection:
        sync = find_sync(connection, run_id)
    if sync is None:
        raise SyncFailed("The sync could not be recorded in sync_runs. Run `rms-pipeline migrate`.")
    return sync


def _end_row(
    database: Database, run_id: str, reason: str, *, unless_it_says_why: bool = False
) -> None:
    """Ends the row of a run that did not do so itself, as when its resources cannot connect.
    Without an end it would read as a run whose process died."""
    with database.session() as connection:
        sync = find_sync(connection, run_id)
        if sync is None or sync.status == "completed":
            return
        if not unless_it_says_why or sync.error in (None, *_NO_REASONS):
            end_run(connection, run_id, reason)


def _interrupt(*_: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
