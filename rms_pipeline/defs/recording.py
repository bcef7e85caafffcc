"""Writes our own row of each sync: when it began, and how and why it ended.

What belongs here: what a run of Dagster means for the mirror, and the text of its end. What does
not: the figures, which the assets write themselves, and the rows (`mirror.sync_runs`).
"""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import dagster as dg
import psycopg2

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.defs.compat import SerializableErrorInfo, steps_of
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.steps import own_steps, raw_pages_of
from rms_pipeline.errors import in_one_line
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.run_workers import announced
from rms_pipeline.mirror.sync_runs import (
    INITIAL,
    TERMINATED,
    begin_run,
    end_run,
    stored_collections,
)

SYNC_TYPE_TAG = "rms/sync_type"
_READS, _STORES = "raw_rms_pages", "opportunities"
_IMPLICIT_JOB = "__ASSET_JOB"
_SUCCESS = dg.DagsterEventType.STEP_SUCCESS
# In the text of an error that a code server reported.
_CAUSED_BY = "The above exception was caused by the following exception:"
_STACK = re.compile(r"\n\s*Stack Trace:\n(?:[ \t]+.*\n?)*")
_OUTSIDE = "has been marked as failed from outside the execution context"

logger = logging.getLogger(__name__)


def sync_type_of(
    run: dg.DagsterRun, prefix: Sequence[str] = (), steps: Iterable[str] = ()
) -> str | None:
    """The type of sync of `run`, None if it is not a sync: a rebuild, or only a part of the
    lineage. So a run is none that reads pages and does not store them, as when a person
    executes only such a step of a sync again.

    "Materialize all", and any selection or job that both reads the API and stores, is a full sync.
    Keys of this mirror's assets begin with `prefix`. `steps` are the keys of the steps of the run.
    They alone tell what a job that somebody else defined selects.
    """
    own, steps = Naming(tuple(prefix)), set(steps)
    if SYNC_TYPE_TAG in run.tags:
        leaves = any(
            own.name(raw_pages_of(c)) in steps and own.name(c.name) not in steps
            for c in COLLECTIONS
        )
        return None if leaves else run.tags[SYNC_TYPE_TAG]
    if not run.job_name.startswith(_IMPLICIT_JOB):
        return INITIAL if {own.name(_READS), own.name(_STORES)} <= steps else None
    # Without one: people who put our assets into their own definitions may have given them another.
    chosen = {
        key.path[-1]
        for key in run.asset_selection or ()
        if not prefix or key.path[:-1] == list(prefix)
    }
    is_everything = not run.asset_selection and not run.asset_check_selection
    return INITIAL if is_everything or {_READS, _STORES} <= chosen else None


@contextlib.contextmanager
def recorded(
    database: Database,
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    prefix: Sequence[str] = (),
) -> Iterator[None]:
    """Announces that this process executes `run` or a step of it. The row of the sync says so.

    A step can fail in its config, in a check, or because a person ended it. Dagster knows that
    before its resources are closed, so this function asks Dagster. It also asks which steps have
    ended: an executor with a process for each step has others still to run, and the sync is not
    over before the last of them.
    """
    steps = steps_of(instance, run)
    sync_type = sync_type_of(run, prefix, steps)
    opens = partial(begin_run, run=run.run_id, sync_type=sync_type) if sync_type else None
    with announced(database, run.run_id, opens):
        try:
            yield
        finally:
            naming = Naming(tuple(prefix))
            awaited = steps & own_steps(naming)
            _record_end(database, instance, run.run_id, awaited, naming, has_plan=bool(steps))


