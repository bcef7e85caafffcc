"""The facts of the API that nobody is sure of, each to be turned either way while it runs."""

import contextlib
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

ApiVersion = Literal["v2.1", "v1"]
ErrorShape = Literal["texts", "details", "by_field", "error", "message"]
Status = Annotated[int, msgspec.Meta(ge=200, le=599)]
Number = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
# Filled in from the version of the API.
_OF_THE_VERSION: Any = None
_DEFAULTS: dict[ApiVersion, dict[str, Any]] = {
    "v2.1": {"max_per_page": 25, "unknown_predicate": "ignored"},
    "v1": {"max_per_page": 100, "unknown_predicate": "422"},
}


@dataclass(frozen=True, slots=True)
class Switches:
    """What the API does where nobody is sure, or where it differs between accounts.

    Version and pages
        `api`: "v2.1" is the API since June 2026: associations come only when they are named, and
        never some of them in a list. "v1" is the world before. The version decides the default of
        `max_per_page` (25 or 100) and of `unknown_predicate`.
        `per_page_over`: what a `per_page` above `max_per_page` gets. `max_per_page` is that of
        opportunities; other collections give up to 100, or `max_per_page` where that is below 25.
        `default_per_page`: 12 and 20 have been seen.
        `count_cap`: `total_row_count` is never above it. `most_records`: a page that would hold
        more answers 504. `deepest_page`: pages beyond answer `deep_page_status` (200: an empty
        page).
    Filters and order
        `honours_sort`: whether `q[s]` is obeyed. `honours_filtermode`: whether `filtermode` is.
        `honours_id_predicates`: whether `q[id_gt]` and `q[id_lt]` narrow the list,
        `honours_created_at` and `honours_id_in` whether those filters do. `unknown_predicate`:
        what a predicate or field gets that the API does not know. `honours_or`: whether it knows
        fields joined by `_or_`. `null_predicates`: `_null` and `_not_null` honoured, ignored or
        refused. `filtermode_default`: what an absent `filtermode` means. `refused`: beginnings of
        parameters (`q[s]`, `q[id_in]`) that get a 422. `ignored`: beginnings of those that change
        nothing.
    Associations
        `nested`: whether they come when asked for, always or never. `refused_includes`: the status
        that a request gets which names one of these in `include[]`. `signed_links`: links to
        pictures differ at each read.
    What is read is not what is
        `lists_lag`: lists show the state of so many seconds ago, in every respect; single records
        are of now. `singles_lag`: for so many seconds a new opportunity is 404 by id.
        `lists_twice`: ids that each list which holds them holds twice, and counts twice.
        `bodies`: bytes sent instead of these opportunities, in lists and alone.
        `undeliverable`: ids; each page of a list that would hold one answers 500, and so does the
        single record with `undeliverable_single`.
    Answers
        `all_items`: whether `/opportunity_items` gives those of the whole account, and whether it
        obeys filters. `forbidden`: addresses (`members`) that the key's user may not see: 403.
        obeys filters. `refused_items`: the status that the items of these opportunities get.
        `gone_status`: of an opportunity that is not there. `tells_date`: whether
        answers have a `Date` header. `retry_after`: the form of that header on a 429.
        `webhooks_enabled`: whether a person has switched webhooks on for the account.
        `error_shape`: of the bodies of refusals: `{"errors": [text]}`, `{"errors": [{"detail":
        text}]}`, `{"errors": {field: [text]}}`, `{"error": text}` or `{"message": text}`.
    """

    api: ApiVersion = "v2.1"
    max_per_page: Number = _OF_THE_VERSION
    per_page_over: Literal["clamped", "422"] = "clamped"
    default_per_page: Number = 20
    count_cap: Annotated[int, msgspec.Meta(ge=0)] | None = None
    most_records: Number | None = None
    deepest_page: Number | None = None
    deep_page_status: Status = 422
    honours_sort: bool = True
    honours_filtermode: bool = True
    honours_id_predicates: bool = True
    honours_created_at: bool = True
    honours_id_in: bool = True
    honours_or: bool = True
    unknown_predicate: Literal["ignored", "400", "422"] = _OF_THE_VERSION
    null_predicates: Literal["honoured", "ignored", "422"] = "honoured"
    filtermode_default: Literal["live", "all"] = "live"
    refused: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    nested: Literal["asked", "always", "never"] = "asked"
    refused_includes: dict[str, Status] = field(default_factory=dict, hash=False)
    signed_links: bool = False
    lists_lag: Seconds = 0.0
    singles_lag: Seconds = 0.0
    lists_twice: frozenset[int] = frozenset()
    bodies: dict[int, bytes] = field(default_factory=dict, hash=False)
    undeliverable: frozenset[int] = frozenset()
    undeliverable_single: bool = False
    all_items: Literal["filtered", "unfiltered", "absent"] = "absent"
    forbidden: frozenset[str] = frozenset()
    refused_items: dict[int, Status] = field(default_factory=dict, hash=False)
    gone_status: Literal[404, 410] = 404
    error_shape: ErrorShape = "texts"
    tells_date: bool = True
    retry_after: Literal["seconds", "date", "none"] = "seconds"
    webhooks_enabled: bool = True

    def __post_init__(self) -> None:
        for name, value in _DEFAULTS[self.api].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def turned(self, wanted: bytes) -> "Switches":
        """These, but for what `wanted` names: `{"max_per_page": 10, "lists_twice": [4]}`.

        Where it names `api`, what depends on the version and is not named follows it. Values of
        `bodies` are base64. Raises ValueError with what is wrong.
        """
        changes = decoded_changes(Switches, wanted)
        if "api" in changes:
            changes = dict.fromkeys(_DEFAULTS[self.api]) | changes
        return replace(self, **changes)

    def told(self) -> bytes:
        """All of them as JSON, in the form that `turned` takes."""
        return msgspec.json.encode(asdict(self))


def decoded_changes(switches: type[Any], wanted: bytes) -> dict[str, Any]:
    """The values of `{"switch": value, ...}` by the types of the dataclass `switches`.

    Raises ValueError with what is wrong.
    """
    try:
        named = msgspec.json.decode(wanted, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'the body must be {{"switch": value, ...}}: {error}') from None
    types = _types(switches)
    changes: dict[str, Any] = {}
    for name, raw in named.items():
        if name not in types:
            raise ValueError(f"there is no switch {name}; there are {', '.join(sorted(types))}")
        try:
            changes[name] = _decoded(bytes(raw), types[name])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}: {error}") from None
    return changes


def _types(switches: type[Any]) -> dict[str, Any]:
    public = {each.name for each in fields(switches)}
    found = get_type_hints(switches, include_extras=True)
    return {name: type_ for name, type_ in found.items() if name in public}


def _decoded(raw: bytes, type_: Any) -> Any:
    """A number that stands for a word ("422") is taken for it."""
    try:
        return msgspec.json.decode(raw, type=type_)
    except msgspec.ValidationError:
        if not raw.isdigit():
            raise
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.json.decode(b'"%b"' % raw, type=type_)
        raise
