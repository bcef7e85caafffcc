"""Sends a request until there is a trustworthy answer or a clear error.

This module holds credentials, pacing, patience, and the meaning of an answer's status. Which
requests exist is in `client` and `subscriptions`.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from pydantic import SecretStr

from rms_pipeline.current_rms.answers import api_words, describe, http_date, is_html, retry_after
from rms_pipeline.current_rms.errors import ApiUnavailable, Redirected, Throttled, refusal
from rms_pipeline.current_rms.loopback import session_for
from rms_pipeline.current_rms.pacing import Budget, Lane
from rms_pipeline.current_rms.wire import (
    ACCEPTED_ENCODINGS,
    DeadlineAdapter,
    NotUnpackable,
    TooLarge,
    deadline,
    read_body,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
Method = Literal["GET", "POST", "PUT", "DELETE"]

# Statuses below 500 that may pass. From 500 on every status may pass, whichever proxy invented it.
_PASSING_STATUSES = frozenset({408, 425, 429})
_LONGEST_BACKOFF = 30.0
_THROTTLING_IS_USUAL = 30.0
# No limit is counted over more than an hour. A longer `Retry-After` is a mistake.
_LONGEST_BELIEVED_WAIT = 3_600.0
# An HTML page with a status that is otherwise final. A firewall may let the next request through,
# but a wrong address never becomes right.
_ATTEMPTS_AT_A_WALL = 3
# Size after unpacking. A hundred records may hold megabytes of pasted e-mail each. They are then
# asked for again with fewer records a page.
LARGEST_ANSWER = 64 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for the API. All values are seconds, except `attempts`.

    `attempts` counts failed answers. `throttled` is how long 429s in a row are accepted. `read`
    limits the silence between two bytes. `answer` limits the whole answer, so that one that
    trickles also ends. `at_first`, if given, limits the first attempt of a question instead of
    both, because a connection may be dead. An API that needs longer is then given the longer times
    from the first attempt on.
    """

    connect: float = 10.0
    read: float = 60.0
    answer: float = 180.0
    at_first: float | None = None
    attempts: int = 8
    throttled: float = 900.0
    backoff: float = 0.5


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """An answer as received and as decoded, and when it was asked for and received (both UTC)."""

    body: bytes
    decoded: T
    asked_at: datetime
    answered_at: datetime
    api_date: datetime | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Attempt `attempt` of `attempts` got no usable answer, for `reason`.

    The next attempt follows after `wait` seconds. `attempts` is None where time limits the attempts
    (429).
    """

    attempt: int
    attempts: int | None
    reason: str
    wait: float


@dataclass(slots=True)
class CallCounts:
    """What the work has cost so far. `bytes` counts the uncompressed bytes of good answers."""

    calls: int = 0
    throttled: int = 0
    retried: int = 0
    bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def copy(self) -> "CallCounts":
        """Return the present counts."""
        with self._lock:
            return CallCounts(self.calls, self.throttled, self.retried, self.bytes)

    def add(self, *, calls: int = 0, throttled: int = 0, retried: int = 0, size: int = 0) -> None:
        with self._lock:
            self.calls += calls
            self.throttled += throttled
            self.retried += retried
            self.bytes += size


@dataclass(frozen=True, slots=True)
class _Request(Generic[T]):
    """`path` with its query, relative to the base URL. `hidden` is never quoted from an answer."""

    method: Method
    path: str
    decode: Callable[[bytes], T]
    content: dict[str, Any] | None = None
    hidden: SecretStr | None = None

    @property
    def place(self) -> str:
        return self.path.partition("?")[0]


class _Unusable(Exception):
    """A failed answer that is worth another attempt."""

    def __init__(
        self,
        reason: str,
        *,
        throttled: bool = False,
        wait: float | None = None,
        attempts: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.throttled = throttled
        self.wait = wait
        self.attempts = attempts


class Transport:
    """Sends requests to the API of one account. Threads may share it.

    `now` returns the time (UTC) that answers are stamped with. Processes that write to one database
    should share its clock. `tell` is called with each failure that will be tried again, and with
    None when that ends. Every method may raise RequestRefused (final) or ApiUnavailable.
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
        tell: Callable[[Failure | None], None] = lambda failure: None,
    ) -> None:
        self.base_url = base_url
        self.subdomain = subdomain
        self._api_key = api_key
        self.budget = budget
        self.counts = CallCounts()
        self.patience = patience or Patience()
        # Whether the last answer took longer than first attempts may.
        self._is_slow = False
        self.now = now
        self._tell = tell
        self._session = session_for(base_url)
        self._session.headers.update(
            {
                "X-SUBDOMAIN": subdomain,
                "X-AUTH-TOKEN": api_key.get_secret_value(),
                "Accept": "application/json",
                "Accept-Encoding": ACCEPTED_ENCODINGS,
                # A proxy on the way must not answer with what it received some time ago: the counts
                # of a proof have the same address each time.
                "Cache-Control": "no-cache",
                "User-Agent": "rms_pipeline",
            }
        )
        # Credentials from a ~/.netrc must not replace the key.
        self._session.auth = lambda request: request
        self._session.mount(base_url, DeadlineAdapter(pool_maxsize=connections, pool_block=True))

    def close(self) -> None:
        self._session.close()

    def read(
        self,
        path: str,
        decode: Callable[[bytes], T],
        lane: Lane,
        *,
        attempts: int | None = None,
    ) -> Answer[T]:
        """Send `GET path`. `decode` raises ValueError for a body that is not what was promised.

        `attempts` limits how many failures are accepted, if that is fewer than the patience's own
        limit.
        """
        return self._patiently(_Request("GET", path, decode), lane, attempts=attempts)

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
        """Send `content` as JSON, and return what `decode` makes of the answer.

        An answer may be lost although the request was carried out. For a request that must not be
        carried out twice, `done_already` is called before each repetition. If it returns a value,
        that is the answer. If it returns None, the request is sent again. `hidden` is removed from
        quotes of the API's answers.
        """
        request = _Request(method, path, decode, content, hidden)
        return self._patiently(request, lane, done_already).decoded

    def _patiently(
        self,
        request: _Request[T],
        lane: Lane,
        done_already: Callable[[], T | None] | None = None,
        attempts: int | None = None,
    ) -> Answer[T]:
        told: list[Failure] = []
        try:
            return self._until_answered(request, lane, done_already, attempts, told)
        finally:
            if told:
                self._tell(None)

    def _until_answered(
        self,
        request: _Request[T],
        lane: Lane,
        done_already: Callable[[], T | None] | None,
        attempts: int | None,
        told: list[Failure],
    ) -> Answer[T]:
        """Repeat the request until it is answered. Failures that were told are added to `told`."""

        def tell(failure: Failure) -> None:
            told.append(failure)
            self._tell(failure)

        failures, throttled, throttled_since = 0, 0, None
        attempts = min(attempts or self.patience.attempts, self.patience.attempts)
        while True:
            self.budget.acquire(lane)
            self.counts.add(calls=1)
            try:
                answer = self._try(request, is_first=failures == 0)
            except _Unusable as error:
                now = time.monotonic()
                if error.throttled:
                    self.counts.add(throttled=1)
                    throttled_since = throttled_since or now
                    throttled += 1
                    wait = self._backoff(2 + throttled)
                    if error.wait is not None and error.wait <= _LONGEST_BELIEVED_WAIT:
                        # "Retry at once" would lead to an endless series of requests.
                        wait = max(error.wait, self._backoff(0))
                    # Other threads may be more patient, but they must not ask meanwhile.
                    wait = self.budget.pause(wait)
                    if now + wait - throttled_since > self.patience.throttled:
                        raise Throttled(
                            "Current RMS kept answering 429 (too many requests) for "
                            f"{now - throttled_since:.0f} s and asks to wait {wait:.0f} s more. "
                            "Another integration may be using the account's limit. Lower "
                            "CURRENT_RMS_REQUESTS_PER_MINUTE, or try at a quieter time."
                        ) from None
                    # A limit is learned from one or two refusals. They are not reported.
                    if now - throttled_since > _THROTTLING_IS_USUAL:
                        tell(Failure(throttled, None, str(error), wait))
                    continue
                throttled, throttled_since = 0, None
                failures += 1
                if failures >= min(attempts, error.attempts or attempts):
                    raise ApiUnavailable(
                        f"Current RMS gave no usable answer to {request.place} in {failures} "
                        f"attempts; the last: {error}. If status.current-rms.com shows no "
                        "incident, check the network between this machine and the API; then run "
                        "the sync again, or the command.",
                        reason=str(error),
                    ) from None
                self.counts.add(retried=1)
                # Maintenance may end earlier than announced. A thread that holds a lock keeps
                # asking.
                wait = self._backoff(failures)
                if error.wait is not None:
                    wait = min(error.wait, _LONGEST_BACKOFF)
                logger.warning("Current RMS: %s; trying again in %.1f s", error, wait)
                tell(Failure(failures, min(attempts, error.attempts or attempts), str(error), wait))
                time.sleep(wait)
                asked_at = self.now()
                if done_already is not None and (found := done_already()) is not None:
                    return Answer(b"", found, asked_at, self.now(), None)
            else:
                self.budget.answered()
                return answer

    def _try(self, request: _Request[T], *, is_first: bool) -> Answer[T]:
        asked_at, began = self.now(), time.monotonic()
        patience = self.patience
        read, whole = patience.read, patience.answer
        if is_first and patience.at_first is not None and not self._is_slow:
            read = whole = patience.at_first
        until = began + whole
        try:
            with (
                deadline(until),
                self._session.request(
                    request.method,
                    self.base_url + request.path,
                    json=request.content,
                    timeout=(
                        min(patience.connect, whole),
                        min(read, whole),
                    ),
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                body = read_body(response.raw, LARGEST_ANSWER)
        except (TooLarge, NotUnpackable) as error:
            raise _Unusable(str(error)) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if time.monotonic() >= until:
                raise _Unusable(f"an answer that did not end within {whole:g} s") from None
            raise _Unusable(describe(error)) from None
        except ValueError:
            # `requests` looks at the address of a redirect although it does not follow it.
            raise _Unusable(
                "an answer with a header that cannot be read (Location)",
                attempts=_ATTEMPTS_AT_A_WALL,
            ) from None
        answered_at = self.now()
        if patience.at_first is not None:
            self._is_slow = time.monotonic() - began > patience.at_first
        self._check_status(response, request, body)
        try:
            decoded = request.decode(body)
        except ValueError as error:
            raise _Unusable(_not_json(response, body, error)) from None
        self.counts.add(size=len(body))
        api_date = http_date(response.headers.get("Date"))
        return Answer(body, decoded, asked_at, answered_at, api_date)

    def _check_status(self, response: requests.Response, request: _Request[T], body: bytes) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise Redirected(
                f"Current RMS answered {status}, a redirect{_target(response)}. Redirects are "
                "never followed, because the API key would be sent to the other address. If the "
                "account was renamed, set CURRENT_RMS_SUBDOMAIN to its new name. Otherwise check "
                "CURRENT_RMS_BASE_URL."
            )
        for secret in filter(None, (self._api_key, request.hidden)):
            # Before the text is cut: otherwise half of the secret might stay.
            body = body.replace(secret.get_secret_value().encode(), b"***")
        said = api_words(body)
        by_a_wall = is_html(response.headers, body)
        if by_a_wall:
            reason = f"status {status} with {_WALL}"
        else:
            reason = f'status {status} ("{said}")' if said else f"status {status}"
        if status < 200 or status >= 500 or status in _PASSING_STATUSES:
            raise _Unusable(
                reason,
                throttled=status == 429,
                wait=retry_after(response.headers) if status in (429, 503) else None,
            )
        if by_a_wall and status != 401:
            # A "not found" of a firewall must never count as one of the API's.
            raise _Unusable(reason, attempts=_ATTEMPTS_AT_A_WALL)
        raise refusal(status, f"{request.method} {request.place}", said)

    def _backoff(self, failures: int) -> float:
        """Return an exponential wait with random jitter, at least half of the full value."""
        longest = min(self.patience.backoff * 2.0**failures, _LONGEST_BACKOFF)
        return random.uniform(longest / 2, longest)


_WALL = (
    "an HTML page instead of the API's JSON, probably from a firewall or a proxy (also check "
    "CURRENT_RMS_BASE_URL if it is set)"
)


def _target(response: requests.Response) -> str:
    """Return " to <host>" for a redirect that names one. Nothing else of the address is quoted."""
    try:
        host = urlsplit(response.headers.get("Location") or "").hostname or ""
    except ValueError:
        return ""
    return f" to {host}" if re.fullmatch(r"[a-z0-9.-]{1,253}", host) else ""


def _not_json(response: requests.Response, body: bytes, error: ValueError) -> str:
    if is_html(response.headers, body):
        return f"status {response.status_code} with {_WALL}"
    kind = response.headers.get("Content-Type", "no content type")
    return (
        f"status {response.status_code} with {len(body)} bytes of {kind[:100]} that are not the "
        f"JSON that the API promises ({error})"
    )
