"""Splits the body of a list answer into its records. The records stay undecoded."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from msgspec import Raw

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.lenient import elements_of, members_of
from rms_pipeline.current_rms.records import to_whole


class Meta(msgspec.Struct, frozen=True):
    """`meta` of a list answer. `total_row_count` counts the whole filtered list.

    If the API sends no count, it is the number of records on the page. Nothing believes that number
    for a page that may be full. `per_page` is as the API wrote it: use `claimed_per_page`.
    """

    total_row_count: int
    per_page: Any = None

    @property
    def claimed_per_page(self) -> int | None:
        """How many records the API says a page holds, or None if it does not say."""
        try:
            return int(self.per_page)
        except (TypeError, ValueError, OverflowError):
            return None


class Page(msgspec.Struct, frozen=True):
    """A list answer. Its records are undecoded."""

    records: list[Raw]
    meta: Meta


class _SaidMeta(msgspec.Struct, frozen=True):
    """`meta` as the API wrote it: numbers may be text."""

    total_row_count: Any = None
    per_page: Any = None

    def read(self, records: int) -> Meta:
        """Return it with numbers. Raises ValueError for a count that is not a number."""
        count = to_whole(self.total_row_count)
        return Meta(records if count is None or count < 0 else count, self.per_page)


class _SaidPage(msgspec.Struct, frozen=True):
    records: list[Raw]
    meta: _SaidMeta


class _Single(msgspec.Struct, frozen=True):
    record: Raw


@dataclass(frozen=True, slots=True)
class _Decoders:
    """Decoders for the names that the records of one collection have in answers."""

    page: "msgspec.json.Decoder[_SaidPage]"
    single: "msgspec.json.Decoder[_Single]"


_BOM = b"\xef\xbb\xbf"
_meta_decoder = msgspec.json.Decoder(_SaidMeta)


@cache
def _decoders(collection: Collection) -> _Decoders:
    # The fields are named again here, because `rename` does not change inherited fields.
    page = msgspec.defstruct(
        "page",
        [("records", list[Raw]), ("meta", _SaidMeta)],
        bases=(_SaidPage,),
        rename={"records": collection.name},
    )
    single = msgspec.defstruct(
        "single", [("record", Raw)], bases=(_Single,), rename={"record": collection.single}
    )
    return _Decoders(msgspec.json.Decoder(page), msgspec.json.Decoder(single))


def decode_page(body: bytes, collection: Collection) -> Page:
    """Decode a list answer. Each record stays as received: errors within a record are for `records`
    to find.

    Raises ValueError if `body` is not a list of `collection` with its `meta`.
    """
    try:
        page = _decoders(collection).page.decode(body.removeprefix(_BOM))
    except (msgspec.DecodeError, RecursionError) as error:
        refused = error
    else:
        return Page(page.records, page.meta.read(len(page.records)))
    try:
        members = members_of(body)
        records = elements_of(members.get(collection.name.encode(), b""))
        meta = _meta_decoder.decode(members.get(b"meta", b"")).read(len(records))
    except (ValueError, RecursionError):
        raise ValueError(str(refused)) from refused
    return Page([Raw(record) for record in records], meta)


def decode_single(body: bytes, collection: Collection) -> Page:
    """Decode `{"opportunity": {...}}` as a page of one record. Raises ValueError for anything
    else.
    """
    try:
        record = _decoders(collection).single.decode(body.removeprefix(_BOM)).record
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            record = Raw(members_of(body)[collection.single.encode()])
        except (ValueError, KeyError):
            raise ValueError(str(error)) from error
    return Page([record], Meta(total_row_count=1))


def is_list(request: str, collection: Collection) -> bool:
    """Return whether `request` asked for a list, including a list of the parts of one record.

    False if it asked for one record by its id.
    """
    return request.partition("?")[0].endswith(f"/{collection.name}")


def decode_answer(request: str, body: bytes, collection: Collection) -> Page:
    """Decode `body` as what `request` asked for: a list, or one record by its id."""
    decode = decode_page if is_list(request, collection) else decode_single
    return decode(body, collection)
