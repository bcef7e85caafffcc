"""Which of two fetches of the same opportunity wins. Pure: no database, no clock."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Fetch:
    """When a record was asked for and answered (UTC, one clock), and what it says of itself.

    `deleted` when what was learnt is that the record is gone.
    """

    asked_at: datetime
    answered_at: datetime
    updated_at: datetime | None
    deleted: bool = False


def supersedes(new: Fetch, old: Fetch) -> bool:
    """Whether `new` replaces `old` in the mirror.

    What was asked for after the other had arrived wins, whatever its `updated_at`: the API changed
    its mind in between. Of two fetches that overlapped, nobody knows which the API answered first,
    so the newer `updated_at` wins, an absent one loses, and the later arrival decides a tie. A
    deletion is only undone by what was asked for after it was known, whichever is stored first.
    """
    if new.asked_at >= old.answered_at:
        return True
    if old.deleted or old.asked_at >= new.answered_at:
        return False
    if new.deleted:
        return True
    if new.updated_at != old.updated_at:
        if new.updated_at is None or old.updated_at is None:
            return old.updated_at is None
        return new.updated_at > old.updated_at
    return new.answered_at >= old.answered_at


def contradicts(new: Fetch, old: Fetch) -> bool:
    """Whether `new`, asked for after `old` had arrived, tells what seems to be from before it.

    A list that lags behind the single records does; so does a record that came back after a
    deletion, or whose `updated_at` was set back. Only the single record tells which it is.
    """
    if old.deleted:
        return True
    times = (new.updated_at, old.updated_at)
    return times[0] is not None and times[1] is not None and times[0] < times[1]
