"""Reading what an HTTP answer says about itself, and putting a failure into words."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec
import requests


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from either form of `Retry-After`; a date is read by the API's own clock."""
    value = (headers.get("Retry-After") or "").strip()
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    until = http_date(value)
    if until is None:
        return None
    here = http_date(headers.get("Date")) or datetime.now(UTC)
    return max((until - here).total_seconds(), 0.0)


def http_date(value: str | None) -> datetime | None:
    """The moment of a `Date` or `Retry-After` header (UTC), None when it names none."""
    try:
        moment = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def api_words(body: bytes) -> str:
    """What `{"errors": [...]}` says, short enough to quote."""
    try:
        errors = msgspec.json.decode(body)["errors"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return ""
    words = errors if isinstance(errors, Sequence) else [errors]
    return "; ".join(str(word) for word in words)[:200]


def describe(error: requests.RequestException) -> str:
    """The kind of failure in words; the exception's own text may hold the whole request."""
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "no trusted TLS connection (certificate problem)"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "an answer that broke off"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed or was closed without an answer"
    return f"the request failed ({type(error).__name__})"
