"""Reading what an HTTP answer says about itself, and putting a failure into words."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec
import requests
import urllib3


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from either form of `Retry-After`; a date is read by the API's own clock.

    None when it says nothing that can be understood.
    """
    value = (headers.get("Retry-After") or "").strip()
    if value.isascii() and value.replace(".", "", 1).isdecimal():
        # Hundreds of digits are infinity, or too many for a float.
        seconds = float(value[:400])
    else:
        until = http_date(value)
        if until is None:
            return None
        here = http_date(headers.get("Date")) or datetime.now(UTC)
        seconds = (until - here).total_seconds()
    return max(seconds, 0.0)


def http_date(value: str | None) -> datetime | None:
    """The moment of a `Date` or `Retry-After` header (UTC), None when it names none."""
    try:
        moment = parsedate_to_datetime(value or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError, AttributeError):
        # All of these were raised by a header that somebody sent.
        return None


def is_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the answer is a page for people, which the API itself never sends."""
    kind = headers.get("Content-Type") or ""
    return "html" in kind.lower() or body[:200].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def api_words(body: bytes) -> str:
    """What `{"errors": [...]}` says, short enough to quote."""
    try:
        errors = msgspec.json.decode(body)["errors"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return ""
    words = errors if isinstance(errors, Sequence) else [errors]
    return "; ".join(str(word) for word in words)[:200]


def describe(error: Exception) -> str:
    """The kind of failure in words; the exception's own text may hold the whole request.

    `error` is of requests, of urllib3 (while a body is read) or of the operating system.
    """
    if isinstance(error, TimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "an answer that broke off"
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "no trusted TLS connection (certificate problem)"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "an answer that broke off"
    if isinstance(error, requests.ConnectionError) or not isinstance(
        error, requests.RequestException | urllib3.exceptions.HTTPError
    ):
        return "the connection failed or was closed without an answer"
    return f"the request failed ({type(error).__name__})"
