"""Proofs that the mirror is complete: their rows, whether one still holds, and how it is worded.

This module keeps proofs, decides whether rows changed while one was made, and has the one sentence
that everything shows (`standing`). Counting and correcting differences is in `sync.prove`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg2.extras import execute_values

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.spans import Span
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.run_workers import living_runs
from rms_pipeline.mirror.statements import Connection, Cursor, in_the_future, one_row, range_of_ids

HOLDS_FOR = timedelta(days=1)

# What a proof could not do in the usual way. Each has a text below.
NO_RANGES = "no_ranges"
UNDATED_APART = "undated_apart"
UNDATED_UNCOUNTED = "undated_uncounted"
REPEATS_BEGAN = "repeats_began"
WHOLE_DAYS = "whole_days"
ASSOCIATIONS_KEPT = "associations_kept"
FIELDS_LOST = "fields_lost"

_RESTS_ON = {
    NO_RANGES: "The API ignores ranges of ids, so the records with dates were counted all at once.",
    UNDATED_APART: (
        "Records without a start and records without an end were listed one after the "
        "other, because the API cannot list both at once. Incremental syncs list them "
        "in turn."
    ),
    UNDATED_UNCOUNTED: (
        "Records without dates were not counted, because the API cannot list them "
        "separately. A full sync reads them together with all others."
    ),
    REPEATS_BEGAN: (
        "Since the last full sync, Current RMS began to list records twice, or the proof of that "
        "sync failed. Records that a count showed to be listed twice are counted once. To look for "
        "others, and for those that are counted and never sent, an incremental sync would have to "
        "list the whole account, which takes too many calls. Until the next full sync does so, "
        "another one may be counted in place of a record that is gone."
    ),
    WHOLE_DAYS: (
        "The API compares whole days where times are requested, in a time zone that is not known. "
        "So the first and the last two days of the window were not counted. A full sync reads them."
    ),
    ASSOCIATIONS_KEPT: (
        "Current RMS left out associations, such as the names of customers or venues, although "
        "records have their ids. Rows keep the names that came before with the same ids. New "
        "records have none (see sync_faults)."
    ),
    FIELDS_LOST: (
        "Current RMS no longer sends fields that it sent before (see sync_faults). The columns "
        "that are read from them are empty in the rows that changed since."
    ),
}
CANNOT_SEE = (
    "Counting cannot see: a record that was changed without a new updated_at, or that has "
    "none (a full sync finds it, and until then it may be counted in place of another); one that "
    "was changed after the previous sync and deleted while this proof counted; one that Current "
    "RMS begins to list twice, or to count without sending it (until a count shows it, it may be "
    "counted in place of another); and what the lists of Current RMS do not show yet."
)

CANNOT_SEE_PARTS = (
    "Comparing lists cannot see: an edit that leaves the time of the record it belongs to as it "
    "was, until that record's list is read again; and what the lists of Current RMS do not show "
    "yet. Each list of {whom} is read as a whole, and compared row by row."
)

_LACKING = {"no_start": "a start", "no_end": "an end"}


class WriterHangs(RmsPipelineError):
    """A transaction that writes rows of a collection stays open."""


@dataclass(frozen=True, slots=True)
class PartCount:
    """A part of the window, as the API and the mirror have it.

    `segment` is a list of the API, `ids` the span of it. `counted` is the number of different
    records by the API's count, `mirrored` the number of rows. Of the counted, `nameless` have no id
    or never come, and `unstorable` are refused by PostgreSQL. `repeated` were listed twice, and are
    counted once. `alike` means that nothing is missing or surplus. `listed` means that the records
    themselves were compared, not only their number. `as_of` is the time of an earlier proof that
    counted this part, or None for the proof that it belongs to.
    """

    segment: str
    ids: Span
    counted: int
    mirrored: int
    nameless: int = 0
    repeated: int = 0
    unstorable: int = 0
    alike: bool = True
    listed: bool = False
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """What was counted `as_of` (UTC, the database's clock), and whether the mirror is complete.

    `shown` is None until the proof is closed. `scan` is the full walk whose window it counts.
    `content` is the number of the mirror's content while it counted. `window` is None if it counts
    all records.

    `counted` records are in the API's lists, and `mirrored` of them in the mirror. `unstorable`
    ones have no row. The API cannot deliver the `unreadable` ids. `left` are ids for which the list
    and the single record differ. `repaired` were fetched again and `deleted` were removed, in
    `calls` calls and `rounds` rounds. `rests_on` names what could not be done in the usual way. The
    API once gave the count `greatest_count`, so counts below it are no maximum of its counter.

    Parts of other records are not counted in a window. For them, `parents` is how many lists were
    compared, as of the earliest of those that are read each night.
    """

    id: int
    collection: str
    run: str
    scan: int
    as_of: datetime
    content: int
    window: tuple[datetime, datetime] | None
    counted: int = 0
    mirrored: int = 0
    unstorable: int = 0
    repeated: int = 0
    greatest_count: int = 0
    unreadable: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    repaired: int = 0
    deleted: int = 0
    calls: int = 0
    rounds: int = 0
    shown: bool | None = None
    reason: str = ""
    rests_on: tuple[str, ...] = ()
    closed_at: datetime | None = None
    parents: int | None = None
    parts: tuple[PartCount, ...] = field(default=(), compare=False)

    @property
    def sentence(self) -> str:
        """ "complete as of 2026-11-24 12:03:10 UTC: 5,012 of 5,012", or why that cannot be said."""
        return self.words(_utc)

    def words(self, moment: Callable[[datetime], str]) -> str:
        """Return `sentence` with times as `moment` writes them."""
        numbers = f"{self.mirrored:,} of {self.counted:,}"
        if self.unreadable:
            count = len(self.unreadable)
            numbers += f", {count:,} that Current RMS cannot deliver: {_ids(self.unreadable)}"
        if self.unstorable:
            numbers += f", and {self.unstorable:,} that cannot be stored (see sync_faults)"
        if self.repeated:
            numbers += f"; {self.repeated:,} more entries of the list are repeats"
        for segment, at in self.earlier.items():
            numbers += f"; those without {_LACKING.get(segment, segment)} as of {moment(at)}"
        if self.left:
            numbers += (
                f"; {_ids(self.left)} left for the next proof, because the list of Current RMS "
                "differs from the single record there"
            )
        if self.parents is not None:
            whose = f"{self.parents:,} {self._of_whom}"
            if self.shown:
                return f"complete for {whose} as of {moment(self.as_of)}: {numbers}"
            counts = f" for {whose}" if numbers == _UNCOUNTED else f": {numbers}, of {whose},"
        elif self.shown:
            return f"complete as of {moment(self.as_of)}: {numbers}"
        else:
            counts = "" if numbers == _UNCOUNTED else f": {numbers}"
        return f"not shown to be complete{counts} at {moment(self.as_of)}. {self.reason}"

    @property
    def _of_whom(self) -> str:
        found = next((c for c in COLLECTIONS if c.name == self.collection), None)
        return "records" if found is None or found.parts is None else found.parts.of.name

    @property
    def earlier(self) -> dict[str, datetime]:
        """The segments that an earlier proof counted, with its time."""
        return {p.segment: p.as_of for p in self.parts if p.as_of is not None}

    @property
    def covers_undated(self) -> bool:
        return UNDATED_UNCOUNTED not in self.rests_on

    @property
    def notes(self) -> list[str]:
        """What else the proof relies on, and what it cannot see, a sentence each."""
        if self.parents is not None:
            whom = self._of_whom
            return [
                f"It covers {whom} that begin or are out within the configured days, as each was "
                f"listed since the last nightly sync. It also covers {whom} that changed since "
                f"{self.collection.replace('_', ' ')} are mirrored, as of their last change. It "
                f"does not cover other {whom}.",
                CANNOT_SEE_PARTS.format(whom=whom),
            ]
        told = [*(_RESTS_ON[r] for r in self.rests_on if r in _RESTS_ON), CANNOT_SEE]
        if self.window is None:
            return [f"It covers all {self.collection}.", *told]
        first, last = (f"{day:%-d %B %Y}" for day in self.window)
        bounds = f"It covers {self.collection} that overlap {first} to {last}, "
        bounds += "within the window" if WHOLE_DAYS in self.rests_on else "the window"
        bounds += " of the last full sync"
        bounds += ", and those without dates." if self.covers_undated else "."
        return [bounds, *told]

    def as_json(self) -> dict[str, Any]:
        told = asdict(self)
        del told["parts"]
        start, end = told.pop("window") or (None, None)
        return {
            **told,
            "as_of": self.as_of.isoformat(),
            "closed_at": self.closed_at.isoformat() if self.closed_at else None,
            "window_start": start and start.isoformat(),
            "window_end": end and end.isoformat(),
            "sentence": self.sentence,
            "notes": self.notes,
        }


def _ids(ids: Sequence[int]) -> str:
    more = len(ids) - 10
    return ", ".join(map(str, ids[:10])) + (f" and {more:,} more" if more > 0 else "")


State = Literal["green", "amber", "red", "none"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How complete the mirror is known to be now.

    - Green: shown.
    - Amber: shown, but a later sync failed (`failed_at`), or it is long ago.
    - Red: it could not be shown. `last_shown` is when it last could.
    - None: nothing was compared yet.
    """

    state: State
    proof: Proof | None = None
    failed_at: datetime | None = None
    is_old: bool = False
    is_ahead: bool = False
    last_shown: datetime | None = None

    @property
    def sentence(self) -> str:
        return self.words(_utc)

    def words(self, moment: Callable[[datetime], str]) -> str:
        """Return what was found, and what makes it doubtful. `moment` writes times."""
        if self.proof is None:
            return "not compared with Current RMS yet; a full sync compares them"
        doubt = self.doubt(moment)
        said = self.proof.words(moment)
        return f"{said.rstrip('.')}. {doubt}" if doubt else said

    def doubt(self, moment: Callable[[datetime], str]) -> str:
        """Return a sentence on why the result may no longer hold, or ''.

        If completeness was not shown, the sentence says when it last was.
        """
        if self.state == "red":
            if self.last_shown is None:
                return ""
            return f"It was last shown to be complete as of {moment(self.last_shown)}."
        if self.failed_at is not None:
            return (
                f"A later sync failed ({moment(self.failed_at)}), so what changed since may be "
                "missing."
            )
        if self.is_ahead:
            return (
                "That time has not come yet, because the clock of the database was ahead. So what "
                "changed since may be missing."
            )
        if self.is_old:
            return "That is more than a day ago, so what changed since may be missing."
        return ""

    def as_json(self) -> dict[str, Any] | None:
        """Return it as the sync API shows it, or None before anything was compared."""
        if self.proof is None:
            return None
        return {**self.proof.as_json(), "state": self.state, "sentence": self.sentence}


# If nothing was counted, people would take this for an empty account.
_UNCOUNTED = "0 of 0"


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def standing(connection: Connection, collection: Collection) -> Standing:
    """Return how complete `collection` is known to be now. Commits."""
    proof = newest_proof(connection, collection)
    if proof is None:
        return Standing("none")
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT clock_timestamp() - as_of > %s, {in_the_future('as_of')}"
            " FROM (SELECT %s::timestamptz AS as_of) proof",
            (HOLDS_FOR, proof.as_of),
        )
        is_old, is_ahead = one_row(cursor)
        cursor.execute(
            "SELECT max(as_of) FROM proofs WHERE collection = %s AND shown AND id < %s",
            (collection.name, proof.id),
        )
        last_shown = one_row(cursor)[0]
    failed_at = _later_failure(connection, proof)
    connection.commit()
    if not proof.shown:
        return Standing("red", proof, last_shown=last_shown)
    doubted = is_old or is_ahead or failed_at is not None
    return Standing("amber" if doubted else "green", proof, failed_at, is_old, is_ahead, last_shown)


