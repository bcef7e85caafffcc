"""The one way an opportunity gets into the mirror: in bulk, idempotent, ordered.

For each id, `opportunity_versions` remembers which fetch the row stands for. A merge locks those
rows in order of id, so merges of the same ids come one after the other, decides by `order`, and
writes only what changed; a row that is the same only learns when it was last asked for, and is not
even decoded. A record with faults has no fingerprint there, so that each sync finds them anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.current_rms.fields import Fault
from rms_pipeline.current_rms.payloads import Opportunity, Record
from rms_pipeline.mirror.changes import note_changes
from rms_pipeline.mirror.copy_text import Value, copy_rows
from rms_pipeline.mirror.fleeting_links import differ_in_links_only, note_asked
from rms_pipeline.mirror.mapping import demand_own_mapping
from rms_pipeline.mirror.order import Fetch, contradicts, supersedes
from rms_pipeline.mirror.postgres_errors import is_about_a_row, reason
from rms_pipeline.mirror.versions import FIRST, claim_versions, note_versions

MAPPED = tuple(f for f in Opportunity.__struct_fields__ if f not in {"fingerprint", "faults"})
_mapped_values = attrgetter(*MAPPED)
_SETTABLE = tuple(c for c in MAPPED if c != "id")
_STAGED = (*MAPPED, "synced_at")
_LEFT_OUT = "a trigger that was added to the table opportunities left it out"


@dataclass(slots=True)
class MergeResult:
    """How many opportunities were created, updated, found unchanged, and so on.

    `stale`: the mirror already held something newer. `restored`: created again after a deletion,
    counted among created too. `failed`: could not be stored. `doubted`: ids that a list showed as
    they were before, with the `updated_at` it told; nobody knows yet whether it lags. `lagging`:
    ids of which that is known; the mirror has something newer.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    restored: int = 0
    failed: int = 0
    doubted: tuple[tuple[int, datetime | None], ...] = ()
    lagging: tuple[int, ...] = ()

    def __iadd__(self, other: "MergeResult") -> "MergeResult":
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        return self

    @property
    def stored(self) -> int:
        return self.created + self.updated + self.unchanged + self.stale


def merge(
    connection: Connection,
    run: str,
    records: Sequence[Record | Fault],
    *,
    asked_at: datetime,
    answered_at: datetime,
    counted_since: datetime | None = None,
    doubting: bool = False,
) -> MergeResult:
    """Merges what one request brought, in one transaction, and commits it.

    A record that PostgreSQL refuses, for its values, a constraint or a trigger that people have
    added, is tried alone, so that it costs no other; it then counts as failed and leaves a line in
    `sync_faults`. Raises DatabaseError once a newer version of this program keeps the mirror. Of an
    id that comes twice the last one counts. What
    is unchanged since a fetch at or after `counted_since` is not counted again. `doubting`, for
    what a list brought: what contradicts the mirror is left for the single record to decide.
    """
    faults = [r for r in records if isinstance(r, Fault)]
    good = {r.id: r for r in records if isinstance(r, Record)}
    batch = [good[i] for i in sorted(good)]
    try:
        result = _merge_batch(
            connection, run, batch, asked_at, answered_at, counted_since, doubting
        )
    except psycopg2.Error as error:
        connection.rollback()
        if not is_about_a_row(error):
            raise
        if len(batch) == 1:
            excerpt = batch[0].data[:1_000].decode(errors="replace")
            problem = f"PostgreSQL refused: {reason(error)}"
            faults.append(Fault(batch[0].id, "(record)", problem, excerpt))
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
                    doubting=doubting,
                )
    result.failed += len(faults)
    with connection.cursor() as cursor:
        note_faults(cursor, run, faults)
    connection.commit()
    return result


