"""By which field a list can be cut into ranges, when its order cannot be relied on.

A field that never changes in a record's life, so that no record moves from range to range.
"""

from datetime import UTC, datetime, timedelta
from typing import Protocol

from msgspec import Raw

from rms_pipeline.current_rms.records import Fault, bare_record, record_id
from rms_pipeline.current_rms.spans import Span
from rms_pipeline.current_rms.window import Params, iso

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Key(Protocol):
    """A field as whole numbers: `params` narrow a list to a span of them.

    Hardly any record is below `floor`.
    """

    name: str
    floor: int

    def params(self, span: Span) -> Params: ...

    def value(self, record: Raw) -> int | None:
        """None when the record has no such value."""
        ...


class _ById:
    name = "id"
    floor = 1

    def params(self, span: Span) -> Params:
        lower, upper = span
        params: Params = ()
        if lower is not None:
            params += (("q[id_gt]", str(lower - 1)),)
        if upper is not None:
            params += (("q[id_lt]", str(upper + 1)),)
        return params

    def value(self, record: Raw) -> int | None:
        return record_id(record)


class _ByCreation:
    """Milliseconds since 1970, UTC: the API's own resolution."""

    name = "created_at"
    floor = (datetime(2005, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND

    def params(self, span: Span) -> Params:
        lower, upper = span
        params: Params = ()
        if lower is not None:
            params += (("q[created_at_gteq]", iso(_EPOCH + lower * _MILLISECOND)),)
        if upper is not None:
            params += (("q[created_at_lt]", iso(_EPOCH + (upper + 1) * _MILLISECOND)),)
        return params

    def value(self, record: Raw) -> int | None:
        found = bare_record(record)
        created_at = None if isinstance(found, Fault) else found.created_at()
        return None if created_at is None else (created_at - _EPOCH) // _MILLISECOND


BY_ID: Key = _ById()
BY_CREATION: Key = _ByCreation()
