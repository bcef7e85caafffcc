"""What migrations share. Frozen like them: a migration that needs something else brings its own.

Every migration runs with `search_path` set to the schema of the mirror, so names that are not
qualified lie there; `schema()` is for the few places that have to name it.

The first line of a migration's docstring is the sentence that `rms-pipeline migrate --plan` prints:
what it does, for people. A migration also declares, where it applies:

    makes     names of the tables and views that it makes
    adds      columns that it adds to tables which are there already, by table
    touches   what it does to tables which are there already, by table: "altered" (for an instant,
              under a lock that readers wait for), "rewritten" (every row is copied under that
              lock), "updated" (most rows get a new version), "indexed" (an index is built; who
              writes waits) and "watched" (a trigger is added; who writes waits)
    full_sync    why rows need the API again, as handed to `want_full_sync`

`rms_pipeline_tests/mirror/test_plan.py` runs each migration and compares.
"""

import logging
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Connection

logger = logging.getLogger(__name__)

SUFFIX = "_before_rms_pipeline"
_KINDS = {"r": "TABLE", "p": "TABLE", "f": "FOREIGN TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW"}


def schema() -> str:
    """The schema that our tables live in, as it was handed to Alembic."""
    return str(op.get_context().version_table_schema)


def set_aside(connection: Connection, names: Sequence[str]) -> list[str]:
    """Renames relations of the mirror's schema that bear one of `names`; returns their new names.

    Only to be called before our own tables exist: whatever has these names then is not ours.
    """
    place = schema()
    found = connection.execute(
        sa.text(
            "SELECT relname, relkind FROM pg_class WHERE relnamespace = to_regnamespace(:place)"
            " AND relname = ANY(:names) AND relkind IN ('r', 'p', 'f', 'v', 'm') ORDER BY relname"
        ),
        {"place": f'"{place}"', "names": list(names)},
    ).all()
    renamed = []
    for name, kind in found:
        aside = _free_name(connection, place, name)
        connection.execute(sa.text(f'ALTER {_KINDS[kind]} "{place}"."{name}" RENAME TO "{aside}"'))
        logger.warning("Renamed %s.%s, which another program left, to %s", place, name, aside)
        renamed.append(aside)
    return renamed


def _free_name(connection: Connection, place: str, name: str) -> str:
    candidate, number = f"{name}{SUFFIX}", 1
    while connection.execute(
        sa.text("SELECT to_regclass(:n) IS NOT NULL"), {"n": f'"{place}"."{candidate}"'}
    ).scalar():
        number += 1
        candidate = f"{name}{SUFFIX}_{number}"
    return candidate


def make_collection(
    name: str,
    single: str,
    columns: Mapping[str, str],
    *,
    indexes: Sequence[str] = (),
    remembers: bool = False,
) -> None:
    """Makes all tables of a new collection, as schema 0042 has those of the others.

    `name` and `single` are those of its declaration, and so are `columns`: the type of each mapped
    column, by its name and in order, with `NOT NULL` for those with an `otherwise`. `indexes` are
    the columns of each index ("status", "updated_at_rms DESC"). `remembers` adds the table of
    earlier versions, whose view follows from the declaration. A table or view of another program
    that bears one of the names is set aside.

    A migration that calls it declares `makes = collection_tables(name, single, remembers=...)`.
    """
    set_aside(op.get_bind(), collection_tables(name, single, remembers=remembers))
    mapped = ", ".join(f"{column} {kind}" for column, kind in columns.items())
    whole = (
        f"id bigint PRIMARY KEY, {mapped}, data jsonb, synced_at timestamptz,"
        " last_webhook_at timestamptz"
    )
    # Half of each page is free: each sync notes of each row when it was asked for.
    op.execute(f"CREATE TABLE {name} ({whole}) WITH (fillfactor = 50)")
    op.execute(f"ALTER TABLE {name} SET (toast_tuple_target = 512)")
    for index in indexes:
        op.execute(f"CREATE INDEX ON {name} ({index})")
    op.execute(
        f"CREATE TABLE deleted_{name} ({whole},"
        " deleted_at timestamptz NOT NULL, deleted_because text NOT NULL)"
    )
    op.execute(f"CREATE INDEX ON deleted_{name} (deleted_at)")
    begins = "valid_from timestamptz NOT NULL DEFAULT clock_timestamp()," if remembers else ""
    op.execute(f"""
        CREATE TABLE {single}_versions (
            id bigint PRIMARY KEY,
            asked_at timestamptz,
            answered_at timestamptz,
            updated_at_rms timestamptz,
            fingerprint bytea,
            {begins}
            deleted boolean NOT NULL DEFAULT false
        ) WITH (fillfactor = 80)
    """)
    if remembers:
        may_lack = mapped.replace(" NOT NULL", "")
        op.execute(f"""
            CREATE TABLE {single}_past (
                {single}_id bigint NOT NULL,
                valid_from timestamptz NOT NULL,
                valid_to timestamptz NOT NULL CHECK (valid_from < valid_to),
                deleted boolean NOT NULL,
                {may_lack},
                difference jsonb,
                record jsonb,
                PRIMARY KEY ({single}_id, valid_from)
            )
        """)
        op.execute(f"CREATE INDEX ON {single}_past (valid_to)")
        op.execute(
            f"CREATE INDEX ON {single}_past ({single}_id, valid_from) WHERE record IS NOT NULL"
        )
    op.execute(f"CREATE SEQUENCE content_of_{name}")
    for trigger, event in {
        "insert": f"BEFORE INSERT ON {name} FOR EACH STATEMENT",
        "truncate": f"BEFORE TRUNCATE ON {name} FOR EACH STATEMENT",
        "delete": f"BEFORE DELETE ON {name} FOR EACH ROW",
        "update": f"BEFORE UPDATE OF id, updated_at_rms, data ON {name} FOR EACH ROW",
    }.items():
        op.execute(
            f"CREATE TRIGGER rms_content_{trigger} {event}"
            f" EXECUTE FUNCTION rms_note_content('{name}')"
        )


def collection_tables(name: str, single: str, *, remembers: bool = False) -> tuple[str, ...]:
    """The tables and the view of a collection that `make_collection` makes room for."""
    past = (f"{single}_past", f"{single}_history") if remembers else ()
    return (name, f"deleted_{name}", f"{single}_versions", *past)


def want_full_sync(because: str) -> None:
    """Notes that rows which are there already lack what only the API can tell, `because` of what.

    `rms-pipeline migrate` and `doctor` say so until a full sync that began later has completed. An
    empty mirror wants nothing.
    """
    op.get_bind().execute(
        sa.text(
            "INSERT INTO mirror_state (name, value) SELECT 'full_sync_wanted', json_build_object("
            "'since', clock_timestamp(), 'because', CAST(:because AS text))::text"
            " WHERE EXISTS (SELECT FROM opportunities)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        ),
        {"because": because},
    )
