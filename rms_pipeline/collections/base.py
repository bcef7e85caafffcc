"""What is mirrored: a `Collection` says all of it, and everything else follows from what it says.

What belongs here: what a declaration can say. What does not: reading the API (`current_rms`),
tables (`mirror`), and which collections there are (the package itself lists them).

A declaration is read by every layer, and no layer knows a collection by name:

    current_rms   which address, filters and includes are asked for; which fields are sliced out of
                  a record, and decoded into which columns, and with which number (`version`)
    mirror        the tables' names, what `COPY` and the merge write, comments in the database, how
                  a table must look (`obstacles`), whose rows an upgrade decodes again
    sync          whether there is a window, and so what a full sync covers and a proof counts
    defs          the columns' schema in Dagster's UI
    web           the dashboard's fields (`shown`), its webhooks

So one more mapped column is one more `Column`, and one migration that adds it to the table of the
collection and to that of the deleted ones. The number of the mapping rises with it: whatever opens
the mirror next decodes all rows again from their `data`, without the API. A column that PostgreSQL
makes of others (GENERATED) has no `source`. A collection that `remembers` has a third table, of
versions that ended; a new column goes into that, too. Where the sources of a column that is there
already are corrected, raise `corrections`.

One more collection is a module beside this one, its name in `COLLECTIONS`, and a migration.
Migrations are frozen: they never import a declaration.

A collection whose records are `Parts` of another's is read parent by parent (`sync.parts`): it
needs that other one, and what is gone is found by comparing a parent's whole list.

In every collection records have a whole number `id`, `created_at` and `updated_at`; a record that
the API no longer has (`GET /<name>/<id>` says so, and no list shows it) is a deletion.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

# As PostgreSQL names them in a table's definition.
Kind = Literal[
    "bigint", "text", "timestamptz", "numeric", "boolean", "text[]", "jsonb", "tstzrange"
]

# What every table of records has besides the columns that are mapped.
_KEY, _DATA = "id", "data"
_ASKED, _TOLD = "synced_at", "last_webhook_at"
_DELETED, _BECAUSE = "deleted_at", "deleted_because"
_RESERVED = frozenset({_KEY, _DATA, _ASKED, _TOLD, _DELETED, _BECAUSE})
# The column of `updated_at`, the API's own time of the last edit, by which fetches are ordered.
CHANGED = "updated_at_rms"


@dataclass(frozen=True, slots=True)
class Column:
    """One column, and where its value stands in a record.

    `source` names fields of the record, of which the first that holds a value counts; `member.name`
    is the field `name` of the object in `member`. Without one, PostgreSQL makes the column itself,
    or the mirror keeps it (`kept`). `says` is what it holds, in a sentence. `otherwise` stands
    where there is no value, `{id}` being the record's id; the column is then never NULL. A text
    that is longer than `longest` is a fault. `index` is the order in which an index of its own has
    it. `shown` is its name on the dashboard.
    """

    name: str
    kind: Kind
    says: str
    source: str | tuple[str, ...] | None = None
    index: Literal["ascending", "descending"] | None = None
    otherwise: str | None = None
    longest: int | None = None
    shown: str | None = None
    kept: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source or ()

    @property
    def is_mapped(self) -> bool:
        """Whether it is read out of the record."""
        return bool(self.sources)

    @property
    def is_required(self) -> bool:
        """Whether it is never NULL."""
        return self.otherwise is not None


# The times that every record has.
TIMES = (
    Column(
        "created_at_rms",
        "timestamptz",
        "When it was entered in Current RMS.",
        source="created_at",
        shown="Created in Current RMS",
    ),
    Column(
        CHANGED,
        "timestamptz",
        "When Current RMS last changed it.",
        source="updated_at",
        index="descending",
        shown="Updated in Current RMS",
    ),
)


@dataclass(frozen=True, slots=True)
class Modes:
    """The `filtermode` of a list: `every` reaches all records.

    So does nothing else: a list with `hidden` instead holds only records of which `field` is one of
    `values`, and none where it is one of `others`. That tells whether the API knows the parameter.
    """

    every: str
    hidden: str
    field: str
    values: frozenset[object]
    others: frozenset[object]


@dataclass(frozen=True, slots=True)
class Reach:
    """Which columns any of `actions` can change. If it `is_sure`, such an action changed them, and
    no other action that webhooks reported."""

    actions: frozenset[str]
    fields: frozenset[str]
    is_sure: bool = False


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Which webhooks are about a record: those whose subject is one of `subjects`, and those whose
    subject belongs to a record (`parts`) and that name it in `names`. All in lower case, letters
    and digits only. `events` are what is subscribed to. `reaches` say of some actions what they can
    change at most; all others can change anything. What is done to a part is the action `of_part`.
    """

    subjects: frozenset[str]
    parts: frozenset[str] = frozenset()
    names: str = ""
    events: tuple[str, ...] = ()
    reaches: tuple[Reach, ...] = ()
    of_part: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """That records are parts of those of another collection, `of`, which each names by its id in
    the column `key`. Such records are read parent by parent: each parent has a list of its own.

    `soon` is the condition, in SQL, that a row `o` of the parents is read again each night: it
    compares with `%(now)s` and `%(until)s`, the days that are looked ahead. `has_some` is the
    condition that a row `o` itself shows that it has parts, for instance by charges for them.
    """

    of: "Collection"
    soon: str
    has_some: str = "false"

    @property
    def key(self) -> str:
        return self.of.key