def known_ids(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Those of `ids` that have a row in `opportunities`. Commits."""
    with connection.cursor() as cursor:
        found = _present(cursor, list(ids))
    connection.commit()
    return found


def _merge_batch(
    connection: Connection,
    run: str,
    batch: Sequence[Record],
    asked_at: datetime,
    answered_at: datetime,
    counted_since: datetime | None,
    doubting: bool,
) -> MergeResult:
    result = MergeResult()
    if not batch:
        return result
    decoded: dict[int, Opportunity] = {}

    def whole(record: Record) -> Opportunity:
        found = decoded.get(record.id)
        if found is None:
            found = decoded[record.id] = record.decode()
        return found

    with connection.cursor() as cursor:
        known = claim_versions(cursor, batch, asked_at, answered_at, whole)
        # Only now: whoever held a lock may have brought a row, or taken it away, or be newer.
        demand_own_mapping(cursor)
        present = _present(cursor, [r.id for r in batch])
        new: list[Opportunity] = []
        changed: list[Opportunity] = []
        same: list[int] = []
        restored: list[int] = []
        counted: set[int] = set()
        for record in batch:
            id_, k = record.id, known[record.id]
            if k.fetch is not None and counted_since is not None:
                counted |= {id_} if k.fetch.asked_at >= counted_since else set()
            alike = k.fingerprint == record.fingerprint
            if k.fetch is not None:
                # The same bytes tell the same time.
                updated_at = k.fetch.updated_at if alike else whole(record).updated_at_rms
                fetch = Fetch(asked_at, answered_at, updated_at)
                if not supersedes(fetch, k.fetch):
                    result.stale += id_ not in counted
                    continue
                if doubting and not alike and contradicts(fetch, k.fetch):
                    result.doubted += ((id_, updated_at),)
                    continue
            if id_ not in present:
                new.append(whole(record))
                if k.deleted:
                    restored.append(id_)
            elif alike:
                same.append(id_)
            else:
                changed.append(whole(record))
        if restored:
            cursor.execute("DELETE FROM deleted_opportunities WHERE id = ANY(%s)", (restored,))
        left_out: set[int] = set()
        if new:
            copy_rows(cursor, "opportunities", _STAGED, (_row(o, asked_at) for o in new))
            if cursor.rowcount != len(new):
                ids = [o.id for o in new]
                left_out = set(ids) - _present(cursor, ids)
        linked = {r.id: r.data for r in batch if r.has_fleeting_links}
        if changed:
            relinked = differ_in_links_only(cursor, linked, changed, _SETTABLE)
            differing = [o for o in changed if o.id not in relinked]
            updated, kept = _update(cursor, run, differing, asked_at)
            same += [o.id for o in changed if o.id not in updated and o.id not in kept]
            left_out |= kept
            result.updated = len(updated)
        if same:
            note_asked(cursor, same, linked, asked_at)
        written = [o for o in new + changed if known[o.id] is not FIRST and o.id not in left_out]
        note_versions(cursor, written, same, asked_at, answered_at)
        faults = [f for o in decoded.values() for f in o.faults]
        faults += [Fault(id_, "(record)", _LEFT_OUT, "") for id_ in sorted(left_out)]
        note_faults(cursor, run, faults)
    connection.commit()
    result.created = sum(o.id not in left_out for o in new)
    result.restored = sum(id_ not in left_out for id_ in restored)
    result.failed = len(left_out)
    result.unchanged = sum(id_ not in counted for id_ in same)
    return result


def _present(cursor: Cursor, ids: list[int]) -> set[int]:
    cursor.execute("SELECT id FROM opportunities WHERE id = ANY(%s)", (ids,))
    return {row[0] for row in cursor.fetchall()}


def _row(o: Opportunity, asked_at: datetime) -> list[Value]:
    return [*_mapped_values(o), asked_at]


def _update(
    cursor: Cursor, run: str, changed: Sequence[Opportunity], asked_at: datetime
) -> tuple[set[int], set[int]]:
    """Rewrites the rows that differ; the API may write the same record with other bytes.

    Returns the ids of those rewritten, and of those that a trigger kept as they were.
    """
    if not changed:
        return set(), set()
    cursor.execute(
        # Our columns only: people add others, which may not be empty. Not kept for the next batch:
        # behind a pooler that may find another server process.
        "CREATE TEMP TABLE staged_opportunities ON COMMIT DROP AS"
        f" SELECT {', '.join(_STAGED)} FROM opportunities WITH NO DATA"
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
    updated = {row[0] for row in cursor.fetchall()}
    others = [o.id for o in changed if o.id not in updated]
    if not others:
        return updated, set()
    cursor.execute(
        "SELECT o.id FROM opportunities o JOIN staged_opportunities s USING (id)"
        f" WHERE o.id = ANY(%s) AND ({before}) IS DISTINCT FROM ({after})",
        (others,),
    )
    return updated, {row[0] for row in cursor.fetchall()}


def note_faults(cursor: Cursor, run: str, faults: Sequence[Fault]) -> None:
    """Adds `faults` to `sync_faults`, as found by `run`, however many in one statement."""
    if not faults:
        return
    cursor.execute(
        "INSERT INTO sync_faults (opportunity_id, field, problem, raw_value, run)"
        " SELECT *, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[])",
        (
            run,
            [f.opportunity_id for f in faults],
            [f.field for f in faults],
            [f.problem for f in faults],
            [f.raw_value for f in faults],
        ),
    )
