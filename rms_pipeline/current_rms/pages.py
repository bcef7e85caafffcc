"""From the body of a list answer to its records, each still undecoded."""

from typing import Any

import msgspec
from msgspec import Raw

from rms_pipeline.current_rms.fields import to_whole
from rms_pipeline.current_rms.lenient import elements_of, members_of


class Meta(msgspec.Struct, frozen=True):
    """`meta` of a list answer; `total_row_count` counts the whole filtered list.

    Where the API gives no count it is that of the page, as from a counter that stops there: nobody
    believes that of a page that may be full. `per_page` is as the API wrote it, for
    `claimed_per_page` to read.
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


class _SaidMeta(msgspec.Struct, frozen=True):
    """As the API wrote it: numbers may be text."""

    total_row_count: Any = None
    per_page: Any = None

    def read(self, records: int) -> Meta:
        """Raises ValueError for a count that is none."""
        count = to_whole(self.total_row_count)
        return Meta(records if count is None or count < 0 else count, self.per_page)


class _SaidPage(msgspec.Struct, frozen=True):
    opportunities: list[Raw]
    meta: _SaidMeta


class _Single(msgspec.Struct, frozen=True):
    opportunity: Raw


_BOM = b"\xef\xbb\xbf"

_meta_decoder = msgspec.json.Decoder(_SaidMeta)
_single_decoder = msgspec.json.Decoder(_Single)
_page_decoder = msgspec.json.Decoder(_SaidPage)


def decode_page(body: bytes) -> Page:
    """Raises ValueError when `body` is not a list of opportunities with its `meta`.

    Each record is as it came: what is wrong within one is for `payloads` to find.
    """
    try:
        page = _page_decoder.decode(body.removeprefix(_BOM))
    except (msgspec.DecodeError, RecursionError) as error:
        refused = error
    else:
        return Page(page.opportunities, page.meta.read(len(page.opportunities)))
    try:
        members = members_of(body)
        records = elements_of(members.get(b"opportunities", b""))
        meta = _meta_decoder.decode(members.get(b"meta", b"")).read(len(records))
    except (ValueError, RecursionError):
        raise ValueError(str(refused)) from refused
    return Page([Raw(record) for record in records], meta)


def decode_single(body: bytes) -> Page:
    """`{"opportunity": {...}}` as a page of one record. Raises ValueError for anything else."""
    try:
        record = _single_decoder.decode(body.removeprefix(_BOM)).opportunity
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            record = Raw(members_of(body)[b"opportunity"])
        except (ValueError, KeyError):
            raise ValueError(str(error)) from error
    return Page([record], Meta(total_row_count=1))


def decode_answer(request: str, body: bytes) -> Page:
    """`body` as `request` promised it: a list, or one record asked for by its id."""
    single = request.partition("?")[0] != "/opportunities"
    return decode_single(body) if single else decode_page(body)
