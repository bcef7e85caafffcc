"""The filters and the order of a list: Ransack predicates in `q[...]`, sorts in `q[s]`."""

import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, TypeVar

from rms_pipeline.sandbox.api.answers import Refusal
from rms_pipeline.sandbox.switches import Switches

Kind = Literal["time", "number", "flag", "text"]
Fields = Mapping[str, Kind]
Query = Sequence[tuple[str, str]]
Value = Callable[[str], Any]
T = TypeVar("T")

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_TRUE, _FALSE = frozenset({"1", "true", "t", "yes"}), frozenset({"0", "false", "f", "no"})
_KEY = re.compile(r"q\[(\w+)\](\[\])?")

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "not_eq": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": lambda a, b: a in b,
    "not_in": lambda a, b: a not in b,
}
# Upper and lower case are the same to all of these.
_TEXT: dict[str, Callable[[str, str], bool]] = {
    "cont": lambda a, b: b in a,
    "not_cont": lambda a, b: b not in a,
    "start": str.startswith,
    "not_start": lambda a, b: not a.startswith(b),
    "end": str.endswith,
    "not_end": lambda a, b: not a.endswith(b),
    "matches": lambda a, b: _like(b).fullmatch(a) is not None,
    "does_not_match": lambda a, b: _like(b).fullmatch(a) is None,
}
# Whether the value is there, for the parameter "1"; "0" asks for the opposite.
_IS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "not_null": lambda value: value is not None,
    "present": lambda value: value is not None and str(value).strip() != "",
    "blank": lambda value: value is None or str(value).strip() == "",
    "true": lambda value: value is True,
    "false": lambda value: value is False,
}
# With `_any` or `_all` a predicate takes several values.
_SEVERAL = {
    f"{predicate}_{how}": (predicate, how)
    for predicate in ("eq", "not_eq", *_TEXT)
    for how in ("any", "all")
}
# The longest first: `not_eq` ends with `eq`.
_PREDICATES = sorted([*_COMPARE, *_TEXT, *_IS, *_SEVERAL], key=len, reverse=True)
_MANY = frozenset({"in", "not_in", *_SEVERAL})


