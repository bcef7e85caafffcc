"""Everything that is known to have happened to one opportunity, and its state at a past time.

The versions in the history give the structure. `opportunity_changes` says which columns changed.
The stored difference between two records says what else changed. Webhooks say who was active in
between.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg2

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.changes import ChangeLine, changes_of_one
from rms_pipeline.mirror.queue import events_of
from rms_pipeline.mirror.queued_events import StoredEvent
from rms_pipeline.mirror.statements import Connection

MOST_VERSIONS, MOST_LINES, MOST_EVENTS = 200, 1_000, 200
Kind = Literal["entered", "first_seen", "changed", "deleted", "returned", "webhook"]

# Names and times whose fields of the record are no columns, but are told by columns.
_TOLD_OTHERWISE = ("status", "state", "updated_at", "member", "owner", "venue")
_SOURCES = {source for column in OPPORTUNITIES.columns for source in column.sources}


@dataclass(frozen=True, slots=True)
class Moment:
    """An event of an opportunity, `at` a time (UTC).

    `entered`: it was entered in Current RMS. `first_seen`: the mirror stored it, or its history
    began. `changed`: the columns in `lines` changed, and the fields in `others`, which have no
    column. `deleted` and `returned`: Current RMS no longer has it, or has it again. `webhook`: an
    `event` arrived. `version` is the time from which the mirror held this state, for `as_of`. It is
    None if no state of that time is known.
    """

    kind: Kind
    at: datetime
    by: str | None = None
    version: datetime | None = None
    lines: Sequence[ChangeLine] = ()
    others: Sequence[str] = ()
    event: StoredEvent | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The events, newest first. If there are too many to show, the oldest are missing and
    `is_whole` is false. `history_began` is the time from which versions are known (UTC)."""

    moments: list[Moment]
    is_whole: bool
    history_began: datetime | None


@dataclass(frozen=True, slots=True)
class AsOf:
    """The state of an opportunity `at` a time. `columns` are its values by name, None if it did not
    exist. The record is JSON text. `began` is set if the history begins later (UTC)."""

    at: datetime
    columns: dict[str, Any] | None
    record: str | None
    began: datetime | None = None


