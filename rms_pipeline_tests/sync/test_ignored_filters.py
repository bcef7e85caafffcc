"""Filters that the API ignores or refuses lead to another way of asking, and are told of."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from rms_pipeline.current_rms.errors import WalkIncomplete
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sandbox.api import routes
from rms_pipeline.sandbox.api.answers import Answer, Request
from rms_pipeline.sandbox.api.filters import shuffled
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]


@pytest.fixture
def mirror(mirror_of: MakeMirror) -> Mirror:
    """At 10 a page, with everything long unchanged but what a test edits."""
    made = mirror_of(Store(200), switches=Switches(api="v2.1", max_per_page=10))
    made.full_sync()
    made.watermarks = [made.store.now() - timedelta(minutes=5)]
    return made


def ignore(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """What asks with a parameter of `names` is answered as if it did not."""
    client_of = mirror.client

    def client() -> object:
        made = client_of()
        get = made._get

        def get_without(
            request: str, decode: object, lane: object, attempts: int | None = None
        ) -> object:
            parts = urlsplit(request)
            kept = [
                (k, v)
                for k, v in parse_qsl(parts.query)
                if k not in names and f"{k}={v}" not in names
            ]
            asked = f"{parts.path}?{urlencode(kept)}"
            return get(asked, decode, lane, attempts)  # type: ignore[arg-type]

        monkeypatch.setattr(made, "_get", get_without)
        return made

    monkeypatch.setattr(mirror, "client", client)


def test_changes_are_read_in_their_order_where_the_filter_is_ignored(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignore(mirror, monkeypatch, "q[updated_at_gteq]")
    edited = ids_in(mirror.store, mirror.window)[-13:]
    for id_ in edited:
        mirror.store.edit(id_, {"subject": "Edited"})
    mirror.sandbox.requests.clear()
    landed, merged = mirror.incremental_sync()
    assert merged.result.updated == 13
    assert mirror.differences() == {}
    # One that shows that the filter is ignored, and two pages: not the account's twenty.
    assert len(mirror.sandbox.requests) == 3
    assert any("filter q[updated_at_gteq] ignored" in note for note in landed.notes)
    mirror.sandbox.requests.clear()
    mirror.incremental_sync()
    assert len(mirror.sandbox.requests) <= 3


def test_a_filter_that_is_obeyed_again_is_used_again(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as ignoring:
        ignore(mirror, ignoring, "q[updated_at_gteq]")
        mirror.incremental_sync()
    assert mirror.terms.refusal("filter", "q[updated_at_gteq]") is not None
    known = mirror.terms.refusal("filter", "q[updated_at_gteq]")
    assert known is not None
    mirror.terms.note("filter", known.name, None, known.noted_at - timedelta(days=8))
    mirror.watermarks = [mirror.store.now() - timedelta(minutes=5)]
    landed, _ = mirror.incremental_sync()
    assert mirror.terms.refusals == ()
    assert not any("ignored" in note for note in landed.notes)


def test_changes_are_found_where_the_filter_is_refused(mirror: Mirror) -> None:
    switches = replace(mirror.sandbox.switches, refused=("q[updated_at_gteq]",))
    mirror.sandbox.switches = switches
    id_ = ids_in(mirror.store, mirror.window)[0]
    mirror.store.edit(id_, {"subject": "Edited"})
    landed, merged = mirror.incremental_sync()
    assert merged.result.updated == 1
    assert any("refused with 422" in note for note in landed.notes)
    assert mirror.differences() == {}


def test_where_nothing_is_obeyed_everything_is_read_and_the_sync_says_so(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignore(mirror, monkeypatch, "q[updated_at_gteq]", "q[s]=updated_at desc")
    id_ = ids_in(mirror.store, mirror.window)[0]
    mirror.store.edit(id_, {"subject": "Edited"})
    landed, merged = mirror.incremental_sync()
    assert merged.result.updated == 1
    assert any("the whole account was read" in note for note in landed.notes)
    assert mirror.differences() == {}


@pytest.mark.slow
def test_a_record_that_goes_while_changes_are_read_in_order_hides_no_other(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignore(mirror, monkeypatch, "q[updated_at_gteq]")
    edited = ids_in(mirror.store, mirror.window)[:25]
    for id_ in edited:
        mirror.store.edit(id_, {"subject": "Edited"})

    def delete_one(path: str) -> None:
        if "page=2&" in path:
            mirror.sandbox.before_request = None
            mirror.store.delete(edited[-1])

    mirror.sandbox.before_request = delete_one
    mirror.incremental_sync()
    rows = mirror.rows()
    assert all(rows[id_]["name"] == "Edited" for id_ in edited[:-1])


def test_a_whole_page_of_old_records_is_needed_to_call_a_filter_ignored(mirror: Mirror) -> None:
    ids = ids_in(mirror.store, mirror.window)
    mirror.store.edit(ids[0], {"subject": "Edited"})
    body = b'{"id": %d, "subject": "Odd", "updated_at": "2001-01-01T00:00:00Z"}' % ids[0]
    mirror.sandbox.switches = replace(mirror.sandbox.switches, bodies={ids[0]: body})
    mirror.incremental_sync()
    assert mirror.terms.refusals == ()


def test_changes_whose_first_page_is_in_order_by_chance_are_all_read(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(15), switches=Switches(max_per_page=2, honours_sort=False))
    mirror.full_sync()
    mirror.watermarks = [mirror.store.now() - timedelta(minutes=5)]
    for four in itertools.combinations(ids_in(mirror.store, mirror.window), 4):
        first, second, *others = shuffled(four)
        if first < second and min(others) < second:
            break
    for id_ in four:
        mirror.store.edit(id_, {"subject": "Edited"})
    proof = mirror.proved_sync()
    assert proof is not None
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}


def test_a_list_that_is_suddenly_empty_is_no_empty_account(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches = Switches(
        max_per_page=3, honours_sort=False, honours_id_predicates=False, honours_created_at=False
    )
    mirror = mirror_of(Store(20), switches=switches)
    truth, state = routes.answer, {"empty": False, "broken": True}

    def answer(account: Any, request: Request) -> Answer:
        said = truth(account, request)
        if any(name.startswith("q[created_at") for name, _ in request.query):
            # Page numbers come after these.
            state["empty"] = True
        elif state["empty"] and state["broken"] and request.path == "/opportunities":
            nothing = {"opportunities": [], "meta": {"total_row_count": 0}}
            return replace(said, body=json.dumps(nothing).encode())
        return said

    monkeypatch.setattr(routes, "answer", answer)
    with pytest.raises(WalkIncomplete, match="and then an empty list"):
        mirror.full_sync()
    state["broken"] = False
    assert mirror.full_sync().settled.certificate.shown
    assert mirror.differences() == {}
