"""What a signed-in browser shows: values made from the API token, and never the token itself.

Another token ends every session. The web service and the guard in front of Dagster's UI are
processes of their own, and agree on all of this without asking each other.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable

from pydantic import SecretStr

SESSION_SECONDS = 30 * 24 * 3600
_TICKET_SECONDS = 60


def matches(given: str, secret: SecretStr) -> bool:
    """Whether `given` is `secret`, in a time that tells nothing about it."""
    return hmac.compare_digest(given.encode(), secret.get_secret_value().encode())


class Sessions:
    """Names and values of the cookies of one instance, and the tickets from one to the other.

    Browsers send the cookies of a host to all of its ports. So the names hold a mark of the token:
    two instances on one host do not sign each other's people out.
    """

    def __init__(self, token: SecretStr) -> None:
        self.token = token
        mark = self._derived("rms_pipeline instance 1")[:8]
        self.cookie, self.session = (
            f"rms_session_{mark}",
            SecretStr(self._derived("rms_pipeline session 1")),
        )
        # A cookie of Dagster's UI that leaks opens no page and no API of the web service.
        self.dagster_cookie, self.dagster_session = (
            f"rms_dagster_{mark}",
            SecretStr(self._derived("rms_pipeline dagster session 1")),
        )
        # What our own programs send to RMS_DAGSTER_URL, which may be a server of somebody else's.
        self.dagster_token = SecretStr(self._derived("rms_pipeline dagster token 1"))

    def _derived(self, purpose: str) -> str:
        key = self.token.get_secret_value().encode()
        return hmac.new(key, purpose.encode(), hashlib.sha256).hexdigest()

    def ticket(self, *, now: float | None = None) -> str:
        """Lets one browser into Dagster's UI, once, within a minute. `now` is epoch seconds."""
        ends = int((time.time() if now is None else now) + _TICKET_SECONDS)
        claim = f"{ends}.{secrets.token_hex(8)}"
        return f"{claim}.{self._derived(f'rms_pipeline ticket 1 {claim}')}"

    def vouches_for(self, ticket: str, *, now: float) -> bool:
        """Whether `ticket` is one of ours and still good. Whether it was used is not known here."""
        claim, _, mark = ticket.rpartition(".")
        ends = claim.partition(".")[0]
        made_by_us = matches(mark, SecretStr(self._derived(f"rms_pipeline ticket 1 {claim}")))
        return made_by_us and int(ends) > now


class Tickets:
    """The tickets that were used here. `clock` tells epoch seconds."""

    def __init__(self, sessions: Sessions, clock: Callable[[], float] = time.time) -> None:
        self._sessions, self._clock = sessions, clock
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, ticket: str) -> bool:
        """Whether `ticket` lets its bearer in; never a second time."""
        now = self._clock()
        if not self._sessions.vouches_for(ticket, now=now):
            return False
        with self._lock:
            self._used = {t: ends for t, ends in self._used.items() if ends > now}
            if ticket in self._used:
                return False
            self._used[ticket] = now + _TICKET_SECONDS
        return True
