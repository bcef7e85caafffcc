"""Finding opportunities: every filter and sort against the same rows, chosen by Python."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from rms_pipeline.mirror import browse
from rms_pipeline.mirror.browse import (
    ORDERS,
    SORTS,
    Criteria,
    Listed,
    Place,
    _groups,
    _order,
    _where,
    count_listed,
    find_opportunity,
    iterate_opportunities,
    list_counted,
    list_opportunities,
    owners,
    place_of,
)
from rms_pipeline.mirror.criteria import Days
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statements import Connection, one_row
from rms_pipeline.mirror.summary import NO_STATUS
from rms_pipeline_tests.conftest import database_at, with_our_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.rows import insert, insert_opportunities, query

BIGINT_MAX = 2**63 - 1
T0 = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def database(emptied: Database) -> Database:
    return emptied


def all_of(database: Database, criteria: Criteria) -> list[Listed]:
    """What meets `criteria`: as one list, with which count, value and iteration have to agree."""
    with database.session() as connection:
        rows = list_opportunities(connection, criteria, limit=10_000)
        count, value = count_listed(connection, criteria)
        assert count == len(rows)
        known = [row.total_value for row in rows if row.total_value is not None]
        is_whole = replace(criteria, sort="") == Criteria(sort="")
        assert value == (sum(known) if known and not is_whole else None)
        assert list(iterate_opportunities(connection, criteria)) == rows
    return rows


def ids(database: Database, **criteria: Any) -> list[int]:
    return sorted(row.id for row in all_of(database, Criteria(**criteria)))


def found(database: Database, search: str) -> list[int]:
    return ids(database, search=search)


def insert_many(database: Database) -> None:
    """300 rows of few values, so that every sort has ties and every column gaps."""
    chance = random.Random(3)

    def maybe(*values: Any) -> Any:
        return chance.choice([*values, None])

    insert_opportunities(
        database,
        *(
            {
                "name": chance.choice(["Gala", "gala", "Fête", "100% wedding", "Ball"]),
                "opportunity_status": maybe("Open", "Reserved", "Lost"),
                "organisation_name": maybe("Acme", "acme Ltd", "O'Neill"),
                "owner_name": maybe("Ann", "Bob"),
                "starts_at": maybe(*(T0 + timedelta(days=d) for d in range(4))),
                "ends_at": maybe(T0 + timedelta(days=9), T0 + timedelta(days=8)),
                "total_value": maybe(Decimal(0), Decimal("10.5"), Decimal(-3)),
                "updated_at_rms": maybe(T0, T0 + timedelta(hours=1)),
            }
            for _ in range(300)
        ),
    )


@pytest.fixture(scope="module")
def many(embedded_url: str) -> Iterator[Database]:
    """Those rows, which no test changes: to insert them took longer than to find some."""
    with copy_of(embedded_url, with_our_tables(embedded_url)) as url:
        insert_many(database_at(url))
        yield database_at(url)


@pytest.fixture(scope="module")
def many_with_more(embedded_url: str) -> Iterator[Database]:
    """The same, and values also in the columns by which only pages by place are sorted."""
    values = {"created_at_rms": T0, "confirmed_at": T0, "venue_name": "Hall"}
    with copy_of(embedded_url, with_our_tables(embedded_url)) as url:
        database = database_at(url)
        insert_many(database)
        for column, value in values.items():
            query(database, f"UPDATE opportunities SET {column} = %s WHERE id %% 3 = 1", value)
        query(
            database, "UPDATE opportunities SET deliver_starts_at = starts_at - interval '1 hour'"
        )
        yield database


ATTRIBUTES = {"starts": "starts_at", "ends": "ends_at", "value": "total_value"} | {
    "updated": "updated_at"
}


@pytest.mark.parametrize("direction", ["", "-"])
@pytest.mark.parametrize("key", SORTS)
def test_each_sort_is_in_order_with_absent_values_last_and_pages_cover_each_row_once(
    many: Database, key: str, direction: str
) -> None:
    criteria = Criteria(sort=f"{direction}{key}")
    rows = all_of(many, criteria)
    assert len({row.id for row in rows}) == len(rows) == 300
    values = [getattr(row, ATTRIBUTES.get(key, key)) for row in rows]
    present = [v for v in values if v is not None]
    assert values == present + [None] * (300 - len(present))
    if key != "name":
        assert None in values
    # PostgreSQL's own collation decides on texts; that the groups are together is what matters.
    if isinstance(present[0], str):
        groups = [v for v, before in zip(present, [None, *present], strict=False) if v != before]
        assert len(groups) == len(set(groups)) > 1
    else:
        assert present == sorted(present, reverse=direction == "-")
    paged: list[Listed] = []
    with many.session() as connection:
        for offset in range(0, 400, 7):
            paged += list_opportunities(connection, criteria, limit=7, offset=offset)
    assert paged == rows


@pytest.mark.parametrize("key", SORTS)
def test_the_two_directions_of_a_sort_differ(many: Database, key: str) -> None:
    first, last = (all_of(many, Criteria(sort=sort))[0] for sort in (key, f"-{key}"))
    name = ATTRIBUTES.get(key, key)
    assert getattr(first, name) < getattr(last, name)


def test_of_the_same_value_the_newest_opportunity_comes_first(many: Database) -> None:
    rows = [r.id for r in all_of(many, Criteria(sort="status")) if r.status == "Open"]
    assert rows == sorted(rows, reverse=True)


FILTERS: list[tuple[dict[str, Any], Callable[[Listed], bool]]] = [
    ({}, lambda o: True),
    ({"status": "Open"}, lambda o: o.status == "Open"),
    ({"status": "open"}, lambda o: False),
    ({"status": NO_STATUS}, lambda o: o.status is None),
    ({"status": "is:confirmed"}, lambda o: o.status == "Reserved"),
    ({"status": "is:undecided"}, lambda o: o.status in ("Open", None)),
    ({"status": "is:open"}, lambda o: o.status in ("Open", "Reserved", None)),
    ({"status": "is:closed"}, lambda o: o.status == "Lost"),
    ({"status": "is:nothing"}, lambda o: False),
    ({"owner": "Ann"}, lambda o: o.owner == "Ann"),
    ({"owner": "An"}, lambda o: False),
    ({"customer": "ACME"}, lambda o: "acme" in (o.customer or "").lower()),
    ({"customer": "O'Neill"}, lambda o: o.customer == "O'Neill"),
    ({"search": "gal"}, lambda o: o.name in ("Gala", "gala")),
    ({"search": "Fête"}, lambda o: o.name == "Fête"),
    ({"search": "neil"}, lambda o: o.customer == "O'Neill"),
    ({"search": "0%"}, lambda o: o.name == "100% wedding"),
    (
        {"starts_from": date(2026, 6, 2)},
        lambda o: o.starts_at is not None and o.starts_at.date() >= date(2026, 6, 2),
    ),
    (
        {"starts_to": date(2026, 6, 2)},
        lambda o: o.starts_at is not None and o.starts_at.date() <= date(2026, 6, 2),
    ),
    (
        {"starts_from": date(2026, 6, 2), "starts_to": date(2026, 6, 3), "status": "Lost"},
        lambda o: (
            o.starts_at is not None
            and date(2026, 6, 2) <= o.starts_at.date() <= date(2026, 6, 3)
            and o.status == "Lost"
        ),
    ),
    (
        {"search": "ball", "owner": "Bob", "customer": "acme", "status": NO_STATUS},
        lambda o: (
            o.name == "Ball"
            and o.owner == "Bob"
            and "acme" in (o.customer or "").lower()
            and o.status is None
        ),
    ),
    ({"starts_from": date(2026, 6, 4), "starts_to": date(2026, 6, 3)}, lambda o: False),
]


@pytest.mark.parametrize(("criteria", "fits"), FILTERS, ids=[str(f[0]) for f in FILTERS])
def test_each_filter_finds_what_fits_and_nothing_else(
    many: Database, criteria: dict[str, Any], fits: Callable[[Listed], bool]
) -> None:
    rows = all_of(many, Criteria(**criteria))
    assert {r.id for r in rows} == {r.id for r in all_of(many, Criteria()) if fits(r)}
    assert all(fits(r) for r in rows)


def test_search_finds_an_id_the_beginning_of_a_number_and_part_of_a_name_or_customer(
    database: Database,
) -> None:
    insert_opportunities(
        database,
        {"id": 41, "name": "Summer ball", "data": {"number": "R-1041"}},
        {"id": 410, "name": "Autumn", "organisation_name": "The 41 Club", "data": {"number": "9"}},
        {"id": 7, "name": "Winter", "data": {"number": "4100"}},
        {"id": 8, "name": "Spring", "data": {"number": 41}},
        {"id": 9, "name": "No number", "data": {}},
        {"id": 10, "name": "No record"},
        {"id": 11, "name": "Long", "data": {"number": "8" * 5_000}},
        {"id": BIGINT_MAX, "name": "Last"},
        {"id": -5, "name": "Negative"},
    )
    assert found(database, "41") == [7, 8, 41, 410]
    assert found(database, "R-10") == [41]
    assert found(database, "1041") == []
    assert found(database, "umm") == [41]
    assert found(database, "41 cl") == [410]
    assert found(database, "8888") == [11]
    assert found(database, str(BIGINT_MAX)) == [BIGINT_MAX]
    assert found(database, "000041") == [41]
    assert found(database, "-5") == [-5]
    assert found(database, "²") == []


def test_digits_find_the_number_that_is_padded_with_zeros(database: Database) -> None:
    numbers = ["1234", "01234", "00001234", "0000001234", "000000001234", "0000000001234"]
    numbers += ["12345678", "00012345", "00011234", "R-00001234", "0000012"]
    insert_opportunities(database, *({"id": 9_000_000 + i, "data": {"number": n}}
                                     for i, n in enumerate(numbers)))  # fmt: skip
    insert_opportunities(database, {"id": 1234}, {"id": 7, "data": {"number": 1234}})

    def numbers_of(search: str) -> list[str]:
        rows = [i - 9_000_000 for i in found(database, search) if i >= 9_000_000]
        return [numbers[i] for i in rows]

    # As padded up to 12 digits, and what begins with the digits as they are.
    assert numbers_of("1234") == [*numbers[:5], "12345678"]
    assert [i for i in found(database, "1234") if i < 9_000_000] == [7, 1234]
    assert numbers_of("00001234") == [*numbers[2:5]]
    assert numbers_of("12") == ["1234", "12345678", "0000012"]
    assert numbers_of("-1234") == []
    assert numbers_of("R-1234") == []


def test_a_search_by_number_reads_no_record_but_those_of_the_number(database: Database) -> None:
    query(
        database,
        "INSERT INTO opportunities (id, name, data) SELECT i, 'Opportunity',"
        " jsonb_build_object('number', lpad(i::text, 10, '0')) FROM generate_series(1, 5000) AS i",
    )
    query(database, "ANALYZE opportunities")
    where, values = _where(Criteria(search="1234"))
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN SELECT id FROM opportunities WHERE {where}", values)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert plan.count("using opportunities_number") == 2, plan
    assert "Seq Scan" not in plan.partition("SubPlan")[2], plan
    assert found(database, "1234") == [1234]


@pytest.mark.parametrize("beyond", [str(BIGINT_MAX + 1), "9" * 20, "9" * 200, "1" + "0" * 199])
def test_a_number_beyond_all_ids_is_no_ones_id(database: Database, beyond: str) -> None:
    insert_opportunities(database, {"id": BIGINT_MAX}, {"id": 10**18})
    assert found(database, beyond) == []


LITERALS = ["100%", "_", "a_b", "\\", "\\%", "%\\", "'", "''; DROP TABLE opportunities; --", "%s"]
LITERALS += ["%(part)s", "<b>", "{}", "$1", ":x", "\t", "🎪", "%%"]


@pytest.mark.parametrize("text", LITERALS)
def test_what_is_special_to_sql_and_to_patterns_means_itself(database: Database, text: str) -> None:
    insert_opportunities(
        database,
        {"name": f"x{text}y"},
        {"name": "Other", "organisation_name": f"x{text}y"},
        {"name": "Other", "data": {"number": f"{text}y"}},
        {"name": "Other", "opportunity_status": text, "owner_name": text},
        {"name": "aXb c 100 percent"},
        {"name": "Other", "data": {"number": "12"}, "organisation_name": "Other"},
    )
    assert found(database, text) == [1, 2, 3]
    assert ids(database, customer=text) == [2]
    assert ids(database, owner=text) == [4]
    assert ids(database, status=text) == [4]


def test_a_status_called_like_the_absent_one_is_listed_with_it(database: Database) -> None:
    insert_opportunities(
        database, {}, {"opportunity_status": NO_STATUS}, {"opportunity_status": "x"}
    )
    assert ids(database, status=NO_STATUS) == [1, 2]


def test_nul_in_a_search_finds_nothing_and_breaks_nothing(database: Database) -> None:
    insert_opportunities(database, {"name": "ab", "organisation_name": "ab"})
    assert found(database, "\x00") == []
    assert found(database, "a\x00b") == []
    assert ids(database, customer="\x00") == []
    assert ids(database, status="a\x00") == []
    assert ids(database, owner="\x00") == []


def test_dates_are_days_of_the_time_zone_and_both_count(database: Database) -> None:
    insert_opportunities(
        database,
        {"starts_at": datetime(2026, 6, 14, 22, 59, 59, tzinfo=UTC)},
        {"starts_at": datetime(2026, 6, 14, 23, 0, tzinfo=UTC)},
        {"starts_at": datetime(2026, 6, 15, 22, 59, 59, 999_999, tzinfo=UTC)},
        {"starts_at": datetime(2026, 6, 15, 23, 0, tzinfo=UTC)},
        {"starts_at": None},
    )
    day = {"starts_from": date(2026, 6, 15), "starts_to": date(2026, 6, 15)}
    assert ids(database, **day, time_zone="Europe/London") == [2, 3]
    assert ids(database, **day, time_zone="UTC") == [3, 4]
    assert ids(database, starts_from=date(2026, 6, 15), time_zone="Europe/London") == [2, 3, 4]
    assert ids(database, starts_to=date(2026, 6, 15), time_zone="Europe/London") == [1, 2, 3]


def test_on_the_day_the_clocks_change_its_hours_are_all_there(database: Database) -> None:
    """29 March 2026 has 23 hours in London, 25 October has 25."""
    insert_opportunities(
        database,
        {"starts_at": datetime(2026, 3, 29, 0, 0, tzinfo=UTC)},
        {"starts_at": datetime(2026, 3, 29, 22, 59, tzinfo=UTC)},
        {"starts_at": datetime(2026, 3, 29, 23, 0, tzinfo=UTC)},
        {"starts_at": datetime(2026, 10, 24, 23, 0, tzinfo=UTC)},
        {"starts_at": datetime(2026, 10, 25, 23, 59, tzinfo=UTC)},
        {"starts_at": datetime(2026, 10, 26, 0, 0, tzinfo=UTC)},
    )
    for day, expected in ((date(2026, 3, 29), [1, 2]), (date(2026, 10, 25), [4, 5])):
        assert ids(database, starts_from=day, starts_to=day, time_zone="Europe/London") == expected


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Kiritimati"])
def test_the_first_and_the_last_day_of_time_are_dates(database: Database, zone: str) -> None:
    insert_opportunities(
        database,
        {"starts_at": datetime(1, 1, 2, tzinfo=UTC)},
        {"starts_at": datetime(9999, 12, 30, tzinfo=UTC)},
    )
    everything = {"starts_from": date.min, "starts_to": date.max}
    assert ids(database, **everything, time_zone=zone) == [1, 2]
    assert ids(database, starts_from=date.max, time_zone=zone) == []
    assert ids(database, starts_to=date.min, time_zone=zone) in ([], [1])


def test_iterating_over_more_than_a_batch_is_the_whole_list(database: Database) -> None:
    query(
        database,
        "INSERT INTO opportunities (id, name, total_value)"
        " SELECT i, 'Opportunity', i % 3 FROM generate_series(1, 2500) AS i",
    )
    rows = all_of(database, Criteria(sort="value"))
    assert len(rows) == 2_500
    assert [r.id for r in all_of(database, Criteria(sort="value", search="12"))] == [12]


def test_a_line_has_what_its_row_has(database: Database) -> None:
    insert_opportunities(
        database,
        {
            "id": 5,
            "name": "Gala",
            "opportunity_status": "Open",
            "starts_at": T0,
            "ends_at": T0 + timedelta(days=1),
            "organisation_name": "Acme",
            "venue_name": "Hall",
            "owner_name": "Ann",
            "charge_total": Decimal("10.10"),
            "total_value": Decimal("12.12"),
            "updated_at_rms": T0,
            "data": {"number": "0005"},
        },
    )
    assert all_of(database, Criteria()) == [
        Listed(
            *(5, "0005", "Gala", "Open", T0, T0 + timedelta(days=1), "Acme", "Hall", "Ann"),
            *(Decimal("10.10"), Decimal("12.12"), T0),
        )
    ]


def test_owners_are_named_once_in_order_and_not_too_many(database: Database) -> None:
    names: Sequence[str | None] = ["Bob", "Ann", None, "Bob", "Cid"]
    insert_opportunities(database, *({"owner_name": name} for name in names))
    with database.session() as connection:
        assert owners(connection) == ["Ann", "Bob", "Cid"]
        assert owners(connection, most=2) == ["Ann", "Bob"]


def test_an_opportunity_is_found_live_deleted_or_not_at_all(database: Database) -> None:
    insert_opportunities(
        database,
        {"id": 1, "data": {"number": "17", "state_name": "Order", "reference": "PO <1>"}},
        {"id": 2},
        {"id": -3},
    )
    insert(
        database,
        "deleted_opportunities",
        [
            {
                "id": 4,
                "name": "Gone",
                "data": {"number": "18"},
                "deleted_at": T0,
                "deleted_because": "the API answered 404",
            },
            # It came back: what is live counts.
            {"id": 2, "name": "Old", "deleted_at": T0, "deleted_because": "not listed"},
        ],
    )
    with database.session() as connection:
        live = find_opportunity(connection, 1)
        assert live is not None
        assert (live.columns["name"], live.deleted_at) == ("Opportunity 1", None)
        assert (live.number, live.state, live.reference) == ("17", "Order", "PO <1>")
        gone = find_opportunity(connection, 4)
        assert gone is not None
        assert (gone.columns["name"], gone.number) == ("Gone", "18")
        assert (gone.deleted_at, gone.deleted_because) == (T0, "the API answered 404")
        back = find_opportunity(connection, 2)
        assert back is not None
        assert (back.columns["name"], back.deleted_at, back.record) == ("Opportunity 2", None, "{}")
        negative = find_opportunity(connection, -3)
        assert negative is not None
        for absent in (0, 5, -1, BIGINT_MAX, BIGINT_MAX + 1, -BIGINT_MAX - 2, 10**30, -(10**30)):
            assert find_opportunity(connection, absent) is None


@pytest.mark.parametrize(
    "record",
    [
        # Numbers that Python's JSON would refuse, round, or call infinite.
        '{"n": 1' + "0" * 6_000 + "}",
        '{"n": 1' + "0" * 400 + ".5}",
        '{"n": 0.10000000000000000001}',
        '{"n": ' + "[" * 900 + "]" * 900 + "}",
        '["no object"]',
        '"text"',
    ],
)
def test_the_record_is_shown_to_the_last_digit_whatever_is_in_it(
    database: Database, record: str
) -> None:
    insert_opportunities(database, {"id": 1})
    query(database, "UPDATE opportunities SET data = %s WHERE id = 1", record)
    with database.session() as connection:
        one = find_opportunity(connection, 1)
    assert one is not None
    assert one.record.replace(" ", "") == record.replace(" ", "")


def test_all_rows_of_a_file_are_as_they_were_when_it_began(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_many(database)
    monkeypatch.setattr(browse, "_ROWS_AT_A_TIME", 7)
    with database.session() as connection:
        before = list_opportunities(connection, Criteria(sort="name"), limit=10_000)
        rows = iterate_opportunities(connection, Criteria(sort="name"))
        seen = [next(rows)]
        # Those that come last in the file change first, and one of them goes.
        query(database, "UPDATE opportunities SET name = '', total_value = 1")
        query(database, "DELETE FROM opportunities WHERE id = %s", before[-1].id)
        assert seen + list(rows) == before


def test_an_unknown_sort_is_the_usual_one(many: Database) -> None:
    usual = Criteria()
    assert all_of(many, replace(usual, sort="-id; DROP TABLE x")) == all_of(many, usual)


@pytest.mark.parametrize("direction", ["", "-"])
@pytest.mark.parametrize("key", ORDERS)
def test_pages_by_place_cover_the_list_once_in_both_directions(
    many_with_more: Database, key: str, direction: str
) -> None:
    """Where one page ends the next begins, and the way back is the same way."""
    criteria = Criteria(sort=f"{direction}{key}")
    with many_with_more.session() as connection:
        rows = list_opportunities(connection, criteria, limit=300)
        assert list(iterate_opportunities(connection, criteria)) == rows
        paged = list_opportunities(connection, criteria, limit=41)
        while page := list_opportunities(
            connection,
            criteria,
            limit=41,
            place=place_of(connection, criteria, paged[-1], before=False),
        ):
            paged += page
        assert paged == rows
        back = [rows[-1]]
        while page := list_opportunities(
            connection,
            criteria,
            limit=41,
            place=place_of(connection, criteria, back[0], before=True),
        ):
            back = page + back
        assert back == rows


def test_a_page_goes_on_where_the_last_one_ended_whatever_came_before_it_meanwhile(
    database: Database,
) -> None:
    insert_opportunities(
        database, *({"updated_at_rms": T0 + timedelta(hours=h)} for h in range(10))
    )
    criteria = Criteria()
    with database.session() as connection:
        first = list_opportunities(connection, criteria, limit=3)
        place = place_of(connection, criteria, first[-1], before=False)
        # Everything before it moves: numbered pages would show some twice.
        query(database, "UPDATE opportunities SET updated_at_rms = now() WHERE id = 1")
        query(database, "DELETE FROM opportunities WHERE id IN (9, 10)")
        second = list_opportunities(connection, criteria, limit=3, place=place)
    assert [row.id for row in first + second] == [10, 9, 8, 7, 6, 5]


DAYS = Days(date(2026, 6, 13), date(2026, 6, 14))
HIRES = {
    "before": (11, 12),
    "into": (11, 13),
    "within": (13, 14),
    "around": (10, 20),
    "out of": (14, 16),
    "after": (15, 16),
}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"on_hire": DAYS}, ["around", "endless", "into", "open", "out of", "within"]),
        ({"goes_out": DAYS}, ["endless", "out of", "within"]),
        ({"comes_back": DAYS}, ["into", "within"]),
        ({"starts": DAYS}, ["endless", "out of", "within"]),
        ({"on_hire": Days(first=DAYS.first)},
         ["after", "around", "endless", "into", "open", "out of", "within"]),
        ({"on_hire": Days(last=date(2026, 6, 12))}, ["around", "before", "into", "open"]),
        ({"on_hire": Days(date(2026, 6, 14), date(2026, 6, 13))}, []),
        ({"goes_out": Days(date(2026, 6, 14), date(2026, 6, 13))}, []),
    ],
)  # fmt: skip
def test_on_hire_is_what_overlaps_the_days_not_what_starts_on_them(
    database: Database, asked: dict[str, Days], expected: list[str]
) -> None:
    def at(day: int) -> datetime:
        return datetime(2026, 6, day, 12, tzinfo=UTC)

    rows: list[dict[str, Any]] = [
        {"name": name, "starts_at": at(first), "ends_at": at(last)}
        for name, (first, last) in HIRES.items()
    ]
    rows.append({"name": "open", "starts_at": at(1), "ends_at": at(13), "open_ended_rental": True})
    rows += [{"name": "endless", "starts_at": at(13)}, {"name": "dateless"}]
    insert_opportunities(database, *rows)
    assert sorted(row.name for row in all_of(database, Criteria(**asked))) == expected  # type: ignore[arg-type]


def test_delivery_and_collection_decide_what_is_on_hire_goes_out_and_comes_back(
    database: Database,
) -> None:
    def at(day: int) -> datetime:
        return datetime(2026, 6, day, 12, tzinfo=UTC)

    insert_opportunities(
        database,
        {
            "starts_at": at(13),
            "ends_at": at(14),
            "deliver_starts_at": at(12),
            "collect_ends_at": at(15),
        },
    )
    for day, found_by in ((12, "goes_out"), (13, "starts"), (15, "comes_back")):
        for each in ("goes_out", "starts", "comes_back"):
            days = Days(date(2026, 6, day), date(2026, 6, day))
            assert ids(database, **{each: days}) == ([1] if each == found_by else []), (day, each)
    for day in range(11, 17):
        days = Days(date(2026, 6, day), date(2026, 6, day))
        assert ids(database, on_hire=days) == ([1] if 12 <= day <= 15 else [])


def test_on_hire_on_a_day_is_a_day_of_the_time_zone(database: Database) -> None:
    insert_opportunities(
        database,
        {
            "starts_at": datetime(2026, 6, 14, 20, tzinfo=UTC),
            "ends_at": datetime(2026, 6, 14, 23, 30, tzinfo=UTC),
        },
    )
    day = Days(date(2026, 6, 15), date(2026, 6, 15))
    assert ids(database, on_hire=day, time_zone="Europe/London") == [1]
    assert ids(database, on_hire=day, time_zone="UTC") == []


MORE_FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({"state": "Order"}, [1]),
    ({"state": "order"}, []),
    ({"venue": "Hall"}, [1]),
    ({"venue": "Hal"}, []),
    ({"venue": "x" * 150 + "1"}, [2]),
    ({"customer_id": 7}, [2, 3]),
    ({"customer_id": 2**63 - 1}, []),
    ({"venue_id": 8}, [1, 2]),
    ({"owner_id": 9}, [3]),
    ({"venue_id": 8, "owner_id": 9}, []),
    ({"tags": ("vip",)}, [1, 2]),
    ({"tags": ("vip", "late")}, [2]),
    ({"tags": ("vip", "a\x00b")}, []),
    ({"least": Decimal(10)}, [1, 2]),
    ({"greatest": Decimal(10)}, [1, 3]),
    ({"least": Decimal(10), "greatest": Decimal("10.00")}, [1]),
    ({"least": Decimal(11), "greatest": Decimal(10)}, []),
    ({"created": Days(date(2026, 6, 1), date(2026, 6, 1))}, [1]),
    ({"created": Days(first=date(2026, 6, 2))}, [2]),
    ({"confirmed": Days(last=date(2026, 6, 1))}, [3]),
]


@pytest.mark.parametrize(
    ("criteria", "expected"), MORE_FILTERS, ids=[str(f[0])[:40] for f in MORE_FILTERS]
)
def test_each_further_filter_finds_what_fits_and_nothing_else(
    database: Database, criteria: dict[str, Any], expected: list[int]
) -> None:
    insert_opportunities(
        database,
        {
            "state_name": "Order",
            "venue_name": "Hall",
            "venue_id": 8,
            "tags": ["vip"],
            "total_value": Decimal(10),
            "created_at_rms": T0,
        },
        {
            "venue_name": "x" * 150 + "1",
            "venue_id": 8,
            "organisation_id": 7,
            "tags": ["late", "x", "vip"],
            "total_value": Decimal(11),
            "created_at_rms": T0 + timedelta(days=1),
        },
        {
            "venue_name": "x" * 150 + "2",
            "owner_id": 9,
            "organisation_id": 7,
            "tags": [],
            "total_value": Decimal("-0.01"),
            "confirmed_at": T0,
        },
        {},
    )
    assert ids(database, **criteria) == expected


def test_counting_ends_where_it_is_told_to(many: Database) -> None:
    with many.session() as connection:
        assert count_listed(connection, Criteria(), most=299) == (300, None)
        assert count_listed(connection, Criteria(), most=300) == (300, None)
        count, value = count_listed(connection, Criteria(status="Open"), most=5)
        assert (count, value) == (6, None)
        count, value = count_listed(connection, Criteria(status="Open"), most=300)
        assert 5 < count < 300
        assert value is not None


@pytest.mark.parametrize("direction", ["", "-"])
@pytest.mark.parametrize("key", ORDERS)
def test_each_order_is_read_from_an_index_wherever_the_page_is(
    many: Database, key: str, direction: str
) -> None:
    criteria = Criteria(sort=f"{direction}{key}")
    with many.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;"
            " SET LOCAL enable_sort = off"
        )
        order = ORDERS[key]
        falling = direction == "-"
        value = {"text": "A", "timestamptz": "2026-06-02", "numeric": "1"}[order.kind]
        place = Place(value, 50)
        plans = []
        for group in [*_groups(order, falling, place), *_groups(order, falling, None)]:
            cursor.execute(
                f"EXPLAIN SELECT id FROM opportunities WHERE {group}"
                f" ORDER BY {_order(criteria)} LIMIT 50".replace(" NULLS LAST", ""),
                {"value": value, "id_of_place": 50},
            )
            plans.append("\n".join(line for (line,) in cursor.fetchall()))
        connection.rollback()
    for plan in plans:
        assert "Index Scan" in plan or "Index Only Scan" in plan, plan
        # Rows of one value apart, nothing is put in order that the index does not have in it.
        assert "Sort" not in plan or "Presorted" in plan or "IS NULL" in plan, plan


@pytest.mark.parametrize("sort", ["name", "-venue", "owner", "value", "-confirmed"])
@pytest.mark.parametrize(
    ("wanted", "count"),
    [({"tags": ("dry", "wet")}, 0), ({"tags": ("late",)}, 100), ({"status": "Lost"}, 100)],
    ids=["what nobody has", "a tag at the end of the order", "a status at the end of the order"],
)
def test_a_page_reads_few_rows_whatever_is_filtered_and_however_it_is_sorted(
    database: Database, monkeypatch: pytest.MonkeyPatch, wanted: Any, count: int, sort: str
) -> None:
    """Of a million, PostgreSQL would read all, one by one, for what it expects to be frequent."""
    monkeypatch.setattr(browse, "_MOST_SORTED", 20)
    monkeypatch.setattr(browse, "_MOST_LOOKED_AT", 60)
    rows = 2_000
    query(
        database,
        "INSERT INTO opportunities (id, name, venue_name, owner_name, total_value, confirmed_at,"
        " opportunity_status, tags) SELECT i, place, place, place, n, now() + n * interval '1 s',"
        " CASE WHEN i <= 100 THEN 'Lost' ELSE 'Open' END,"
        " CASE WHEN i <= 100 THEN '{late}' WHEN i %% 3 = 0 THEN '{dry}' WHEN i %% 3 = 1 THEN"
        " '{wet}' END::text[] FROM (SELECT i, n, to_char(n, '0000') AS place FROM"
        " generate_series(1, %s) i, LATERAL (SELECT CASE WHEN %s THEN i ELSE -i END AS n) _) _",
        *(rows, sort.startswith("-")),
    )
    # At the end of the order, from either side.
    query(database, "ANALYZE opportunities")
    with database.session() as connection:
        with connection.cursor() as cursor:
            cursor.execute("SET enable_seqscan = off")
        before = _rows_read(connection)
        page, counted = list_counted(connection, Criteria(sort=sort, **wanted), limit=51)
        read = _rows_read(connection) - before
    assert len(page) == min(count, 51)
    assert counted is not None
    assert counted.number == min(count, 21 if count else 0)
    assert read < rows / 2
    assert read or not count


def _rows_read(connection: Connection) -> int:
    """How many rows of opportunities were read through it and are not in the statistics yet."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
            " WHERE relname = 'opportunities' AND schemaname = current_schema()"
        )
        (found,) = one_row(cursor)
    return int(found)
