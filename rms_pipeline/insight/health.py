"""One line that says whether people can rely on the mirror now. Every page shows it at its head.

What belongs here: combining what is known (proofs, syncs, the queue, the API's answers), and the
text. What does not: finding that out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.api_troubles import Trouble, read_trouble
from rms_pipeline.mirror.deletions import HELD_BACK_ADVICE, held_back, words_of_held_back
from rms_pipeline.mirror.proofs import Standing, standing
from rms_pipeline.mirror.queue import queue_state
from rms_pipeline.mirror.statements import Connection, one_row
from rms_pipeline.mirror.sync_metadata import Sync, latest_syncs, running_sync
from rms_pipeline.mirror.sync_runs import NO_REASON, WEBHOOK_REFRESH
from rms_pipeline.mirror.walks import has_full_sync

State = Literal["green", "amber", "red", "none"]
# What there is of the opportunities: all after the first full sync, before it a part or nothing.
# Where that is not all, a page that finds nothing must not say that there is nothing.
Mirrored = Literal["all", "part", "nothing"]

# Webhooks are worked off within seconds, and incremental syncs run every quarter of an hour: what
# takes this much longer has stopped.
QUEUE_IS_LATE = timedelta(minutes=1)
SYNCS_ARE_LATE = timedelta(hours=2)
# Of so many syncs it is looked up since when they fail.
_LOOKED_AT = 20
_WORST_FIRST: tuple[State, ...] = ("red", "none", "amber", "green")
_KINDS = {
    "initial_sync": "initial sync",
    "incremental_sync": "incremental sync",
    "reconciliation": "reconciliation",
}


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the mirror at `now`. All times are UTC, by the clock of the database.

    `state` is green only if a proof showed every collection to be complete and nothing has
    contradicted it since. It is red if the proof failed, and none if there was no proof yet.
    `fresh_at` is the time as of which a sync has stored everything; None before the first sync.
    `mirrored` says whether a full sync of the opportunities has ever completed, else whether some
    are there.
    `waiting` counts webhooks that are not processed, the oldest for `oldest_waiting_seconds`.
    `dead_letters` counts those whose refresh failed too often. `held_back` has a sentence for each
    collection whose deletions wait for a person. Syncs have failed since
    `failing_since`, because of `reason`. `running` is the kind of the running sync. `trouble` is a
    request that Current RMS does not answer at the moment. `standing` is that of the `collection`
    that decides the state, as sentences call it; it is None if all are equal.
    """

    state: State
    now: datetime
    fresh_at: datetime | None
    mirrored: Mirrored
    standing: Standing
    collection: str | None
    waiting: int
    oldest_waiting_seconds: float
    dead_letters: int
    held_back: tuple[str, ...]
    failing_since: datetime | None
    reason: str
    running: str | None
    trouble: Trouble | None

    @property
    def is_late(self) -> bool:
        """Whether the last sync is so long ago that syncs must have stopped."""
        return self.fresh_at is not None and self.now - self.fresh_at > SYNCS_ARE_LATE

    def fresh(self, moment: Callable[[datetime], str]) -> str:
        """ "Fresh as of 12:03", or why this is not known."""
        if self.fresh_at is not None and self.mirrored == "all":
            return f"Fresh as of {moment(self.fresh_at)}"
        if self.running in _KINDS:
            return f"The {_KINDS[self.running]} is running"
        if self.mirrored == "nothing":
            return "Nothing has been read yet"
        return "No full sync has completed yet"

    def proven(self, moment: Callable[[datetime], str]) -> str:
        """What the last proof showed, as a sentence. '' if there was none."""
        if self.standing.proof is None and self.collection is None:
            return ""
        words = self.standing.words(moment)
        of = f"{self.collection}: " if self.collection else ""
        return f"{of[:1].upper()}{of[1:]}{words if of else words[:1].upper() + words[1:]}"

    def problems(self, moment: Callable[[datetime], str]) -> list[str]:
        """The problems, most urgent first, one sentence each."""
        told = []
        if self.trouble is not None:
            t = self.trouble
            of = "" if t.attempts is None else f" of {t.attempts}"
            told.append(
                f"Current RMS has given no usable answer since {moment(t.since)}: "
                f"{_short(t.reason)}. Attempt {t.attempt}{of} failed, the next is at "
                f"{moment(t.next_at)}{self._in_seconds(t.next_at)}."
            )
        if self.failing_since is not None:
            told.append(
                f"Syncs have failed since {moment(self.failing_since)}: {_short(self.reason)}"
            )
        elif self.is_late and not self.running and self.fresh_at is not None:
            told.append(f"No sync has completed since {moment(self.fresh_at)}.")
        told += self.held_back
        if self.waiting and self.oldest_waiting_seconds > QUEUE_IS_LATE.total_seconds():
            told.append(
                f"{_some(self.waiting, 'change waits', 'changes wait')} to be fetched, the oldest"
                f" for {_span(self.oldest_waiting_seconds)}."
            )
        if self.dead_letters:
            told.append(
                f"{_some(self.dead_letters, 'webhook was', 'webhooks were')} given up: the refresh"
                " failed too often."
            )
        if self.mirrored == "part":
            told.append("Until a full sync has completed, all pages show only a part.")
        return told

    def _in_seconds(self, then: datetime) -> str:
        """How soon that is, because pages show times to the minute."""
        seconds = round((then - self.now).total_seconds())
        return f", in {seconds} s" if seconds > 0 else ""

    @property
    def advice(self) -> str:
        """What to do. '' if there is nothing to do."""
        if self.trouble is not None:
            return (
                "The program tries again by itself. If this goes on, look at "
                "status.current-rms.com, then run `rms-pipeline doctor`."
            )
        if self.failing_since is not None:
            if self.mirrored != "all":
                return "Correct the cause, then run the initial sync. `rms-pipeline doctor` helps."
            return "Correct the cause; the next sync then catches up. `rms-pipeline doctor` helps."
        if self.state == "none":
            if self.running:
                return ""
            if self.collection is None or self.mirrored != "all":
                return "Run the initial sync."
            return f"The next sync reads all {self.collection}."
        if self.held_back:
            # No sync and no proof does away with it.
            return HELD_BACK_ADVICE
        if self.running:
            return ""
        if self.state == "red":
            return "Run an incremental sync, which makes a new proof."
        if self.is_late:
            return (
                "Check that Dagster runs and that its schedules are on, or run an incremental sync."
            )
        if self.dead_letters:
            return "Replay them on the page Syncs."
        if self.waiting and self.oldest_waiting_seconds > QUEUE_IS_LATE.total_seconds():
            return "Run an incremental sync, or `rms-pipeline doctor`, which shows why they wait."
        if self.state == "amber":
            return "Run an incremental sync, which makes a new proof."
        return ""

    def sentence(self, moment: Callable[[datetime], str]) -> str:
        """The whole line as text, for a log or a program."""
        parts = [f"{self.fresh(moment)}."]
        if proven := self.proven(moment):
            parts.append(f"{proven.rstrip('.')}.")
        return " ".join([*parts, *self.problems(moment), *filter(None, [self.advice])])