def _later_failure(connection: Connection, proof: Proof) -> datetime | None:
    """Return when the newest sync after the start of `proof` failed or died, or None."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT runs[cardinality(runs)], started_at FROM walks"
            " WHERE kind IN ('full', 'changes') AND collection = %(collection)s"
            " AND settled_at IS NULL AND started_at > %(as_of)s"
            " AND id > (SELECT coalesce(max(id), 0) FROM walks"
            " WHERE kind IN ('full', 'changes') AND collection = %(collection)s"
            " AND settled_at IS NOT NULL)"
            " ORDER BY id DESC LIMIT 5",
            {"as_of": proof.as_of, "collection": proof.collection},
        )
        begun: list[tuple[str, datetime]] = cursor.fetchall()
    alive = living_runs(connection, [run for run, _ in begun])
    for run, started_at in begun:
        if run == proof.run:
            continue
        if run not in alive:
            return started_at
    return None


def content_number(connection: Connection, collection: Collection, *, patience: float = 5.0) -> int:
    """Return the number that grows with every change of the rows of `collection`. Commits.

    If it is the same twice, no transaction changed the content of rows in between, and none that
    did is still open. Raises WriterHangs if one stays open for longer than `patience` seconds.
    """
    give_up = time.monotonic() + patience
    while True:
        with connection.cursor() as cursor:
            number = number_if_nobody_writes(cursor, collection)
        connection.commit()
        if number is not None:
            return number
        if time.monotonic() > give_up:
            raise WriterHangs(
                f"Another session has written to {collection.name} and has kept its "
                f"transaction open for more than {patience:.0f} s"
            )
        time.sleep(0.02)


def number_if_nobody_writes(cursor: Cursor, collection: Collection) -> int | None:
    """Return what `content_number` does, or None if an open transaction has changed rows.

    If it returns a number, nobody can change rows until this transaction ends.
    """
    # Tried instead of waiting: a waiting lock would make all others wait behind it.
    cursor.execute(
        "SELECT pg_try_advisory_xact_lock("
        "hashtextextended('rms_pipeline content of ' || current_schema() || '.' || %s, 0))",
        (collection.name,),
    )
    if not one_row(cursor)[0]:
        return None
    cursor.execute(
        f"SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END FROM {collection.content}"
    )
    return int(one_row(cursor)[0])


_COLUMNS = (
    "id, collection, run, scan, as_of, content, window_start, window_end, counted, mirrored,"
    " unstorable, repeated, greatest_count, unreadable, left_for_next, repaired, deleted, calls,"
    " rounds, shown, reason, rests_on, closed_at, parents"
)


def open_proof(connection: Connection, proof: Proof) -> Proof:
    """Store `proof`, whose `id` is not known yet, with its parts. Commits."""
    window = proof.window or (None, None)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO proofs (collection, run, scan, as_of, content, window_start, window_end,"
            " parents) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
            (
                *(proof.collection, proof.run, proof.scan, proof.as_of, proof.content),
                *(*window, proof.parents),
            ),
        )
        row = one_row(cursor)
    kept = replace(proof, id=row[0])
    return _write(connection, kept)


def keep_proof(connection: Connection, proof: Proof) -> Proof:
    """Store what was found out since. It closes the proof if `shown` is known. Commits."""
    return _write(connection, proof)


def _write(connection: Connection, proof: Proof) -> Proof:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE proofs SET as_of = %s, content = %s, counted = %s, mirrored = %s,"
            " unstorable = %s, repeated = %s, greatest_count = %s, unreadable = %s,"
            " left_for_next = %s, repaired = %s, deleted = %s, calls = %s, rounds = %s,"
            " shown = %s, reason = %s, rests_on = %s,"
            " closed_at = CASE WHEN %s::boolean IS NULL THEN NULL ELSE clock_timestamp() END"
            " WHERE id = %s RETURNING closed_at",
            (
                proof.as_of,
                proof.content,
                proof.counted,
                proof.mirrored,
                proof.unstorable,
                proof.repeated,
                proof.greatest_count,
                list(proof.unreadable),
                list(proof.left),
                proof.repaired,
                proof.deleted,
                proof.calls,
                proof.rounds,
                proof.shown,
                proof.reason,
                list(proof.rests_on),
                proof.shown,
                proof.id,
            ),
        )
        row = cursor.fetchone()
        cursor.execute("DELETE FROM proof_counts WHERE proof = %s", (proof.id,))
        execute_values(
            cursor,
            "INSERT INTO proof_counts (proof, segment, ids, counted, mirrored, nameless, repeated,"
            " unstorable, alike, listed, as_of) VALUES %s",
            [
                (
                    proof.id,
                    p.segment,
                    range_of_ids(p.ids),
                    p.counted,
                    p.mirrored,
                    p.nameless,
                    p.repeated,
                    p.unstorable,
                    p.alike,
                    p.listed,
                    p.as_of,
                )
                for p in proof.parts
            ],
        )
    connection.commit()
    return replace(proof, closed_at=row[0] if row else None)


def newest_proof(connection: Connection, collection: Collection) -> Proof | None:
    """Return the newest proof that was closed, shown or not. Commits."""
    return _one(
        connection,
        f"SELECT {_COLUMNS} FROM proofs WHERE collection = %s AND closed_at IS NOT NULL"
        " ORDER BY id DESC LIMIT 1",
        (collection.name,),
    )


def was_ever_shown(
    connection: Connection, scan: int, *, without_ranges: bool | None = None
) -> bool:
    """Return whether a proof ever showed that what the walk `scan` read is complete. Commits.

    If `without_ranges` is given, only proofs count that were made without ranges of ids, or only
    others.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM proofs WHERE scan = %s AND shown"
            " AND coalesce((%s = ANY(rests_on)) = %s, true))",
            (scan, NO_RANGES, without_ranges),
        )
        shown = one_row(cursor)[0]
    connection.commit()
    return bool(shown)


