"""The newest name of a customer, a venue or an owner, whichever way it is looked up."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from rms_pipeline.insight import names as module
from rms_pipeline.insight.names import CUSTOMER, OWNER, newest_names
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statements import Connection
from rms_pipeline_tests.rows import insert, query

NOW = datetime.now(UTC)


@pytest.fixture
def connection(emptied: Database) -> Iterator[Connection]:
    numbers = count(1)

    def job(days: int | None, customer: int | None, name: str | None) -> dict[str, Any]:
        at = None if days is None else NOW - timedelta(days=days)
        job = {"id": next(numbers), "name": "Gala", "updated_at_rms": at, "owner_id": customer}
        return job | {"organisation_id": customer, "organisation_name": name}

    rows = [
        *(job(n, 1, "One") for n in range(5)),
        *(job(9, 2, "Before"), job(1, 2, "After"), job(None, 2, "Undated")),
        *(job(None, 3, "Undated a"), job(None, 3, "Undated b")),
        *(job(5, 4, "As it was"), job(5, 5, "As it is"), job(5, 6, "Not known before")),
        job(1, 8, None),
    ]
    insert(emptied, "opportunities", rows)
    known = {(r["organisation_id"], r["organisation_name"]) for r in rows} - {(8, None)}
    # One of whom nothing is there any more, and one whose name was not noted.
    known = (known | {(7, "Gone")}) - {(6, "Not known before")}
    insert(
        emptied,
        "known_names",
        [
            {"collection": "opportunities", "kind": "customer", "name": name, "record_id": id_}
            | {"words": ""}
            for id_, name in known
        ],
    )
    members = [(1, "One", 0), (4, "Renamed", 1), (5, "Older", 30)]
    insert(
        emptied,
        "members",
        [
            {"id": id_, "name": name, "updated_at_rms": NOW - timedelta(days=days)}
            for id_, name, days in members
        ],
    )
    query(emptied, "ANALYZE opportunities")
    with emptied.session() as opened:
        yield opened


NAMES = {1: "One", 2: "After", 3: "Undated b", 4: "Renamed", 5: "As it is", 6: "Not known before"}


def test_the_newest_name_is_that_of_the_newest_opportunity_or_of_a_newer_member(
    connection: Connection,
) -> None:
    with connection.cursor() as cursor:
        assert newest_names(cursor, CUSTOMER, range(10)) == NAMES
        assert newest_names(cursor, CUSTOMER, []) == {}
        assert newest_names(cursor, OWNER, range(10)) == {}


def test_of_one_with_one_name_no_opportunity_has_to_be_the_newest(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_newest_name", lambda *_: None)
    with connection.cursor() as cursor:
        assert newest_names(cursor, CUSTOMER, range(10)) == {1: "One"}