def read_health(connection: Connection, collections: Sequence[Collection]) -> Health:
    """The state of the mirror of `collections` now. Commits."""
    known = {c: standing(connection, c) for c in collections}
    decides = min(collections, key=lambda c: _WORST_FIRST.index(known[c].state))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT clock_timestamp(), (SELECT min(started_at) FROM walks"
            " WHERE id IN (SELECT max(id) FROM walks"
            " WHERE kind IN ('full', 'changes') AND settled_at IS NOT NULL"
            " AND collection = ANY(%(names)s) GROUP BY collection))",
            {"names": [c.name for c in collections]},
        )
        now, fresh_at = one_row(cursor)
    queue = queue_state(connection)
    since, reason = _failing(latest_syncs(connection, _LOOKED_AT))
    running, trouble = running_sync(connection), read_trouble(connection)
    held = {c: len(held_back(connection, c)) for c in collections}
    connection.commit()
    assert now is not None
    health = Health(
        state=known[decides].state,
        now=now,
        fresh_at=fresh_at,
        mirrored=read_mirrored(connection),
        standing=known[decides],
        collection=(
            None if len({each.state for each in known.values()}) == 1 else decides.in_words()
        ),
        waiting=queue.depth,
        oldest_waiting_seconds=queue.oldest_seconds,
        dead_letters=queue.dead,
        held_back=tuple(words_of_held_back(c, count) for c, count in held.items() if count),
        failing_since=since,
        reason=reason,
        running=running.sync_type if running else None,
        trouble=trouble,
    )
    return _doubted(health)


def read_mirrored(connection: Connection) -> Mirrored:
    """What there is of the opportunities. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM opportunities)")
        (has_some,) = one_row(cursor)
    is_all = has_full_sync(connection, OPPORTUNITIES)
    connection.commit()
    return "all" if is_all else "part" if has_some else "nothing"


def _doubted(health: Health) -> Health:
    """Green only if there is no problem at all."""
    is_sound = not health.problems(str)
    return health if health.state != "green" or is_sound else replace(health, state="amber")


def _failing(syncs: Sequence[Sync]) -> tuple[datetime | None, str]:
    """The time since which every sync has failed, and the reason of the last failure."""
    since, reason = None, ""
    for sync in syncs:
        if sync.sync_type == WEBHOOK_REFRESH or sync.status == "running":
            continue
        if sync.status != "failed":
            break
        since, reason = sync.started_at, reason or sync.error or NO_REASON
    return since, reason.strip().partition("\n")[0]


def _short(text: str, most: int = 400) -> str:
    # What to do stands at the end of our errors, and has to be whole.
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _some(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def _span(seconds: float) -> str:
    if seconds < 5_400:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h" if seconds < 129_600 else f"{round(seconds / 86_400)} days"
