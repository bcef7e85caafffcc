"""From the body of a list answer to its records, each still undecoded."""

import re
from typing import Any

import msgspec
from msgspec import Raw


class Meta(msgspec.Struct, frozen=True):
    """`meta` of a list answer; `total_row_count` counts the whole filtered list.

    `per_page` is as the API wrote it, for `claimed_per_page` to read.
    """

    total_row_count: int
    per_page: Any = None

    @property
    def claimed_per_page(self) -> int | None:
        """How many records the API says a page holds, None when it does not say."""
        try:
            return int(self.per_page)
        except (TypeError, ValueError, OverflowError):
            return None


class Page(msgspec.Struct, frozen=True):
    """A list answer: records undecoded."""

    opportunities: list[Raw]
    meta: Meta


_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_ESCAPE = re.compile(
    rb"\\(?:u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<bad>0000|[dD][89a-fA-F][0-9a-fA-F]{2}))|.)",
    re.DOTALL,
)


class _Single(msgspec.Struct, frozen=True):
    opportunity: Raw


_single_decoder = msgspec.json.Decoder(_Single)
_page_decoder = msgspec.json.Decoder(Page)


def storable_json(body: bytes) -> bytes:
    """The same JSON with what PostgreSQL's `text` and `jsonb` cannot hold replaced by U+FFFD.

    That is: NUL, halves of surrogate pairs, and bytes that are not UTF-8. A body without any comes
    back as it is.
    """
    if body.startswith(b"\xef\xbb\xbf"):
        body = body[3:]
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            body = body.decode(errors="replace").encode()
    if _SUSPECT.search(body):
        body = _ESCAPE.sub(lambda m: b"\\ufffd" if m["bad"] else m[0], body)
    return body


def decode_page(body: bytes) -> Page:
    """Raises ValueError when `body` is not the JSON of a list of opportunities with its `meta`."""
    try:
        return _page_decoder.decode(storable_json(body))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def decode_single(body: bytes) -> Page:
    """`{"opportunity": {...}}` as a page of one record. Raises ValueError for anything else."""
    try:
        record = _single_decoder.decode(storable_json(body)).opportunity
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return Page([record], Meta(total_row_count=1))


def decode_answer(request: str, body: bytes) -> Page:
    """`body` as `request` promised it: a list, or one record asked for by its id."""
    single = request.partition("?")[0] != "/opportunities"
    return decode_single(body) if single else decode_page(body)