@dataclass(frozen=True, eq=False, repr=False)
class Collection:
    """What one list of the API holds, and the table it is mirrored in.

    `name` is the list's address, the key of its records in an answer, and the table; `single` that
    of one record. `says` and `says_of_deleted` are what the two tables hold. Where it `has_window`,
    records have `starts_at` and `ends_at`, and a full sync reads those that overlap its window and
    those without dates; else it reads all. `includes` are associations that come only when they are
    named. `associations` are those of them whose id is in a field of the record, and that field: a
    row keeps such a one while it is not sent and its id is the same. `volatile` are fields that
    differ at each read though nothing was changed (links that are signed for some hours are known
    as such). `indexes` are those of several columns or of expressions, as PostgreSQL writes them.

    Where it is `parts` of another collection no list of its own need exist.

    `mapped` are what `COPY` and the merge write, `table` and `deleted_table` all columns in order,
    each with its kind.
    """

    name: str
    single: str
    says: str
    says_of_deleted: str
    columns: tuple[Column, ...]
    has_window: bool = False
    parts: Parts | None = None
    modes: Modes | None = None
    includes: tuple[str, ...] = ()
    associations: Mapping[str, str] = field(default_factory=dict)
    volatile: tuple[str, ...] = ()
    webhooks: Webhooks | None = None
    # Columns of which each change is a business event; versions tell what they were.
    noted: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    # Whether earlier versions of its records are kept.
    remembers: bool = False
    # Whether fields of the account's own, in its column custom_fields, can have columns beside it.
    promotes: bool = False
    # Columns whose words it is found by; those of them that are numbers; and whose names it knows,
    # with the columns of the name and of the id.
    searched: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    # What is added to the number of columns, for `version`.
    corrections: int = 0
    # What follows the names of what is remembered of it in mirror_state.
    marked: str | None = None
    # The column of webhook_events that names its record.
    event_column: str = "record_id"

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        taken = {n for n in names if names.count(n) > 1 or n in _RESERVED}
        if taken:
            raise ValueError(f"{self.name}: more than one column is called {sorted(taken)}")
        if CHANGED not in names:
            raise ValueError(f"{self.name} has no column {CHANGED}, by which fetches are ordered")
        if self.has_window and {"starts_at", "ends_at"} - {*names}:
            raise ValueError(f"{self.name} has a window, but no columns starts_at and ends_at")
        if {*self.noted} - {*names} or (self.noted and not self.remembers):
            raise ValueError(f"{self.name} notes changes of fields that its versions do not have")
        if self.parts is not None and self.parts.key not in names:
            raise ValueError(f"{self.name} has no column {self.parts.key}, which names its parent")

    def __repr__(self) -> str:
        return self.name

    @property
    def version(self) -> int:
        """The number of its mapping; it rises with each column, and with each correction."""
        return self.corrections + len(self.columns)

    @property
    def deleted(self) -> str:
        """The table of the records that are gone."""
        return f"deleted_{self.name}"

    @property
    def versions(self) -> str:
        """The table that says which fetch each row stands for."""
        return f"{self.single}_versions"

    @property
    def changes(self) -> str:
        """The table of business events."""
        return f"{self.single}_changes"

    @property
    def key(self) -> str:
        """What other tables call the id of a record."""
        return f"{self.single}_id"

    @property
    def past(self) -> str:
        """The table of versions that ended."""
        return f"{self.single}_past"

    @property
    def history(self) -> str:
        """The view of all versions."""
        return f"{self.single}_history"

    @property
    def side(self) -> str:
        """The table of typed columns that the account's own fields were given."""
        return f"{self.single}_fields"

    @property
    def words(self) -> str:
        """The table of the words by which records are found."""
        return f"{self.single}_words"

    @property
    def has_phases(self) -> bool:
        """Whether its records are open, confirmed or lost, as the table `statuses` says."""
        return any(column.name == "confirmed_at" and column.kept for column in self.columns)

    def in_words(self, count: int = 2) -> str:
        """Return what `count` records are called in a sentence: opportunity items."""
        return (self.single if count == 1 else self.name).replace("_", " ")

    @property
    def mark(self) -> str:
        return f"_of_{self.name}" if self.marked is None else self.marked

    @property
    def content(self) -> str:
        """The sequence that grows with whatever changes its rows."""
        return f"content_of_{self.name}"

    @cached_property
    def mapped(self) -> tuple[str, ...]:
        names = (column.name for column in self.columns if column.is_mapped)
        return (_KEY, *names, _DATA)

    @cached_property
    def table(self) -> tuple[Column, ...]:
        return (
            Column(_KEY, "bigint", f"The {self.single}'s id in Current RMS."),
            *self.columns,
            Column(
                _DATA,
                "jsonb",
                "The whole record from the API. An association that no longer comes stays as it"
                " last came.",
            ),
            Column(_ASKED, "timestamptz", "When the record was last requested from the API."),
            Column(_TOLD, "timestamptz", "When a webhook last refreshed it."),
        )

    @property
    def deleted_table(self) -> tuple[Column, ...]:
        return (
            *self.table,
            Column(
                _DELETED,
                "timestamptz",
                "When the mirror noticed that Current RMS no longer has it.",
            ),
            Column(_BECAUSE, "text", "How the mirror knows it."),
        )

    def fields_of(self, *columns: str) -> frozenset[str]:
        """The fields of a record that these columns are read from. Raises KeyError."""
        sources = (source for name in columns for source in self.column(name).sources)
        return frozenset(source.partition(".")[0] for source in sources)

    def column(self, name: str) -> Column:
        """Raises KeyError."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.table}

    def descriptions(self) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Its tables, and the view of its history: the name, what it holds, and what each column
        does."""
        yield self.name, self.says, {c.name: c.says for c in self.table}
        yield self.deleted, self.says_of_deleted, {c.name: c.says for c in self.deleted_table}
        if not self.remembers:
            return
        versions = {
            self.key: f"The {self.single}'s id in Current RMS.",
            "valid_from": "When the mirror stored this version, by its own clock.",
            "valid_to": "When the next version replaced it. Empty for the current version.",
            "deleted": (
                "Whether Current RMS no longer had it. The other columns then hold the "
                "last known values."
            ),
        }
        columns = {c.name: c.says for c in self.columns}
        yield (
            self.history,
            f"Every version of each {self.single} that this mirror has held, and the current one.",
            versions
            | {"data": ("The whole record. Signed links in it are not those of that time.")}
            | columns,
        )
        yield (
            self.past,
            f"Internal: the versions in {self.history} that ended.",
            versions
            | columns
            | {
                "difference": (
                    "The difference that makes this record from the next version's record."
                ),
                "record": (
                    "The whole record, in a few versions, so that earlier ones are found quickly."
                ),
            },
        )
