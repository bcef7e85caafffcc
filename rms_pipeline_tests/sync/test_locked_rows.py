"""Somebody's open transaction holds rows, or a table: what waits, what does not, who is named."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from psycopg2.errors import LockNotAvailable

from rms_pipeline.sandbox import Store
from rms_pipeline.sync.queued import WorkedOff, work_off
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror

pytestmark = pytest.mark.slow

MakeMirror = Callable[..., Mirror]
BACK = (
    "SELECT opportunity_id, attempts, dead_at, claimed_until, error FROM webhook_events"
    " WHERE processed_at IS NULL"
)


@contextmanager
def somebodys(mirror: Mirror, statement: str) -> Iterator[int]:
    """An open transaction that has executed `statement`: the process it runs in."""
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        yield connection.info.backend_pid


def tell(mirror: Mirror, *ids: int) -> None:
    for id_ in ids:
        query(
            mirror.database,
            "INSERT INTO webhook_events (subject_type, opportunity_id) VALUES ('Opportunity', %s)",
            id_,
        )


def work(mirror: Mirror) -> WorkedOff:
    query(mirror.database, "UPDATE webhook_events SET next_attempt_at = now()")
    with mirror.database.session() as connection:
        return work_off(mirror.database, connection, mirror.client(), "run")


@pytest.mark.parametrize(
    "lock",
    [
        "UPDATE opportunities SET description = 'mine' WHERE id = {0}",
        "SELECT FROM opportunities WHERE id = {0} FOR UPDATE",
        "SELECT FROM opportunity_versions WHERE id = {0} FOR UPDATE",
    ],
)
def test_a_locked_row_costs_only_its_own_event_which_goes_back_and_names_who_holds_it(
    mirror_of: MakeMirror, lock: str
) -> None:
    mirror = mirror_of(Store(20))
    locked, *others = ids = mirror.store.ids()[:8]
    refresh(mirror.database, mirror.client(), ids, "before")
    for id_ in ids:
        mirror.store.edit(id_, {"subject": "Edited"})
    tell(mirror, *ids)
    with somebodys(mirror, lock.format(locked)) as process:
        began = time.monotonic()
        done = work(mirror)
        assert time.monotonic() - began < 10
        assert (done.settled, done.waiting, done.failed, done.dead) == (7, 1, 0, 0)
        assert mirror.differences(set(others)) == {}
        (back,) = query(mirror.database, BACK)
        assert back[:4] == (locked, 0, None, None)
        assert f"process {process} of user" in back[4]
    assert work(mirror).settled == 1
    assert query(mirror.database, "SELECT count(*) FROM opportunities WHERE name = 'Edited'") == [
        (8,)
    ]


def test_a_row_that_is_about_to_be_inserted_by_somebody_costs_only_its_own_event(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(20))
    locked, *others = mirror.store.ids()[:4]
    tell(mirror, locked, *others)
    with somebodys(mirror, f"INSERT INTO opportunity_versions (id) VALUES ({locked})"):
        assert (done := work(mirror)).settled == 3, done
    assert work(mirror).settled == 1
    assert mirror.differences({locked, *others}) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "mode"),
    [
        ("opportunities", "ACCESS EXCLUSIVE"),
        ("opportunities", "SHARE"),
        ("opportunity_versions", "SHARE"),
    ],
)
def test_a_locked_table_holds_nobody_for_long_and_costs_no_event_an_attempt(
    mirror_of: MakeMirror, table: str, mode: str
) -> None:
    mirror = mirror_of(Store(20))
    ids = mirror.store.ids()[:8]
    refresh(mirror.database, mirror.client(), ids, "before")
    tell(mirror, *ids)
    with somebodys(mirror, f"LOCK TABLE {table} IN {mode} MODE") as process:
        began = time.monotonic()
        done = work(mirror)
        assert time.monotonic() - began < 15
        assert (done.settled, done.waiting, done.dead) == (0, 8, 0)
        assert f"process {process}" in query(mirror.database, BACK)[0][4]
    assert work(mirror).settled == 8


@pytest.mark.parametrize("table", ["opportunity_versions", "webhook_events"])
def test_a_table_that_cannot_even_be_read_ends_the_attempt_and_leaves_the_events(
    mirror_of: MakeMirror, table: str
) -> None:
    mirror = mirror_of(Store(20))
    tell(mirror, *mirror.store.ids()[:3])
    with (
        somebodys(mirror, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"),
        mirror.database.session() as connection,
        pytest.raises(LockNotAvailable),
    ):
        work_off(mirror.database, connection, mirror.client(), "run")
    assert work(mirror).settled == 3


def test_a_row_that_is_gone_and_locked_is_deleted_when_its_lock_ends(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(20))
    gone, there = mirror.store.ids()[:2]
    refresh(mirror.database, mirror.client(), [gone, there], "before")
    mirror.store.delete(gone)
    tell(mirror, gone, there)
    with somebodys(mirror, f"SELECT FROM opportunities WHERE id = {gone} FOR UPDATE"):
        done = work(mirror)
        assert (done.settled, done.waiting, mirror.deleted()) == (1, 1, set())
    assert work(mirror).settled == 1
    assert mirror.deleted() == {gone}
