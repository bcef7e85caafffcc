"""What is typed above a list means what it means to find, and is answered from an index."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rms_pipeline.insight import list_search as module
from rms_pipeline.insight.facets import read_facets
from rms_pipeline.insight.find import find
from rms_pipeline.insight.list_search import last_changed, searched
from rms_pipeline.mirror import browse
from rms_pipeline.mirror.browse import count_listed, list_opportunities, place_of
from rms_pipeline.mirror.criteria import Criteria, condition
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statements import Connection
from rms_pipeline_tests.conftest import database_at, with_our_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.mirror.test_merge import merge_at, record
from rms_pipeline_tests.rows import query

KINDS, PLACES = ("Gala", "Fête", "Marquee", "Löwenball"), ("Łódź", "Kraków", "Oslo")


def merge_many(database: Database) -> None:
    chance = random.Random(5)
    merge_at(
        database,
        1,
        2,
        *(
            record(
                id=i,
                number=f"{i:08}",
                subject=f"{chance.choice(KINDS)} {i % 7}th",
                member_id=i % 11,
                member={"name": f"Müller {i % 11} & Sons"},
                venue={"name": chance.choice(PLACES)},
                charge_total=str(chance.randrange(5)),
                updated_at=f"2026-05-{1 + i % 28:02}T00:00:00Z",
            )
            for i in range(1, 301)
        ),
        record(id=40_000, number="00040000", subject="Gala behind the seven mountains"),
    )
    query(database, "ANALYZE opportunities, opportunity_words")


@contextlib.contextmanager
def new_mirror(embedded_url: str) -> Iterator[Database]:
    with copy_of(embedded_url, with_our_tables(embedded_url)) as url:
        yield database_at(url)


@contextlib.contextmanager
def only_reading(database: Database) -> Iterator[Connection]:
    with database.session() as opened:
        with opened.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        yield opened


@pytest.fixture(scope="module")
def many(embedded_url: str) -> Iterator[Database]:
    """Rows that no test changes: to merge them took longer than to find some."""
    with new_mirror(embedded_url) as database:
        merge_many(database)
        yield database


@pytest.fixture
def connection(many: Database) -> Iterator[Connection]:
    with only_reading(many) as opened:
        yield opened


def ids(connection: Connection, **typed: Any) -> list[int]:
    wanted = searched(connection, Criteria(**typed))
    return [row.id for row in list_opportunities(connection, wanted, limit=1_000)]


@pytest.mark.parametrize(
    "text", ["gala", "FETE", "lodz gala", "gal lod", "muller 3 fete", "sons", "lowen kra mul"]
)
@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("sort", ["-updated", "value", "-name"])
def test_a_list_holds_what_is_found_by_the_same_words_in_its_own_order(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, text: str, few: bool, sort: str
) -> None:
    if not few:
        monkeypatch.setattr(module, "MOST_IDS", 5)
    found = [match.id for match in find(connection, text, most=1_000).opportunities]
    assert found
    wanted = searched(connection, Criteria(search=text, sort=sort))
    assert wanted.searched is not None
    assert bool(wanted.searched.also) is not few
    rows = [row.id for row in list_opportunities(connection, wanted, limit=1_000)]
    assert sorted(rows) == sorted(found)
    everything = list_opportunities(connection, Criteria(sort=sort), limit=1_000)
    assert rows == [row.id for row in everything if row.id in found]
    assert count_listed(connection, wanted)[0] == len(found)
    if not few:
        assert count_listed(connection, wanted, 5) == (6, None)
        assert count_listed(connection, wanted, 1_000)[0] == len(found)
        facets = read_facets(connection, wanted)
        assert all(facet.at_least for facet in facets)


def test_with_other_filters_nothing_is_counted_that_does_not_meet_them(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IDS", 5)
    wanted = searched(connection, Criteria(search="gala", venue="Oslo"))
    rows = list_opportunities(connection, wanted, limit=1_000)
    assert rows
    assert {row.venue for row in rows} == {"Oslo"}
    assert count_listed(connection, wanted, 3) == (4, None)
    assert count_listed(connection, wanted, 1_000)[0] == len(rows)


def test_a_number_is_a_number_with_and_without_its_zeros(connection: Connection) -> None:
    assert ids(connection, search="00000012") == [12]
    assert 12 in ids(connection, search="12")
    assert ids(connection, search="#40000") == [40_000]
    # By its beginning, too, but not by what has it within.
    assert set(ids(connection, search="000000")) >= set(range(1, 100))
    assert ids(connection, search="299") == [299]


def test_what_no_word_begins_with_is_a_part_of_a_name_among_the_newest(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ids(connection, search="eHind the") == [40_000]
    assert ids(connection, search="ountain") == [40_000]
    assert len(ids(connection, search="ller 3 & s")) == len(ids(connection, customer="müller 3"))
    assert ids(connection, search="%") == []
    assert ids(connection, search="nobody holds this") == []
    monkeypatch.setattr(
        module, "_NEWEST", module._NEWEST.replace(str(module.MOST_LOOKED_THROUGH - 1), "0")
    )
    assert ids(connection, search="ountain") == [40_000]
    assert ids(connection, search="arque") == []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("muller", range(11)),
        ("sons 7", [7]),
        ("MÜL 3 son", [3]),
        ("ller 3", [3]),
        ("LLER 3 & S", [3]),
        ("ÜLLER 1", [1, 10]),
        ("ller_3", []),
        ("sons muller 10", [10]),
        ("nobody", []),
        ("&", range(11)),
    ],
)
@pytest.mark.parametrize("few", [True, False])
def test_a_customer_is_meant_by_words_of_the_name_or_else_by_a_part_of_it(
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    numbers: Sequence[int],
    few: bool,
) -> None:
    if not few:
        monkeypatch.setattr(module, "_MOST_NAMES", 2)
    assert sorted(ids(connection, customer=text)) == [i for i in range(1, 301) if i % 11 in numbers]


@pytest.mark.parametrize(
    "typed",
    [{"search": "gala"}, {"search": "lodz muller"}, {"search": "nothing"}, {"customer": "sons 7"}],
)
def test_a_list_of_what_was_typed_reads_no_rows_but_those(
    emptied: Database, typed: dict[str, Any]
) -> None:
    merge_many(emptied)
    with emptied.session() as connection, connection.cursor() as cursor:
        # Enough that no reading of all of them is as quick.
        cursor.execute(
            "INSERT INTO opportunities (id, name, organisation_name)"
            " SELECT i, 'Other ' || i, 'Somebody ' || i FROM generate_series(100000, 110000) i"
        )
        cursor.execute("ANALYZE opportunities")
        where, values = condition(searched(connection, Criteria(**typed)))
        cursor.execute(f"EXPLAIN SELECT id FROM opportunities WHERE {where}", values)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Seq Scan" not in plan, plan
    assert "ILIKE" not in where


def test_words_that_many_hold_are_looked_at_row_by_row_and_never_all_of_them(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IDS", 5)
    where, values = condition(searched(connection, Criteria(search="gala")))
    with connection.cursor() as cursor:
        cursor.execute(
            f"EXPLAIN SELECT id FROM opportunities WHERE {where} AND updated_at_rms IS NOT NULL"
            " ORDER BY updated_at_rms DESC, id DESC LIMIT 51",
            values,
        )
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "using opportunity_words_pkey" in plan, plan


@pytest.fixture(scope="module")
def many_with_values(embedded_url: str) -> Iterator[Database]:
    with new_mirror(embedded_url) as database:
        merge_many(database)
        for values in (
            "confirmed_at = updated_at_rms WHERE id % 3 = 0",
            "total_value = CASE WHEN id % 5 > 0 THEN id % 7 END",
        ):
            query(database, f"UPDATE opportunities SET {values}")
        yield database


@pytest.mark.parametrize(
    ("most_sorted", "most_looked_at"),
    [(1_000, 10_000), (0, 10_000), (0, 3), (5, 60)],
    ids=["few are sorted", "many are along the order", "or lie at its end", "or are mixed"],
)
@pytest.mark.parametrize("sort", ["-updated", "name", "-name", "value", "-confirmed", "confirmed"])
def test_a_page_is_the_same_whether_few_meet_the_filters_or_many_or_only_the_last(
    many_with_values: Database,
    monkeypatch: pytest.MonkeyPatch,
    most_sorted: int,
    most_looked_at: int,
    sort: str,
) -> None:
    with only_reading(many_with_values) as connection:
        everything = list_opportunities(connection, Criteria(sort=sort), limit=1_000)
        monkeypatch.setattr(browse, "_MOST_SORTED", most_sorted)
        monkeypatch.setattr(browse, "_MOST_LOOKED_AT", most_looked_at)
        for wanted, is_meant in (
            (Criteria(sort=sort, customer_id=3), lambda row: row.customer_id == 3),
            (Criteria(sort=sort, venue="Oslo"), lambda row: row.venue == "Oslo"),
            (Criteria(sort=sort, customer_id=99), lambda row: False),
        ):
            expected = [row.id for row in everything if is_meant(row)]
            found: list[int] = []
            place = None
            while page := list_opportunities(connection, wanted, limit=9, place=place):
                found += [row.id for row in page]
                place = place_of(connection, wanted, page[-1], before=False)
            assert found == expected
            if len(expected) > 20:
                row = next(r for r in everything if r.id == expected[20])
                before = place_of(connection, wanted, row, before=True)
                back = list_opportunities(connection, wanted, limit=9, place=before)
                assert [each.id for each in back] == expected[11:20]


@pytest.fixture(scope="module")
def seldom() -> list[Any]:
    """Records in six blocks of ids. Some old ones were changed lately, and some never."""
    chance = random.Random(7)

    def changed(n: int) -> str | None:
        day = chance.randrange(360) if n % 19 == 0 else n
        return None if n % 41 == 0 else f"2026-{1 + day // 30:02}-{1 + day % 28:02}T00:00:00Z"

    return [
        record(
            id=n * 500,
            number=f"{n:08}",
            subject=f"{chance.choice(KINDS)} {chance.choice(KINDS)}{chance.choice(('', 's'))}",
            member_id=n % 11,
            member={"name": f"Customer {n % 11}"},
            venue={"name": chance.choice(PLACES)},
            updated_at=changed(n),
        )
        for n in range(1, 360)
    ]


@pytest.fixture(scope="module")
def in_blocks(embedded_url: str, seldom: list[Any]) -> Iterator[Database]:
    with new_mirror(embedded_url) as database:
        merge_at(database, 1, 2, *seldom)
        query(database, "ANALYZE opportunities, opportunity_words")
        yield database


@pytest.fixture
def blocks(in_blocks: Database) -> Iterator[Connection]:
    """What a test changes is rolled back."""
    with in_blocks.session() as opened:
        yield opened
        opened.rollback()


_TYPED = [
    Criteria(search="gala"),
    Criteria(search="gala marquee"),
    Criteria(search="fete marquee", venue="Oslo"),
    Criteria(search="marquees", customer="customer 1"),
    Criteria(search="lowen", customer="ustomer 1"),
    Criteria(search="gala fete lowen"),
    Criteria(search="nowhere"),
    Criteria(search="00000012"),
]


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"MOST_CHANGED": 40},
        {"MOST_CHANGED": 3},
        {"MOST_HELD": 20},
        {"_MOST_BLOCKS": 1},
        {"_MOST_BLOCKS": 9},
    ],
    ids=str,
)
def test_the_last_changed_that_are_found_soon_are_those_of_the_whole_list(
    blocks: Connection, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    for name, most in limits.items():
        monkeypatch.setattr(module, name, most)
    are_soon = 0
    for wanted in _TYPED:
        whole = list_opportunities(blocks, searched(blocks, wanted), limit=1_000)
        for most in (1, 6, 11, 40):
            soon = last_changed(blocks, wanted, most)
            assert soon is None or soon == [row.id for row in whole][:most]
            # Fewer would be a page that looks like the last.
            assert soon is None or len(soon) == most
            are_soon += soon is not None
        assert last_changed(blocks, replace(wanted, sort="name"), 1) is None
    # Else nothing of this was tried.
    assert are_soon


def test_an_old_one_that_was_changed_lately_is_among_the_last_changed(blocks: Connection) -> None:
    with blocks.cursor() as cursor:
        cursor.execute(
            "UPDATE opportunities SET updated_at_rms = '2027-01-01' WHERE id IN"
            " (SELECT id FROM opportunities WHERE name LIKE '%Gala%' ORDER BY id LIMIT 2)"
            " RETURNING id"
        )
        old = sorted((row[0] for row in cursor.fetchall()), reverse=True)
    soon = last_changed(blocks, Criteria(search="gala"), 5)
    assert soon is not None
    assert soon[:2] == old
    assert max(old) < min(soon[2:])


def test_customers_of_a_part_of_a_name_have_their_ids_unless_one_is_not_known(
    emptied: Database,
) -> None:
    merge_at(
        emptied,
        1,
        2,
        *(
            record(id=n, member_id=n % 3, member={"name": name})
            for n, name in enumerate(("Hotel", "Hotel", "Grand Hotel", "Hall", "Hotel"), 1)
        ),
        record(id=9, member_id=None, member={"name": "Hall"}),
    )
    with emptied.session() as connection:
        for text, names, known in (
            ("otel", {"Hotel", "Grand Hotel"}, {0, 1, 2}),
            ("hotel", {"Hotel", "Grand Hotel"}, {0, 1, 2}),
            ("gran", {"Grand Hotel"}, {0}),
            ("hall", {"Hall"}, set()),
        ):
            found = searched(connection, Criteria(customer=text)).customers
            assert found is not None
            assert (set(found.names), set(found.ids)) == (names, known)


@pytest.mark.parametrize("sort", ["-updated", "updated", "name"])
def test_a_list_of_customers_along_an_order_is_the_same_with_and_without_their_ids(
    blocks: Connection, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    everything = list_opportunities(blocks, Criteria(sort=sort), limit=1_000)
    expected = [row.id for row in everything if row.customer in ("Customer 1", "Customer 10")]
    monkeypatch.setattr(browse, "_MOST_SORTED", 0)
    monkeypatch.setattr(browse, "_are_far_apart", lambda *_: False)
    wanted = searched(blocks, Criteria(customer="ustomer 1", sort=sort))
    assert wanted.customers is not None
    assert wanted.customers.ids
    found: list[int] = []
    place = None
    while page := list_opportunities(blocks, wanted, limit=9, place=place):
        found += [row.id for row in page]
        place = place_of(blocks, wanted, page[-1], before=False)
    assert found == expected
    without = replace(wanted, customers=replace(wanted.customers, ids=()))
    assert [row.id for row in list_opportunities(blocks, without, limit=1_000)] == expected
