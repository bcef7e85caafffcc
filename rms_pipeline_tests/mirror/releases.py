"""Databases that earlier versions of this program filled, as pg_dump wrote them."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
from pydantic import SecretStr

from rms_pipeline.mirror import schema
from rms_pipeline.mirror.database import Database

DUMPS = Path(__file__).with_name("dumps")
RELEASES = sorted(path.name.partition(".")[0] for path in DUMPS.glob("*.sql.gz"))
ANALYST = "rms_analyst"
MADE_AT = datetime(2026, 11, 26, tzinfo=UTC)


def load_release(url: str, version: str) -> str:
    """Fill the empty database at `url` as the last program with the schema `version` left one.

    Each file is what pg_dump wrote after that program had synced 24 invented opportunities on
    MADE_AT (one edited, one deleted), with Dagster's history and a right that was granted to
    ANALYST. From 0004 on there is an event that waits, and a dead letter. From 0024 on there are
    rows of each collection that it knew. make_release.py wrote those from 0017 on. If no program
    had `version`, the newest one before it is loaded, and migrated to `version`. Returns the
    version that was loaded.
    """
    newest = max(v for v in RELEASES if v <= version)
    dump = gzip.decompress((DUMPS / f"{newest}.sql.gz").read_bytes()).decode()
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (ANALYST,))
        if not cursor.rowcount:
            cursor.execute(f"CREATE ROLE {ANALYST}")
        cursor.execute(dump)
    connection.close()
    if newest != version:
        schema.upgrade_tables(Database(SecretStr(url), SecretStr(url)), version)
    return newest
