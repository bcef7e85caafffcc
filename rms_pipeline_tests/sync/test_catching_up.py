"""The API shows what an event tells of a while later: in lists, by id, or never."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.mirror.queue import PATIENCE
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync.queued import WorkedOff, work_off
from rms_pipeline.sync.refreshing import ASKED_SINGLY, refresh
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror

pytestmark = pytest.mark.slow

MakeMirror = Callable[..., Mirror]
LAGGING = Switches(lists_lag=60)


def tell(mirror: Mirror, *ids: int, action: str | None = "update", at: Any = "edit") -> None:
    """Events of `at`, by default of when the records were last changed."""
    for id_ in ids:
        record = mirror.store.get(id_) or {"updated_at": datetime.now(UTC)}
        happened = record["updated_at"] if at == "edit" else at
        query(
            mirror.database,
            "INSERT INTO webhook_events (subject_type, opportunity_id, action_type, happened_at)"
            " VALUES ('Opportunity', %s, %s, %s)",
            id_,
            action,
            happened,
        )


def work(mirror: Mirror) -> WorkedOff:
    """Once more, whatever waits for another time."""
    query(mirror.database, "UPDATE webhook_events SET next_attempt_at = now()")
    with mirror.database.session() as connection:
        return work_off(mirror.database, connection, mirror.client(), "run")


def singly(mirror: Mirror) -> list[int]:
    """Ids that were asked for alone."""
    paths = [path.partition("?")[0] for _, path, _ in mirror.sandbox.requests]
    return [int(p.rpartition("/")[2]) for p in paths if p.rpartition("/")[2].isdigit()]


def edited(mirror: Mirror, count: int) -> list[int]:
    """Mirrored opportunities, edited since in a way that lists do not show yet."""
    ids = mirror.store.ids()[:count]
    refresh(mirror.database, mirror.client(), ids, "before")
    mirror.sandbox.switches = LAGGING
    for id_ in ids:
        mirror.store.edit(id_, {"subject": f"Edited {id_}"})
    mirror.sandbox.requests.clear()
    return ids


@pytest.mark.parametrize("count", [1, 2, ASKED_SINGLY, 40])
def test_a_refresh_of_edited_rows_brings_the_new_content_though_lists_lag(
    mirror_of: MakeMirror, count: int
) -> None:
    mirror = mirror_of(Store(50))
    ids = edited(mirror, count)
    refresh(mirror.database, mirror.client(), ids, "refresh")
    assert mirror.differences(set(ids)) == {}


def test_a_refresh_of_sixty_costs_four_calls_at_25_a_page_where_lists_do_not_lag(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(80), switches=Switches(max_per_page=25))
    ids = mirror.store.ids()[:60]
    done = refresh(mirror.database, mirror.client(), ids, "refresh")
    assert (done.result.created, done.calls <= 4) == (60, True)
    assert refresh(mirror.database, mirror.client(), ids, "refresh").calls <= 4


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 30])
def test_what_a_list_brings_older_than_its_event_is_asked_for_singly_and_once(
    mirror_of: MakeMirror, count: int
) -> None:
    mirror = mirror_of(Store(50))
    ids = edited(mirror, count)
    tell(mirror, *ids)
    tell(mirror, *ids)
    done = work(mirror)
    assert (done.settled, done.waiting, done.error) == (2 * count, 0, None)
    assert mirror.differences(set(ids)) == {}
    assert sorted(singly(mirror)) == ids


def test_a_list_that_is_behind_the_mirror_takes_nothing_back_and_leaves_no_history(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(50))
    ids = edited(mirror, 12)
    for id_ in ids:
        mirror.store.edit(id_, {"status_name": "Brand new"})
    refresh(mirror.database, mirror.client(), ids, "singly")
    query(mirror.database, "TRUNCATE opportunity_changes")
    # Without a time of their own: only what is mirrored shows that the list is behind.
    tell(mirror, *ids, at=None)
    assert work(mirror).settled == 12
    assert mirror.differences(set(ids)) == {}
    assert query(mirror.database, "SELECT count(*) FROM opportunity_changes") == [(0,)]


@pytest.mark.parametrize("action", ["create_item", "update_item", "destroy_item", "discuss",
                                    "attach", "detach"])  # fmt: skip
def test_an_event_beside_the_record_asks_for_no_newer_one(
    mirror_of: MakeMirror, action: str
) -> None:
    mirror = mirror_of(Store(20))
    ids = mirror.store.ids()[:5]
    tell(mirror, *ids, action=action)
    assert work(mirror).settled == 5
    assert len(mirror.sandbox.requests) == 1


def test_an_event_whose_single_record_is_outdated_waits_and_does_not_wait_for_ever(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(20))
    id_ = mirror.store.ids()[0]
    tell(mirror, id_, at=datetime.now(UTC) + timedelta(hours=1))
    first = work(mirror)
    assert (first.settled, first.waiting, first.failed) == (0, 1, 0)
    said = query(mirror.database, "SELECT error, attempts, dead_at FROM webhook_events")
    assert said == [
        (
            f"Current RMS still shows opportunity {id_} in its old state; it is requested again.",
            0,
            None,
        )
    ]
    # The row has what there is meanwhile.
    assert mirror.differences({id_}) == {}
    assert [work(mirror).settled for _ in range(3)] == [0, 0, 1]
    assert len(mirror.sandbox.requests) == 4


@pytest.mark.parametrize("gone_status", [404, 410])
def test_a_record_that_is_not_there_yet_is_asked_for_again_until_it_is(
    mirror_of: MakeMirror, gone_status: Any
) -> None:
    mirror = mirror_of(Store(20), switches=Switches(singles_lag=60, gone_status=gone_status))
    id_ = mirror.store.create({"subject": "Just made"})
    tell(mirror, id_, action="create")
    assert [work(mirror).waiting for _ in range(3)] == [1, 1, 1]
    assert mirror.rows() == {}
    mirror.sandbox.switches = Switches()
    assert work(mirror).settled == 1
    assert mirror.differences({id_}) == {}


@pytest.mark.parametrize("action", ["create", "update", "mark_as_lost"])
def test_a_record_that_never_comes_is_settled_in_the_end_and_is_no_dead_letter(
    mirror_of: MakeMirror, action: str
) -> None:
    mirror = mirror_of(Store(20))
    tell(mirror, 999_999, action=action)
    done = [work(mirror) for _ in range(len(PATIENCE) + 1)]
    assert [each.settled for each in done] == [0] * len(PATIENCE) + [1]
    state = "SELECT processed_at IS NULL, dead_at, error FROM webhook_events"
    assert query(mirror.database, state) == [(False, None, None)]


def test_the_attempts_are_spaced_wider_and_wider(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(20))
    tell(mirror, 999_999)
    waits = "SELECT round(extract(epoch FROM next_attempt_at - clock_timestamp())) FROM"
    found = []
    for _ in PATIENCE:
        work(mirror)
        found.append(int(query(mirror.database, f"{waits} webhook_events")[0][0]))
    assert found == pytest.approx(list(PATIENCE), abs=1)


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("gone_status", [404, 410])
def test_what_was_destroyed_leaves_at_once_though_lists_still_show_it(
    mirror_of: MakeMirror, gone_status: Any, count: int
) -> None:
    mirror = mirror_of(Store(20), switches=Switches(gone_status=gone_status))
    ids = mirror.store.ids()[:count]
    refresh(mirror.database, mirror.client(), ids, "before")
    mirror.sandbox.switches = Switches(lists_lag=60, gone_status=gone_status)
    for id_ in ids:
        mirror.store.delete(id_)
    tell(mirror, *ids, action="update")
    tell(mirror, *ids, action="destroy")
    done = work(mirror)
    assert (done.settled, done.dead, done.refreshed.deleted) == (2 * count, 0, count)
    assert mirror.deleted() == set(ids)


def test_a_destroyed_record_that_is_still_shown_is_asked_for_again(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(20))
    id_ = mirror.store.ids()[0]
    tell(mirror, id_, action="destroy")
    assert work(mirror).waiting == 1
    mirror.store.delete(id_)
    assert work(mirror).refreshed.deleted == 1
    assert mirror.deleted() == {id_}


def test_a_later_event_waits_with_the_one_that_was_put_off_and_is_settled_with_it(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(20), switches=Switches(singles_lag=60))
    id_ = mirror.store.create({"subject": "Just made"})
    tell(mirror, id_, action="create")
    work(mirror)
    query(mirror.database, "UPDATE webhook_events SET next_attempt_at = now() + interval '5 s'")
    tell(mirror, id_)
    with mirror.database.session() as connection:
        assert work_off(mirror.database, connection, mirror.client(), "run").claimed == 0
    mirror.sandbox.switches = Switches()
    assert work(mirror).settled == 2


@pytest.mark.slow
def test_ids_that_current_rms_has_none_of_cost_few_calls_a_minute_and_hold_up_no_other(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60))
    known = mirror.store.ids()[:30]
    refresh(mirror.database, mirror.client(), known, "before")
    mirror.sandbox.requests.clear()
    tell(mirror, *range(500_000, 500_300))
    tell(mirror, *known)
    settled = 0
    with mirror.database.session() as connection:
        for _ in range(20):
            done = work_off(mirror.database, connection, mirror.client(), "run")
            settled += done.records
    assert settled == 30
    assert len(mirror.sandbox.requests) <= 40
    # A minute later the next of them have their turn.
    query(mirror.database, "UPDATE webhook_absences SET asked_at = asked_at - interval '1 min'")
    assert work(mirror).claimed > 0


def test_what_is_not_there_is_not_asked_for_again_at_once(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(20))
    tell(mirror, 999_999)
    while not work(mirror).settled:
        pass
    mirror.sandbox.requests.clear()
    tell(mirror, 999_999)
    assert work(mirror).waiting == 1
    tell(mirror, 999_999, action="destroy")
    assert work(mirror).settled == 2
    assert len(mirror.sandbox.requests) == 0
