"""The proof: when it says "complete", that is so; and what it costs to say so."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.deletions import held_back
from rms_pipeline.mirror.proofs import Proof, content_number, newest_proof, standing
from rms_pipeline.mirror.unreadable import note_unreadable
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync import prove
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Cut, Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]
SMALL = Switches(max_per_page=10)


def dated(mirror: Mirror) -> list[int]:
    """Ids in the window with both dates."""
    store = mirror.store
    return [
        i
        for i in ids_in(store, mirror.window)
        if store.value(i, "starts_at") and store.value(i, "ends_at")
    ]


def proved(mirror: Mirror) -> Proof:
    mirror.sandbox.requests.clear()
    proof = mirror.proved_sync()
    assert proof is not None
    return proof


@contextmanager
def when(mirror: Mirror, asked: str, act: Callable[[], object]) -> Iterator[None]:
    """Acts once, before the first request that has `asked` in its path."""
    # An iterator: two such requests may come at once, and one of them finds it.
    waiting = iter([act])

    def hook(path: str) -> None:
        if asked in path:
            for once in waiting:
                once()

    mirror.sandbox.before_request = hook
    try:
        yield
    finally:
        mirror.sandbox.before_request = None
    assert not list(waiting)


def test_a_quiet_incremental_sync_with_its_proof_costs_four_calls(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(300), switches=replace(SMALL, max_per_page=25))
    mirror.full_sync()
    # What changed lately comes again each time, and is the same.
    mirror.store.edit(dated(mirror)[0], {"subject": "Lately"})
    proved(mirror)
    proof = proved(mirror)
    assert (proof.shown, proof.rounds, proof.calls) == (True, 1, 3)
    assert len(mirror.sandbox.requests) == 4


def test_after_five_edits_it_costs_at_most_nine(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(300), switches=replace(SMALL, max_per_page=25))
    mirror.full_sync()
    for id_ in dated(mirror)[:5]:
        mirror.store.edit(id_, {"subject": "Edited"})
    proof = proved(mirror)
    assert (proof.shown, proof.rounds) == (True, 2)
    assert len(mirror.sandbox.requests) <= 9
    assert mirror.differences() == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    some_in_drills(["deleted", "created silently", "moved out silently"], "deleted".__eq__),
)
def test_a_difference_is_found_for_twice_the_logarithm_and_six_calls(
    mirror_of: MakeMirror, change: str
) -> None:
    mirror = mirror_of(Store(500), switches=SMALL)
    mirror.full_sync()
    ids = dated(mirror)
    victim = ids[len(ids) // 3]
    if change == "deleted":
        mirror.store.delete(victim)
    elif change == "created silently":
        dates = {k: mirror.store.value(victim, k) for k in ("starts_at", "ends_at")}
        mirror.store.create({**dates, "updated_at": None})
    else:
        far = {"starts_at": "2040-01-01T00:00:00.000Z", "ends_at": "2040-01-02T00:00:00.000Z"}
        mirror.store.edit(victim, {**far, "updated_at": None})
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert (proof.deleted, proof.repaired) == ((1, 0) if change == "deleted" else (0, 1))
    assert len(mirror.sandbox.requests) <= 2 * math.ceil(math.log2(len(ids))) + 6
    assert mirror.differences() == {}


def test_a_row_that_went_beside_one_that_came_is_not_called_complete(
    mirror_of: MakeMirror,
) -> None:
    """The counts agree, the content does not."""
    mirror = mirror_of(Store(80), switches=SMALL)
    mirror.full_sync()
    ids = dated(mirror)

    def swap() -> None:
        mirror.store.delete(ids[3])
        mirror.store.create({k: mirror.store.value(ids[4], k) for k in ("starts_at", "ends_at")})

    with when(mirror, "per_page=1&", swap):
        proof = proved(mirror)
    assert proof.rounds > 1
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}


def test_a_webhooks_deletion_while_it_is_counted_hides_no_other_row_that_is_gone(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(80), switches=SMALL)
    mirror.full_sync()
    ids = dated(mirror)
    # Two are gone; a webhook tells of one only, after the API counted and before we look.
    mirror.store.delete(ids[1])
    mirror.store.delete(ids[2])
    told = mirror.another_client()
    with when(
        mirror,
        "updated_at_gteq",
        lambda: refresh(mirror.database, told, [ids[1]], "webhook"),
    ):
        proof = proved(mirror)
    assert proof.rounds > 1
    assert proof.shown, proof.sentence
    assert mirror.deleted() == {ids[1], ids[2]}


def test_a_row_that_a_webhook_brings_while_it_is_counted_hides_none_that_is_gone(
    mirror_of: MakeMirror,
) -> None:
    """The API counted the new one, the mirror the old one; then both had the new one."""
    mirror = mirror_of(Store(40), switches=replace(SMALL, max_per_page=2))
    mirror.full_sync()
    last = dated(mirror)[-1]
    dates = {k: mirror.store.value(last, k) for k in ("starts_at", "ends_at")}
    mirror.store.delete(last)
    new = mirror.store.create(dates)
    told = mirror.another_client()
    with when(mirror, "updated_at_gteq", lambda: refresh(mirror.database, told, [new], "webhook")):
        proof = proved(mirror)
    assert proof.rounds > 1
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}


@pytest.mark.slow
@pytest.mark.parametrize("cap", some_in_drills([0, 1, 10, 37, 60], {10, 37}.__contains__))
def test_counts_that_are_capped_prove_nothing(mirror_of: MakeMirror, cap: int) -> None:
    mirror = mirror_of(Store(150), switches=replace(SMALL, count_cap=cap))
    certificate = mirror.full_sync().settled.certificate
    assert not certificate.shown, certificate.sentence
    assert not proved(mirror).shown
    # Nor after one that held everything.
    mirror.sandbox.switches = SMALL
    assert mirror.full_sync().settled.certificate.shown
    mirror.sandbox.switches = replace(SMALL, count_cap=cap)
    proof = proved(mirror)
    assert not proof.shown
    assert mirror.differences() == {}
    if cap != 10:  # a page, so that a page seems to be all there is
        assert "prove nothing" in proof.sentence


def test_rows_that_slide_into_the_window_by_time_alone_are_no_difference(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(80), switches=SMALL)
    mirror.full_sync()
    just_beyond = (mirror.window.end + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    mirror.store.create({"starts_at": just_beyond, "ends_at": just_beyond, "updated_at": None})
    proof = proved(mirror)
    assert (proof.shown, proof.window) == (True, (mirror.window.start, mirror.window.end))
    assert f"{mirror.window.end:%-d %B %Y}" in proof.notes[0]


def test_a_row_that_no_list_shows_but_exists_stays_and_is_left_for_the_next_proof(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(80, clock=lambda: now[0]), switches=replace(SMALL, lists_lag=20.0))
    now = [1_000.0]
    mirror.full_sync()
    new = mirror.store.create({k: mirror.store.value(dated(mirror)[0], k)
                               for k in ("starts_at", "ends_at")})  # fmt: skip
    refresh(mirror.database, mirror.client(), [new], "webhook")
    proof = proved(mirror)
    assert new in mirror.rows()
    assert (proof.shown, proof.left) == (True, (new,))
    assert f"{new} left for the next proof" in proof.sentence
    now[0] += 30
    proof = proved(mirror)
    assert (proof.shown, proof.left) == (True, ())


@pytest.mark.parametrize("changed", [None, "2020-01-01T00:00:00.000Z"])
def test_a_row_without_a_new_time_that_was_fetched_a_moment_ago_is_no_surplus(
    mirror_of: MakeMirror, changed: str | None
) -> None:
    """Only when it was fetched says that the list may lag: its own time does not."""
    mirror = mirror_of(Store(80, clock=lambda: 1_000.0), switches=replace(SMALL, lists_lag=20.0))
    mirror.full_sync()
    dates = {k: mirror.store.value(dated(mirror)[0], k) for k in ("starts_at", "ends_at")}
    new = mirror.store.create({**dates, "updated_at": changed})
    refresh(mirror.database, mirror.client(), [new], "webhook")
    proof = proved(mirror)
    assert new in mirror.rows()
    assert (proof.shown, proof.left) == (True, (new,)), proof.sentence
    # The single record had just been asked for.
    assert not [path for _, path, *_ in mirror.sandbox.requests if f"/{new}" in path]


@pytest.mark.slow
def test_a_list_that_obeys_no_filtermode_deletes_nothing_and_is_not_called_complete(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(120), switches=SMALL)
    mirror.full_sync()
    before = set(mirror.rows())
    closed = [i for i in dated(mirror) if mirror.store.value(i, "status") in {40, 50, 60, 70}]
    assert closed
    mirror.sandbox.switches = replace(SMALL, honours_filtermode=False)
    for _ in range(2):
        proof = proved(mirror)
        assert not proof.shown
        assert set(mirror.rows()) == before
    assert "differs from its single records" in proof.sentence


def test_what_cannot_be_delivered_is_named_and_cut_around(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(80), switches=SMALL)
    mirror.full_sync()
    bad = dated(mirror)[11]
    with mirror.database.session() as connection:
        note_unreadable(connection, OPPORTUNITIES, {bad: "500"}, "run")
    mirror.sandbox.switches = replace(
        SMALL, undeliverable=frozenset({bad}), undeliverable_single=True
    )
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    total = len(ids_in(mirror.store, mirror.window))
    named = f"{total - 1:,} of {total:,}, 1 that Current RMS cannot deliver: {bad}"
    assert named in proof.sentence
    certificate = mirror.full_sync().settled.certificate
    assert certificate.shown, certificate.sentence
    assert named in certificate.sentence


def test_what_is_listed_twice_is_counted_once_and_said(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(80), switches=SMALL)
    twice = dated(mirror)[11]
    mirror.sandbox.switches = replace(SMALL, lists_twice=frozenset({twice}))
    certificate = mirror.full_sync().settled.certificate
    total = len(ids_in(mirror.store, mirror.window))
    assert (certificate.shown, certificate.counted, certificate.repeated) == (True, total, 1)
    proof = proved(mirror)
    assert (proof.shown, proof.counted, proof.repeated) == (True, total, 1)


def test_an_api_without_joined_fields_lists_those_without_a_date_one_after_the_other(
    mirror_of: MakeMirror,
) -> None:
    switches = replace(SMALL, honours_or=False, unknown_predicate="ignored")
    mirror = mirror_of(Store(80), switches=switches)
    assert mirror.full_sync().settled.certificate.shown
    proof = proved(mirror)
    assert proof.shown
    assert any("one after the other" in note for note in proof.notes)
    assert len(mirror.sandbox.requests) == 4


def test_a_row_whose_newest_record_was_refused_does_not_stay_unseen_once_it_is_gone(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60), switches=SMALL)
    mirror.full_sync()
    id_ = dated(mirror)[3]
    query(
        mirror.database,
        f"ALTER TABLE opportunities ADD CONSTRAINT mine CHECK (id <> {id_} OR name <> 'Edited')",
    )
    try:
        mirror.store.edit(id_, {"subject": "Edited"})
        assert "1 that cannot be stored" in proved(mirror).sentence
        mirror.store.delete(id_)
        proof = proved(mirror)
        assert mirror.deleted() == {id_}
        assert proof.shown, proof.sentence
        assert mirror.differences() == {}
    finally:
        query(mirror.database, "ALTER TABLE opportunities DROP CONSTRAINT mine")


def test_a_row_that_could_not_be_delivered_does_not_stay_unseen_once_it_is_gone(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60), switches=SMALL)
    mirror.full_sync()
    id_ = dated(mirror)[3]
    mirror.store.edit(id_, {"subject": "Edited"})
    mirror.sandbox.switches = replace(
        SMALL, undeliverable=frozenset([id_]), undeliverable_single=True
    )
    assert f"cannot deliver: {id_}" in (proved(mirror).sentence + proved(mirror).sentence)
    mirror.store.delete(id_)
    mirror.sandbox.switches = SMALL
    for _ in range(2):
        proof = proved(mirror)
        assert not proof.shown or mirror.differences() == {} or id_ in proof.unreadable
    assert mirror.deleted() == {id_}
    assert proof.shown, proof.sentence


@pytest.mark.parametrize("segment", some_in_drills(["no_start", "no_end"], "no_end".__eq__))
def test_where_those_without_a_date_take_turns_a_quiet_proof_still_costs_four_calls(
    mirror_of: MakeMirror, segment: str
) -> None:
    mirror = mirror_of(Store(120), switches=replace(SMALL, honours_or=False))
    mirror.full_sync()
    store = mirror.store
    day = f"{store.today + timedelta(days=3):%Y-%m-%dT00:00:00.000Z}"
    dates = {"starts_at": None if segment == "no_start" else day, "ends_at": None}
    some = store.create({"subject": "Lacks a date", **dates})
    proved(mirror)
    listed = []
    for _ in range(3):
        proof = proved(mirror)
        assert proof.shown, proof.sentence
        assert len(mirror.sandbox.requests) == 4
        assert proof.counted == proof.mirrored == len(ids_in(store, mirror.window))
        [(carried, at)] = proof.earlier.items()
        assert at < proof.as_of
        assert "those without a" in proof.sentence
        listed.append({"no_start", "no_end"} - {carried})
    assert listed[0] != listed[1] != listed[2]
    # Whichever it is, one that is gone is missed two proofs later.
    store.delete(some)
    proofs = [proved(mirror), proved(mirror)]
    assert some in mirror.deleted()
    assert proofs[-1].shown, proofs[-1].sentence
    again = newest_proof_of(mirror)
    assert again.earlier == proofs[-1].earlier


def newest_proof_of(mirror: Mirror) -> Proof:
    with mirror.database.session() as connection:
        found = newest_proof(connection, OPPORTUNITIES)
    assert found is not None
    return found


@pytest.mark.parametrize("ranges", some_in_drills([3, 10], (3).__eq__))
def test_more_ranges_see_what_two_do_not(mirror_of: MakeMirror, ranges: int) -> None:
    mirror = mirror_of(Store(150), switches=SMALL)
    mirror.sandbox.requests.clear()
    done = mirror.full_sync(ranges=ranges)
    assert done.settled.certificate.shown
    parts = [p for p in done.settled.certificate.parts if p.segment == "dated"]
    assert 2 < len(parts) <= ranges
    assert sum(p.counted for p in parts) == len(dated(mirror))
    # Not more than there are pages.
    few = mirror.full_sync(ranges=1_000).settled.certificate.parts
    assert len(few) <= len(dated(mirror)) // 10 + 1


def test_an_account_that_never_rests_is_not_called_complete_and_costs_a_bounded_number_of_calls(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(80), switches=SMALL)
    mirror.full_sync()
    ids = dated(mirror)
    dice = random.Random(3)
    mirror.sandbox.before_request = lambda _: mirror.store.edit(
        dice.choice(ids), {"subject": f"Edit {dice.random()}"}
    )
    proof = proved(mirror)
    mirror.sandbox.before_request = None
    assert (proof.shown, proof.rounds) == (False, prove.ROUNDS)
    assert "Records changed in Current RMS or in the mirror during each of" in proof.reason
    assert len(mirror.sandbox.requests) <= 8 * prove.ROUNDS
    assert proved(mirror).shown


def test_a_writer_that_hangs_is_not_waited_for(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of(Store(30), switches=SMALL)
    mirror.full_sync()
    monkeypatch.setattr(content_number, "__kwdefaults__", {"patience": 0.1})
    with mirror.database.session() as hanging, hanging.cursor() as cursor:
        cursor.execute("UPDATE opportunities SET data = data WHERE id = %s", (dated(mirror)[0],))
        proof = proved(mirror)
        hanging.rollback()
    assert not proof.shown
    assert "has kept its transaction open for more than 0 s" in proof.sentence
    assert proved(mirror).shown


@pytest.mark.parametrize(
    ("statement", "counts"),
    [
        ("UPDATE opportunities SET synced_at = now()", False),
        ("UPDATE opportunities SET last_webhook_at = now()", False),
        ("UPDATE opportunities SET data = data WHERE false", False),
        ("UPDATE opportunities SET starts_at = now()", True),
        ("DELETE FROM opportunities WHERE id = (SELECT min(id) FROM opportunities)", True),
        ("INSERT INTO opportunities (id, name) VALUES (1, 'By hand')", True),
        ("TRUNCATE opportunities", True),
    ],
)  # fmt: skip
def test_a_proof_notices_every_change_of_rows_by_others(
    mirror_of: MakeMirror, statement: str, counts: bool
) -> None:
    mirror = mirror_of(Store(10))
    mirror.full_sync()
    with mirror.database.session() as connection:
        before = content_number(connection, OPPORTUNITIES)
        query(mirror.database, statement)
        assert (content_number(connection, OPPORTUNITIES) != before) == counts


def test_a_proof_turns_amber_when_a_later_sync_failed_or_it_is_old_and_red_when_not_shown(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(30), switches=SMALL)
    mirror.full_sync()
    with mirror.database.session() as connection:
        assert standing(connection, OPPORTUNITIES).state == "green"
        query(mirror.database, "INSERT INTO walks (kind, runs) VALUES ('changes', '{failed}')")
        known = standing(connection, OPPORTUNITIES)
        assert known.state == "amber"
        assert "A later sync failed" in known.sentence
        # One that is at work has not failed.
        query(
            mirror.database,
            "INSERT INTO run_workers (run, lock_key) VALUES ('failed', 77)",
        )
        with mirror.database.session() as worker, worker.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(77)")
            assert standing(connection, OPPORTUNITIES).state == "green"
            cursor.execute("SELECT pg_advisory_unlock(77)")
        assert standing(connection, OPPORTUNITIES).state == "amber"
        assert proved(mirror).shown
        assert standing(connection, OPPORTUNITIES).state == "green"
        query(mirror.database, "UPDATE proofs SET as_of = as_of - interval '25 h'")
        known = standing(connection, OPPORTUNITIES)
        assert (known.state, "more than a day ago" in known.sentence) == ("amber", True)
        mirror.sandbox.switches = replace(SMALL, count_cap=1)
        proved(mirror)
        known = standing(connection, OPPORTUNITIES)
        assert known.state == "red"
        assert "It was last shown to be complete as of" in known.sentence


@pytest.mark.slow
def test_more_than_can_be_believed_go_by_no_way_within_a_day(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(120), switches=SMALL)
    mirror.full_sync()
    ids = dated(mirror)[:30]
    for id_ in ids:
        mirror.store.delete(id_)
    # A few at a time: each alone would be believed.
    for start in range(0, 30, 6):
        refresh(mirror.database, mirror.client(), ids[start : start + 6], "webhook")
    assert mirror.deleted() == set(ids[:18])
    proof = proved(mirror)
    assert not proof.shown
    assert "confirmation" in proof.sentence
    assert mirror.deleted() == set(ids[:18])
    with mirror.database.session() as connection:
        assert set(held_back(connection, OPPORTUNITIES)) >= set(ids[18:])
    done = mirror.full_sync(confirm_deletions=True)
    assert done.settled.certificate.shown
    assert mirror.deleted() == set(ids)
    # What was confirmed does not count among the deletions of the day.
    more = dated(mirror)[:3]
    for id_ in more:
        mirror.store.delete(id_)
    assert proved(mirror).shown
    assert mirror.deleted() == {*ids, *more}


@pytest.mark.slow
def test_while_deletions_wait_for_a_person_each_costs_a_call_once_a_day(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(120), switches=SMALL)
    mirror.full_sync()
    gone = dated(mirror)[:40]
    records = {id_: mirror.store.get(id_, ()) or {} for id_ in gone}
    for id_ in gone:
        mirror.store.delete(id_)

    def asked() -> int:
        return sum("/opportunities/" in path for _, path, _ in mirror.sandbox.requests)

    def held() -> set[int]:
        with mirror.database.session() as connection:
            return set(held_back(connection, OPPORTUNITIES))

    assert not proved(mirror).shown
    assert asked() > 20
    assert 20 < len(held()) < 40
    proof = proved(mirror)
    assert not proof.shown
    assert "confirmation" in proof.sentence
    assert asked() == 0
    assert mirror.deleted() == set()
    query(mirror.database, "UPDATE held_deletions SET held_at = held_at - interval '25 hours'")
    proved(mirror)
    assert asked() >= 20
    # The user of the key may see them again.
    for id_, record in records.items():
        mirror.store.put(id_, record)
    assert proved(mirror).shown
    assert mirror.deleted() == set()


def test_asking_again_for_rows_outside_the_window_keeps_to_its_calls(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60), switches=SMALL)
    mirror.full_sync()
    far = (mirror.store.today + timedelta(days=900)).strftime("%Y-%m-%dT00:00:00.000Z")
    outside = [mirror.store.create({"starts_at": far, "ends_at": far}) for _ in range(40)]
    refresh(mirror.database, mirror.client(), outside, "refresh")
    for id_ in outside:
        mirror.store.delete(id_)
    mirror.sandbox.requests.clear()
    done = mirror.full_sync(reverify_calls=3)
    # One more tells whether the API answers at all.
    assert done.settled.calls <= 3 + 1 + done.settled.certificate.calls
    assert 1 <= done.settled.deleted <= 3


def test_a_sync_that_died_after_counting_leaves_no_proof_behind(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(30), switches=SMALL)
    mirror.full_sync()
    with mirror.database.session() as connection:
        before = newest_proof(connection, OPPORTUNITIES)
        prove.begin_proof(mirror.database, mirror.client(), "killed")
        assert newest_proof(connection, OPPORTUNITIES) == before
    assert proved(mirror).shown


def test_counts_that_agree_because_they_are_capped_are_not_believed(
    mirror_of: MakeMirror,
) -> None:
    """Half of the rows are missing, and the API counts each range up to what is left of it."""
    mirror = mirror_of(Store(150), switches=SMALL)
    mirror.full_sync()
    kept = dated(mirror)[:60]
    query(mirror.database, "DELETE FROM opportunities WHERE id > %s", kept[-1])
    undated = len(mirror.rows()) - len(kept)
    query(mirror.database, "UPDATE proofs SET greatest_count = 0")
    mirror.sandbox.switches = replace(SMALL, count_cap=30)
    assert undated < 30
    proof = prove.begin_proof(mirror.database, mirror.client(), "capped", dice=Cut(30))
    assert proof is not None
    assert "prove nothing" in proof.reason
