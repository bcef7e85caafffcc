"""Which account a mirror belongs to. Two accounts, or an account and invented data, must never
mix.
"""

import psycopg2

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.postgres_errors import reason
from rms_pipeline.mirror.record_history import begin_anew
from rms_pipeline.mirror.statements import Connection

_EMPTIED = ", ".join(
    table
    for c in COLLECTIONS
    for table in (
        *(c.name, c.deleted, c.versions),
        *([c.changes] if c.noted else []),
        *([c.past] if c.remembers else []),
    )
) + (
    ", walks, raw_rms_pages, raw_page_bodies, webhook_events, webhook_absences,"
    " status_counts, week_counts, daily_status_counts,"
    " sync_faults, sync_progress, proofs, proof_counts, held_deletions, deletions_confirmed,"
    " part_lists, mirrored_windows"
)


def demand_mirror_of(connection: Connection, account: str) -> None:
    """Raise DatabaseError if the mirror belongs to another account by now. Commits."""
    owner = mirrored_account(connection)
    if owner is not None and owner != account:
        raise DatabaseError(
            f"This database now mirrors the account {owner}, so nothing of {account} can be "
            "stored in it."
        )


def mirrored_account(connection: Connection) -> str | None:
    """Return the account of this mirror, or None if it belongs to none yet. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT value FROM mirror_state WHERE name = 'account'")
        row = cursor.fetchone()
    connection.commit()
    return row[0] if row else None


def demand_no_other_account(database: Database, account: str, *, sandbox: str) -> None:
    """Raise DatabaseError if the mirror belongs to another real account than `account`.

    `sandbox` is the name of the invented account, whose rows `claim_mirror` removes.
    """
    with database.session() as connection:
        owner = mirrored_account(connection)
    if owner not in {None, account, sandbox}:
        raise DatabaseError(_belongs_to(owner, account, sandbox, database.schema))


def _belongs_to(owner: str | None, account: str, sandbox: str, schema: str) -> str:
    """Why `account` cannot use a mirror of `owner`, and what to do."""
    place = f"The schema {schema} of this database mirrors the account {owner}"
    if account == sandbox:
        return (
            f"{place}, and here no account is configured. The sandbox's invented opportunities "
            f"must not mix with it. Set CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY to mirror "
            f"{owner}, or use another schema (RMS_SCHEMA) or database (POSTGRES_URL)."
        )
    return (
        f"{place}, and here the account is {account}. Give {account} a schema or a database of its "
        "own: RMS_SCHEMA or POSTGRES_URL."
    )


def claim_mirror(database: Database, account: str, *, sandbox: str) -> bool:
    """Note that this is the mirror of `account`. Returns True if the sandbox's rows were removed
    for it.

    `sandbox` is the name of the invented account. Raises DatabaseError if the mirror belongs to
    another real account.
    """
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO mirror_state VALUES ('account', %s) ON CONFLICT DO NOTHING", (account,)
        )
        cursor.execute("SELECT value FROM mirror_state WHERE name = 'account' FOR UPDATE")
        row = cursor.fetchone()
        owner = row[0] if row else account
        if owner == account:
            return False
        if owner != sandbox:
            raise DatabaseError(_belongs_to(owner, account, sandbox, database.schema))
        try:
            cursor.execute(f"TRUNCATE {_EMPTIED}")
        except psycopg2.errors.FeatureNotSupported as error:
            raise DatabaseError(
                "The sandbox's rows cannot be removed, because another table refers to them "
                f"({reason(error)}) Drop that foreign key, or use another database "
                "(POSTGRES_URL)."
            ) from None
        cursor.execute("UPDATE mirror_state SET value = %s WHERE name = 'account'", (account,))
        for collection in COLLECTIONS:
            begin_anew(cursor, collection)
    return True
