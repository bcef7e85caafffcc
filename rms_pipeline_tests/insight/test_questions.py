"""The nine questions of docs/how-to/questions.md, each asked as it stands there."""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.rows import insert, insert_opportunities, query

PAGE = Path(__file__).parent.parent.parent / "docs/how-to/questions.md"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def questions() -> dict[str, list[str]]:
    """The queries by the heading they stand below."""
    found: dict[str, list[str]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        heading, _, rest = section.partition("\n")
        found[heading] = re.findall(r"<!-- question: \w+ -->\n```sql\n(.*?)```", rest, re.DOTALL)
    return found


def answer(database: Database, words: str, which: int = 0) -> list[tuple[Any, ...]]:
    (heading,) = (h for h in questions() if words in h)
    return query(database, questions()[heading][which])


def test_the_page_has_nine_questions_and_each_has_a_query() -> None:
    assert len(questions()) == 9
    assert all(questions().values())
    assert sum(map(len, questions().values())) == PAGE.read_text().count("```sql")


def test_each_question_that_an_index_can_serve_reads_no_table_whole(london: Database) -> None:
    marked = re.findall(r"<!-- question: index -->\n```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(marked) == 3
    plans = []
    for question in marked:
        with london.session() as connection, connection.cursor() as cursor:
            # The table is small here. Whether an index can serve does not depend on that.
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN {question}")
            plans.append("\n".join(row[0] for row in cursor.fetchall()))
    assert not [plan for plan in plans if "Seq Scan on opportunities" in plan]
    # The third asks which fields there are, of a table of some dozens of rows.
    assert ["Index" in plan for plan in plans if "opportunities" in plan] == [True, True]


def test_revenue_per_month_and_customer(london: Database) -> None:
    acme = {"organisation_id": 7, "organisation_name": "Acme", "opportunity_status": "Reserved"}
    june = {"starts_at": "2026-06-02T12:00Z", "charge_total": 10}
    insert_opportunities(
        london,
        acme | june | {"owner_id": 1, "venue_id": 1},
        acme | june | {"owner_id": 2, "charge_total": Decimal("0.50")},
        acme | june | {"starts_at": "2026-07-02T12:00Z"},
        acme | june | {"organisation_id": 8, "organisation_name": "Bolt"},
        acme | june | {"opportunity_status": "Open"},
    )
    assert answer(london, "confirmed per month") == [
        (date(2026, 7, 1), "Acme", 1, 10),
        (date(2026, 6, 1), "Acme", 2, Decimal("10.50")),
        (date(2026, 6, 1), "Bolt", 1, 10),
    ]


def test_conversion_by_owner_and_days_to_the_confirmation(london: Database) -> None:
    query(london, "UPDATE mirror_state SET value = '2026-01-01 00:00:00Z'"
                  " WHERE name = 'history_began'")  # fmt: skip
    ann = {"owner_id": 1, "owner_name": "Ann", "created_at_rms": "2026-06-01T12:00Z"}
    won = ann | {"state_name": "Order", "opportunity_status": "Active"}
    insert_opportunities(
        london,
        won | {"ordered_at": "2026-06-03T12:00Z", "confirmed_at": "2026-06-03T12:00Z"},
        won | {"ordered_at": "2026-07-03T12:00Z", "confirmed_at": "2026-06-05T12:00Z"},
        ann | {"opportunity_status": "Lost", "state_name": "Quotation"},
        ann | {"opportunity_status": "Open", "state_name": "Quotation"},
        won | {"owner_id": 2, "owner_name": "Bob"},
    )
    assert answer(london, "become orders") == [
        ("Bob", 1, 1, 100),
        ("Ann", 2, 3, Decimal("66.7")),
    ]
    assert answer(london, "to the confirmation") == [(3 * DAY, 3 * DAY, 2)]


def test_the_pipeline_as_it_was_known_then(london: Database) -> None:
    query(london, "UPDATE mirror_state SET value = now()::text WHERE name = 'history_began'")
    with pytest.raises(psycopg2.Error, match="The history of this mirror begins on"):
        answer(london, "first of last month")
    query(london, "UPDATE mirror_state SET value = (now() - interval '1 year')::text"
                  " WHERE name = 'history_began'")  # fmt: skip
    status = {"opportunity_status": "Reserved", "charge_total": 99}
    insert_opportunities(london, status, status)
    since = {"valid_from": NOW - 90 * DAY, "deleted": False, "charge_total": 5}
    ended = since | {"valid_to": NOW - DAY / 24, "opportunity_status": "Provisional"}
    insert(
        london,
        "opportunity_past",
        [{"opportunity_id": n} | ended for n in (1, 2)]
        + [{"opportunity_id": 3} | ended | {"opportunity_status": "Lost"}]
        + [{"opportunity_id": 4} | ended | {"valid_to": NOW - 80 * DAY}],
    )
    versions = [{"id": n, "valid_from": NOW - DAY / 24} for n in (1, 2)]
    insert(london, "opportunity_versions", versions)
    # Until the second of a month, at the earliest, an hour ago is later than the first of the last.
    assert answer(london, "first of last month") == [("Provisional", 2, 10)]


def test_what_is_on_hire_on_a_saturday(london: Database) -> None:
    out = {"opportunity_status": "Active", "number": "N"}
    insert_opportunities(
        london,
        out | {"starts_at": "2026-06-05T12:00Z", "ends_at": "2026-06-08T12:00Z"},
        # In London it is Saturday still, and then Sunday already.
        out | {"starts_at": "2026-06-06T22:59Z", "ends_at": "2026-06-08T12:00Z"},
        out | {"starts_at": "2026-06-06T23:01Z", "ends_at": "2026-06-08T12:00Z"},
        out | {"starts_at": "2026-06-01T12:00Z", "open_ended_rental": True},
        out | {"starts_at": "2026-06-05T12:00Z", "ends_at": "2026-06-08T12:00Z",
               "opportunity_status": "Open"},
    )  # fmt: skip
    assert [row[0] for row in answer(london, "Saturday")] == [4, 1, 2]


def test_dates_changed_after_the_confirmation(london: Database) -> None:
    # The third was confirmed before the history began.
    insert_opportunities(
        london, {"confirmed_at": NOW - 5 * DAY}, {}, {"opportunity_status": "Reserved"}
    )
    told = {"opportunity_id": 1, "old_value": "a", "new_value": "b", "changed_by": "Ann"}
    insert(
        london,
        "opportunity_changes",
        [
            told | {"field": "ends_at", "seen_at": NOW - 2 * DAY},
            told | {"field": "ends_at", "seen_at": NOW - 9 * DAY},
            told | {"field": "subject", "seen_at": NOW - 2 * DAY},
            told | {"field": "starts_at", "seen_at": NOW - 1 * DAY, "changed_by": None},
            told | {"field": "starts_at", "seen_at": NOW, "opportunity_id": 2},
            told | {"field": "starts_at", "seen_at": NOW, "opportunity_id": 3},
        ],
    )
    assert answer(london, "by whom") == [
        (3, "starts_at", "a", "b", "Ann", NOW),
        (1, "starts_at", "a", "b", None, NOW - 1 * DAY),
        (1, "ends_at", "a", "b", "Ann", NOW - 2 * DAY),
    ]


def test_customers_whose_value_fell_and_venues_booked_twice(london: Database) -> None:
    def of(customer: str, ago: int, charge: int, **more: Any) -> dict[str, Any]:
        told = {"organisation_name": customer, "starts_at": NOW - ago * DAY, "charge_total": charge}
        return told | {"opportunity_status": "Completed", "ends_at": NOW - (ago - 3) * DAY} | more

    hall = {"venue_id": 1, "venue_name": "Hall", "opportunity_status": "Reserved"}
    insert_opportunities(
        london,
        of("Acme", 30, 10),
        of("Acme", 400, 40),
        of("Bolt", 30, 40),
        of("Bolt", 400, 10),
        of("Acme", -30, 1, **hall, number="1"),
        of("Acme", -31, 1, **hall, number="2"),
        of("Acme", -32, 1, **hall | {"opportunity_status": "Open"}),
    )
    assert answer(london, "value fell") == [("Acme", 10, 40, -30, -75)]
    assert [(r[0], *r[2:]) for r in answer(london, "booked twice")] == [("Hall", "1", "2")]


def test_which_fields_there_are_and_who_has_one_filled(london: Database) -> None:
    insert(
        london,
        "custom_field_keys",
        [
            {"collection": "opportunities", "key": "b"},
            {"collection": "opportunities", "key": "a"},
            {"collection": "opportunities", "key": "gone", "vanished_at": NOW},
        ],
    )
    insert_opportunities(
        london, {"custom_fields": {"job_code": "J-001003"}}, {"custom_fields": {"job_code": "J"}}
    )
    assert [row[0] for row in answer(london, "Which custom fields")] == ["a", "b"]
    assert [row[0] for row in answer(london, "Which custom fields", 1)] == [1]
