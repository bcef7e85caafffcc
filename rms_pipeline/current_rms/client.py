"""One HTTP client for the Current RMS API: authenticated, paced, patient.

What belongs here: sending a request until there is a trustworthy answer or a clear error. What does
not: which requests make a walk (`walk`), what is in a record (`payloads`).
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

import requests
from pydantic import SecretStr
from requests.adapters import HTTPAdapter

from rms_pipeline.current_rms.answers import api_words, describe, http_date, retry_after
from rms_pipeline.current_rms.errors import ApiUnavailable, NotFound, Redirected, refusal
from rms_pipeline.current_rms.pacing import Budget, Lane
from rms_pipeline.current_rms.pages import Page, decode_page, decode_single
from rms_pipeline.current_rms.window import Params

logger = logging.getLogger(__name__)

PER_PAGE = 100
# Every state of an opportunity, and the objects that names are read from.
LIST_PARAMS: Params = (
    ("filtermode", "all"),
    ("include[]", "member"),
    ("include[]", "owner"),
    ("include[]", "venue"),
)
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
class ListAnswer:
    """A page of a list: bytes as received, what they say, and when (UTC) it was asked and came."""

    request: str
    body: bytes
    page: Page
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


class _Unusable(Exception):
    """An answer that is a failure, worth another try."""

    def __init__(self, reason: str, *, throttled: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.throttled = throttled
        self.wait = wait


class CurrentRmsClient:
    """Asks Current RMS for opportunities. Safe to share between threads.

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
        connections: int = 8,
        patience: Patience | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.base_url = base_url
        self.budget = budget
        self.counts = CallCounts()
        self._patience = patience or Patience()
        self.now = now
        self._session = requests.Session()
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

    def __enter__(self) -> "CurrentRmsClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def list_opportunities(
        self, params: Params, *, page: int = 1, per_page: int = PER_PAGE, lane: Lane = Lane.WALK
    ) -> ListAnswer:
        """One page of `GET /opportunities`, filtered by `params`, of every state."""
        query = (("page", str(page)), ("per_page", str(per_page)), *LIST_PARAMS, *params)
        return self._get(f"/opportunities?{urlencode(query, safe='[]:')}", decode_page, lane)

    def get_opportunity(self, id_: int, *, lane: Lane = Lane.LIVE) -> ListAnswer | None:
        """`GET /opportunities/{id}` as a page of one record; None when it is gone (404)."""
        query = urlencode(tuple(p for p in LIST_PARAMS if p[0] == "include[]"), safe="[]")
        try:
            return self._get(f"/opportunities/{id_}?{query}", decode_single, lane)
        except NotFound:
            return None

    def count(self, params: Params, *, lane: Lane = Lane.WALK) -> int:
        """How many opportunities the list filtered by `params` holds, by the API's own count."""
        return self.list_opportunities(params, per_page=1, lane=lane).page.meta.total_row_count

    def _get(self, request: str, decode: Callable[[bytes], Page], lane: Lane) -> ListAnswer:
        failures, throttled_since = 0, None
        while True:
            self.budget.acquire(lane)
            self.counts.add(calls=1)
            try:
                return self._try(request, decode)
            except _Unusable as error:
                now = time.monotonic()
                if error.throttled:
                    self.counts.add(throttled=1)
                    throttled_since = throttled_since or now
                    wait = error.wait if error.wait is not None else self._backoff(3)
                    if now + wait - throttled_since > self._patience.throttled:
                        raise ApiUnavailable(
                            f"Current RMS kept answering 429 (too many requests) for "
                            f"{now - throttled_since:.0f} s and asks to wait {wait:.0f} s more. "
                            "Another integration may be using up the account's limit: lower "
                            "CURRENT_RMS_REQUESTS_PER_MINUTE, or sync at a quieter time."
                        ) from None
                    self.budget.pause(wait)
                    continue
                throttled_since = None
                failures += 1
                if failures >= self._patience.attempts:
                    raise ApiUnavailable(
                        f"Current RMS gave no usable answer to {request.partition('?')[0]} in "
                        f"{failures} attempts; the last: {error}. If status.current-rms.com shows "
                        "no incident, check the network between this machine and the API; "
                        "then run the sync again."
                    ) from None
                self.counts.add(retried=1)
                wait = error.wait if error.wait is not None else self._backoff(failures)
                logger.warning("Current RMS: %s; trying again in %.1f s", error, wait)
                time.sleep(wait)

    def _try(self, request: str, decode: Callable[[bytes], Page]) -> ListAnswer:
        asked_at = self.now()
        deadline = time.monotonic() + self._patience.answer
        try:
            with self._session.get(
                self.base_url + request,
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
            decoded = decode(body)
        except ValueError as error:
            kind = response.headers.get("Content-Type", "no content type")
            raise _Unusable(
                f"status 200 with {len(body)} bytes of {kind} that are not the promised JSON "
                f"({error})"
            ) from None
        self.counts.add(size=len(body))
        api_date = http_date(response.headers.get("Date"))
        return ListAnswer(request, body, decoded, asked_at, answered_at, api_date)

    def _check_status(self, response: requests.Response, request: str, body: bytes) -> None:
        status = response.status_code
        if status == 200:
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
        raise refusal(status, f"GET {request.partition('?')[0]}", api_words(body))

    def _backoff(self, failures: int) -> float:
        """Exponential with full jitter above a floor of half."""
        longest = min(self._patience.backoff * 2.0**failures, _LONGEST_BACKOFF)
        return random.uniform(longest / 2, longest)
