"""Processes the webhook queue: one function for the fast lane, the sensor's run and the command."""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg2

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import (
    ApiUnavailable,
    CurrentRmsError,
    FindsNone,
    Forbidden,
    NotFound,
    Redirected,
    Throttled,
    Unauthorized,
)
from rms_pipeline.current_rms.failing import Health
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror.database import Database, DatabaseError, clock_of
from rms_pipeline.mirror.queue import (
    LEASE,
    PATIENCE,
    Claim,
    claim,
    give_back,
    put_off,
    renew,
    settle,
)
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.webhook_absences import (
    FORGOTTEN_AFTER,
    absences_of_last_minute,
    lately_absent,
    most_a_minute,
    note_absences,
)
from rms_pipeline.sync.by_id import Wanted
from rms_pipeline.sync.refreshing import Refreshed, refresh

logger = logging.getLogger(__name__)

# These errors do not blame the event if the API answers no other request either. Then the event is
# tried again without a limit. (A deleted record is no error here; a missing list is one.)
_BLAMELESS = (ApiUnavailable, Unauthorized, Forbidden, Redirected, NotFound)
_GONE = "destroy"
# These actions do not change the `updated_at` of the record itself.
_BESIDE_THE_RECORD = frozenset(
    {"create_item", "update_item", "destroy_item", "discuss", "attach", "detach"}
)
# A single record is late for at most this many waits. Some events change no time of their record,
# and not all such events are known.
_WAITS_FOR_CONTENT = 3
# Events are kept from others for no longer than this. The network may lose the connection on which
# the work waits, and say nothing, while renewals still succeed.
_RENEWED_FOR = timedelta(minutes=15)
# How many seconds the end of the work waits for a renewal that is under way.
_LAST_RENEWAL = 1.0
# How long an event of an unknown record waits while webhooks name too many of those.
_STRANGERS_WAIT = 60.0


@dataclass(slots=True)
class WorkedOff:
    """The result of one claim of events.

    `settled`, `failed` (given back), `dead` and `waiting` (postponed) count events. `records`
    counts refreshed records. `received_at` are the times of the settled events, and `error` is the
    text of the last error.
    """

    claimed: int = 0
    settled: int = 0
    failed: int = 0
    dead: int = 0
    waiting: int = 0
    records: int = 0
    refreshed: Refreshed = field(default_factory=Refreshed)
    received_at: list[datetime] = field(default_factory=list)
    error: str | None = None
    blameless: bool = False

    def __iadd__(self, other: "WorkedOff") -> "WorkedOff":
        """Add up the results of several claims. `error` and `blameless` are those of the later
        one.
        """
        self.claimed += other.claimed
        self.settled += other.settled
        self.failed += other.failed
        self.dead += other.dead
        self.waiting += other.waiting
        self.records += other.records
        self.refreshed += other.refreshed
        self.received_at += other.received_at
        if other.error:
            self.error, self.blameless = other.error, other.blameless
        return self


def work_off(
    database: Database,
    connection: Connection,
    client: CurrentRmsClient,
    run: str,
    *,
    most: int = 100,
    older_than: float = 0.0,
) -> WorkedOff:
    """Claims the events of up to `most` records, refreshes these and settles the events.

    A record that cannot be refreshed goes back into the queue: after a failure, because
    Current RMS does not show the change yet, or because another session locks its row. Raises
    psycopg2.Error or DatabaseError if the database fails. The claim then expires. From then on
    `client` uses the clock of the database.
    """
    done = WorkedOff()
    spare = _spare(connection, client)
    claimed = claim(
        connection,
        client.collection,
        f"{run} {uuid.uuid4()}",
        most=most,
        older_than=older_than,
        strangers=spare > 0,
    )
    done.claimed = len(claimed.events)
    if claimed.events:
        client.now = clock_of(connection)
        try:
            with _kept(database, claimed):
                ids = _without_lately_absent(connection, claimed, done)
                if ids:
                    _work_off(database, connection, client, run, claimed, ids, done)
        except (psycopg2.Error, DatabaseError) as error:
            # Put the events back now if the database still answers; otherwise they wait until the
            # lease ends.
            with contextlib.suppress(psycopg2.Error):
                connection.rollback()
                give_back(connection, claimed, claimed.records, str(error), blameless=True)
            raise
    return done


