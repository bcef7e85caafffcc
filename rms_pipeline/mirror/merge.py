"""The one way an opportunity gets into the mirror: in bulk, idempotent, ordered.

For each id, `opportunity_versions` remembers which fetch the row stands for. A merge locks those
rows in order of id, so merges of the same ids come one after the other, decides by `order`, and
writes only what changed; a row that is the same only learns when it was last asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.current_rms.payloads import Fault, Opportunity
from rms_pipeline.mirror.changes import note_changes
from rms_pipeline.mirror.copy_text import Value, copy_rows
from rms_pipeline.mirror.order import Fetch, supersedes

MAPPED = tuple(f.name for f in fields(Opportunity) if f.name not in {"fingerprint", "faults"})
_SETTABLE = tuple(c for c in MAPPED if c != "id")
_STAGED = (*MAPPED, "synced_at")


@dataclass(slots=True)
class MergeResult:
    """How many opportunities were created, updated, found unchanged, and so on.

    `stale`: the mirror already held something newer. `restored`: created again after a deletion,
    counted among created too. `failed`: could not be stored.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    restored: int = 0
    failed: int = 0

    def __iadd__(self, other: "MergeResult") -> "MergeResult":
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        return self

    @property
    def stored(self) -> int:
        return self.created + self.updated + self.unchanged + self.stale


@dataclass(frozen=True, slots=True)
class _Known:
    fetch: Fetch | None
    fingerprint: bytes | None
    present: bool


def merge(
    connection: Connection,
    run: str,
    records: Sequence[Opportunity | Fault],
    *,
    asked_at: datetime,
    answered_at: datetime,
    counted_since: datetime | None = None,
) -> MergeResult:
    """Merges what one request brought, in one transaction, and commits it.

    A record that PostgreSQL refuses is tried alone, so that it costs no other; it then counts as
    failed and leaves a line in `sync_faults`. Of an id that comes twice the last one counts. What
    is unchanged since a fetch at or after `counted_since` is not counted again.
    """
    faults = [r for r in records if isinstance(r, Fault)]
    good = {r.id: r for r in records if isinstance(r, Opportunity)}
    batch = [good[i] for i in sorted(good)]
    try:
        result = _merge_batch(connection, run, batch, asked_at, answered_at, counted_since)
    except psycopg2.DataError as error:
        connection.rollback()
        if len(batch) == 1:
            reason = str(error).splitlines()[0][:500]
            excerpt = batch[0].data[:1_000].decode(errors="replace")
            faults.append(Fault(batch[0].id, "(record)", f"PostgreSQL refused: {reason}", excerpt))
            result = MergeResult()
        else:
            result = MergeResult()
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]):
                result += merge(
                    connection,
                    run,
                    part,
                    asked_at=asked_at,
                    answered_at=answered_at,
                    counted_since=counted_since,
                )
    result.failed += len(faults)
    with connection.cursor() as cursor:
        note_faults(cursor, run, faults)
    connection.commit()
    return result