def _record_end(
    database: Database,
    instance: dg.DagsterInstance,
    run: str,
    awaited: frozenset[str],
    naming: Naming,
    *,
    has_plan: bool,
) -> None:
    """Writes the end of `run` if none of our steps in it is `awaited` any more, or if it failed
    before."""
    try:
        ends = _ends_of_steps(instance, run)
        # Then a step of somebody else's that failed in the same run has cost us nothing.
        succeeded = bool(awaited) and all(ends.get(step) is _SUCCESS for step in awaited)
        failure = None if succeeded else why_failed(instance, run)
        ended = failure is not None or awaited <= ends.keys()
        if ended or (not instance.has_run(run) and _are_stored(database, run, awaited, naming)):
            with database.session() as connection:
                # A run that repeats what another failed with may have no table to bring up to
                # date. Without Dagster's plan, only figures show that the tables were stored.
                end_run(connection, run, failure, is_over=has_plan)
    except (psycopg2.Error, DatabaseError) as error:
        # The lock falls with the process, so the row reads failed in any case.
        logger.warning("The end of the sync could not be recorded: %s", in_one_line(error))


def _are_stored(database: Database, run: str, awaited: frozenset[str], naming: Naming) -> bool:
    """Whether `run` has stored every table that it was to store.

    If somebody deleted it from Dagster's history meanwhile, the ends of its earlier steps went with
    it. Our own figures are then all that shows them.
    """
    tables = {c.name for c in COLLECTIONS if naming.name(c.name) in awaited}
    with database.session() as connection:
        return bool(tables) and tables <= stored_collections(connection, run)


def _ends_of_steps(instance: dg.DagsterInstance, run: str) -> dict[str | None, dg.DagsterEventType]:
    """How each step of `run` ended that succeeded or was skipped, by its key."""
    ends = {_SUCCESS, dg.DagsterEventType.STEP_SKIPPED}
    return {
        entry.step_key: entry.dagster_event.event_type
        for entry in instance.all_logs(run, of_type=ends)
        if entry.dagster_event is not None
    }


def why_failed(instance: dg.DagsterInstance, run: str) -> str | None:
    """Why `run` or a step of it failed, in words that a person can act on. None if neither did."""
    for entry in instance.all_logs(run, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        if event is None:
            continue
        failure = event.step_failure_data
        told, error = failure.user_failure_data, failure.error
        if error is not None and error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
            # Dagster's own word for it tells a person nothing.
            return TERMINATED
        if told is not None and told.description:
            return told.description
        if error is not None:
            return _ours(error) or (error.cause or error).message.strip()
        return event.message
    for entry in instance.all_logs(run, of_type=dg.DagsterEventType.RUN_FAILURE):
        event = entry.dagster_event
        if event is None:
            continue
        # Whoever ends a run from outside, as its launcher or monitoring, gives a text alone.
        if event.event_specific_data is None:
            # Dagster's own text says only that it was from outside.
            is_told = _OUTSIDE not in (event.message or "")
            return event.message if is_told else _told_by_engine(instance, run) or event.message
        if event.job_failure_data.first_step_failure_event is None:
            error = event.job_failure_data.error
            return _ours(error) or _innermost(error) or event.message
    return None


def _told_by_engine(instance: dg.DagsterInstance, run: str) -> str | None:
    """The last error that whoever launches `run` has noted about it. None if there is none."""
    for entry in reversed(instance.all_logs(run, of_type=dg.DagsterEventType.ENGINE_EVENT)):
        event = entry.dagster_event
        if event is not None and event.engine_event_data.error is not None:
            error = event.engine_event_data.error
            said = (_innermost(error) or "").split(_CAUSED_BY)[-1]
            reason = " ".join(_STACK.sub("\n", said).split()).rstrip(".")
            return (
                f"Dagster did not start this run: {reason}. Correct that, then run the sync again."
            )
    return None


def _ours(error: SerializableErrorInfo | None) -> str | None:
    """The text of the first error that this program raised on purpose: what happened and what to
    do. None if there is none."""
    while error is not None:
        if found := re.match(r"rms_pipeline\.[\w.]+: ", error.message):
            return error.message[found.end() :].strip()
        error = error.cause
    return None


def _innermost(error: SerializableErrorInfo | None) -> str | None:
    """The text of what caused everything else, without the name of its class."""
    while error is not None and error.cause is not None:
        error = error.cause
    return re.sub(r"^[\w.]+: ", "", error.message.strip()) if error is not None else None
