"""What an account refuses to include costs no sync, and is told of."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rms_pipeline.current_rms.terms import Terms
from rms_pipeline.mirror.proofs import ASSOCIATIONS_KEPT, FIELDS_LOST
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sandbox.api.answers import Answer, Request
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.sync.test_lies import Tell, lie
from rms_pipeline_tests.test_sync import ids_in

__all__ = ["lie"]

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


@pytest.mark.parametrize(
    "how",
    [{"nested": "never"}, {"refused_includes": {"venue": 422, "member": 400, "owner": 404}}],
    ids=["ignored", "refused"],
)
def test_names_that_an_api_no_longer_sends_are_kept_while_their_ids_are_the_same(
    mirror_of: MakeMirror, how: dict[str, Any]
) -> None:
    mirror = mirror_of(Store(60), switches=Switches(api="v2.1"))
    mirror.full_sync()
    before = mirror.rows()
    ids = ids_in(mirror.store, mirror.window)
    venues = {id_: row["venue_id"] for id_, row in before.items()}
    edited, moved = ids[0], next(i for i in ids[1:] if venues[i] != venues[ids[0]])
    mirror.sandbox.switches = replace(mirror.sandbox.switches, **how)
    mirror.store.edit(edited, {"subject": "Edited"})
    mirror.store.edit(moved, {"venue_id": venues[edited]})
    kinds = [mirror.proved_sync(), mirror.full_sync().settled.certificate]
    for proof in kinds:
        assert proof is not None
        assert proof.shown, proof.sentence
        assert ASSOCIATIONS_KEPT in proof.rests_on
    rows = mirror.rows()
    assert rows[edited]["name"] == "Edited"
    names = ("venue_name", "organisation_name", "owner_name")
    kept = {i: tuple(row[name] for name in names) for i, row in rows.items() if i != moved}
    assert kept == {i: tuple(before[i][name] for name in names) for i in kept}
    assert (rows[moved]["venue_id"], rows[moved]["venue_name"]) == (venues[edited], None)
    assert rows[moved]["organisation_name"] == before[moved]["organisation_name"]
    told = "SELECT DISTINCT field FROM sync_faults WHERE problem LIKE '%%keep%%' ORDER BY 1"
    assert {"venue", "member", "owner"} <= {name for (name,) in query(mirror.database, told)}
    # Another sync changes nothing, and finds no more to tell.
    again = mirror.full_sync()
    assert again.merged.result.updated == 0
    # It is tried again after a week. Here it is not refused any more from one day to the next.
    mirror.terms = Terms()
    mirror.sandbox.switches = Switches(api="v2.1")
    proof = mirror.full_sync().settled.certificate
    assert proof.shown
    assert ASSOCIATIONS_KEPT not in proof.rests_on
    assert mirror.differences() == {}


def test_a_field_that_an_api_no_longer_sends_is_not_lost_without_a_word(
    mirror_of: MakeMirror, lie: Tell
) -> None:
    mirror = mirror_of(Store(60), switches=Switches(api="v2.1"))
    mirror.full_sync()

    def leave_out(request: Request, answer: Answer) -> Answer:
        said = json.loads(answer.body)
        for record in said.get("opportunities", [said.get("opportunity", {})]):
            record.pop("charge_total", None)
            record.pop("rating", None)
        return replace(answer, body=json.dumps(said).encode())

    lie(leave_out)
    edited, emptied = ids_in(mirror.store, mirror.window)[:2]
    mirror.store.edit(edited, {"subject": "Edited"})
    told = "SELECT DISTINCT field FROM sync_faults WHERE problem LIKE '%%no longer sends%%'"
    proof = mirror.proved_sync()
    assert proof is not None
    assert FIELDS_LOST in proof.rests_on
    assert {("charge_total",), ("rating",)} == {*query(mirror.database, told)}
    lie(lambda _, answer: answer)
    # A field that a person empties is still sent.
    mirror.store.edit(emptied, {"rating": None, "venue_id": None, "venue": None})
    proof = mirror.full_sync().settled.certificate
    assert proof.shown
    assert FIELDS_LOST not in proof.rests_on
    assert mirror.differences() == {}
