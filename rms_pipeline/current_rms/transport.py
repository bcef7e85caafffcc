"""Sending a request until there is a trustworthy answer or a clear error: paced, patient.

What belongs here: credentials, pacing, patience, what an answer's status means. What does not:
which requests there are (`client`, `subscriptions`).
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

import requests
from pydantic import SecretStr
from requests.adapters import HTTPAdapter

from rms_pipeline.current_rms.answers import api_words, describe, http_date, retry_after
from rms_pipeline.current_rms.errors import ApiUnavailable, Redirected, Throttled, refusal
from rms_pipeline.current_rms.pacing import Budget, Lane
from rms_pipeline.loopback import session_for

logger = logging.getLogger(__name__)

T = TypeVar("T")
Method = Literal["GET", "POST", "PUT", "DELETE"]

_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_LONGEST_BACKOFF = 30.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for the API. All in seconds but `attempts`.

    `attempts` counts answers that are failures; `throttled` is how long 429s in a row are borne.
    `answer` bounds one whole answer, so that a trickle of bytes is not mistaken for progress.
    """

    connect: float = 10.0
    read: float = 60.0
    answer: float = 180.0
    attempts: int = 8
    throttled: float = 900.0
    backoff: float = 0.5


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """An answer as received and as understood, and when (UTC) it was asked for and came."""

    body: bytes
    decoded: T
    asked_at: datetime
    answered_at: datetime
    api_date: datetime | None


@dataclass(slots=True)
class CallCounts:
    """What the work has cost so far; `bytes` are those of good answers, uncompressed."""

    calls: int = 0
    throttled: int = 0
    retried: int = 0
    bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, calls: int = 0, throttled: int = 0, retried: int = 0, size: int = 0) -> None:
        with self._lock:
            self.calls += calls
            self.throttled += throttled
            self.retried += retried
            self.bytes += size


@dataclass(frozen=True, slots=True)
class _Request(Generic[T]):
    """`path` with its query, below the base URL. `hidden` is never quoted from an answer."""

    method: Method
    path: str
    decode: Callable[[bytes], T]
    content: dict[str, Any] | None = None
    hidden: SecretStr | None = None

    @property
    def place(self) -> str:
        return self.path.partition("?")[0]


