"""Picture links that are signed anew at each read are no change, and the newest ones are kept."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.proofs import content_number
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]


@pytest.fixture
def mirror(mirror_of: MakeMirror) -> Mirror:
    made = mirror_of(Store(60), switches=Switches(api="v2.1", signed_links=True))
    made.full_sync()
    return made


def links(mirror: Mirror) -> dict[int, str]:
    found = {}
    for id_, row in mirror.rows().items():
        icon = (row["data"].get("member") or {}).get("icon") or {}
        if icon.get("url"):
            found[id_] = icon["url"]
    return found


def changes(mirror: Mirror) -> list[tuple[Any, ...]]:
    return query(mirror.database, "SELECT * FROM opportunity_changes")


def test_a_second_sync_changes_nothing_but_keeps_the_newest_links(mirror: Mirror) -> None:
    before = links(mirror)
    assert before
    done = mirror.full_sync()
    assert (done.merged.result.updated, done.merged.result.created) == (0, 0)
    assert done.merged.result.unchanged == len(mirror.rows())
    assert changes(mirror) == []
    after = links(mirror)
    assert after.keys() == before.keys()
    assert all(after[id_] != link for id_, link in before.items())


def test_a_refresh_changes_nothing_but_keeps_the_newest_links(mirror: Mirror) -> None:
    ids = ids_in(mirror.store, mirror.window)
    before = links(mirror)
    assert refresh(mirror.database, mirror.client(), ids, "refresh").result.updated == 0
    assert all(link != before[id_] for id_, link in links(mirror).items())


def test_an_edit_beside_a_new_link_is_a_change(mirror: Mirror) -> None:
    ids = ids_in(mirror.store, mirror.window)
    for id_ in ids[:3]:
        mirror.store.edit(id_, {"subject": "Edited"})
    assert mirror.full_sync().merged.result.updated == 3


def test_rows_from_before_links_were_left_out_are_not_all_changed(mirror: Mirror) -> None:
    query_nothing = "UPDATE opportunity_versions SET fingerprint = '\\x00'"
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(query_nothing)
    before = links(mirror)
    assert mirror.full_sync().merged.result.updated == 0
    assert all(link != before[id_] for id_, link in links(mirror).items())
    fingerprints = query(mirror.database, "SELECT DISTINCT fingerprint FROM opportunity_versions")
    assert len(fingerprints) > 10


def test_a_record_with_a_fault_is_not_changed_by_its_links_either(mirror: Mirror) -> None:
    odd = next(iter(links(mirror)))
    body = mirror.store.get(odd) or {}
    mirror.store.put(odd, body | {"charge_total": "much", "updated_at": body["updated_at"]})
    mirror.full_sync()
    again = mirror.full_sync().merged.result
    assert again.updated == 0
    stored = query(mirror.database, f"SELECT data FROM opportunities WHERE id = {odd}")[0][0]
    assert stored["charge_total"] == "much"
    assert msgspec.json.encode(stored)


def test_links_that_stay_as_they_are_are_not_written_again(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(40))
    ids = ids_in(mirror.store, mirror.window)
    for id_ in ids:
        mirror.store.edit(id_, {"image": "/system/7.png?169", "description": "x" * 4_000})
    mirror.full_sync()
    sizes = "SELECT pg_total_relation_size('opportunities')"
    before = query(mirror.database, sizes)
    assert mirror.full_sync().merged.result.updated == 0
    assert query(mirror.database, sizes)[0][0] <= before[0][0] * 1.5


def test_newer_links_of_what_changed_lately_keep_no_proof_from_being_shown(mirror: Mirror) -> None:
    id_ = min(links(mirror))
    mirror.store.edit(id_, {"subject": "Lately"})
    first, before = mirror.proved_sync(), links(mirror)
    second = mirror.proved_sync()
    assert first is not None
    assert second is not None
    assert (first.shown, first.rounds) == (True, 2)
    assert (second.shown, second.rounds) == (True, 1)
    # They are taken over all the same.
    assert links(mirror) != before
    mirror.store.edit(id_, {"subject": "Later"})
    third = mirror.proved_sync()
    assert third is not None
    assert (third.shown, third.rounds) == (True, 2)


def test_what_is_edited_in_the_transaction_that_keeps_newer_links_is_a_change(
    mirror: Mirror,
) -> None:
    def number() -> int:
        with mirror.database.session() as connection:
            return content_number(connection, OPPORTUNITIES)

    ids = ids_in(mirror.store, mirror.window)
    mirror.store.edit(ids[0], {"subject": "Edited"})
    before = number()
    assert refresh(mirror.database, mirror.client(), ids, "refresh").result.updated == 1
    assert number() == before + 1