@contextlib.contextmanager
def _kept(database: Database, claimed: Claim) -> Iterator[None]:
    """Renew the lease of `claimed` now and then, on a connection of its own, but not for ever.

    Current RMS may take longer than the lease for one answer. Without this, others would take the
    same events meanwhile, and ask an API that is slow already for the same records.
    """
    over = threading.Event()
    until = time.monotonic() + _RENEWED_FOR.total_seconds()

    def renew_now_and_then() -> None:
        while not over.wait(LEASE.total_seconds() / 3) and time.monotonic() < until:
            try:
                with database.session() as connection:
                    renew(connection, claimed)
            except (psycopg2.Error, DatabaseError) as error:
                logger.warning("The lease of webhook events was not renewed: %s", error)

    thread = threading.Thread(target=renew_now_and_then, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        # A renewal may wait: for a lock, or for a pooler whose last connection this process has. It
        # changes nothing that was settled or returned meanwhile.
        thread.join(_LAST_RENEWAL)


def _spare(connection: Connection, client: CurrentRmsClient) -> int:
    """Return how many more unknown records may be requested this minute."""
    most = most_a_minute(client.budget.requests_per_minute)
    return max(most - absences_of_last_minute(connection, client.collection), 0)


def _without_lately_absent(connection: Connection, claimed: Claim, done: WorkedOff) -> list[int]:
    """Return the claimed records, without those that Current RMS has just answered not to
    have.
    """
    absent = lately_absent(connection, claimed.collection, claimed.strangers)
    if absent:
        destroyed = {e.record for e in claimed.events if e.action_type == _GONE}
        gone = absent.keys() & destroyed
        if gone:
            done.settled += settle(connection, claimed, gone)
            done.received_at += [e.received_at for e in claimed.events_of(gone)]
        reasons = {
            i: (
                f"Current RMS had no {claimed.collection.single} {i} at {at:%H:%M:%S} UTC; it is "
                f"requested again {FORGOTTEN_AFTER.total_seconds() / 60:.0f} minutes after that."
            )
            for i, at in absent.items()
            if i not in gone
        }
        seconds = FORGOTTEN_AFTER.total_seconds()
        done.waiting += put_off(connection, claimed, reasons, counted=False, seconds=seconds)
    return [i for i in claimed.records if i not in absent]


def _wanted(claimed: Claim, ids: Sequence[int], spare: int) -> tuple[Wanted, set[int]]:
    """Return what the events say about `ids`, and which of these may not exist yet."""
    told: dict[int, datetime] = {}
    destroyed, alive = set(), set()
    waits: dict[int, int] = {}
    for event in claimed.events_of(ids):
        id_ = event.record
        waits[id_] = max(waits.get(id_, 0), event.waits)
        if event.action_type == _GONE:
            destroyed.add(id_)
        elif event.action_type is not None:
            # Something was done to it, so it existed. Other events do not show that.
            alive.add(id_)
        if (
            event.action_type != _GONE
            and event.happened_at is not None
            and event.action_type not in _BESIDE_THE_RECORD
        ):
            told[id_] = max(told.get(id_, event.happened_at), event.happened_at)
    wanted = Wanted(
        told=told,
        # A deleted record is in no list. A record that was late before is not asked of a list
        # again.
        singly=destroyed | {i for i, count in waits.items() if count},
        strangers=claimed.strangers,
        most_absent=spare,
        # Strangers have no row that could be deleted, and whoever knows the address of webhooks may
        # name many of them. So one call for each has to do.
        once_is_enough=destroyed | alive | claimed.strangers,
    )
    patient = {i for i in alive - destroyed if waits[i] < len(PATIENCE)}
    return wanted, patient


def _work_off(
    database: Database,
    connection: Connection,
    client: CurrentRmsClient,
    run: str,
    claimed: Claim,
    ids: Sequence[int],
    done: WorkedOff,
) -> None:
    wanted, patient = _wanted(claimed, ids, _spare(connection, client))
    try:
        refreshed = refresh(
            database, client, ids, run, lane=Lane.LIVE, wanted=wanted, patient_with=patient
        )
    except (psycopg2.Error, DatabaseError):
        raise
    except Exception as error:
        # Whatever the error is, it must not make the other events wait for ever.
        blameless = _is_blameless(client, error)
        if not blameless and len(ids) > 1:
            # One record is at fault. The others must not suffer for it.
            half = len(ids) // 2
            _work_off(database, connection, client, run, claimed, ids[:half], done)
            _work_off(database, connection, client, run, claimed, ids[half:], done)
            return
        if not isinstance(error, CurrentRmsError):
            logger.exception("%s: %s could not be refreshed", client.collection.name, list(ids))
        events = len(claimed.events_of(ids))
        dead = give_back(connection, claimed, ids, str(error), blameless=blameless)
        done.failed += events - dead
        done.dead += dead
        done.error, done.blameless = str(error), blameless
        return
    waiting = _put_off(connection, claimed, ids, refreshed, done)
    for id_, failure in refreshed.failed.items():
        # The API answers other requests: otherwise `refresh` would have raised an error.
        dead = give_back(connection, claimed, [id_], str(failure), blameless=False)
        done.failed += len(claimed.events_of([id_])) - dead
        done.dead += dead
        done.error, done.blameless = str(failure), False
    settled = [i for i in ids if i not in waiting and i not in refreshed.failed]
    note_absences(
        connection,
        claimed.collection,
        dict.fromkeys(refreshed.absent & claimed.strangers, False)
        | dict.fromkeys(refreshed.gone & claimed.strangers, True),
    )
    done.settled += settle(connection, claimed, settled)
    done.records += len(settled)
    done.received_at += [e.received_at for e in claimed.events_of(settled)]
    done.refreshed += refreshed


def _put_off(
    connection: Connection,
    claimed: Claim,
    ids: Sequence[int],
    refreshed: Refreshed,
    done: WorkedOff,
) -> set[int]:
    """Postpone the events whose refresh did not show what they reported. Returns their
    records.
    """
    waits = {i: max(e.waits for e in claimed.events_of([i])) for i in ids}
    destroyed = {e.record for e in claimed.events_of(ids) if e.action_type == _GONE}
    there = set(ids) - refreshed.absent - refreshed.gone - refreshed.unasked
    there -= refreshed.failed.keys()
    late = {
        i: f"Current RMS has no {claimed.collection.single} {i} yet; it is requested again."
        for i in refreshed.absent
    }
    late |= {
        i: (
            f"Current RMS still shows {claimed.collection.single} {i} in its old state; it is "
            "requested again."
        )
        for i in refreshed.outdated | (destroyed & there)
        if waits[i] < _WAITS_FOR_CONTENT
    }
    late = {i: reason for i, reason in late.items() if i not in refreshed.locked}
    unasked = {
        i: (
            f"{claimed.collection.single.capitalize()} {i} is not in the mirror. Too many webhooks "
            "named records that Current RMS does not have, so it is requested later."
        )
        for i in refreshed.unasked
    }
    done.waiting += put_off(connection, claimed, late)
    done.waiting += put_off(connection, claimed, refreshed.locked, counted=False)
    done.waiting += put_off(connection, claimed, unasked, counted=False, seconds=_STRANGERS_WAIT)
    return late.keys() | refreshed.locked.keys() | unasked.keys()


def _is_blameless(client: CurrentRmsClient, error: Exception) -> bool:
    """Return whether no event need be at fault, because the API also fails for others."""
    if isinstance(error, FindsNone):
        return True
    return isinstance(error, _BLAMELESS) and not _would_answer(client, error)


def _would_answer(client: CurrentRmsClient, error: Exception) -> bool:
    """Return whether the API failed only because of what was asked, and answers another question.

    Without this check, one record that the API cannot serve, or not to this user, would make
    all events that wait with it fail, at each attempt.
    """
    if isinstance(error, Throttled):
        return False
    try:
        return Health(client, Lane.LIVE).is_up((), for_sure=True)
    except CurrentRmsError:
        return False
