"""The cookies of a signed-in browser: values made from the API token, never the token itself.

A new token ends every session. The web service and the guard of Dagster's UI are separate
processes. Both compute the same values.
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
    """Whether `given` is `secret`. The time that this takes does not depend on the secret."""
    return hmac.compare_digest(given.encode(), secret.get_secret_value().encode())


class Sessions:
    """Names and values of the cookies of one instance, and the tickets between its two parts.

    Browsers send the cookies of a host to all of its ports. So the names contain a mark of the
    token, and two instances on one host do not sign each other's people out.
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
        """A ticket that signs one browser in to Dagster's UI, once, within a minute. `now` is epoch
        seconds."""
        ends = int((time.time() if now is None else now) + _TICKET_SECONDS)
        claim = f"{ends}.{secrets.token_hex(8)}"
        return f"{claim}.{self._derived(f'rms_pipeline ticket 1 {claim}')}"

    def vouches_for(self, ticket: str, *, now: float) -> bool:
        """Whether `ticket` is valid. This does not check whether it was used before."""
        claim, _, mark = ticket.rpartition(".")
        ends = claim.partition(".")[0]
        made_by_us = matches(mark, SecretStr(self._derived(f"rms_pipeline ticket 1 {claim}")))
        return made_by_us and int(ends) > now


class Tickets:
    """The tickets that were used here. `clock` gives epoch seconds."""

    def __init__(self, sessions: Sessions, clock: Callable[[], float] = time.time) -> None:
        self._sessions, self._clock = sessions, clock
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, ticket: str) -> bool:
        """Whether `ticket` signs its browser in. It does so only once."""
        now = self._clock()
        if not self._sessions.vouches_for(ticket, now=now):
            return False
        with self._lock:
            self._used = {t: ends for t, ends in self._used.items() if ends > now}
            if ticket in self._used:
                return False
            self._used[ticket] = now + _TICKET_SECONDS
        return True
