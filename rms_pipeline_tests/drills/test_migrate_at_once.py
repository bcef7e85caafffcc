"""`rms-pipeline migrate` by twelve processes at the same moment, as in a rolling deployment."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rms_pipeline.mirror.schema import HEAD
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.mirror.releases import load_release
from rms_pipeline_tests.mirror.upgrades import versions
from rms_pipeline_tests.processes import command, environment_for
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.servers import new_database

AT_ONCE = 12


@pytest.mark.timeout(1_800)
def test_migrate_at_the_same_moment_never_fails(embedded_url: str, long: bool) -> None:
    """Every other round an empty database, else one of an older version with rows."""
    older = versions()[:-1]
    with SandboxServer(Store(1)) as sandbox, ThreadPoolExecutor(AT_ONCE) as pool:
        for round_ in range(10 if long else 2):
            with new_database(embedded_url) as url:
                if round_ % 2:
                    load_release(url, older[-1 - round_ % len(older)])
                environment = environment_for(url, sandbox)
                started = [
                    pool.submit(command, "migrate", environment=environment, timeout=900)
                    for _ in range(AT_ONCE)
                ]
                done = [future.result() for future in started]
                assert [d.stderr for d in done if d.returncode] == []
                version = "SELECT version_num FROM rms_pipeline_alembic_version"
                assert query(database_at(url), version) == [(HEAD,)]
                assert query(database_at(url), "SELECT count(*) FROM sync_metadata")