class _Unusable(Exception):
    """An answer that is a failure, worth another try."""

    def __init__(self, reason: str, *, throttled: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.throttled = throttled
        self.wait = wait


class Transport:
    """Sends requests to the API of one account. Safe to share between threads.

    `now` gives the time that answers are stamped with (UTC); processes that write to one database
    should share its clock. Every method may raise a RequestRefused (final) or ApiUnavailable.
    """

    def __init__(
        self,
        *,
        base_url: str,
        subdomain: str,
        api_key: SecretStr,
        budget: Budget,
        connections: int = 12,
        patience: Patience | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.base_url = base_url
        self.subdomain = subdomain
        self._api_key = api_key
        self.budget = budget
        self.counts = CallCounts()
        self._patience = patience or Patience()
        self.now = now
        self._session = session_for(base_url)
        self._session.headers.update(
            {
                "X-SUBDOMAIN": subdomain,
                "X-AUTH-TOKEN": api_key.get_secret_value(),
                "Accept": "application/json",
                "User-Agent": "rms_pipeline",
            }
        )
        # The key must not be replaced by credentials from a ~/.netrc.
        self._session.auth = lambda request: request
        self._session.mount(base_url, HTTPAdapter(pool_maxsize=connections, pool_block=True))

    def close(self) -> None:
        self._session.close()

    def read(self, path: str, decode: Callable[[bytes], T], lane: Lane) -> Answer[T]:
        """`GET path`. `decode` raises ValueError for a body that is not what was promised."""
        return self._patiently(_Request("GET", path, decode), lane)

    def write(
        self,
        method: Literal["POST", "PUT", "DELETE"],
        path: str,
        content: dict[str, Any] | None,
        decode: Callable[[bytes], T],
        *,
        done_already: Callable[[], T | None] | None = None,
        hidden: SecretStr | None = None,
        lane: Lane = Lane.LIVE,
    ) -> T:
        """Sends `content` as JSON and returns what `decode` makes of the answer.

        An answer may be lost though the request was carried out. For one that must not be carried
        out twice `done_already` is asked before each repetition: what it finds is the answer, None
        sends the request again. `hidden` is kept out of what is quoted from the API's answers.
        """
        request = _Request(method, path, decode, content, hidden)
        return self._patiently(request, lane, done_already).decoded

    def _patiently(
        self,
        request: _Request[T],
        lane: Lane,
        done_already: Callable[[], T | None] | None = None,
    ) -> Answer[T]:
        failures, throttled_since = 0, None
        while True:
            self.budget.acquire(lane)
            self.counts.add(calls=1)
            try:
                return self._try(request)
            except _Unusable as error:
                now = time.monotonic()
                if error.throttled:
                    self.counts.add(throttled=1)
                    throttled_since = throttled_since or now
                    wait = error.wait if error.wait is not None else self._backoff(3)
                    # Others may bear it longer, and must not ask meanwhile.
                    self.budget.pause(wait)
                    if now + wait - throttled_since > self._patience.throttled:
                        raise Throttled(
                            f"Current RMS kept answering 429 (too many requests) for "
                            f"{now - throttled_since:.0f} s and asks to wait {wait:.0f} s more. "
                            "Another integration may be using up the account's limit: lower "
                            "CURRENT_RMS_REQUESTS_PER_MINUTE, or try at a quieter time."
                        ) from None
                    continue
                throttled_since = None
                failures += 1
                if failures >= self._patience.attempts:
                    raise ApiUnavailable(
                        f"Current RMS gave no usable answer to {request.place} in "
                        f"{failures} attempts; the last: {error}. If status.current-rms.com shows "
                        "no incident, check the network between this machine and the API; "
                        "then run the sync again, or the command that asked."
                    ) from None
                self.counts.add(retried=1)
                # Maintenance may end before it said it would: whoever holds a lock asks on.
                wait = self._backoff(failures)
                if error.wait is not None:
                    wait = min(error.wait, _LONGEST_BACKOFF)
                logger.warning("Current RMS: %s; trying again in %.1f s", error, wait)
                time.sleep(wait)
                asked_at = self.now()
                if done_already is not None and (found := done_already()) is not None:
                    return Answer(b"", found, asked_at, self.now(), None)

    def _try(self, request: _Request[T]) -> Answer[T]:
        asked_at = self.now()
        deadline = time.monotonic() + self._patience.answer
        try:
            with self._session.request(
                request.method,
                self.base_url + request.path,
                json=request.content,
                timeout=(self._patience.connect, self._patience.read),
                allow_redirects=False,
                stream=True,
            ) as response:
                chunks = []
                for chunk in response.iter_content(1 << 18):
                    chunks.append(chunk)
                    if time.monotonic() > deadline:
                        raise _Unusable(f"an answer that was not over in {self._patience.answer} s")
        except requests.RequestException as error:
            raise _Unusable(describe(error)) from None
        body = b"".join(chunks)
        answered_at = self.now()
        self._check_status(response, request, body)
        try:
            decoded = request.decode(body)
        except ValueError as error:
            kind = response.headers.get("Content-Type", "no content type")
            raise _Unusable(
                f"status {response.status_code} with {len(body)} bytes of {kind} that are not the "
                f"promised JSON ({error})"
            ) from None
        self.counts.add(size=len(body))
        api_date = http_date(response.headers.get("Date"))
        return Answer(body, decoded, asked_at, answered_at, api_date)

    def _check_status(self, response: requests.Response, request: _Request[T], body: bytes) -> None:
        status = response.status_code
        if status == 200 or (request.method != "GET" and 200 <= status < 300):
            return
        if 300 <= status < 400:
            raise Redirected(
                f"Current RMS answered {status}, a redirect, which is never followed because the "
                "API key would go with it. Check CURRENT_RMS_BASE_URL."
            )
        if status in _RETRIED_STATUSES:
            raise _Unusable(
                f"status {status}",
                throttled=status == 429,
                wait=retry_after(response.headers) if status in (429, 503) else None,
            )
        for secret in filter(None, (self._api_key, request.hidden)):
            # Before it is cut to length, or half of the secret might stay.
            body = body.replace(secret.get_secret_value().encode(), b"***")
        raise refusal(status, f"{request.method} {request.place}", api_words(body))

    def _backoff(self, failures: int) -> float:
        """Exponential with full jitter above a floor of half."""
        longest = min(self._patience.backoff * 2.0**failures, _LONGEST_BACKOFF)
        return random.uniform(longest / 2, longest)
