"""Asking by id: who is there, who is gone, and what may not be concluded."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import pytest

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import ApiUnavailable, NotFound
from rms_pipeline.current_rms.failing import FEW
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline.sync.by_id import Wanted, ask_by_id
from rms_pipeline_tests.conftest import QUICK

MakeClient = Callable[..., CurrentRmsClient]


def ask(client: CurrentRmsClient, ids: list[int]) -> tuple[set[int], set[int]]:
    """Who came, and who is gone."""
    came: set[int] = set()
    gone: set[int] = set()
    for verdict in ask_by_id(client, ids, lane=Lane.LIVE):
        came |= {i for answer in verdict.answers for i in answer.ids}
        gone |= verdict.gone.keys()
    return came, gone


@pytest.mark.parametrize("count", [1, 3, 60])
def test_records_that_exist_arrive_and_others_count_as_deleted(
    client_for: MakeClient, count: int
) -> None:
    with SandboxServer(Store(80)) as sandbox:
        there = sandbox.store.ids()[:count]
        assert ask(client_for(sandbox.url), [*there, 999_999]) == (set(there), {999_999})


@pytest.mark.parametrize("count", [1, 30])
def test_what_a_list_leaves_out_is_there_as_long_as_the_single_record_is(
    client_for: MakeClient, count: int
) -> None:
    class Forgetful(CurrentRmsClient):
        """Its lists hold nothing but the first of what was asked for."""

        def list_records(self, params, **options):  # type: ignore[no-untyped-def]
            return super().list_records(params[:1], **options)

    with SandboxServer(Store(80)) as sandbox:
        client = client_for(sandbox.url)
        client.__class__ = Forgetful
        ids = sandbox.store.ids()[:count]
        assert ask(client, ids) == (set(ids), set())


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_wrong_address_makes_nobody_gone(client_for: MakeClient, count: int) -> None:
    with SandboxServer(Store(20)) as sandbox:
        client = client_for(f"{sandbox.url}/elsewhere")
        with pytest.raises(NotFound):
            ask(client, sandbox.store.ids()[:count])


@pytest.mark.parametrize(("page", "calls"), [(25, 4), (10, 7)])
def test_pages_that_hold_less_than_was_asked_for_cost_pages_and_not_a_call_an_id(
    client_for: MakeClient, page: int, calls: int
) -> None:
    with SandboxServer(Store(80), switches=Switches(max_per_page=page)) as sandbox:
        ids = sandbox.store.ids()[:60]
        assert ask(client_for(sandbox.url), ids) == (set(ids), set())
        assert len(sandbox.requests) <= calls


def test_an_absence_from_which_nothing_follows_is_not_asked_for_twice(
    client_for: MakeClient,
) -> None:
    with SandboxServer(Store(5)) as sandbox:
        client = client_for(sandbox.url)
        wanted = Wanted(alive=[999_998], singly=[999_998, 999_999])
        ids = [999_998, 999_999, *sandbox.store.ids()[:1]]
        for _ in ask_by_id(client, ids, lane=Lane.LIVE, wanted=wanted):
            pass
        paths = [path for _, path, _ in sandbox.requests]
    asked = [sum(f"/{id_}" in path for path in paths) for id_ in ids]
    assert asked[:2] == [1, 2]


@pytest.mark.parametrize(
    "change", [{"honours_id_in": False}, {"refused": ("q[id_in]",)}], ids=["ignored", "refused"]
)
def test_a_filter_that_does_not_hold_leads_to_each_record_alone(
    client_for: MakeClient, change: dict[str, object]
) -> None:
    switches = dataclasses.replace(Switches(), **change)  # type: ignore[arg-type]
    with SandboxServer(Store(80), switches=switches) as sandbox:
        ids = sandbox.store.ids()[-10:]
        assert ask(client_for(sandbox.url), [*ids, 999_999]) == (set(ids), {999_999})


@pytest.mark.parametrize("gone_status", [404, 410])
@pytest.mark.parametrize("count", [1, 5])
def test_404_and_410_of_the_single_record_both_mean_gone(
    client_for: MakeClient, gone_status: Literal[404, 410], count: int
) -> None:
    switches = Switches(gone_status=gone_status)
    with SandboxServer(Store(40), switches=switches) as sandbox:
        gone = sandbox.store.ids()[:count]
        for id_ in gone:
            sandbox.store.delete(id_)
        there = sandbox.store.ids()[:2]
        assert ask(client_for(sandbox.url), [*gone, *there]) == (set(there), set(gone))
        assert ask(client_for(sandbox.url), gone) == (set(), set(gone))


@pytest.mark.parametrize("attempts", [2, 6])
def test_an_api_that_is_down_is_asked_as_often_as_patience_allows(
    client_for: MakeClient, attempts: int
) -> None:
    with SandboxServer(Store(5)) as sandbox:
        client = client_for(sandbox.url, patience=dataclasses.replace(QUICK, attempts=attempts))
        sandbox.faults.probabilities = {"error_500": 1.0}
        with pytest.raises(ApiUnavailable):
            ask(client, sandbox.store.ids()[:2])
        asked = sum("id_in" in request for request in map(str, sandbox.requests))
    # Three attempts, then, if patience allows more, all of them.
    assert asked == (attempts if attempts <= FEW else FEW + attempts)
