"""When did syncs last complete, and did the last full sync show that the mirror is complete?"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from rms_pipeline.collections import collection_named
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.doctor.finding import Examination, Finding, fine, problem, warning
from rms_pipeline.mirror.collection_states import read_collection_states
from rms_pipeline.mirror.deletions import HELD_BACK_ADVICE, held_back, words_of_held_back
from rms_pipeline.mirror.progress import read_progress
from rms_pipeline.mirror.proofs import Standing, standing
from rms_pipeline.mirror.run_workers import worker_sessions
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.sync_metadata import Sync, last_completed, latest_syncs
from rms_pipeline.mirror.sync_runs import FULL_SYNCS
from rms_pipeline.mirror.walks import has_full_sync

_FULL_EVERY, _CHANGES_EVERY = timedelta(hours=26), timedelta(hours=1)
# An API that is busy may ask for minutes of rest, and so may several syncs, one after the other.
_QUIET = timedelta(minutes=30)
_LOOKED_AT = 500
_START_DAGSTER = "Let Dagster run (`rms-pipeline up`), or start one: "


def check_syncs(exam: Examination) -> Iterator[Finding]:
    """When the last syncs completed, and why the last failed one failed."""
    # The database wrote the times, so its clock is read. That of this machine may differ.
    now = exam.reached.clock()()
    with exam.reached.session() as connection:
        syncs = latest_syncs(connection, _LOOKED_AT)
        full = last_completed(connection, FULL_SYNCS)
        changes = last_completed(connection, ["incremental_sync"])
        quiet = [q for s in syncs if s.status == "running" and (q := _quiet(connection, s, now))]
    if full is None:
        advice = "Run `rms-pipeline sync initial`."
        yield warning("full sync", "None has completed yet.", advice)
    elif now - full > _FULL_EVERY:
        advice = f"{_START_DAGSTER}`rms-pipeline sync initial`."
        yield warning("full sync", f"The last completed {_ago(now - full)}.", advice)
    else:
        yield fine("full sync", f"The last completed {_ago(now - full)}.")
    found = f"The last completed {_ago(now - changes)}." if changes else "None has completed yet."
    if full is None or now - max(full, changes or full) <= _CHANGES_EVERY:
        # A full sync brings what has changed as well.
        yield fine("incremental sync", found)
    else:
        advice = f"{_START_DAGSTER}`rms-pipeline sync incremental`."
        yield warning("incremental sync", found, advice)
    yield from _last_failure(syncs)
    yield from quiet


def _quiet(connection: Connection, sync: Sync, now: datetime) -> Finding | None:
    """That a sync, whose process lives, has got nowhere for long: it waits, or its process hangs,
    and all later syncs wait for it."""
    pace = read_progress(connection, sync.run_id)
    idle = timedelta(seconds=pace.idle_seconds) if pace else now - sync.started_at
    if idle <= _QUIET or not (sessions := worker_sessions(connection, sync.run_id)):
        return None
    return warning(
        "running sync",
        f"{sync.sync_type} (run {sync.run_id}, {' and '.join(sessions)}) has noted no progress for "
        f"{idle.total_seconds() / 60:.0f} minutes.",
        "It may wait for Current RMS or for a sync before it: `rms-pipeline status` shows both. "
        "If its process hangs, end that process. The next sync goes on with what is stored.",
    )


def check_collections(exam: Examination) -> Iterator[Finding]:
    """When the other collections were last read, and which are no longer kept up to date."""
    on = exam.settings.collections
    with exam.reached.session() as connection:
        states = read_collection_states(connection, on)
    now = exam.reached.clock()()
    for state in states:
        if state.name == OPPORTUNITIES.name:
            continue
        check = f"{state.name} sync"
        if not state.is_on:
            names = ",".join(c.name for c in (*on, collection_named(state.name)))
            yield warning(
                check,
                f"{state.rows:,} rows of {state.name} are {state.sentence}.",
                f"Set RMS_COLLECTIONS={names} to keep them up to date again; the next sync then "
                "reads what has changed since. Their tables stay until you drop them.",
            )
        elif not state.has_full_sync or state.synced_at is None:
            found = f"{state.name.capitalize()} have not been read yet."
            yield warning(check, found, "The next sync reads all: `rms-pipeline sync incremental`.")
        elif abs(now - state.synced_at) > _CHANGES_EVERY:
            advice = f"{_START_DAGSTER}`rms-pipeline sync incremental`."
            yield warning(check, f"They were last read {_ago(now - state.synced_at)}.", advice)
        else:
            yield fine(check, f"They were last read {_ago(now - state.synced_at)}.")


def check_certificate(exam: Examination) -> Iterator[Finding]:
    """How complete each collection is, and which deletions wait."""
    for collection in exam.settings.collections:
        with exam.reached.session() as connection:
            is_first = collection is OPPORTUNITIES
            # Before the first full sync of another collection there is nothing to say of its proof.
            if is_first or has_full_sync(connection, collection):
                known = standing(connection, collection)
                yield _completeness("completeness" if is_first else f"{collection} proof", known)
            held = len(held_back(connection, collection))
        if held:
            yield warning(
                "deletions" if is_first else f"{collection} deletions",
                words_of_held_back(collection, held),
                HELD_BACK_ADVICE,
            )


def _completeness(check: str, known: Standing) -> Finding:
    if known.state == "none":
        found = "No sync has compared the mirror with the counts of the API yet."
        return warning(check, found, "Run `rms-pipeline sync initial`.")
    if known.state == "green":
        return fine(check, known.sentence)
    if known.state == "amber":
        advice = f"{_START_DAGSTER}`rms-pipeline sync incremental`."
        return warning(check, known.sentence, advice)
    return problem(check, known.sentence, "Run `rms-pipeline sync initial` again.")


def _last_failure(syncs: list[Sync]) -> Iterator[Finding]:
    failed = next((s for s in syncs if s.status == "failed"), None)
    if failed is None:
        yield fine("failures", "None of the recorded syncs failed.")
        return
    kinds = FULL_SYNCS if failed.sync_type in FULL_SYNCS else (failed.sync_type,)
    since = any(
        s.status == "completed" and s.sync_type in kinds and s.started_at > failed.started_at
        for s in syncs
    )
    said = " ".join((failed.error or "no reason was recorded").split())
    said = said if len(said) <= 400 else f"{said[:400]} ..."
    found = f"{failed.sync_type} failed at {failed.started_at:%Y-%m-%d %H:%M} UTC: {said}"
    if since:
        yield fine("failures", f"{found.rstrip('.')}. A later sync completed.")
    else:
        yield warning("failures", found, "Correct the cause named there, then sync again.")


def _ago(age: timedelta) -> str:
    minutes = age.total_seconds() / 60
    if minutes < -1:
        return "at a time that has not come yet, because the clock of the database was ahead"
    if minutes < 120:
        return f"{minutes:.0f} min ago"
    return f"{minutes / 60:.0f} h ago" if minutes < 4_320 else f"{minutes / 1_440:.0f} days ago"
