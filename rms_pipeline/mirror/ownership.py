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
            wanted = (
                "no account is configured now, and the sandbox's invented opportunities must not "
                "mix with it. Set CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY"
                if account == sandbox
                else f"CURRENT_RMS_SUBDOMAIN is {account}"
            )
            raise DatabaseError(
                f"This database mirrors the account {owner}, but {wanted}, or use another database "
                "(POSTGRES_URL) for the other account."
            )
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