def known_ids(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Those of `ids` that have a row in `opportunities`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM opportunities WHERE id = ANY(%s)", (list(ids),))
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def _merge_batch(
    connection: Connection,
    run: str,
    batch: Sequence[Opportunity],
    asked_at: datetime,
    answered_at: datetime,
    counted_since: datetime | None,
) -> MergeResult:
    result = MergeResult()
    repeats = 0
    if not batch:
        return result
    with connection.cursor() as cursor:
        known = lock_versions(cursor, [o.id for o in batch])
        new: list[Opportunity] = []
        changed: list[Opportunity] = []
        same: list[int] = []
        restored: list[int] = []
        for o in batch:
            k = known[o.id]
            fetch = Fetch(asked_at, answered_at, o.updated_at_rms)
            counted = (
                counted_since is not None
                and k.fetch is not None
                and k.fetch.asked_at >= counted_since
            )
            if k.fetch is not None and not supersedes(fetch, k.fetch):
                result.stale += not counted
            elif not k.present:
                new.append(o)
                if k.fetch is not None and k.fetch.deleted:
                    restored.append(o.id)
            elif k.fingerprint == o.fingerprint:
                same.append(o.id)
                repeats += counted
            else:
                changed.append(o)
        if restored:
            cursor.execute("DELETE FROM deleted_opportunities WHERE id = ANY(%s)", (restored,))
        if new:
            copy_rows(cursor, "opportunities", _STAGED, (_row(o, asked_at) for o in new))
        if changed:
            updated = _update(cursor, run, changed, asked_at)
            same += [o.id for o in changed if o.id not in updated]
            result.updated = len(updated)
        if same:
            cursor.execute(
                "UPDATE opportunities SET synced_at = %s WHERE id = ANY(%s)", (asked_at, same)
            )
        _note_versions(cursor, new + changed, same, asked_at, answered_at)
        note_faults(cursor, run, [f for o in batch for f in o.faults])
    connection.commit()
    result.created, result.restored = len(new), len(restored)
    result.unchanged = len(same) - repeats
    return result


def lock_versions(cursor: Cursor, ids: list[int]) -> dict[int, _Known]:
    """Until the transaction ends, nobody else writes the rows of `ids` (ascending), live or
    deleted. Returns what each of them stands for."""
    cursor.execute(
        "INSERT INTO opportunity_versions (id) SELECT unnest(%s) ON CONFLICT DO NOTHING", (ids,)
    )
    cursor.execute(
        "SELECT v.id, v.asked_at, v.answered_at, v.updated_at_rms, v.deleted, v.fingerprint,"
        " EXISTS (SELECT FROM opportunities o WHERE o.id = v.id)"
        " FROM opportunity_versions v WHERE v.id = ANY(%s) ORDER BY v.id FOR UPDATE OF v",
        (ids,),
    )
    known = {}
    for id_, asked, answered, updated, deleted, fingerprint, present in cursor.fetchall():
        fetch = None if asked is None else Fetch(asked, answered, updated, deleted)
        known[id_] = _Known(fetch, None if fingerprint is None else bytes(fingerprint), present)
    return known


def _row(o: Opportunity, asked_at: datetime) -> list[Value]:
    return [*(getattr(o, column) for column in MAPPED), asked_at]


def _update(
    cursor: Cursor, run: str, changed: Sequence[Opportunity], asked_at: datetime
) -> set[int]:
    """Rewrites the rows that differ; the API may write the same record with other bytes."""
    cursor.execute(
        "CREATE TEMP TABLE IF NOT EXISTS staged_opportunities"
        " (LIKE opportunities) ON COMMIT DELETE ROWS"
    )
    copy_rows(cursor, "staged_opportunities", _STAGED, (_row(o, asked_at) for o in changed))
    note_changes(cursor, "staged_opportunities", run)
    settings = ", ".join(f"{c} = s.{c}" for c in (*_SETTABLE, "synced_at"))
    before = ", ".join(f"o.{c}" for c in _SETTABLE)
    after = ", ".join(f"s.{c}" for c in _SETTABLE)
    cursor.execute(
        f"UPDATE opportunities o SET {settings} FROM staged_opportunities s"
        f" WHERE o.id = s.id AND ({before}) IS DISTINCT FROM ({after}) RETURNING o.id"
    )
    return {row[0] for row in cursor.fetchall()}


def _note_versions(
    cursor: Cursor,
    written: Sequence[Opportunity],
    same: list[int],
    asked_at: datetime,
    answered_at: datetime,
) -> None:
    if same:
        cursor.execute(
            "UPDATE opportunity_versions SET asked_at = %s, answered_at = %s WHERE id = ANY(%s)",
            (asked_at, answered_at, same),
        )
    if written:
        cursor.execute(
            "UPDATE opportunity_versions v SET asked_at = %s, answered_at = %s,"
            " updated_at_rms = n.updated_at_rms, fingerprint = n.fingerprint, deleted = false"
            " FROM unnest(%s::bigint[], %s::timestamptz[], %s::bytea[])"
            " AS n (id, updated_at_rms, fingerprint) WHERE v.id = n.id",
            (
                asked_at,
                answered_at,
                [o.id for o in written],
                [o.updated_at_rms for o in written],
                [f"\\x{o.fingerprint.hex()}" for o in written],
            ),
        )


def note_faults(cursor: Cursor, run: str, faults: Sequence[Fault]) -> None:
    """Adds `faults` to `sync_faults`, as found by `run`."""
    for fault in faults:
        cursor.execute(
            "INSERT INTO sync_faults (opportunity_id, field, problem, raw_value, run)"
            " VALUES (%s, %s, %s, %s, %s)",
            (fault.opportunity_id, fault.field, fault.problem, fault.raw_value, run),
        )
