"""Working off the queue of webhooks: the same for the fast lane, the sensor's run and anyone."""

import contextlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import (
    ApiUnavailable,
    CurrentRmsError,
    Forbidden,
    NotFound,
    Redirected,
    Throttled,
    Unauthorized,
)
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror.database import Database, DatabaseError, clock_of
from rms_pipeline.mirror.queue import Claim, claim, give_back, settle
from rms_pipeline.sync.refreshing import Refreshed, refresh

logger = logging.getLogger(__name__)

# What says nothing about the event, if the API answers nobody else either: it is tried again for as
# long as it takes. (An opportunity that is gone is no error here: a list that is not found is.)
_BLAMELESS = (ApiUnavailable, Unauthorized, Forbidden, Redirected, NotFound)


@dataclass(slots=True)
class WorkedOff:
    """What one claim led to: events `settled`, given back (`failed`) and `dead`, opportunities
    `refreshed`; `received_at` of the settled ones; the last error's text."""

    claimed: int = 0
    settled: int = 0
    failed: int = 0
    dead: int = 0
    opportunities: int = 0
    refreshed: Refreshed = field(default_factory=Refreshed)
    received_at: list[datetime] = field(default_factory=list)
    error: str | None = None
    blameless: bool = False

    def __iadd__(self, other: "WorkedOff") -> "WorkedOff":
        """Adds up what several claims led to; `error` and `blameless` are the later one's."""
        self.claimed += other.claimed
        self.settled += other.settled
        self.failed += other.failed
        self.dead += other.dead
        self.opportunities += other.opportunities
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
    older_than: float = 0.0,
) -> WorkedOff:
    """Claims up to a hundred opportunities' events, refreshes them in one call, settles them.

    What cannot be refreshed goes back into the queue. Raises psycopg2.Error or DatabaseError when
    the database fails; the claim then ends by itself at the latest. From then on `client` goes by
    the database's clock as it is now.
    """
    done = WorkedOff()
    claimed = claim(connection, f"{run} {uuid.uuid4()}", older_than=older_than)
    done.claimed = len(claimed.events)
    if claimed.events:
        client.now = clock_of(connection)
        try:
            _work_off(database, connection, client, run, claimed, claimed.opportunities, done)
        except (psycopg2.Error, DatabaseError) as error:
            # Nobody need wait for the lease to end, where the database can still be told so.
            with contextlib.suppress(psycopg2.Error):
                connection.rollback()
                give_back(connection, claimed, claimed.opportunities, str(error), blameless=True)
            raise
    return done


def _work_off(
    database: Database,
    connection: Connection,
    client: CurrentRmsClient,
    run: str,
    claimed: Claim,
    ids: Sequence[int],
    done: WorkedOff,
) -> None:
    try:
        refreshed = refresh(database, client, ids, run, lane=Lane.LIVE)
    except (psycopg2.Error, DatabaseError):
        raise
    except Exception as error:
        # Whatever it is, it must not keep the other events waiting for ever.
        blameless = isinstance(error, _BLAMELESS) and not _would_answer(client, error)
        if not blameless and len(ids) > 1:
            # One of them is at fault; the others must not suffer for it.
            half = len(ids) // 2
            _work_off(database, connection, client, run, claimed, ids[:half], done)
            _work_off(database, connection, client, run, claimed, ids[half:], done)
            return
        if not isinstance(error, CurrentRmsError):
            logger.exception("Opportunities %s could not be refreshed", list(ids))
        events = len(claimed.events_of(ids))
        dead = give_back(connection, claimed, ids, str(error), blameless=blameless)
        done.failed += events - dead
        done.dead += dead
        done.error, done.blameless = str(error), blameless
        return
    done.settled += settle(connection, claimed, ids)
    done.opportunities += len(ids)
    done.received_at += [claimed.received_at[e] for e in claimed.events_of(ids)]
    done.refreshed += refreshed


def _would_answer(client: CurrentRmsClient, error: Exception) -> bool:
    """Whether it was for what was asked that the API failed: it answers another question.

    Else one opportunity that the API cannot serve, or not to the key's user, would take all that
    wait beside it down with it, at each attempt.
    """
    if isinstance(error, Throttled):
        return False
    try:
        client.list_opportunities((), per_page=1, lane=Lane.LIVE)
    except CurrentRmsError:
        return False
    return True
