"""Rows outside the window that too many of are gone: held back, remembered, and let go."""

from collections.abc import Callable
from datetime import timedelta
from urllib.parse import unquote

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.terms import Terms
from rms_pipeline.mirror.deletions import held_back
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]


def with_old_ones(mirror: Mirror, count: int) -> list[int]:
    """Ids of mirrored opportunities that lie before the window."""
    day = (mirror.store.today - timedelta(days=700)).strftime("%Y-%m-%dT00:00:00.000Z")
    ids = [mirror.store.create({"starts_at": day, "ends_at": day}) for _ in range(count)]
    refresh(mirror.database, mirror.client(), ids, "refresh")
    return ids


def held_ids(mirror: Mirror) -> list[int]:
    with mirror.database.session() as connection:
        return held_back(connection, OPPORTUNITIES)


@pytest.mark.slow
def test_what_was_held_back_makes_room_for_others_and_goes_when_it_is_confirmed(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60), switches=Switches(max_per_page=100))
    mirror.terms = Terms(100)
    purged, other = with_old_ones(mirror, 130), with_old_ones(mirror, 1)[0]
    for id_ in purged:
        mirror.store.delete(id_)
    mirror.store.edit(other, {"subject": "Silently edited", "updated_at": None})
    first = mirror.full_sync(reverify_calls=101).settled
    assert (first.held_back, first.deleted) == (100, 0)
    # The rest of them, and the one that had to wait behind them.
    second = mirror.full_sync(reverify_calls=101).settled
    assert (second.held_back, second.deleted) == (130, 0)
    assert mirror.rows()[other]["name"] == "Silently edited"
    assert set(purged) <= set(mirror.rows())
    # As the command does it: no calls for rows outside, but for those.
    done = mirror.full_sync(confirm_deletions=True).settled
    assert (done.held_back, held_ids(mirror)) == (0, [])
    assert mirror.deleted() == set(purged)
    assert mirror.full_sync().settled.held_back == 0


def test_a_row_that_was_held_back_and_is_there_again_is_forgotten(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(60))
    old = with_old_ones(mirror, 30)
    records = {id_: mirror.store.get(id_, ()) or {} for id_ in old}
    for id_ in old:
        mirror.store.delete(id_)
    mirror.full_sync(reverify_calls=32)
    assert held_ids(mirror) == old
    for id_, record in records.items():
        mirror.store.put(id_, {**record, "updated_at": None})
    # Not asked about, so nothing is known to have changed.
    assert mirror.full_sync().settled.held_back == len(old)
    assert mirror.full_sync(reverify_calls=2).settled.held_back == 0
    assert set(old) <= set(mirror.rows())


def test_rows_that_go_in_masses_after_the_walk_are_held_back_before_all_were_asked_for(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(80), switches=Switches(max_per_page=100))
    mirror.full_sync()
    records = {id_: mirror.store.get(id_) or {} for id_ in ids_in(mirror.store, mirror.window)}
    dated = [id_ for id_, r in records.items() if r["starts_at"] and r["ends_at"]]
    undated = [id_ for id_ in records if id_ not in dated]
    assert undated
    doomed = dated[:25] + undated[:5]

    def purge(path: str) -> None:
        if "q[id_lt]" in unquote(path):
            mirror.sandbox.before_request = None
            for id_ in doomed:
                mirror.store.delete(id_)

    mirror.sandbox.before_request = purge
    settled = mirror.full_sync().settled
    # One more than may go shows that something is wrong: no call is spent on the others.
    assert (settled.held_back, settled.deleted) == (21, 0)
    assert "wait for confirmation" in settled.certificate.sentence
    singles = [path for _, path, _ in mirror.sandbox.requests if "opportunities/" in path]
    *suspects, witness = [int(path.partition("?")[0].rpartition("/")[2]) for path in singles]
    assert len(suspects) == 21
    assert set(suspects) <= set(doomed)
    # Before it was said of any that it is gone, another had to be found in the same way.
    assert witness in mirror.store.ids()
    confirmed = mirror.full_sync(confirm_deletions=True).settled
    assert (confirmed.deleted, confirmed.certificate.shown) == (len(doomed), True)


@pytest.mark.parametrize("reverify_calls", [0, 50])
def test_the_last_rows_of_an_emptied_account_go_when_it_is_confirmed_wherever_they_lie(
    mirror_of: MakeMirror, reverify_calls: int
) -> None:
    mirror = mirror_of(Store(1))
    mirror.full_sync()
    inside, outside = mirror.store.ids(), with_old_ones(mirror, 2)
    for id_ in (*inside, *outside):
        mirror.store.delete(id_)
    first = mirror.full_sync(reverify_calls=reverify_calls).settled
    assert (first.deleted, first.certificate.shown) == (0, False)
    done = mirror.full_sync(confirm_deletions=True, reverify_calls=reverify_calls).settled
    assert (done.deleted, done.held_back, mirror.rows()) == (3, 0, {})
    assert done.certificate.shown, done.certificate.sentence
