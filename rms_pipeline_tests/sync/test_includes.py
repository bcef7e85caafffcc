"""What an account refuses to include costs no sync, and is told of."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 404, 422])
def test_syncs_go_on_without_an_include_that_is_refused_and_note_it(
    mirror_of: MakeMirror, status: int
) -> None:
    switches = Switches(api="v2.1", refused_includes={"destination": status})
    mirror = mirror_of(Store(60), switches=switches)
    done = mirror.full_sync()
    # What is not given is not in `data`; all else is.
    assert set(mirror.differences().values()) == {"differs in data"}
    assert done.settled.certificate.shown
    assert any(f"include destination refused with {status}" in n for n in done.landed.notes)
    assert all("destination" not in row["data"] for row in mirror.rows().values())
    assert all("billing_address" in row["data"] for row in mirror.rows().values())
    ids = ids_in(mirror.store, mirror.window)
    mirror.store.edit(ids[0], {"subject": "Edited"})
    mirror.store.delete(ids[1])
    landed, _ = mirror.incremental_sync()
    assert any("include destination" in note for note in landed.notes)
    assert refresh(mirror.database, mirror.client(), ids[:2], "refresh").gone == {ids[1]}
    assert set(mirror.differences().values()) == {"differs in data"}


def test_a_row_has_all_associations_whichever_way_it_came_and_nothing_changes_between(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60), switches=Switches(api="v2.1"))
    mirror.full_sync()
    for row in mirror.rows().values():
        assert {"destination", "billing_address", "opportunity_surcharges"} <= row["data"].keys()
    ids = ids_in(mirror.store, mirror.window)
    done = refresh(mirror.database, mirror.client(), ids, "by list")
    assert (done.result.unchanged, done.result.updated) == (len(ids), 0)
    done = refresh(mirror.database, mirror.client(), ids[:1], "single")
    assert (done.result.unchanged, done.result.updated) == (1, 0)
    mirror.sandbox.switches = replace(mirror.sandbox.switches, api="v1")
    assert mirror.full_sync().merged.result.updated == 0
