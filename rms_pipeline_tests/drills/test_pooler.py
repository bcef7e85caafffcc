"""Behind a transaction pooler, with the direct URL beside it, everything works."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.pooler import transaction_pooler
from rms_pipeline_tests.processes import SECRET_KEY, command, environment_for, wait_until
from rms_pipeline_tests.web.conftest import BEARER, delivery, serving

pytestmark = pytest.mark.new_connections


@pytest.mark.timeout(300)
def test_syncs_pages_and_webhooks_do_not_get_into_each_others_way(
    empty_url: str, client_for: Callable[..., CurrentRmsClient]
) -> None:
    with (
        SandboxServer(Store(120), api_key=SECRET_KEY) as sandbox,
        transaction_pooler(empty_url) as pooler,
    ):
        environment = environment_for(
            pooler.url, sandbox, POSTGRES_URL_NON_POOLING=empty_url, RMS_TIME_ZONE="UTC"
        )
        done = command("sync", "initial", environment=environment)
        assert done.returncode == 0, done.stderr
        database = Database(SecretStr(pooler.url), SecretStr(empty_url))

        @contextmanager
        def client() -> Iterator[CurrentRmsClient]:
            with client_for(sandbox.url, api_key=SECRET_KEY) as made:
                yield made

        with serving(database, sandbox, client=client) as web:
            ids = sandbox.store.ids()[:24]

            def use(number: int) -> tuple[int, int]:
                page = requests.get(f"{web.url}/", headers=BEARER, timeout=30)
                sandbox.store.edit(ids[number], {"subject": f"Edited {number}"})
                told = web.post(delivery(number + 1, ids[number]))
                return page.status_code, told.status_code

            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(use, range(len(ids)))) == {(200, 200)}
            names = "SELECT count(*) FROM opportunities WHERE name LIKE 'Edited %'"
            wait_until(lambda: web.query(names) == [(len(ids),)])
            for number in range(len(ids)):
                sandbox.store.edit(ids[number], {"subject": f"Edited again {number}"})
            done = command("sync", "incremental", environment=environment)
            assert done.returncode == 0, done.stderr
            again = "SELECT count(*) FROM opportunities WHERE name LIKE 'Edited again %'"
            assert web.query(again) == [(len(ids),)]
            assert requests.get(f"{web.url}/", headers=BEARER, timeout=30).status_code == 200
        assert pooler.servers > 1
