"""The terms of the API, remembered for all processes: page sizes, and what accounts refuse.

Rows are kept by account, so that the sandbox's terms are never used for a real account.
"""

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.terms import TIME_OF_DAY, Kind, Refusal, Terms
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statements import Connection


class StoredTerms(Terms):
    """Terms that every process of the same database knows.

    What is learned is committed at once, on a connection of its own. The constructor, and methods
    that learn something, may raise DatabaseError.
    """

    def __init__(self, database: Database, account: str, collection: Collection) -> None:
        self._database, self._account, self._collection = database, account, collection
        with database.session() as connection:
            super().__init__(
                read_page_size(connection, account, collection),
                read_refusals(connection, account, collection),
            )

    def reload(self) -> None:
        with self._database.session() as connection:
            size = read_page_size(connection, self._account, self._collection)
            refusals = read_refusals(connection, self._account, self._collection)
        with self._lock:
            self._page_size = size or self._page_size
            self._refusals = {(r.kind, r.name): r for r in refusals}

    def _keep_page_size(self, size: int) -> None:
        self._execute(
            "INSERT INTO api_page_sizes (account, collection, page_size, learned_at)"
            " VALUES (%s, %s, %s, clock_timestamp()) ON CONFLICT (account, collection)"
            " DO UPDATE SET page_size = excluded.page_size, learned_at = excluded.learned_at",
            size,
        )

    def _keep(self, refusal: Refusal) -> None:
        self._execute(
            "INSERT INTO api_refusals (account, collection, kind, name, status, noted_at)"
            " VALUES (%s, %s, %s, %s, %s, clock_timestamp())"
            " ON CONFLICT (account, collection, kind, name)"
            " DO UPDATE SET status = excluded.status, noted_at = excluded.noted_at",
            refusal.kind,
            refusal.name,
            refusal.status,
        )

    def _forget(self, kind: Kind, name: str) -> None:
        self._execute(
            "DELETE FROM api_refusals WHERE account = %s AND collection = %s AND kind = %s"
            " AND name = %s",
            kind,
            name,
        )

    def _execute(self, sql: str, *values: object) -> None:
        with self._database.session() as connection, connection.cursor() as cursor:
            cursor.execute(sql, (self._account, self._collection.name, *values))


def read_terms(connection: Connection, account: str, collection: Collection) -> Terms:
    """Return what is known now. Nothing that is learned from it is kept. Commits."""
    return Terms(
        read_page_size(connection, account, collection),
        read_refusals(connection, account, collection),
    )


def read_page_size(connection: Connection, account: str, collection: Collection) -> int | None:
    """Return how many records a page was found to hold, or None if that is not known yet.
    Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT page_size FROM api_page_sizes WHERE account = %s AND collection = %s",
            (account, collection.name),
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else None


def read_refusals(connection: Connection, account: str, collection: Collection) -> list[Refusal]:
    """Return what the account refuses or ignores, by kind and name. Commits.

    Only a window shows whether filters by a time compare days. So a collection without one goes by
    what the others have shown.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT kind, name, max(status), max(noted_at) FROM api_refusals"
            " WHERE account = %s AND (collection = %s OR %s AND (kind, name) = ('filter', %s))"
            " GROUP BY kind, name ORDER BY kind, name",
            (account, collection.name, not collection.has_window, TIME_OF_DAY),
        )
        found = [Refusal(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def try_all_again(connection: Connection) -> None:
    """Let everything that was refused or ignored be asked for again at once. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE api_refusals SET noted_at = 'epoch'")
    connection.commit()
