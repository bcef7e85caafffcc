"""Views for people's questions. They are made from `.sql` files, and again when a file changes.

A view is not part of a migration, because migrations are frozen and a view's text is not. If
PostgreSQL can replace it in place, rights and everything that people built on it stay. If not (a
column is gone, or has another type), the view is dropped and its rights are granted again. If
people built something on it, the error names it, because only they can decide about that.

This module lists the views and brings them to their text. What they say is in `insight`. Views that
are more than a file are in `sync_metadata_view` and `record_history`.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import psycopg2

from rms_pipeline.mirror.database import DatabaseError
from rms_pipeline.mirror.postgres_errors import what_depends
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

logger = logging.getLogger(__name__)
# Read by path like migrations. Their content does not matter here.
FOLDER = Path(__file__).parent.parent / "insight" / "views"
_VERSION = re.compile(r"-- version (\d+)\.")
# Key of a row of mirror_state. The name of the view follows.
_MADE_FROM = "view "
# Suffix for other people's relations that have the name of one of our views.
_ASIDE = "_before_rms_pipeline"


@dataclass(frozen=True, slots=True)
class View:
    """One of our views.

    `version` only ever goes up: if two programs use one database, the one with the higher version
    makes the view. `needs` are other views of ours that it reads.
    """

    name: str
    version: int
    text: str
    needs: tuple[str, ...]

    def made_from(self, definition: str | None) -> str:
        """Return a text for the view's SQL together with what PostgreSQL made of it
        (`definition`).
        """
        digest = hashlib.blake2b(f"{self.text}\0{definition}".encode(), digest_size=16).hexdigest()
        return f"{self.version} {digest}"


@cache
def views() -> tuple[View, ...]:
    """Return all views, each after those that it needs."""
    texts = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.sql"))}
    made = {}
    for name, text in texts.items():
        version = _VERSION.match(text)
        if version is None:
            raise ValueError(f"{name}.sql does not begin with its version: -- version 1.")
        words = set(re.findall(r"\w+", re.sub(r"--.*|'[^']*'", "", text)))
        needs = tuple(other for other in texts if other != name and other in words)
        made[name] = View(name, int(version[1]), text, needs)
    order = TopologicalSorter({name: view.needs for name, view in made.items()})
    return tuple(made[name] for name in order.static_order())


def are_views_made(connection: Connection) -> bool:
    """Return whether each view is as this code wants it, or was made by a newer version."""
    with connection.cursor() as cursor:
        return not _stale(cursor)


def stale_views(connection: Connection) -> list[str]:
    """Return the views that `make_views` will make."""
    with connection.cursor() as cursor:
        return sorted(_stale(cursor))


def names_taken(cursor: Cursor, *, noted: bool = True) -> list[str]:
    """Return names of our views that other objects have. `make_views` renames those objects.

    `noted` says whether the table exists that lists which views are ours.
    """
    ours = "EXISTS (SELECT FROM mirror_state WHERE name = %(mark)s || relname)"
    cursor.execute(
        "SELECT relname FROM pg_class WHERE oid IN (SELECT to_regclass(v)"
        f" FROM unnest(%(views)s::text[]) AS v) AND NOT {ours if noted else 'false'} ORDER BY 1",
        {"views": [view.name for view in views()], "mark": _MADE_FROM},
    )
    return [row[0] for row in cursor.fetchall()]


def make_views(connection: Connection) -> None:
    """Make the views that are not as this code wants them. Does not commit.

    Raises DatabaseError if views of others are in the way.
    """
    with connection.cursor() as cursor:
        stale = _stale(cursor)
        grants: dict[str, list[str]] = {}
        for view in views():
            if view.name not in stale:
                continue
            _set_aside(cursor, view.name)
            cursor.execute("SAVEPOINT make_view")
            try:
                cursor.execute(view.text)
            except psycopg2.errors.InvalidTableDefinition:
                cursor.execute("ROLLBACK TO SAVEPOINT make_view")
                # One that was dropped before, with another that it reads, has no rights any more.
                grants = _drop(cursor, view.name, stale) | grants
                cursor.execute(view.text)
            _regrant(cursor, view.name, grants.pop(view.name, None))
            _note(cursor, view)


def make_around(
    cursor: Cursor, name: str, change: Callable[[], None], *, drops_columns: bool
) -> bool:
    """Let `change` alter a table whose view `name` shows all columns, then make the view again.

    Returns False, and changes no view, if the view is not ours. Rights on it stay. What people
    built on it also stays, unless `drops_columns`: then a DatabaseError names it.
    """
    (view,) = (each for each in views() if each.name == name)
    cursor.execute(
        "SELECT to_regclass(%(name)s) IS NOT NULL,"
        " EXISTS (SELECT FROM mirror_state WHERE name = %(mark)s || %(name)s)",
        {"name": name, "mark": _MADE_FROM},
    )
    is_there, is_ours = one_row(cursor)
    if not is_ours:
        change()
        return False
    grants = None
    if is_there:
        # In the order of readers: first the view, then what it reads.
        cursor.execute(f"LOCK {name} IN ACCESS EXCLUSIVE MODE")
    if is_there and drops_columns:
        grants = _drop(cursor, name, set())[name]
    change()
    cursor.execute(view.text)
    _regrant(cursor, name, grants)
    _note(cursor, view)
    return True


def _stale(cursor: Cursor) -> set[str]:
    cursor.execute(
        "SELECT v, (SELECT pg_get_viewdef(oid) FROM pg_class WHERE oid = to_regclass(v)"
        " AND relkind = 'v'), (SELECT value FROM mirror_state WHERE name = %s || v)"
        " FROM unnest(%s::text[]) AS v",
        (_MADE_FROM, [view.name for view in views()]),
    )
    found: dict[str, tuple[str | None, str]] = {
        name: (definition, made or "0 ") for name, definition, made in cursor.fetchall()
    }
    return {view.name for view in views() if _is_stale(view, *found[view.name])}


def _is_stale(view: View, definition: str | None, made: str) -> bool:
    if definition is None:
        return True
    return int(made.partition(" ")[0]) <= view.version and made != view.made_from(definition)


def _note(cursor: Cursor, view: View) -> None:
    cursor.execute("SELECT pg_get_viewdef(to_regclass(%s))", (view.name,))
    (definition,) = one_row(cursor)
    cursor.execute(
        "INSERT INTO mirror_state (name, value) VALUES (%s, %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (_MADE_FROM + view.name, view.made_from(definition)),
    )


_KINDS = {"r": "TABLE", "p": "TABLE", "f": "FOREIGN TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW"}


def _set_aside(cursor: Cursor, name: str) -> None:
    """Rename an object that has the view's name but was never ours. What was built on it stays
    valid.
    """
    cursor.execute(
        "SELECT relkind, (SELECT rolname FROM pg_roles WHERE oid = relowner) FROM pg_class"
        " WHERE oid = to_regclass(%(name)s) AND NOT EXISTS"
        " (SELECT FROM mirror_state WHERE name = %(mark)s || %(name)s)",
        {"name": name, "mark": _MADE_FROM},
    )
    row = cursor.fetchone()
    if row is None:
        return
    kind, owner = row
    if kind not in _KINDS:
        raise DatabaseError(
            f"An object that is neither a table nor a view has the name {name}, which a view of "
            "this program needs. Rename that object, then run `rms-pipeline migrate`."
        )
    cursor.execute(
        "SELECT format('%%s%%s', %(aside)s::text, nullif(n, 1)) FROM generate_series(1, 1000) n"
        " WHERE to_regclass(format('%%I', format('%%s%%s', %(aside)s::text, nullif(n, 1)))) IS NULL"
        " ORDER BY n LIMIT 1",
        {"aside": name + _ASIDE},
    )
    (aside,) = one_row(cursor)
    cursor.execute("SAVEPOINT set_aside")
    try:
        cursor.execute(f"ALTER {_KINDS[kind]} {name} RENAME TO {aside}")
    except psycopg2.errors.InsufficientPrivilege:
        cursor.execute("ROLLBACK TO SAVEPOINT set_aside")
        raise DatabaseError(
            f"{name} is the name of a view of this program, but {owner} owns another object with "
            "that name, and the user of POSTGRES_URL has no right to rename it. As its owner: "
            f"ALTER {_KINDS[kind]} {name} RENAME TO {aside}; and run `rms-pipeline migrate`."
        ) from None
    logger.warning("Renamed %s, which another program left, to %s", name, aside)


def _drop(cursor: Cursor, name: str, stale: set[str]) -> dict[str, list[str]]:
    """Drop the view and those of our views that read it, which are then `stale`.

    Returns the rights on each, as statements that grant them.
    """
    above = [view.name for view in views() if _needs(view, name)]
    grants = {one: _grants(cursor, one) for one in (name, *above)}
    for one in (*reversed(above), name):
        try:
            cursor.execute(f"DROP VIEW IF EXISTS {one}")
        except psycopg2.errors.DependentObjectsStillExist as error:
            raise DatabaseError(
                f"The view {one} must be created again, but other objects depend on it: "
                f"{what_depends(error)} Drop those, run "
                "`rms-pipeline migrate`, and create them again."
            ) from None
    stale |= {*above}
    return grants


def _needs(view: View, name: str) -> bool:
    by_name: Mapping[str, View] = {v.name: v for v in views()}
    return any(other == name or _needs(by_name[other], name) for other in view.needs)


def _grants(cursor: Cursor, name: str) -> list[str]:
    """Return statements that grant the present rights on the view and on single columns of it."""
    cursor.execute(
        "SELECT format('GRANT %%s%%s ON %%I TO %%s%%s', a.privilege_type,"
        " CASE WHEN g.column_name IS NULL THEN '' ELSE format(' (%%I)', g.column_name) END,"
        " %(name)s, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END,"
        " CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)"
        " FROM (SELECT relowner, relacl AS acl, NULL::name AS column_name FROM pg_class"
        " WHERE oid = to_regclass(%(name)s) UNION ALL SELECT relowner, attacl, attname"
        " FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
        " WHERE attrelid = to_regclass(%(name)s) AND attnum > 0) g"
        " CROSS JOIN LATERAL aclexplode(g.acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee"
        " WHERE a.grantee <> g.relowner ORDER BY 1",
        {"name": name},
    )
    return [row[0] for row in cursor.fetchall()]


def _regrant(cursor: Cursor, name: str, statements: list[str] | None) -> None:
    """Restore exactly the rights of a view that was dropped. None means that it was not dropped."""
    if statements is None:
        return
    cursor.execute(
        "SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END"
        " FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a"
        " LEFT JOIN pg_roles r ON r.oid = a.grantee"
        " WHERE c.oid = to_regclass(%s) AND a.grantee <> c.relowner",
        (name,),
    )
    # These came from default privileges.
    for (grantee,) in cursor.fetchall():
        cursor.execute(f"REVOKE ALL ON {name} FROM {grantee}")
    for statement in statements:
        cursor.execute("SAVEPOINT regrant")
        try:
            cursor.execute(statement)
        except (psycopg2.errors.UndefinedColumn, psycopg2.errors.UndefinedObject):
            # The column no longer exists, or the role was dropped meanwhile.
            cursor.execute("ROLLBACK TO SAVEPOINT regrant")