def proof_begun(
    connection: Connection, collection: Collection, runs: Sequence[str]
) -> Proof | None:
    """Return the newest proof of `runs`, if it is not closed yet. Commits."""
    found = _one(
        connection,
        f"SELECT {_COLUMNS} FROM proofs WHERE collection = %s AND run = ANY(%s)"
        " ORDER BY id DESC LIMIT 1",
        (collection.name, list(runs)),
    )
    return None if found is None or found.closed_at is not None else found


def _one(connection: Connection, query: str, values: tuple[object, ...]) -> Proof | None:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        row = cursor.fetchone()
        parts: list[PartCount] = []
        if row is not None:
            cursor.execute(
                "SELECT segment, lower(ids), upper(ids) - 1, counted, mirrored, nameless, repeated,"
                " unstorable, alike, listed, as_of FROM proof_counts WHERE proof = %s"
                " ORDER BY segment, ids",
                (row[0],),
            )
            parts = [PartCount(s, (a, b), *rest) for s, a, b, *rest in cursor.fetchall()]
    connection.commit()
    if row is None:
        return None
    id_, collection, run, scan, as_of, content, start, end, *rest = row
    window = None if start is None or end is None else (start, end)
    counted, mirrored, unstorable, repeated, greatest, unreadable, left, repaired, *more = rest
    deleted, calls, rounds, shown, reason, rests_on, closed_at, parents = more
    return Proof(
        id_, collection, run, scan, as_of, content, window, counted, mirrored, unstorable,
        repeated, greatest, tuple(unreadable), tuple(left), repaired, deleted, calls, rounds, shown,
        reason, tuple(rests_on), closed_at, parents, tuple(parts),
    )  # fmt: skip
