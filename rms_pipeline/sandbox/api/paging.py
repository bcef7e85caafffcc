"""How every list of the API is cut into pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from rms_pipeline.sandbox.api.answers import Refusal
from rms_pipeline.sandbox.api.filters import Query
from rms_pipeline.sandbox.switches import Switches

_MOST, _FEW = 100, 25
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cut(Generic[T]):
    """One page of a list that says it has `total` rows."""

    rows: Sequence[T]
    total: int
    page: int
    per_page: int

    def body(self, name: str, rows: Sequence[bytes]) -> bytes:
        """`{name: rows, "meta": {...}}`; `rows` is what is left of the page, each as JSON."""
        meta = {
            "total_row_count": self.total,
            "row_count": len(rows),
            "page": self.page,
            "per_page": self.per_page,
        }
        return b'{"%b":[%b],"meta":%b}' % (
            name.encode(),
            b",".join(rows),
            msgspec.json.encode(meta),
        )


def cut(rows: Sequence[T], query: Query, switches: Switches, most: int | None = None) -> Cut[T]:
    """The page that `query` asks for, of `most` rows at most. Raises Refusal."""
    single = {key: value for key, value in query if value}
    most = most or _most_of_others(switches)
    page = _positive(single.get("page", "1"), "page")
    wanted = _positive(single.get("per_page", str(switches.default_per_page)), "per_page")
    if wanted > most and switches.per_page_over == "422":
        raise Refusal(f"per_page must be at most {most}")
    per_page = min(wanted, most)
    cap = switches.count_cap
    return Cut(
        rows=rows[(page - 1) * per_page : page * per_page],
        total=len(rows) if cap is None else min(len(rows), cap),
        page=page,
        per_page=per_page,
    )


def _most_of_others(switches: Switches) -> int:
    """Of collections other than opportunities; small for small tests."""
    return switches.max_per_page if switches.max_per_page < _FEW else _MOST


def _positive(value: str, name: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise Refusal(f"{name} must be a whole number from 1")
    return int(value)
