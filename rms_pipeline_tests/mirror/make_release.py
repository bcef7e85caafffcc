"""Writes the database that a release leaves into dumps/: python -m ... SCHEMA [COMMIT].

For a new release: put it into `LANDED` (earlier.py), and run this once. The program of that release
does all the work; what was invented is the account.
"""

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

import requests

from rms_pipeline.sandbox import Faults, SandboxServer, Store
from rms_pipeline_tests.earlier import LANDED, Old
from rms_pipeline_tests.mirror.releases import ANALYST, DUMPS, MADE_AT
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    SECRET_TOKEN,
    environment_for,
    query,
    wait_until,
)
from rms_pipeline_tests.servers import POSTGRESQL_15, administrator, installed_postgresql, url_of
from rms_pipeline_tests.web.conftest import WEBHOOK_TOKEN, delivery

# Which collections a release mirrors, by the schema that brought them.
COLLECTIONS = {"0021": "opportunities", "0022": "members", "0024": "invoices",
               "0028": "opportunity_items"}  # fmt: skip
# A dead letter: nobody waits until a record was refused five times.
DEAD = (
    "INSERT INTO webhook_events (subject_type, opportunity_id, attempts, dead_at, error)"
    " VALUES ('Opportunity', 424242, 5, now(), 'Current RMS: status 500')"
)


def made_by(commit: str, schema: str) -> bytes:
    """What pg_dump writes of a mirror that the program of `commit` filled."""
    store = Store(24, today=MADE_AT)
    with (
        tempfile.TemporaryDirectory() as folder,
        installed_postgresql() as server,
        SandboxServer(store, api_key=SECRET_KEY) as sandbox,
    ):
        url = url_of(server, "mirror")
        with administrator(server) as run:
            run("CREATE DATABASE mirror")
        collections = [name for since, name in COLLECTIONS.items() if since <= schema]
        environment = environment_for(
            url,
            sandbox,
            RMS_WEBHOOK_TOKEN=WEBHOOK_TOKEN,
            RMS_API_TOKEN=SECRET_TOKEN,
            **({"RMS_COLLECTIONS": ",".join(collections)} if collections else {}),
        )
        old = Old(commit, Path(folder), environment)
        assert old.run("sync", "initial").returncode == 0
        version = query(environment, "SELECT version_num FROM rms_pipeline_alembic_version")
        assert version == [(schema,)], version
        first, second, third, *_, last = store.ids()
        store.edit(first, {"subject": "Edited once"})
        store.delete(last)
        assert old.run("sync", "incremental").returncode == 0
        with old.serving(Path(folder) / "web.log") as web:
            hook = f"{web}/api/webhook/{WEBHOOK_TOKEN}"
            store.edit(second, {"subject": "Edited, and told by a webhook"})
            assert requests.post(hook, json=delivery(1, second), timeout=30).ok
            seen = f"SELECT data ->> 'subject' FROM opportunities WHERE id = {second}"
            wait_until(lambda: query(environment, seen) == [("Edited, and told by a webhook",)])
            # The night's sync, which finds what is gone.
            assert old.run("sync", "initial").returncode == 0
            sandbox.faults = Faults(probabilities={"error_502": 1.0})
            assert requests.post(hook, json=delivery(2, third), timeout=30).ok
        with administrator(url) as run:
            run(DEAD)
            run(f"CREATE ROLE {ANALYST}")
            run(f"GRANT SELECT ON sync_metadata TO {ANALYST}")
        # Since 15.14 pg_dump writes two words of psql's.
        written = _run("pg_dump", "--no-owner", "--inserts", "--rows-per-insert=50", url)
    return b"\n".join(line for line in written.splitlines() if not line.startswith(b"\\"))


def _run(program: str, *arguments: str) -> bytes:
    command = [str(POSTGRESQL_15 / program), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def main(schema: str, commit: str = "") -> None:
    dump = made_by(commit or LANDED[schema], schema)
    # Without the moment and the name of the file, so that the same dump is the same file.
    (DUMPS / f"{schema}.sql.gz").write_bytes(gzip.compress(dump, 9, mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
