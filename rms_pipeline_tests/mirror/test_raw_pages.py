"""Landing pages: several processes at once, and what comes again stored once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from psycopg2 import Binary

from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.postgres_errors import DatabaseError
from rms_pipeline.mirror.raw_pages import RawPage, forget_bodies, land_page, page_ids, read_page
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import query

BODIES = "SELECT count(*) FROM raw_page_bodies"


def a_page(body: bytes = b"{}") -> RawPage:
    now = datetime.now(UTC)
    return RawPage("by_id", "/opportunities", body, now, now, None, [], 0, None, None)


def land(database: Database, *bodies: bytes, collection: Any = OPPORTUNITIES) -> int:
    """Lands `bodies` in a new walk, and returns that."""
    with database.session() as connection:
        walk = walks.begin_walk(connection, collection, "run", walks.REFRESH)
        for body in bodies:
            land_page(connection, collection, "run", walk.id, a_page(body))
    return walk.id


def read(database: Database, walk: int) -> list[bytes]:
    with database.session() as connection:
        pages = [read_page(connection, id_) for (id_,) in page_ids(connection, [walk])]
    return [page.body for page in pages if page is not None]


def test_pages_are_read_together_up_to_a_number_of_records_and_of_bytes(
    database: Database,
) -> None:
    sizes = [(100, 10), (100, 10), (100, 10), (250, 10), (1, 10), (1, 990), (1, 5), (0, 2_000)]
    with database.session() as connection:
        walk = walks.begin_walk(connection, OPPORTUNITIES, "run", walks.REFRESH)
        for n, (records, size) in enumerate(sizes):
            page = replace(a_page(b"%d" % n + b" " * (size - 1)), record_count=records)
            land_page(connection, OPPORTUNITIES, "run", walk.id, page)
        alone = page_ids(connection, [walk.id])
        together = page_ids(connection, [walk.id], most_records=250, most_bytes=1_000)
    assert [len(pages) for pages in alone] == [1] * len(sizes)
    assert [len(pages) for pages in together] == [2, 1, 1, 2, 1, 1]
    assert [page for pages in together for page in pages] == [page for (page,) in alone]


def test_pages_that_several_read_together_become_fewer_towards_the_end(database: Database) -> None:
    with database.session() as connection:
        walk = walks.begin_walk(connection, OPPORTUNITIES, "run", walks.REFRESH)
        for _ in range(20):
            page = replace(a_page(), record_count=100)
            land_page(connection, OPPORTUNITIES, "run", walk.id, page)
        together = page_ids(connection, [walk.id], most_records=400, most_bytes=1_000_000, among=4)
    assert [len(pages) for pages in together] == [4, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1]


def test_two_processes_of_one_name_land_all_their_pages_each_with_a_number_of_its_own(
    database: Database,
) -> None:
    page = a_page()

    def land(_: int) -> None:
        with database.session() as connection:
            walk = walks.begin_walk(connection, OPPORTUNITIES, "fast lane", walks.REFRESH)
            for _ in range(50):
                land_page(connection, OPPORTUNITIES, "fast lane", walk.id, page)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(land, range(4)))
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT array_agg(page ORDER BY page) FROM raw_rms_pages")
        assert cursor.fetchone() == (list(range(1, 201)),)
    assert query(database, BODIES) == [(1,)]


def test_those_who_land_the_same_bodies_and_who_forget_them_do_not_wait_for_each_other(
    database: Database,
) -> None:
    gone: list[int] = []

    def land(number: int) -> None:
        run = ("fast lane", "a sync")[number % 2]
        with database.session() as connection:
            walk = walks.begin_walk(connection, OPPORTUNITIES, run, walks.REFRESH)
            for page in range(60):
                land_page(connection, OPPORTUNITIES, run, walk.id, a_page(b"%d" % (page % 7)))
                if number == 0:
                    [(count,)] = query(
                        database,
                        "WITH gone AS (DELETE FROM raw_rms_pages WHERE page % 3 = 0 RETURNING 1)"
                        " SELECT count(*) FROM gone",
                    )
                    gone.append(count)
                    forget_bodies(connection, OPPORTUNITIES)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(land, range(6)))
    assert query(database, "SELECT count(*) FROM raw_rms_pages") == [(6 * 60 - sum(gone),)]


@pytest.mark.parametrize("body", [b"", b"{}", b"\x00\xff not JSON", b"x" * 3_000_000])
def test_a_body_that_comes_again_is_stored_once_and_read_as_it_came(
    database: Database, body: bytes
) -> None:
    first, second = land(database, body, b"other"), land(database, b"another", body)
    assert read(database, first) == [body, b"other"]
    assert read(database, second) == [b"another", body]
    assert query(database, BODIES) == [(3,)]


def test_what_two_collections_received_alike_is_kept_for_each(database: Database) -> None:
    land(database, b"{}")
    walk = land(database, b"{}", collection=INVOICES)
    with database.session() as connection:
        query(database, "DELETE FROM raw_rms_pages WHERE collection = 'opportunities'")
        assert forget_bodies(connection, OPPORTUNITIES) == 1
    assert read(database, walk) == [b"{}"]


def test_a_page_that_an_earlier_version_landed_with_its_body_is_read_beside_others(
    database: Database,
) -> None:
    walk = land(database, b"first", b"second")
    query(
        database,
        "UPDATE raw_rms_pages p SET body = b.body, digest = NULL FROM raw_page_bodies b"
        " WHERE b.digest = p.digest AND p.page = 1",
    )
    with database.session() as connection:
        assert forget_bodies(connection, OPPORTUNITIES) == 1
    assert read(database, walk) == [b"first", b"second"]


def test_only_bodies_that_no_page_has_any_more_are_forgotten(database: Database) -> None:
    old, new = land(database, b"gone", b"stays"), land(database, b"stays", b"new")
    query(database, "DELETE FROM raw_rms_pages WHERE walk = %s", old)
    with database.session() as connection:
        assert forget_bodies(connection, OPPORTUNITIES) == 1
        assert forget_bodies(connection, OPPORTUNITIES) == 0
    assert read(database, new) == [b"stays", b"new"]


def beside(work: Callable[[], Any], waiting_for: Database) -> "threading.Thread":
    """Starts `work`, and returns once a session waits for a lock."""
    thread = threading.Thread(target=work)
    thread.start()
    blocked = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    wait_until(lambda: not thread.is_alive() or query(waiting_for, blocked) != [(0,)])
    return thread


def test_a_page_that_lands_while_its_body_is_being_forgotten_brings_it_again(
    database: Database,
) -> None:
    old = land(database, b"body")
    query(database, "DELETE FROM raw_rms_pages WHERE walk = %s", old)
    landed: list[int] = []
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM raw_page_bodies")
        thread = beside(lambda: landed.append(land(database, b"body")), database)
        assert landed == []
        connection.commit()
        thread.join()
    assert read(database, landed[0]) == [b"body"]


def test_a_body_is_not_forgotten_while_a_page_lands_that_has_it(database: Database) -> None:
    old = land(database, b"body", b"gone")
    query(database, "DELETE FROM raw_rms_pages WHERE walk = %s", old)
    forgotten: list[int] = []

    def forget() -> None:
        with database.session() as other:
            forgotten.append(forget_bodies(other, OPPORTUNITIES))

    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO raw_rms_pages (collection, run, walk, page, segment, request, asked_at,"
            " fetched_at, record_count, record_ids, size_bytes, digest) VALUES ('opportunities',"
            " 'run', %s, 9, 's', 'r', now(), now(), 0, '{}', 4, %s)",
            (old, Binary(sha256(b"body").digest())),
        )
        thread = beside(forget, database)
        connection.commit()
        thread.join()
        # That time none goes; the next time the one that may.
        assert forgotten == [0]
        assert forget_bodies(connection, OPPORTUNITIES) == 1
    assert read(database, old) == [b"body"]


def test_a_trigger_that_leaves_bodies_out_is_named_rather_than_met_for_ever(
    database: Database,
) -> None:
    query(
        database,
        "CREATE FUNCTION left_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER left_out BEFORE INSERT ON raw_page_bodies FOR EACH ROW"
        " EXECUTE FUNCTION left_out()",
    )
    with pytest.raises(DatabaseError, match="raw_page_bodies"):
        land(database, b"{}")
