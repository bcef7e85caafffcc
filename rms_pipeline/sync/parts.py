"""Syncs the parts of records, such as items of opportunities, one parent at a time.

The stored state says which lists are due (`mirror.parts`): those of parents that changed, and each
night those of parents that are out or begin soon. Each list is read completely, stored, merged, and
compared with the rows of its parent. The number of calls is limited, and the rest stays due. These
calls come after all other calls (`Lane.PARTS`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.parts import PartsReader
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import confirm_deletions as note_confirmation
from rms_pipeline.mirror.deletions import held_back
from rms_pipeline.mirror.ownership import demand_mirror_of
from rms_pipeline.mirror.parts import (
    DueList,
    compare_lists,
    count_lists,
    due_lists,
    forget_lists,
    make_all_due,
    note_list,
    note_problems,
    note_unreached,
    others_are_storing,
    prove_lists,
    remove_orphans,
    told_lists,
)
from rms_pipeline.mirror.progress import Progress, ProgressNotes
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.mirror.raw_pages import count_distinct_records, count_pages, land_page
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.walks import has_full_sync, newest_watermarks
from rms_pipeline.sync.landing import LandedWalk, watermark_after
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.sync.refreshing import Refreshed, refresh
from rms_pipeline.sync.storing import MergedWalk, Watcher, merge_walks, raw_page

DAYS_AHEAD = 14
# Calls of a nightly sync, and of an incremental one. Two hundred calls take a minute and a half at
# 120 a minute.
NIGHTLY_CALLS, CALLS = 1_000, 200
# The number of parents whose lists are read at a time, after webhooks.
TOLD_AT_ONCE = 25
# If the list of what changed could not be read whole for so long, all lists are read again instead.
_HELD_FOR = timedelta(days=3)
# The number of parents that are asked for because their lists are not found. Each costs a call.
_ASKED_FOR = 10
# How many seconds a proof waits for lists that another process has just read.
_OTHERS_STORE = 10.0
# Pages that hold lists of parts have this segment.
SEGMENT = "parts"


@dataclass(slots=True)
class StoredParts:
    """The result of the lists of a walk.

    `merged` is the result of the merge. `deleted` counts rows that were removed because their
    parent's list no longer shows them, or because their parent was deleted. `held_back` rows were
    deleted in Current RMS too, but a person has to confirm so many.
    """

    merged: MergedWalk
    deleted: int = 0
    held_back: int = 0
    proof: Proof | None = None


def land_parts(
    database: Database,
    client: CurrentRmsClient,
    run: str,
    *,
    nightly: bool,
    calls: int,
    ahead: timedelta = timedelta(days=DAYS_AHEAD),
    fresh_for: timedelta = timedelta(0),
    parents: CurrentRmsClient | None = None,
    watch: Watcher = lambda _: None,
) -> LandedWalk:
    """Read the lists that are due, with at most `calls` calls. Each page is landed under `run`.

    With `nightly`, the lists of parents that begin within `ahead` or are out are due too. An
    unfinished nightly walk is continued if its pages are no older than `fresh_for`. Parts that were
    never mirrored before are read as in a nightly sync. `parents`, if given, is asked for a few
    parents whose lists are not found, because the parents themselves may be gone. Raises a
    CurrentRmsError if the API does not answer at all. Pages that were landed stay. A list that
    cannot be read costs only itself, and is named.
    """
    began, before = time.monotonic(), client.counts.copy()
    collection = client.collection
    with database.session() as connection:
        demand_mirror_of(connection, client.subdomain)
        starts = newest_watermarks(connection, collection)
        nightly = nightly or not has_full_sync(connection, collection)
        walk, kept = _begin_or_resume(
            connection, collection, run, nightly=nightly, since=starts, fresh_for=fresh_for
        )
        asked_at = client.now()
        reader = PartsReader(client, Lane.PARTS)
        changes = _read_changes(connection, reader, starts, asked_at, nightly=nightly, pages=calls)
        due = due_lists(
            connection,
            collection,
            now=walk.started_at,
            ahead=ahead,
            # One more than needed, to see whether any is left.
            limit=calls * TOLD_AT_ONCE + 1,
            nightly_of=walk.id if nightly else None,
            also=sorted(changes.parents),
        )
        landing = _Landing(connection, client, reader, run, walk.id, watch)
        landing.land(due, calls=calls)
        if parents is not None and landing.absent:
            refresh(database, parents, sorted(landing.absent)[:_ASKED_FOR], run, lane=Lane.PARTS)
        notes = landing.notes(len(due))
        api_date, first_asked = walks.first_api_date(connection, walk.id)
        watermark = changes.held_at or watermark_after(
            min(filter(None, (api_date, changes.api_date)), default=None),
            min(first_asked or asked_at, asked_at),
        )
        walks.complete_walk(
            connection, walk.id, watermark=watermark, read_by={}, nameless={}, notes=notes
        )
        walks.prune_walks(connection, collection)
        skew = None
        if api_date is not None and first_asked is not None:
            skew = (api_date - first_asked).total_seconds()
        return LandedWalk(
            walk=walk.id,
            pages=landing.pages,
            pages_kept=kept,
            records=landing.records,
            distinct_records=count_distinct_records(connection, walk.id),
            bytes=landing.size,
            api_calls=client.counts.calls - before.calls,
            throttled_calls=client.counts.throttled - before.throttled,
            retried_calls=client.counts.retried - before.retried,
            watermark=watermark,
            since=walk.since,
            clock_skew=skew,
            seconds=time.monotonic() - began,
            notes=notes,
        )


@dataclass(frozen=True, slots=True)
class _Changes:
    """Parents whose parts changed, by the account's own list of parts.

    `held_at` is where the next such reading has to start, or None if it may start where this one
    began. `api_date` is the API's time of this reading.
    """

    parents: set[int] = field(default_factory=set)
    held_at: datetime | None = None
    api_date: datetime | None = None


def _read_changes(
    connection: Connection,
    reader: PartsReader,
    starts: Sequence[datetime],
    now: datetime,
    *,
    nightly: bool,
    pages: int,
) -> _Changes:
    """Read which parts changed since the newest of `starts` that is not ahead of any clock.

    Commits. While the list cannot be read whole, each sync starts where the last one did that could
    read it. If that is long ago, or if there is no such start, all lists are due.
    """
    collection = reader.collection
    if not starts:
        # Nothing was ever listed.
        return _Changes()
    clock = now
    while True:
        since = next((start for start in starts if start <= clock), None)
        if since is None:
            make_all_due(connection, collection)
            return _Changes()
        found = reader.changed_parents(since, pages=pages)
        if found.api_date is None or found.api_date >= since:
            break
        # The API's clock was set back since. It now stamps edits with times before `since`.
        clock = found.api_date
    if found.is_whole:
        return _Changes(found.parents, None, found.api_date)
    if found.is_given and nightly and now - since > _HELD_FOR:
        make_all_due(connection, collection)
        return _Changes(found.parents, None, found.api_date)
    return _Changes(found.parents, since)


def _begin_or_resume(
    connection: Connection,
    collection: Collection,
    run: str,
    *,
    nightly: bool,
    since: Sequence[datetime],
    fresh_for: timedelta,
) -> tuple[walks.StoredWalk, int]:
    """Return the walk that `run` lands its lists in, and how many pages it has already. Commits."""
    if nightly:
        resumed = walks.resume_walk(connection, collection, run, window=None, fresh_for=fresh_for)
        if resumed is not None:
            # The continued walk begins at the oldest page that is left of it.
            forget_lists(connection, collection, resumed.id, resumed.started_at)
            return resumed, count_pages(connection, [resumed.id])[0]
    kind = walks.FULL if nightly else walks.CHANGES
    start = None if nightly or not since else since[0]
    walk = walks.begin_walk(connection, collection, run, kind, since=start)
    walks.prune_walks(connection, collection)
    return walk, 0


def store_parts(
    database: Database,
    client: CurrentRmsClient,
    walk: walks.StoredWalk,
    run: str,
    *,
    ahead: timedelta = timedelta(days=DAYS_AHEAD),
    confirm_deletions: bool = False,
) -> StoredParts:
    """Merge the stored lists of `walk`, and remove rows that they no longer show.

    It also proves for which parents the parts are mirrored. With `confirm_deletions`, any number of
    rows may be removed. It makes no API call.
    """
    stored = _store(database, client, walk, run, confirmed=confirm_deletions)
    collection = client.collection
    with database.session() as connection:
        if confirm_deletions:
            note_confirmation(connection, collection)
        # Otherwise the proof would name lists as not read that are there a moment later.
        until = time.monotonic() + _OTHERS_STORE
        while others_are_storing(connection, collection, walk.id) and time.monotonic() < until:
            time.sleep(0.1)
        stored.proof = prove_lists(
            connection,
            collection,
            walk.id,
            run,
            began=walk.started_at,
            ahead=ahead,
            calls=0,
            deleted=stored.deleted,
        )
        stored.held_back = len(held_back(connection, collection))
        walks.settle_walk(
            connection,
            walk.id,
            deletions={"deleted": stored.deleted, "held_back": stored.held_back},
        )
    return stored


def refresh_told(
    database: Database, client: CurrentRmsClient, run: str, *, most: int = TOLD_AT_ONCE
) -> WorkedOff:
    """Read and store the lists of up to `most` parents that webhooks named since the last read.

    The result counts parents: `claimed` were requested, `records` arrived. Each parent
    usually costs one call, however many events named it. The rest stays due. Raises a
    CurrentRmsError if the API does not answer at all.
    """
    before, collection = client.counts.calls, client.collection
    with database.session() as connection:
        demand_mirror_of(connection, client.subdomain)
        due = told_lists(connection, collection, limit=most)
        if not due:
            return WorkedOff()
        walk = walks.begin_walk(connection, collection, run, walks.REFRESH)
        landing = _Landing(
            connection, client, PartsReader(client, Lane.PARTS), run, walk.id, lambda _: None
        )
        landing.land(due, calls=2 * most)
    stored = _store(database, client, walk, run, confirmed=False)
    with database.session() as connection:
        walks.settle_walk(connection, walk.id)
    return WorkedOff(
        claimed=len(due),
        records=landing.read,
        refreshed=Refreshed(
            result=stored.merged.result,
            deleted=stored.deleted,
            calls=client.counts.calls - before,
        ),
    )


def _store(
    database: Database,
    client: CurrentRmsClient,
    walk: walks.StoredWalk,
    run: str,
    *,
    confirmed: bool,
) -> StoredParts:
    collection = client.collection
    merged = merge_walks(database, collection, [walk.id], run, counted_since=walk.started_at)
    with database.session() as connection:
        deletions = compare_lists(connection, collection, walk.id, run, confirmed=confirmed)
        orphans = remove_orphans(connection, collection, client.now(), run)
    return StoredParts(merged, deletions.deleted + orphans)


class _Landing:
    """Stores the lists of one walk."""

    def __init__(
        self,
        connection: Connection,
        client: CurrentRmsClient,
        reader: PartsReader,
        run: str,
        walk: int,
        watch: Watcher,
    ) -> None:
        self.pages = self.records = self.size = self.read = 0
        self.failed: dict[int, str] = {}
        self.absent: set[int] = set()
        self._connection, self._client, self._reader = connection, client, reader
        self._run, self._walk, self._watch = run, walk, watch

    def land(self, due: Sequence[DueList], *, calls: int) -> None:
        collection, by_id = self._client.collection, {each.parent: each for each in due}
        unreached = {each.parent for each in due if each.is_news}
        progress = ProgressNotes(self._connection, self._run)
        for found in self._reader.read(list(by_id), calls=calls):
            for answer in found.answers:
                self.pages += 1
                self.records += len(answer.page.records)
                self.size += len(answer.body)
                page = raw_page(answer, SEGMENT)
                land_page(self._connection, collection, self._run, self._walk, page)
            # Only now. Earlier, a list might count as read although one of its pages is missing.
            for each in found.lists:
                note_list(self._connection, collection, self._walk, each, by_id[each.parent])
            note_problems(self._connection, collection, found.failed)
            self.read += len(found.lists)
            self.failed |= found.failed
            self.absent |= found.absent
            unreached -= {each.parent for each in found.lists} | found.failed.keys()
            so_far = Progress("fetching", self.pages, self.pages, self.read, len(by_id))
            progress.note(so_far)
            self._watch(so_far)
        progress.finish()
        note_unreached(self._connection, collection, sorted(unreached))

    def notes(self, due: int) -> list[str]:
        """Return what was read and what was left out, as text."""
        collection = self._client.collection
        assert collection.parts is not None
        parents = collection.parts.of.name
        how = " by the account's list" if self._reader.by_account else ""
        kept = count_lists(self._connection, collection, self._walk) - self.read
        told = [f"the {collection.name} of {self.read:,} {parents} were listed{how}"]
        told += self._reader.notes
        if kept > 0:
            told.append(f"the unfinished sync had listed those of {kept:,}")
        if self.failed:
            some = ", ".join(f"{i} ({why})" for i, why in list(self.failed.items())[:10])
            told.append(f"{len(self.failed):,} could not be listed: {some}")
        if (left := due - self.read - len(self.failed)) > 0:
            told.append(f"{left:,} wait for the next sync, because the calls of a sync are limited")
        return told