def read_timeline(connection: Connection, id_: int) -> Timeline:
    """Everything about the opportunity `id_`. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT valid_from, valid_to, deleted, difference FROM opportunity_past"
            " WHERE opportunity_id = %s ORDER BY valid_from DESC LIMIT %s",
            (id_, MOST_VERSIONS + 1),
        )
        past = cursor.fetchall()
        cursor.execute(
            "SELECT v.valid_from, r.deleted, r.created_at_rms, r.deleted_at,"
            " (SELECT value::timestamptz FROM mirror_state WHERE name = 'history_began')"
            " FROM (SELECT id, false AS deleted, created_at_rms, NULL::timestamptz AS deleted_at"
            " FROM opportunities WHERE id = %(id)s UNION ALL SELECT id, true, created_at_rms,"
            " deleted_at FROM deleted_opportunities WHERE id = %(id)s) r"
            " LEFT JOIN opportunity_versions v ON v.id = r.id LIMIT 1",
            {"id": id_},
        )
        row = cursor.fetchone()
    since, is_gone, entered, gone_at, began = row or (None, False, None, None, None)
    lines = changes_of_one(connection, id_, MOST_LINES + 1)
    events = events_of(connection, id_, MOST_EVENTS + 1)
    is_whole = (
        len(past) <= MOST_VERSIONS and len(lines) <= MOST_LINES and len(events) <= MOST_EVENTS
    )
    past, lines, events = past[:MOST_VERSIONS], lines[:MOST_LINES], events[:MOST_EVENTS]
    moments = _versions(past[::-1], lines, is_gone, gone_at)
    first = past[-1][0] if past else since
    if first is not None and len(past) < MOST_VERSIONS:
        moments.append(Moment("first_seen", first, version=first))
    if entered is not None:
        moments.append(Moment("entered", entered))
    moments += [Moment("webhook", e.received_at, by=e.member_name, event=e) for e in events]
    order = {"entered": 0, "first_seen": 1}
    moments.sort(key=lambda m: (m.at, order.get(m.kind, 2)), reverse=True)
    return Timeline(moments, is_whole, began)


def _versions(
    past: Sequence[tuple[datetime, datetime, bool, Any]],
    lines: Sequence[ChangeLine],
    is_gone: bool,
    gone_at: datetime | None,
) -> list[Moment]:
    """For each version of `past` that ended, the oldest first: the version after it."""
    moments = []
    unplaced = sorted(lines, key=lambda line: (line.seen_at, line.id))
    for place, (_, ended, was_gone, difference) in enumerate(past):
        # Lines are noted with the end of the version. Earlier programs noted when that transaction
        # began.
        mine = [line for line in unplaced if line.seen_at <= ended]
        unplaced = unplaced[len(mine) :]
        noted = _noted_together(mine)
        latest = noted.pop() if noted else []
        # Of a time whose versions are forgotten.
        moments += [_changed(each) for each in noted]
        is_gone_then = past[place + 1][2] if place + 1 < len(past) else is_gone
        if was_gone == is_gone_then:
            moments.append(_changed(latest, ended, _others(difference)))
            continue
        moments.append(Moment("deleted" if is_gone_then else "returned", ended, version=ended))
        if latest:
            moments.append(_changed(latest))
    moments += [_changed(each) for each in _noted_together(unplaced)]
    if is_gone and gone_at is not None and not any(m.kind == "deleted" for m in moments):
        moments.append(Moment("deleted", gone_at))
    return moments


def _noted_together(lines: Iterable[ChangeLine]) -> list[list[ChangeLine]]:
    groups: dict[tuple[datetime, str | None], list[ChangeLine]] = {}
    for line in lines:
        groups.setdefault((line.seen_at, line.seen_by), []).append(line)
    return [*groups.values()]


def _changed(
    lines: Sequence[ChangeLine], version: datetime | None = None, others: Sequence[str] = ()
) -> Moment:
    at = lines[0].at if lines else version
    assert at is not None
    # Who edits an opportunity renames nobody. The new name comes with the record.
    people = {line.changed_by for line in lines if not line.is_rename}
    by = people.pop() if len(people) == 1 else None
    return Moment("changed", at, by=by, version=version, lines=lines, others=others)


def _others(difference: Any) -> list[str]:
    """The paths of fields that differ between two records and have no column."""
    if not isinstance(difference, list):
        return []
    paths = (".".join(str(key) for key in step[0]) for step in difference if step[0])
    return sorted(
        {
            path
            for path in paths
            if path not in _SOURCES
            and not path.startswith("custom_fields.")
            and path.partition(".")[0] not in (*_TOLD_OTHERWISE, "tag_list")
        }
    )


def read_as_of(connection: Connection, id_: int, at: datetime) -> AsOf:
    """The state of the opportunity `id_` in the mirror `at` a time. Ends the transaction."""
    columns = ", ".join(c.name for c in OPPORTUNITIES.columns if c.kind not in _UNREADABLE)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, {columns}, coalesce(data, '{{}}')::text AS record"
                " FROM opportunity_as_of(%s, %s)",
                (id_, at),
            )
            row = cursor.fetchone()
            names = [column.name for column in cursor.description or ()]
        connection.commit()
    except psycopg2.errors.InvalidParameterValue:
        connection.rollback()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT value::timestamptz FROM mirror_state WHERE name = 'history_began'"
            )
            (began,) = cursor.fetchone() or (None,)
        connection.commit()
        return AsOf(at, None, None, began)
    if row is None:
        return AsOf(at, None, None)
    found = dict(zip(names, row, strict=True))
    return AsOf(at, found, found.pop("record"))


# As JSON psycopg2 would read them: numbers would be rounded.
_UNREADABLE = ("jsonb", "tstzrange")
