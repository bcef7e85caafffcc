"""Pieces of a long work, which several connections do at the same time."""

import threading
from collections.abc import Iterator

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statements import Connection, one_row
from rms_pipeline.mirror.writers import WRITERS, by_writers


def backend(connection: Connection, piece: int) -> tuple[int, int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = one_row(cursor)
    connection.commit()
    return piece, pid


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_results_come_in_the_order_of_the_pieces_from_no_more_connections_than_writers(
    emptied: Database, count: int
) -> None:
    done = list(by_writers(emptied, backend, range(count)))
    assert [piece for piece, _ in done] == list(range(count))
    assert len({pid for _, pid in done}) <= min(count, WRITERS)


def test_as_many_pieces_as_writers_are_done_at_the_same_time(emptied: Database) -> None:
    together = threading.Barrier(WRITERS, timeout=30)

    def work(connection: Connection, piece: int) -> tuple[int, int]:
        together.wait()
        return backend(connection, piece)

    done = list(by_writers(emptied, work, range(3 * WRITERS)))
    assert len({pid for _, pid in done}) == WRITERS


def test_pieces_are_taken_only_a_few_ahead(emptied: Database) -> None:
    taken: list[int] = []

    def pieces() -> Iterator[int]:
        for piece in range(100):
            taken.append(piece)
            yield piece

    results = by_writers(emptied, backend, pieces())
    assert next(results)[0] == 0
    assert len(taken) == 2 * WRITERS + 1
    assert len(list(results)) == 99


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_is_raised_in_its_place_and_ends_all_that_was_not_begun(
    emptied: Database, error: type[BaseException]
) -> None:
    failed = threading.Event()
    begun: list[int] = []

    def work(connection: Connection, piece: int) -> tuple[int, int]:
        begun.append(piece)
        if piece == 1:
            failed.set()
            raise error("no")
        return backend(connection, piece)

    results = by_writers(emptied, work, range(1_000))
    assert next(results)[0] == 0
    assert failed.wait(30)
    with pytest.raises(error):
        list(results)
    assert len(begun) <= 2 * WRITERS + 2
    with emptied.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%'"
        )
        assert one_row(cursor) == (0,)


def test_whoever_stops_to_listen_ends_the_work(emptied: Database) -> None:
    begun: list[int] = []

    def work(connection: Connection, piece: int) -> tuple[int, int]:
        begun.append(piece)
        return backend(connection, piece)

    results = by_writers(emptied, work, range(1_000))
    next(results)
    results.close()
    assert len(begun) <= 2 * WRITERS + 2
