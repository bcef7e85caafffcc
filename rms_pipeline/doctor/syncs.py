"""When did syncs last complete, and did the last full one show that the mirror is whole?"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.doctor.finding import Examination, Finding, fine, problem, warning
from rms_pipeline.mirror.deletions import held_back
from rms_pipeline.mirror.history import FULL_SYNCS, Sync, last_completed, latest_syncs
from rms_pipeline.mirror.proofs import standing

_FULL_EVERY, _CHANGES_EVERY = timedelta(hours=26), timedelta(hours=1)
_LOOKED_AT = 500
_START_DAGSTER = "Let Dagster run (`rms-pipeline up`), or start one: "


def check_syncs(exam: Examination) -> Iterator[Finding]:
    """When the last syncs completed, and why the last that failed did."""
    with exam.reached.session() as connection:
        syncs = latest_syncs(connection, _LOOKED_AT)
        full = last_completed(connection, FULL_SYNCS)
        changes = last_completed(connection, ["incremental_sync"])
    now = datetime.now(UTC)
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


def check_certificate(exam: Examination) -> Iterator[Finding]:
    """How complete the mirror is known to be, and which deletions wait."""
    with exam.reached.session() as connection:
        known = standing(connection, OPPORTUNITIES)
        held = len(held_back(connection, OPPORTUNITIES))
    if known.state == "none":
        found = "No sync has compared the mirror with the API's own count yet."
        yield warning("completeness", found, "Run `rms-pipeline sync initial`.")
    elif known.state == "green":
        yield fine("completeness", known.sentence)
    elif known.state == "amber":
        advice = f"{_START_DAGSTER}`rms-pipeline sync incremental`."
        yield warning("completeness", known.sentence, advice)
    else:
        yield problem("completeness", known.sentence, "Run `rms-pipeline sync initial` again.")
    if held:
        yield warning(
            "deletions",
            f"At least {held:,} opportunities no longer exist in Current RMS. That is too many "
            "to delete them without confirmation.",
            "If they were really deleted, run `rms-pipeline sync initial --confirm-deletions`. "
            "If not, the API key's user has lost the permission to see them. Restore it.",
        )


def _last_failure(syncs: list[Sync]) -> Iterator[Finding]:
    failed = next((s for s in syncs if s.status == "failed"), None)
    if failed is None:
        yield fine("failures", "None among the syncs that are remembered.")
        return
    kinds = FULL_SYNCS if failed.sync_type in FULL_SYNCS else (failed.sync_type,)
    since = any(
        s.status == "completed" and s.sync_type in kinds and s.started_at > failed.started_at
        for s in syncs
    )
    said = " ".join((failed.error or "no reason was noted").split())
    said = said if len(said) <= 400 else f"{said[:400]} ..."
    found = f"{failed.sync_type} failed at {failed.started_at:%Y-%m-%d %H:%M} UTC: {said}"
    if since:
        yield fine("failures", f"{found.rstrip('.')}. Since then one has completed.")
    else:
        yield warning("failures", found, "Correct what it names, then sync again.")


def _ago(age: timedelta) -> str:
    minutes = age.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min ago"
    return f"{minutes / 60:.0f} h ago" if minutes < 4_320 else f"{minutes / 1_440:.0f} days ago"
