"""One record that cannot be delivered costs itself: everything else is stored, and it is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms import failing
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import ApiUnavailable
from rms_pipeline.current_rms.window import segments_of
from rms_pipeline.mirror.unreadable import unreadable
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sandbox.api import routes
from rms_pipeline.sandbox.api.answers import Answer, Request
from rms_pipeline.sync.landing import LandedWalk, land_changes, land_window
from rms_pipeline.sync.rebuilding import rebuild
from rms_pipeline.sync.storing import merge_walks
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

pytestmark = pytest.mark.slow

MakeClient = Callable[..., CurrentRmsClient]
MakeMirror = Callable[..., Mirror]
PAGES_OF_25 = Switches(max_per_page=25)
NO_OVERLAP = timedelta(0)


def turn(mirror: Mirror, **switches: Any) -> None:
    mirror.sandbox.switches = replace(mirror.sandbox.switches, **switches)


def read_all(mirror: Mirror) -> LandedWalk:
    """A full reading and what is merged of it, without what comes after."""
    mirror.sandbox.requests.clear()
    landed = land_window(mirror.database, mirror.client(), mirror.window, mirror.run())
    merge_walks(mirror.database, OPPORTUNITIES, [landed.walk], "merge")
    if not mirror.watermarks:
        mirror.watermarks = [landed.watermark]
    return landed


def read_changes(mirror: Mirror) -> LandedWalk:
    mirror.sandbox.requests.clear()
    landed = land_changes(
        mirror.database, mirror.client(), mirror.watermarks, mirror.run(), overlap=NO_OVERLAP
    )
    merge_walks(mirror.database, OPPORTUNITIES, [landed.walk], "merge")
    mirror.watermarks.insert(0, landed.watermark)
    return landed


def named(mirror: Mirror) -> dict[int, str]:
    with mirror.database.session() as connection:
        return unreadable(connection, OPPORTUNITIES)


def calls(mirror: Mirror) -> int:
    return len(mirror.sandbox.requests)


def places(ids: list[int]) -> dict[str, list[int]]:
    return {
        "first": ids[:1],
        "last": ids[-1:],
        "in the middle": [ids[len(ids) // 2]],
        "two side by side": ids[30:32],
        "five side by side": ids[30:35],
        "first and last": [ids[0], ids[-1]],
        "one in each page": ids[::25],
        "the first three": ids[:3],
        "all": ids[:],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "size", "single"),
    some_in_drills(
        [
            (place, *how)
            for how in ((25, True), (7, False))
            for place in places([1] * 99)
            if place != "all"
        ],
        # Where one fails, and where several do, in one of the ways.
        {
            *(("first", 7, False), ("in the middle", 25, True), ("last", 25, True)),
            *(("five side by side", 7, False), ("one in each page", 25, True)),
        }.__contains__,
    ),
)
def test_everything_else_of_a_first_sync_is_stored(
    mirror_of: MakeMirror, place: str, size: int, single: bool
) -> None:
    store = Store(130)
    mirror = mirror_of(store, switches=replace(PAGES_OF_25, max_per_page=size))
    ids = ids_in(store, mirror.window)
    bad = set(places(ids)[place])
    turn(mirror, undeliverable=frozenset(bad), undeliverable_single=single)
    landed = read_all(mirror)
    missing = bad if single else set()
    assert set(mirror.rows()) == set(ids) - missing
    assert mirror.differences(set(ids) - missing) == {}
    assert set(landed.unreadable) == set(named(mirror)) == missing
    assert all("status 500" in reason for reason in landed.unreadable.values())
    faults = query(
        mirror.database, "SELECT DISTINCT opportunity_id FROM sync_faults WHERE field = '(record)'"
    )
    assert {id_ for (id_,) in faults} == missing
    pages = -(-len(ids) // size) + 8
    assert calls(mirror) <= pages + len(bad) * 28


def test_the_only_record_there_is_may_be_the_one(mirror_of: MakeMirror) -> None:
    store = Store(0)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    only = store.create({"subject": "Alone", **dates(mirror)})
    turn(mirror, undeliverable=frozenset({only}), undeliverable_single=True)
    assert set(read_all(mirror).unreadable) == {only}
    assert mirror.rows() == {}
    turn(mirror, undeliverable=frozenset())
    assert read_all(mirror).unreadable == {}
    assert set(mirror.rows()) == {only}


def dates(mirror: Mirror) -> dict[str, str]:
    day = mirror.store.today + timedelta(days=20)
    text = day.strftime("%Y-%m-%dT09:00:00.000Z")
    return {"starts_at": text, "ends_at": text}


@pytest.mark.parametrize(
    "gap", some_in_drills([1, 2, 3, 1_000, 10_000_000, 2**40], {1, 1_000, 2**40}.__contains__)
)
def test_ids_may_be_far_apart(mirror_of: MakeMirror, gap: int) -> None:
    store = Store(0)
    mirror = mirror_of(store, switches=replace(PAGES_OF_25, max_per_page=5))
    ids = [7 + gap * n for n in range(1, 13)]
    for id_ in ids:
        store._next_id = id_
        assert store.create({"subject": f"No. {id_}", **dates(mirror)}) == id_
    turn(mirror, undeliverable=frozenset(ids[5:7]), undeliverable_single=True)
    assert set(read_all(mirror).unreadable) == set(ids[5:7])
    assert set(mirror.rows()) == set(ids) - {*ids[5:7]}
    assert calls(mirror) <= 45 + 2 * gap.bit_length()


@pytest.mark.parametrize("single", [True, False], ids=["and not alone", "but alone"])
def test_an_incremental_sync_reads_past_it_and_moves_on(
    mirror_of: MakeMirror, single: bool
) -> None:
    store = Store(60)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    ids = ids_in(store, mirror.window)
    read_all(mirror)
    for id_ in ids[5:45]:
        store.edit(id_, {"subject": "Edited"})
    bad = {ids[20], ids[21]}
    turn(mirror, undeliverable=frozenset(bad), undeliverable_single=single)
    before = mirror.watermarks[0]
    landed = read_changes(mirror)
    assert set(landed.unreadable) == (bad if single else set())
    assert landed.watermark >= before
    stored = {i for i, row in mirror.rows().items() if row["name"] == "Edited"}
    assert stored == set(ids[5:45]) - (bad if single else set())
    store.edit(ids[2], {"subject": "Later"})
    read_changes(mirror)
    assert mirror.rows()[ids[2]]["name"] == "Later"


def test_it_is_asked_for_again_with_a_call_or_two_and_forgotten_when_it_comes(
    mirror_of: MakeMirror,
) -> None:
    store = Store(60)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    bad = ids_in(store, mirror.window)[9]
    store.edit(bad, {"subject": "Held back", "updated_at": "2020-01-01T00:00:00.000Z"})
    turn(mirror, undeliverable=frozenset({bad}), undeliverable_single=True)
    read_all(mirror)
    first = query(mirror.database, "SELECT first_seen_at, last_seen_at FROM unreadable_records")
    landed = read_changes(mirror)
    # One for what changed, of which it is no part; one for itself.
    assert calls(mirror) == 2
    assert set(landed.unreadable) == {bad}
    again = query(mirror.database, "SELECT first_seen_at, last_seen_at FROM unreadable_records")
    assert again[0][0] == first[0][0]
    assert again[0][1] > first[0][1]
    turn(mirror, undeliverable=frozenset())
    assert read_changes(mirror).unreadable == {}
    assert calls(mirror) == 2
    assert named(mirror) == {}
    assert mirror.rows()[bad]["name"] == "Held back"


def test_it_is_forgotten_when_it_is_gone(mirror_of: MakeMirror) -> None:
    store = Store(60)
    mirror = mirror_of(store, switches=replace(PAGES_OF_25, gone_status=410))
    bad = ids_in(store, mirror.window)[9]
    turn(mirror, undeliverable=frozenset({bad}), undeliverable_single=True)
    read_all(mirror)
    assert set(named(mirror)) == {bad}
    store.delete(bad)
    turn(mirror, undeliverable=frozenset())
    assert read_changes(mirror).unreadable == {}
    assert named(mirror) == {}


def test_what_is_known_to_fail_costs_the_next_full_sync_few_calls(mirror_of: MakeMirror) -> None:
    store = Store(260)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    ids = ids_in(store, mirror.window)
    # With four alone the bound was met exactly on some days, and a page that another lane had
    # asked for already was one too many.
    bad = {ids[3], *ids[77:83], ids[-1]}
    turn(mirror, undeliverable=frozenset(bad), undeliverable_single=True)
    read_all(mirror)
    first = calls(mirror)
    assert set(read_all(mirror).unreadable) == bad
    pages = -(-len(ids) // 25) + 4
    assert calls(mirror) <= pages + len(bad) * 8
    assert calls(mirror) < first
    assert set(mirror.rows()) == set(ids) - bad


UNSURE: list[dict[str, Any]] = [
    {"honours_sort": False},
    {"refused": ("q[s]",)},
    {"honours_sort": False, "honours_id_predicates": False, "honours_created_at": False},
    {"null_predicates": "ignored"},
    {"null_predicates": "422"},
    {"count_cap": 60},
    {"deepest_page": 2, "deep_page_status": 400},
    {"most_records": 10},
    {"lists_twice": frozenset()},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switches", "single"),
    some_in_drills(
        [(switches, single) for switches in UNSURE for single in (True, False)],
        # Each fact with a record that is broken alone too, or not.
        lambda case: case[1] == (UNSURE.index(case[0]) % 2 == 0),
        [f"{switches} {single}" for switches in UNSURE for single in ("not alone", "alone")],
    ),
)
def test_whichever_way_the_unsure_facts_turn_out(
    mirror_of: MakeMirror, switches: dict[str, Any], single: bool
) -> None:
    store = Store(110)
    mirror = mirror_of(store, switches=replace(PAGES_OF_25, unknown_predicate="422", **switches))
    ids = ids_in(store, mirror.window)
    bad = {ids[40], ids[41]}
    turn(mirror, undeliverable=frozenset(bad), undeliverable_single=single)
    read_all(mirror)
    stored = set(mirror.rows())
    by_number = not mirror.sandbox.switches.honours_id_predicates
    assert stored == set(ids) - (bad if single or by_number else set())


@pytest.mark.slow
@pytest.mark.parametrize("most", some_in_drills([1, 3, 10, 24], {3, 24}.__contains__))
def test_pages_shrink_until_they_come_and_later_syncs_remember(
    mirror_of: MakeMirror, most: int
) -> None:
    store = Store(110)
    mirror = mirror_of(store, switches=replace(PAGES_OF_25, most_records=most))
    ids = ids_in(store, mirror.window)
    landed = read_all(mirror)
    assert mirror.differences() == {}
    assert landed.unreadable == {}
    read_all(mirror)
    assert sum(status == 504 for *_, status in mirror.sandbox.requests) <= 1
    assert calls(mirror) <= len(ids) / max(most // 2, 1) + 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "deepest"),
    some_in_drills(
        [(200, 1), (400, 3), (404, 1), (422, 3), (500, 1), (504, 3), (403, 1)],
        {(200, 1), (504, 3)}.__contains__,
    ),
)
def test_pages_that_lie_too_deep_cost_nothing_but_lanes(
    mirror_of: MakeMirror, status: int, deepest: int
) -> None:
    store = Store(330)
    switches = replace(PAGES_OF_25, max_per_page=10, deepest_page=deepest, deep_page_status=status)
    mirror = mirror_of(store, switches=switches)
    landed = read_all(mirror)
    assert mirror.differences() == {}
    assert landed.unreadable == {}
    assert calls(mirror) <= len(mirror.rows()) / 10 + 20


def test_a_list_without_order_whose_deep_pages_are_refused_is_not_taken_for_read(
    mirror_of: MakeMirror,
) -> None:
    hostile = replace(
        PAGES_OF_25,
        honours_sort=False,
        honours_id_predicates=False,
        honours_created_at=False,
        deepest_page=1,
        deep_page_status=422,
    )
    mirror = mirror_of(Store(110), switches=hostile)
    with pytest.raises(Exception, match=r"read|gave no usable answer"):
        read_all(mirror)


@pytest.mark.parametrize("pages", some_in_drills([1, 2], (1).__eq__))
def test_first_pages_of_which_nothing_comes_do_not_end_a_list_without_order(
    mirror_of: MakeMirror, pages: int
) -> None:
    by_number = Switches(
        max_per_page=3, honours_sort=False, honours_id_predicates=False, honours_created_at=False
    )
    store = Store(40)
    mirror = mirror_of(store, switches=by_number)
    ids = ids_in(store, mirror.window)
    client, (dated, *_) = mirror.client(), segments_of(mirror.window)
    first = [client.list_records(dated.params, page=1 + page).ids for page in range(pages)]
    bad = {id_ for page in first for id_ in page}
    assert len(bad) == 3 * pages
    turn(mirror, undeliverable=frozenset(bad), undeliverable_single=False)
    read_all(mirror)
    assert query(mirror.database, "SELECT read_by ->> 'dated' FROM walks") == [("page numbers",)]
    assert set(mirror.rows()) == set(ids) - bad


def test_what_is_listed_twice_is_one_row_and_is_said(mirror_of: MakeMirror) -> None:
    store = Store(90)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    ids = ids_in(store, mirror.window)
    turn(mirror, lists_twice=frozenset({ids[0], ids[24], ids[25], ids[50], ids[-1]}))
    landed = read_all(mirror)
    assert mirror.differences() == {}
    assert landed.distinct_records == len(ids)
    assert any("more than once" in note for note in landed.notes)
    assert set(landed.listed_twice) <= {ids[0], ids[24], ids[25], ids[50], ids[-1]}
    assert {ids[0], ids[50], ids[-1]} <= set(landed.listed_twice)
    stored = query(mirror.database, "SELECT listed_twice FROM walks ORDER BY id DESC LIMIT 1")
    assert stored == [(landed.listed_twice,)]


@pytest.mark.parametrize(
    ("cap", "honours_sort"),
    some_in_drills(
        [*((cap, True) for cap in (0, 1, 24, 25, 26, 103)), *((cap, False) for cap in (1, 25, 50))],
        {(0, True), (25, True), (26, True), (103, True), (25, False), (50, False)}.__contains__,
    ),
)
def test_a_full_page_is_not_the_end_on_the_word_of_a_count_that_stops(
    mirror_of: MakeMirror, cap: int, honours_sort: bool
) -> None:
    store = Store(120)
    mirror = mirror_of(
        store, switches=replace(PAGES_OF_25, count_cap=cap, honours_sort=honours_sort)
    )
    landed = read_all(mirror)
    assert mirror.differences() == {}
    if honours_sort and cap <= 25:
        assert not landed.counts_believed
        assert query(mirror.database, "SELECT counts_believed FROM walks") == [(False,)]


def test_a_count_that_is_right_is_believed_for_one_call(mirror_of: MakeMirror) -> None:
    store = Store(60)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    for surplus in ids_in(store, mirror.window)[25:]:
        store.delete(surplus)
    landed = read_all(mirror)
    assert landed.counts_believed
    # Three lists, what lies beyond the full page, and what changed meanwhile.
    assert calls(mirror) <= 6
    assert mirror.differences() == {}


BODIES: dict[str, bytes] = {
    "NaN": b'{"id":%d,"subject":"Odd","weight_total":NaN}',
    "Infinity": b'{"id":%d,"subject":"Odd","weight_total":-Infinity}',
    "a raw line end": b'{"id":%d,"subject":"Odd","reference":"line one\nline two"}',
    "no UTF-8": b'{"id":%d,"subject":"Odd","reference":"caf\xe9"}',
    "nested deep": b'{"id":%d,"subject":"Odd","tree":' + b"[" * 1_000 + b"]" * 1_000 + b"}",
    "half a pair": b'{"id":%d,"subject":"Odd","reference":"\\ud83d"}',
    "no such escape": b'{"id":%d,"subject":"Odd","reference":"\\x41"}',
}


@pytest.mark.parametrize(("index", "body"), list(enumerate(BODIES.values())), ids=list(BODIES))
def test_what_is_no_json_is_a_fault_of_its_field_and_survives_a_rebuild(
    mirror_of: MakeMirror, body: bytes, index: int
) -> None:
    store = Store(30)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    ids = ids_in(store, mirror.window)
    odd = ids[(0, -1, 11)[index % 3]]
    turn(mirror, bodies={odd: body % odd})
    landed = read_all(mirror)
    assert landed.retried_calls == 0
    assert landed.unreadable == {}
    assert mirror.differences({*ids} - {odd}) == {}
    assert mirror.rows()[odd]["name"] == "Odd"
    faults = query(mirror.database, "SELECT DISTINCT opportunity_id, field FROM sync_faults")
    assert [id_ for id_, _ in faults] == [odd]
    before = mirror.rows()
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM opportunities; DELETE FROM opportunity_versions")
    rebuild(mirror.database, OPPORTUNITIES, "rebuild")
    again = mirror.rows()
    assert {i: row["data"] for i, row in again.items()} == {
        i: row["data"] for i, row in before.items()
    }


@pytest.mark.parametrize(
    "body", [b'{"id":%d,"subject":"without an end', b'{"id":%d,"a":[1}', b'{"id":%d', b"]}"]
)
def test_a_body_that_breaks_its_page_is_narrowed_down_to(
    mirror_of: MakeMirror, body: bytes
) -> None:
    store = Store(60)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    ids = ids_in(store, mirror.window)
    odd = ids[17]
    turn(mirror, bodies={odd: body % odd if b"%d" in body else body})
    landed = read_all(mirror)
    assert set(landed.unreadable) == {odd}
    assert "JSON" in landed.unreadable[odd]
    assert mirror.differences({*ids} - {odd}) == {}


def test_an_api_that_is_down_is_not_taken_for_records_at_fault(mirror_of: MakeMirror) -> None:
    store = Store(110)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    served = 0

    def break_down(_: str) -> None:
        nonlocal served
        served += 1
        if served > 4:
            mirror.sandbox.faults.probabilities = {"error_502": 1.0}

    mirror.sandbox.before_request = break_down
    with pytest.raises(ApiUnavailable, match="status 502"):
        read_all(mirror)
    assert named(mirror) == {}
    mirror.sandbox.before_request = None
    mirror.sandbox.faults.probabilities = {}
    read_all(mirror)
    assert mirror.differences() == {}


def test_an_api_that_errs_at_random_loses_no_record(mirror_of: MakeMirror) -> None:
    store = Store(110)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    mirror.sandbox.faults.probabilities = {"error_500": 0.25, "truncated": 0.1}
    landed = read_all(mirror)
    assert landed.unreadable == {}
    assert mirror.differences() == {}


@pytest.mark.slow
def test_an_api_whose_lists_are_all_broken_ends_the_sync_with_a_reason(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failing, "MOST_UNDELIVERED", 20)
    store = Store(120)
    mirror = mirror_of(store, switches=replace(PAGES_OF_25, undeliverable=frozenset(store.ids())))
    with pytest.raises(ApiUnavailable, match=r"the cause is not a single record"):
        read_all(mirror)
    assert calls(mirror) < 500
    assert 20 <= len(named(mirror)) + len(singles(mirror)) <= 40


NO_LISTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "under another name": lambda said: {"records": said["opportunities"], "meta": said["meta"]},
    "without meta": lambda said: {"opportunities": said["opportunities"]},
    "an object": lambda said: said | {"opportunities": {}},
    "an error with 200": lambda _: {"errors": ["Try later"]},
}


@pytest.mark.parametrize(
    ("form", "since", "honours"),
    some_in_drills(
        [(form, *how) for form in NO_LISTS.values() for how in ((1, True), (9, True), (1, False))],
        # Each form in one of the ways.
        lambda case: (
            (list(NO_LISTS.values()).index(case[0]) % 3) == (case[1] > 1) + 2 * (not case[2])
        ),
        [f"{form} {how}" for form in NO_LISTS for how in ("at once", "in the middle", "no ranges")],
    ),
)
def test_lists_that_are_none_end_the_sync_although_each_record_comes_by_its_id(
    mirror_of: MakeMirror,
    monkeypatch: pytest.MonkeyPatch,
    form: Callable[[dict[str, Any]], object],
    since: int,
    honours: bool,
) -> None:
    switches = Switches(max_per_page=5, honours_id_predicates=honours)
    mirror = mirror_of(Store(110), switches=switches)
    truth, asked, broken = routes.answer, 0, True

    def answer(account: Any, request: Request) -> Answer:
        nonlocal asked
        asked += 1
        said = truth(account, request)
        if not broken or asked < since or request.path != "/opportunities":
            return said
        return replace(said, body=json.dumps(form(json.loads(said.body))).encode())

    monkeypatch.setattr(routes, "answer", answer)
    with pytest.raises(ApiUnavailable, match="not the JSON that the API promises"):
        read_all(mirror)
    # Of twelve lanes each may have begun to look for a record at fault. It was 2,000 before.
    assert calls(mirror) < 300
    assert named(mirror) == {}
    broken = False
    read_all(mirror)
    assert mirror.differences() == {}


def singles(mirror: Mirror) -> list[Any]:
    return query(
        mirror.database, "SELECT request FROM raw_rms_pages WHERE request LIKE '/opportunities/%'"
    )


def test_what_a_sync_found_is_told_in_its_metadata(mirror_of: MakeMirror) -> None:
    from rms_pipeline.defs.metadata import walk_metadata

    store = Store(60)
    mirror = mirror_of(store, switches=PAGES_OF_25)
    bad = ids_in(store, mirror.window)[9]
    turn(mirror, undeliverable=frozenset({bad}), undeliverable_single=True)
    told = walk_metadata(read_all(mirror))
    assert told["unreadable"] == 1
    assert told["unreadable_records"].startswith(f"{bad} (")
    assert json.dumps(told)


def at_ids(mirror: Mirror, ids: list[int]) -> list[int]:
    for id_ in ids:
        mirror.store._next_id = id_
        assert mirror.store.create({"subject": f"No. {id_}", "status": 0, **dates(mirror)}) == id_
    return ids


@pytest.mark.parametrize(
    "obeys", some_in_drills([True, False], lambda obeys: obeys, ["in order", "in no order"])
)
def test_ids_may_be_the_greatest_that_there_are(mirror_of: MakeMirror, obeys: bool) -> None:
    switches = replace(PAGES_OF_25, max_per_page=5, honours_sort=obeys)
    mirror = mirror_of(Store(0), switches=switches)
    ids = at_ids(mirror, [3, *range(2**63 - 12, 2**63)])
    assert mirror.full_sync().settled.certificate.shown
    assert set(mirror.rows()) == set(ids)
    # The one that fails is looked for among as many ids as there can be.
    turn(mirror, undeliverable=frozenset(ids[1:2]), undeliverable_single=True)
    proof = mirror.full_sync().settled.certificate
    assert proof.shown, proof.sentence
    assert f"12 of 13, 1 that Current RMS cannot deliver: {ids[1]}" in proof.sentence


@pytest.mark.parametrize("place", [0, 6, -1], ids=["first", "in the middle", "last"])
def test_one_that_cannot_be_delivered_hinders_no_proof_wherever_it_stands(
    mirror_of: MakeMirror, place: int
) -> None:
    mirror = mirror_of(Store(0), switches=replace(PAGES_OF_25, max_per_page=5))
    ids = at_ids(mirror, list(range(11, 24)))
    # That it is the only one of its state is how it is told whether that filter is obeyed.
    mirror.store.edit(ids[place], {"status": 60})
    turn(mirror, undeliverable=frozenset({ids[place]}), undeliverable_single=True)
    proofs = [mirror.full_sync().settled.certificate, mirror.proved_sync()]
    for proof in proofs:
        assert proof is not None
        assert proof.shown, proof.sentence
        assert f"12 of 13, 1 that Current RMS cannot deliver: {ids[place]}" in proof.sentence


@pytest.mark.parametrize("place", some_in_drills([0, 6], (6).__eq__, ["first", "in the middle"]))
def test_one_that_comes_only_when_it_is_asked_for_alone_is_proved_that_way(
    mirror_of: MakeMirror, place: int
) -> None:
    mirror = mirror_of(Store(0), switches=replace(PAGES_OF_25, max_per_page=5))
    ids = at_ids(mirror, list(range(11, 24)))
    alone = ids[place]
    turn(mirror, undeliverable=frozenset({alone}))
    assert mirror.full_sync().settled.certificate.shown
    proof = mirror.proved_sync()
    assert proof is not None
    assert proof.shown, proof.sentence
    assert "13 of 13" in proof.sentence
    assert proof.left == ()
    # An edit that moves no time shows nowhere else, and nor does that it is gone.
    record = mirror.store.get(alone, ()) or {}
    mirror.store.put(alone, {**record, "subject": "Edited"})
    proof = mirror.proved_sync()
    assert proof is not None
    assert proof.shown, proof.sentence
    assert mirror.rows()[alone]["name"] == "Edited"
    mirror.store.delete(alone)
    proof = mirror.proved_sync()
    assert proof is not None
    assert proof.shown, proof.sentence
    assert "12 of 12" in proof.sentence
    assert mirror.deleted() == {alone}
