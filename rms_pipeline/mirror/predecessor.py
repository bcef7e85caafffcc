"""Takes over a database where others used our names, without dropping any of its rows."""

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

logger = logging.getLogger(__name__)

SUFFIX = "_before_rms_pipeline"
_KINDS = {"r": "TABLE", "p": "TABLE", "f": "FOREIGN TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW"}


def set_aside(connection: Connection, names: Sequence[str]) -> list[str]:
    """Renames relations of schema public that bear one of `names`; returns their new names.

    Only to be called before our own tables exist: whatever has these names then is not ours.
    """
    found = connection.execute(
        sa.text(
            "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relname = ANY(:names) AND relkind IN ('r', 'p', 'f', 'v', 'm') ORDER BY relname"
        ),
        {"names": list(names)},
    ).all()
    renamed = []
    for name, kind in found:
        aside = _free_name(connection, name)
        connection.execute(sa.text(f'ALTER {_KINDS[kind]} public."{name}" RENAME TO "{aside}"'))
        logger.warning("Renamed public.%s, which another program left, to %s", name, aside)
        renamed.append(aside)
    return renamed


def _free_name(connection: Connection, name: str) -> str:
    candidate, number = f"{name}{SUFFIX}", 1
    while connection.execute(
        sa.text("SELECT to_regclass(:n) IS NOT NULL"), {"n": f'public."{candidate}"'}
    ).scalar():
        number += 1
        candidate = f"{name}{SUFFIX}_{number}"
    return candidate
