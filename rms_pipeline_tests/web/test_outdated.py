"""A web service that goes on while or after a newer version of this program upgrades the tables."""

from collections.abc import Iterator

import pytest
import requests

from rms_pipeline.insight import decisions
from rms_pipeline.mirror.schema import HEAD
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.web import reading
from rms_pipeline_tests.web.conftest import BEARER, Web, delivery, serving


def page_of(web: Web, path: str) -> requests.Response:
    accept = {"Accept": "text/html"}
    return requests.get(f"{web.url}{path}", headers=BEARER | accept, timeout=30)


SENTENCE = (
    "newer version of this program made the tables in this database "
    f"(schema 9999; this version knows {HEAD})"
)


@pytest.fixture
def outdated(web: Web) -> Iterator[Web]:
    """Whose tables have another shape now."""
    web.query(
        "ALTER TABLE status_counts RENAME COLUMN as_of TO counted_at;"
        "ALTER TABLE webhook_events RENAME TO events;"
        "UPDATE rms_pipeline_alembic_version SET version_num = '9999' RETURNING 1"
    )
    yield web
    web.query(
        "ALTER TABLE status_counts RENAME COLUMN counted_at TO as_of;"
        "ALTER TABLE events RENAME TO webhook_events;"
        f"UPDATE rms_pipeline_alembic_version SET version_num = '{HEAD}' RETURNING 1"
    )


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_pages_that_fail_say_that_the_program_is_too_old(outdated: Web, accept: str) -> None:
    answer = requests.get(outdated.url, headers={**BEARER, "Accept": accept}, timeout=30)
    assert answer.status_code == 503
    assert SENTENCE in answer.text
    assert int(answer.headers["Retry-After"]) > 0


def test_a_webhook_that_cannot_be_kept_is_refused_so_that_it_is_sent_again(outdated: Web) -> None:
    answer = outdated.post(delivery(1, 1))
    assert answer.status_code == 503
    assert answer.json()["error"].endswith("Deliver it again.")


def test_what_still_works_is_answered(outdated: Web) -> None:
    assert requests.get(f"{outdated.url}/healthz", timeout=30).status_code == 200


def test_an_error_on_tables_of_this_version_is_no_matter_of_versions(outdated: Web) -> None:
    outdated.query(f"UPDATE rms_pipeline_alembic_version SET version_num = '{HEAD}' RETURNING 1")
    answer = requests.get(outdated.url, headers=BEARER, timeout=30)
    assert answer.status_code in {500, 503}
    assert "newer version" not in answer.text


def test_pages_say_soon_that_an_upgrade_locks_the_tables(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SECONDS_FOR_A_LOCK", 0.1)
    with (
        SandboxServer(Store(1)) as sandbox,
        serving(web.database, sandbox) as served,
        web.database.session() as upgrade,
    ):
        with upgrade.cursor() as cursor:
            cursor.execute("LOCK TABLE opportunities IN ACCESS EXCLUSIVE MODE")
        answer = page_of(served, "/today")
        assert answer.status_code == 503
        assert "The tables are locked at the moment" in answer.text
        assert int(answer.headers["Retry-After"]) > 0
        upgrade.rollback()
        assert page_of(served, "/today").status_code == 200


def test_a_page_that_takes_too_long_says_so_and_does_not_blame_the_database(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SECONDS", 0.1)
    monkeypatch.setattr(decisions, "_SUMS", f"pg_sleep(5), {decisions._SUMS}")
    with SandboxServer(Store(1)) as sandbox, serving(web.database, sandbox) as served:
        answer = page_of(served, "/won-and-lost")
    assert answer.status_code == 503
    assert "This page took too long" in answer.text