@dataclass(frozen=True, slots=True)
class Condition:
    """`predicate` holds for one of `fields` (or, unless `any_of`, for all), with `wanted`."""

    fields: tuple[str, ...]
    any_of: bool
    predicate: str
    wanted: Any

    @property
    def comparison(self) -> Callable[[Any, Any], bool] | None:
        """What compares a value with `wanted`; None for predicates of text and presence."""
        return _COMPARE.get(self.predicate)

    def holds(self, value: Value) -> bool:
        """`value` gives a field as `comparable` makes it. A null satisfies no comparison."""
        found = (self._holds(value(field)) for field in self.fields)
        return any(found) if self.any_of else all(found)

    def _holds(self, value: Any) -> bool:
        if self.predicate in _IS:
            return bool(_IS[self.predicate](value) == self.wanted)
        if value is None:
            return False
        if self.predicate in _SEVERAL:
            predicate, how = _SEVERAL[self.predicate]
            found = (_compare(predicate, value, wanted) for wanted in self.wanted)
            return any(found) if how == "any" else all(found)
        return _compare(self.predicate, value, self.wanted)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list is narrowed to and ordered by; `sorts` are (field, descending)."""

    conditions: tuple[Condition, ...]
    sorts: tuple[tuple[str, bool], ...]
    modes: tuple[str, ...]

    def hold(self, value: Value) -> bool:
        return all(condition.holds(value) for condition in self.conditions)


def parse(query: Query, fields: Fields, switches: Switches) -> Filters:
    """What `query` asks of a list whose records have `fields`. Raises Refusal."""
    conditions: list[Condition] = []
    many: dict[tuple[tuple[str, ...], bool, str, Kind], set[Any]] = {}
    sorts: list[tuple[str, bool]] = []
    modes: list[str] = []
    for key, value in query:
        if key.startswith(switches.refused):
            raise Refusal(f"{key} is not known")
        if key.startswith(switches.ignored):
            continue
        if key in ("filtermode", "filtermode[]"):
            if switches.honours_filtermode:
                modes.append(value)
            continue
        if not key.startswith("q["):
            continue
        if key in ("q[s]", "q[s][]"):
            sorts += _sort(value, fields, switches)
            continue
        found = _condition(key, value, fields, switches)
        if found is None:
            continue
        condition, kind = found
        if condition.predicate in _MANY:
            which = (condition.fields, condition.any_of, condition.predicate, kind)
            many.setdefault(which, set()).add(condition.wanted)
        else:
            conditions.append(condition)
    for (names, any_of, predicate, _), values in many.items():
        conditions.append(Condition(names, any_of, predicate, frozenset(values)))
    return Filters(tuple(conditions), tuple(sorts), tuple(modes))


def _compare(predicate: str, value: Any, wanted: Any) -> bool:
    if predicate in _TEXT:
        return bool(_TEXT[predicate](str(value).lower(), wanted))
    try:
        return bool(_COMPARE[predicate](value, wanted))
    except TypeError:
        return False


def fields_of(record: Mapping[str, Any], fields: Fields) -> Value:
    """The fields of one record, as conditions want them."""
    return lambda field: comparable(record.get(field), fields[field])


def comparable(value: Any, kind: Kind) -> Any:
    """A field of a record as filters compare it: microseconds since 1970, numbers, text."""
    if value is None or value == "":
        return None
    try:
        if kind == "time":
            return value if isinstance(value, int) else _microseconds(str(value))
        if kind == "number":
            return value if isinstance(value, int | float) else float(value)
    except (TypeError, ValueError):
        return None
    return value if kind == "flag" else str(value)


def unknown(key: str, switches: Switches) -> None:
    """For what is not known: does nothing, or raises Refusal."""
    if switches.unknown_predicate != "ignored":
        raise Refusal(f"{key} is not known", int(switches.unknown_predicate))


def in_order(rows: list[T], filters: Filters, value: Callable[[T, str], Any]) -> list[T]:
    """`rows`, which come by id, in the order asked for.

    `value` gives a field of one. Nulls come last, or first when descending.
    """
    if not filters.sorts:
        return rows
    if filters.sorts[0][0] == "id":
        return rows[::-1] if filters.sorts[0][1] else rows
    found = list(rows)
    for field, descending in reversed(filters.sorts):
        found.sort(key=partial(_place, value, field), reverse=descending)
    return found


def shuffled(ids: Iterable[int]) -> list[int]:
    """The order of an API that obeys none."""
    return sorted(ids, key=lambda id_: (id_ * 2_654_435_761) % 4_294_967_296)


def between(ids: list[int], lower: int | None, upper: int | None) -> list[int]:
    """Those above `lower` and below `upper`; `ids` ascend."""
    start = 0 if lower is None else bisect_right(ids, lower)
    end = len(ids) if upper is None else bisect_left(ids, upper)
    return ids[start:end]


def _condition(
    key: str, value: str, fields: Fields, switches: Switches
) -> tuple[Condition, Kind] | None:
    """None for what is ignored. Raises Refusal."""
    match = _KEY.fullmatch(key)
    names, any_of, predicate = _split(match[1], fields) if match else ((), False, "")
    if not match or not names or (any_of and len(names) > 1 and not switches.honours_or):
        unknown(key, switches)
        return None
    if predicate in ("null", "not_null") and switches.null_predicates != "honoured":
        if switches.null_predicates == "422":
            raise Refusal(f"{key} is not known")
        return None
    if predicate in _IS:
        asked = value.strip().lower()
        if asked not in _TRUE | _FALSE:
            return None
        return Condition(names, any_of, predicate, asked in _TRUE), "flag"
    kind = fields[names[0]]
    if value == "":
        # As Ransack does with what nobody filled in.
        return None
    try:
        textual = _SEVERAL.get(predicate, (predicate,))[0] in _TEXT
        wanted = value.lower() if textual else _parsed(value, kind)
    except ValueError:
        unknown(f"{key}={value}", switches)
        return None
    if match[2] and predicate not in _MANY:
        predicate = "in" if predicate == "eq" else predicate
    return Condition(names, any_of, predicate, wanted), kind


def _split(name: str, fields: Fields) -> tuple[tuple[str, ...], bool, str]:
    """Fields, whether one of them is enough, and the predicate; no fields when one is unknown."""
    for predicate in _PREDICATES:
        if not name.endswith(f"_{predicate}"):
            continue
        joined = name.removesuffix(f"_{predicate}")
        for join in ("_or_", "_and_"):
            names = tuple(joined.split(join))
            if all(each in fields for each in names):
                return names, join == "_or_", predicate
    return (), False, ""


def _sort(value: str, fields: Fields, switches: Switches) -> list[tuple[str, bool]]:
    field, _, direction = value.strip().partition(" ")
    if field not in fields or direction.lower() not in ("", "asc", "desc"):
        unknown(f"q[s]={value}", switches)
        return []
    return [(field, direction.lower() == "desc")]


def _parsed(value: str, kind: Kind) -> Any:
    """Raises ValueError."""
    if kind == "time":
        return _microseconds(value)
    if kind == "number":
        return float(value) if "." in value else int(value)
    if kind == "flag":
        if value.lower() not in _TRUE | _FALSE:
            raise ValueError(value)
        return value.lower() in _TRUE
    return value


def _microseconds(value: str) -> int:
    """Of `2026-01-01`, `2026-01-01 23:59:59` or ISO 8601; UTC where it does not say."""
    moment = datetime.fromisoformat(value)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - _EPOCH) // _MICROSECOND


def _like(pattern: str) -> re.Pattern[str]:
    """SQL's: `%` is any text, `_` any character."""
    parts = (".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL)


def _place(value: Callable[[T, str], Any], field: str, row: T) -> tuple[bool, Any]:
    found = value(row, field)
    return (found is None, 0 if found is None else found)
