"""Reads what an HTTP answer says about itself, and describes failures in words."""

import html
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec
import requests
import urllib3

# Texts under these keys are quoted without the key. Under other keys the key is added, as in
# `starts_at: is not a date`.
_PLAIN_KEYS = ("errors", "error", "message", "detail", "title", "base", "description", "reason",
               "error_description")  # fmt: skip
# These keys hold values for programs. They are not quoted.
_UNTOLD_KEYS = ("status", "code", "success", "meta", "id", "links", "exception", "traces")
_DEEPEST, _MOST_TEXTS, _LONGEST_QUOTE, _LONGEST_PAGE = 8, 10, 300, 20_000
_MARKUP = re.compile(r"<\s*(!doctype|html|head|body|title|h1)\b", re.IGNORECASE)
_HEADING = re.compile(
    r"<(?P<tag>title|h1)\b[^>]*>(?P<text>.*?)</(?P=tag)>", re.IGNORECASE | re.DOTALL
)
_TAG = re.compile(r"<[^<>]{0,500}>")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait, from either form of `Retry-After`.

    A date is compared with the API's own clock. Returns None for a header that cannot be
    understood.
    """
    value = (headers.get("Retry-After") or "").strip()
    if value.isascii() and value.replace(".", "", 1).isdecimal():
        # Hundreds of digits become infinity, or do not fit a float.
        seconds = float(value[:400])
    else:
        until = http_date(value)
        if until is None:
            return None
        here = http_date(headers.get("Date")) or datetime.now(UTC)
        seconds = (until - here).total_seconds()
    return max(seconds, 0.0)


def http_date(value: str | None) -> datetime | None:
    """Return the moment (UTC) of a `Date` or `Retry-After` header, or None if it holds no date."""
    try:
        moment = parsedate_to_datetime(value or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError, AttributeError):
        # Real headers have raised each of these errors.
        return None


def is_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Return whether the answer is a web page for people. The API itself never sends one."""
    kind = headers.get("Content-Type") or ""
    return "html" in kind.lower() or body[:200].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def api_words(body: bytes) -> str:
    """Return the texts in the body of an error, on one line and short enough to quote.

    Returns '' if there are none. Texts are found at any depth of the JSON. A text under a field's
    name gets that name: `{"errors": {"starts_at": ["is not a date"]}}` gives "starts_at: is not a
    date".
    """
    body = body.strip()
    if not body:
        return ""
    try:
        words = "; ".join(_told(msgspec.json.decode(body), _DEEPEST))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        words = _told_beyond_json(body)
    return _one_line(words)


def _told(value: object, depth: int) -> Iterator[str]:
    """Yield the texts of a decoded body. Texts that need no name come first."""
    if isinstance(value, str):
        yield from filter(None, (value.strip().rstrip(".;"),))
    elif isinstance(value, bool | int | float):
        yield str(value)
    elif isinstance(value, Mapping) and depth:
        plain = [key for key in _PLAIN_KEYS if key in value]
        for key in plain:
            yield from _told(value[key], depth - 1)
        for key in value.keys() - {*plain, *_UNTOLD_KEYS}:
            if said := ", ".join(_told(value[key], depth - 1)):
                yield f"{key}: {said}"
    elif isinstance(value, Sequence) and depth:
        for item in value[:_MOST_TEXTS]:
            yield from _told(item, depth - 1)


def _told_beyond_json(body: bytes) -> str:
    text = body[:_LONGEST_PAGE].decode(errors="replace")
    if not _MARKUP.search(text):
        return text
    headings = dict.fromkeys(
        found for match in _HEADING.finditer(text) if (found := _one_line(match["text"]))
    )
    page = "an HTML page, probably from a proxy or a firewall"
    return f"{page}: {', '.join(headings)}" if headings else page


def _one_line(text: str) -> str:
    text = html.unescape(_TAG.sub(" ", text))
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST_QUOTE else f"{line[: _LONGEST_QUOTE - 3]}..."


def describe(error: Exception) -> str:
    """Describe the kind of failure in words. The exception's own text may contain the whole
    request.

    `error` comes from requests, from urllib3 (while a body is read) or from the operating system.
    """
    if isinstance(error, TimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "no answer within the time limit"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "an incomplete answer (the connection ended)"
    if isinstance(error, requests.ConnectTimeout):
        return "no connection within the time limit"
    if isinstance(error, requests.Timeout):
        return "no answer within the time limit"
    if isinstance(error, requests.exceptions.SSLError):
        return f"no trusted TLS connection ({_tls_problem(error)})"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "an incomplete answer (the connection ended)"
    if isinstance(error, requests.exceptions.ProxyError):
        return "no connection through the proxy that HTTPS_PROXY or HTTP_PROXY names"
    cause = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(cause, urllib3.exceptions.NameResolutionError):
        return "its host name was not found (DNS, or CURRENT_RMS_BASE_URL)"
    if isinstance(error, requests.ConnectionError) or not isinstance(
        error, requests.RequestException | urllib3.exceptions.HTTPError
    ):
        return "the connection failed or was closed without an answer"
    return f"the request failed ({type(error).__name__})"


# By OpenSSL's number of what it found wrong with a certificate.
_CERTIFICATE_PROBLEMS = {
    9: "the certificate is not valid yet: check the clock of this machine",
    10: "the certificate has expired, or the clock of this machine is wrong",
    **dict.fromkeys(
        (18, 19, 20, 21),
        "this machine does not know who signed the certificate: a proxy or firewall may be in "
        "between. REQUESTS_CA_BUNDLE names a file with its certificates",
    ),
    **dict.fromkeys(
        (62, 64), "the certificate is for another host: check DNS and CURRENT_RMS_BASE_URL"
    ),
}


def _tls_problem(error: BaseException) -> str:
    found: object = error
    for _ in range(5):
        if isinstance(found, ssl.SSLCertVerificationError):
            return _CERTIFICATE_PROBLEMS.get(
                found.verify_code, f"problem with the certificate: {found.verify_message}"
            )
        if isinstance(found, ssl.SSLError):
            words = (found.reason or "").replace("_", " ").lower()
            return f"TLS cannot be agreed on{f': {words}' if words else ''}"
        if not isinstance(found, BaseException):
            break
        found = getattr(found, "reason", None) or next(iter(found.args), None)
    return "problem with the certificate"
