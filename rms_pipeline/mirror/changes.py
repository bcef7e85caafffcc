"""`opportunity_changes`: which fields of a record changed, seen when its row was rewritten.

There is a row for each changed field. Changes of the fields that the collection declares as `noted`
are business events. They are passed on to sensors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import CHANGED, Collection
from rms_pipeline.mirror.queued_events import RECORD
from rms_pipeline.mirror.statements import Connection, Cursor, array_of

STATUS, STATE = "opportunity_status", "state_name"
# Fields whose every change is a business event.
_EVENTS = [field for collection in COLLECTIONS for field in collection.noted]
# Longer texts are cut here. The history has them in full.
_LONGEST = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """What changed, from what to what.

    `changed_at` (UTC) is Current RMS's own time of the edit, or None if the edit did not move
    `updated_at`. `changed_by` is the colleague whose webhook explains it. `seen_by` is the run that
    saw it.
    """

    id: int
    opportunity_id: int
    field: str
    old_value: str | None
    new_value: str | None
    changed_at: datetime | None
    changed_by: str | None
    seen_at: datetime
    seen_by: str | None


def note_changes(
    cursor: Cursor,
    collection: Collection,
    run: str,
    ended: Mapping[int, datetime],
    asked: Mapping[int, datetime],
    altered: Mapping[int, frozenset[str]],
) -> None:
    """Compare rows that were just rewritten with their versions until `ended`.

    Adds a row for each column that differs. `asked` is when each record had last been asked for.
    `altered` are the fields of its record that differ, if that is known.
    """
    if not collection.noted or not ended:
        return
    known = [altered.get(id_) for id_ in ended]
    fields = None if None in known else frozenset[str]().union(*(f for f in known if f))
    statement = _statement(collection, _columns(collection, fields))
    if statement is not None:
        cursor.execute(
            statement,
            {
                "run": run,
                "ids": array_of(ended),
                "ended": array_of(ended.values()),
                "asked": array_of(asked[id_] for id_ in ended),
            },
        )


@lru_cache(maxsize=1_000)
def _columns(collection: Collection, fields: frozenset[str] | None) -> tuple[str, ...]:
    """Return the columns whose changes are noted and that are read from `fields` (None: any
    fields).
    """
    # The time of the change is stored beside each of them.
    mapped = [c.name for c in collection.columns if c.is_mapped and c.name != CHANGED]
    noted = dict.fromkeys([*collection.noted, *mapped])
    return tuple(c for c in noted if fields is None or collection.fields_of(c) & fields)


@lru_cache(maxsize=1_000)
def _statement(collection: Collection, noted: tuple[str, ...]) -> str | None:
    """Return the statement that compares these columns, or None if there are none.

    One batch has only a few different sets of columns.
    """
    if not noted:
        return None
    # Grouped by the webhook actions that can change them.
    plain: dict[str, list[tuple[str, ...]]] = {}
    parts = []
    for field in noted:
        barred, sure = _actions(collection, field)
        actions = f"{_array(barred)}, {_array(sure)}"
        old, new = f"o.{field}", f"s.{field}"
        differs = f"{old} IS DISTINCT FROM {new}"
        if collection.column(field).kind == "jsonb":
            objects = [f"jsonb_each_text({_OBJECT.format(v)})" for v in (old, new)]
            parts.append(
                f"SELECT '{field}.' || key, a.value, b.value, {actions}"
                f" FROM {objects[0]} a FULL JOIN {objects[1]} b USING (key)"
                f" WHERE {differs} AND a.value IS DISTINCT FROM b.value"
            )
            continue
        # Converted to text only if they differ. Nearly none do.
        texts = (f"CASE WHEN {differs} THEN {v}::text END" for v in (old, new))
        plain.setdefault(actions, []).append((f"'{field}'", differs, *texts))
    for actions, values in plain.items():
        # VALUES would be slower: its expressions are prepared again for each row of the table.
        lists = ", ".join(f"ARRAY[{', '.join(each)}]" for each in zip(*values, strict=True))
        parts.append(
            f"SELECT p.field, p.old_value, p.new_value, {actions}"
            f" FROM unnest({lists}) AS p (field, differs, old_value, new_value) WHERE p.differs"
        )
    who = _WHO.format(action=_action(collection), collection=collection.name, record=RECORD)
    # Who was renamed has the same id as before. Nobody who worked on this record did that: it has
    # the new name since somebody made it be fetched again.
    renamed = " OR ".join(
        f"f.field = '{name}' AND o.{id_} = s.{id_}" for name, id_ in collection.names.values()
    )
    return (
        f"INSERT INTO {collection.changes} ({collection.key}, field, old_value, new_value,"
        " changed_at, changed_by, seen_at, seen_by)"
        f" SELECT s.id, f.field, left(f.old_value, {_LONGEST}), left(f.new_value, {_LONGEST}),"
        # When the new version began. The transaction may have begun long before, and waited.
        f" {_TIME}, CASE WHEN {renamed or 'false'} THEN NULL ELSE ({who}) END, n.ended, %(run)s"
        " FROM unnest(%(ids)s::bigint[], %(ended)s::timestamptz[], %(asked)s::timestamptz[])"
        f" AS n (id, ended, asked) JOIN {collection.name} s USING (id)"
        f" JOIN {collection.past} o ON o.{collection.key} = n.id AND o.valid_to = n.ended"
        f" CROSS JOIN LATERAL ({' UNION ALL '.join(parts)})"
        " AS f (field, old_value, new_value, barred, sure)"
    )


_OBJECT = "CASE WHEN jsonb_typeof({0}) = 'object' THEN {0} END"
# Some edits do not move updated_at, such as those of items. Then it is the time of another edit,
# perhaps of long ago, where nobody would look for what is new.
_TIME = f"CASE WHEN (s.{CHANGED} <= o.{CHANGED}) IS NOT TRUE THEN s.{CHANGED} END"
# The one person who can have changed the field since the row was last asked for. If an action says
# that it changed the field, people with other actions did not.
_WHO = (
    "SELECT CASE WHEN bool_or(t.is_sure) THEN"
    " CASE WHEN count(DISTINCT t.who) FILTER (WHERE t.is_sure) = 1"
    " THEN min(t.name) FILTER (WHERE t.is_sure) END"
    " WHEN count(DISTINCT t.who) = 1 THEN min(t.name) END"
    " FROM (SELECT coalesce(e.member_id::text, m.name, '') AS who, m.name,"
    " coalesce({action} = ANY(f.sure), false) AS is_sure FROM webhook_events e"
    # A blank name names nobody.
    " CROSS JOIN LATERAL (SELECT nullif(btrim(e.member_name), '') AS name) m"
    " WHERE e.collection = '{collection}' AND {record} = n.id AND e.received_at >= n.asked"
    " AND coalesce({action} <> ALL(f.barred), true)) t"
)


# The API's own words, compared independently of the database's language: Turkish turns I into
# another letter.
_ACTION = 'lower(e.action_type COLLATE "C")'


def _action(collection: Collection) -> str:
    """Return SQL for the action of an event `e`.

    An action on a part of a record has a name of its own (`Webhooks.of_part`).
    """
    told = collection.webhooks
    if told is None or not told.parts:
        return _ACTION
    subject = "regexp_replace(lower(e.subject_type COLLATE \"C\"), '[^a-z0-9]', '', 'g')"
    return (
        f"CASE WHEN {subject} = ANY({_array(told.parts)}) THEN '{told.of_part}' ELSE {_ACTION} END"
    )


def _actions(collection: Collection, field: str) -> tuple[set[str], set[str]]:
    """Return the actions that cannot have changed `field`, and those that certainly changed it."""
    barred: set[str] = set()
    sure: set[str] = set()
    for reach in collection.webhooks.reaches if collection.webhooks else ():
        if field not in reach.fields:
            barred |= reach.actions
        elif reach.is_sure:
            sure |= reach.actions
    return barred, sure


def _array(texts: Iterable[str]) -> str:
    quoted = ", ".join(f"'{text}'" for text in sorted(texts))
    return f"ARRAY[{quoted}]::text[]"


def await_writers(connection: Connection) -> None:
    """Wait until nobody can add a change with a lower id. This holds until the transaction ends.

    Ids are assigned before they are committed. A reader that continues after the highest visible id
    would miss a lower one that is committed later. Raises LockNotAvailable (psycopg2) after 10 s.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '10s'; LOCK opportunity_changes IN SHARE MODE")


def changes_after(connection: Connection, last: int, limit: int = 500) -> list[Change]:
    """Return business events with an id above `last`, oldest first. Commits."""
    where = "id > %s AND field = ANY(%s) ORDER BY id LIMIT %s"
    return _changes(connection, where, last, _EVENTS, limit)


def _changes(connection: Connection, where: str, *values: object) -> list[Change]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, opportunity_id, field, old_value, new_value, changed_at, changed_by,"
            f" seen_at, seen_by FROM opportunity_changes WHERE {where}",
            values,
        )
        found = [Change(*row) for row in cursor.fetchall()]
    connection.commit()
    return found
