"""An API that answers, and what it says is not so: no certificate is false, no row goes, nothing
else stops."""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.mirror.completeness import unlisted
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sandbox.account import InventedAccount
from rms_pipeline.sandbox.api import routes
from rms_pipeline.sandbox.api.answers import Answer, Refusal, Request
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.sync.test_queued import work
from rms_pipeline_tests.test_sync import ids_in

pytestmark = pytest.mark.slow

MakeClient = Callable[..., CurrentRmsClient]
MakeMirror = Callable[..., Mirror]
Lie = Callable[[Request, Answer], Answer]
Tell = Callable[[Lie], None]
TEN = Switches(max_per_page=10)


@pytest.fixture
def lie(monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Has all sandboxes answer with what it makes of the truth."""
    truth = routes.answer

    def tell(change: Lie) -> None:
        def answer(account: InventedAccount, request: Request) -> Answer:
            try:
                answer = truth(account, request)
            except Refusal as refusal:
                answer = refusal.answer(account.switches.error_shape)
            return change(request, answer)

        monkeypatch.setattr(routes, "answer", answer)

    return tell


def is_list(request: Request) -> bool:
    return request.path == "/opportunities"


def is_single(request: Request) -> bool:
    return request.path.startswith("/opportunities/")


def with_meta(change: Callable[[dict[str, Any], int], object]) -> Lie:
    """Lists whose `meta` was changed, given it and how many records came."""

    def lie(request: Request, answer: Answer) -> Answer:
        if not is_list(request) or answer.status != 200:
            return answer
        said = json.loads(answer.body)
        change(said["meta"], len(said["opportunities"]))
        return replace(answer, body=json.dumps(said).encode())

    return lie


def turn(mirror: Mirror, **switches: Any) -> None:
    mirror.sandbox.switches = replace(mirror.sandbox.switches, **switches)


METAS: dict[str, Callable[[dict[str, Any], int], object]] = {
    "counts are text": lambda meta, _: meta.update({k: str(v) for k, v in meta.items()}),
    "counts are fractions": lambda meta, _: meta.update({k: float(v) for k, v in meta.items()}),
    "there is no per_page": lambda meta, _: meta.pop("per_page"),
    "per_page is what was asked for": lambda meta, _: meta.update(per_page=100),
    "per_page is absurd": lambda meta, _: meta.update(per_page=10**30),
    "there is nothing but the count": lambda meta, _: [
        meta.pop(k) for k in ("row_count", "page", "per_page")
    ],
}
COUNTS: dict[str, Callable[[dict[str, Any], int], object]] = {
    "the count is that of the page": lambda meta, came: meta.update(total_row_count=came),
    "the count is that of the page, and nothing tells its size": lambda meta, came: (
        meta.update(total_row_count=came),
        meta.pop("per_page"),
    ),
    "the count is absent": lambda meta, _: meta.pop("total_row_count"),
    "the count is null, and nothing tells the page's size": lambda meta, _: (
        meta.update(total_row_count=None),
        meta.pop("per_page"),
    ),
    "meta is empty": lambda meta, _: meta.clear(),
    "the count is below nothing": lambda meta, _: meta.update(total_row_count=-1),
    "the count is too high": lambda meta, _: meta.update(
        total_row_count=meta["total_row_count"] + 3
    ),
    "the count is twice as high": lambda meta, _: meta.update(
        total_row_count=meta["total_row_count"] * 2
    ),
}


@pytest.mark.parametrize("meta", METAS)
def test_however_meta_is_written_it_is_read(mirror_of: MakeMirror, lie: Tell, meta: str) -> None:
    mirror = mirror_of(Store(30), switches=TEN)
    lie(with_meta(METAS[meta]))
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert done.settled.certificate.shown, done.settled.certificate.sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "rows"),
    some_in_drills(
        itertools.product(COUNTS, (1, 25, 50)),
        # Each count with one number of rows.
        lambda case: case[1] == (1, 25, 50)[list(COUNTS).index(case[0]) % 3],
    ),
)
def test_a_count_that_is_wrong_loses_no_row_and_proves_nothing(
    mirror_of: MakeMirror, lie: Tell, count: str, rows: int
) -> None:
    mirror = mirror_of(Store(rows), switches=TEN)
    lie(with_meta(COUNTS[count]))
    mirror.full_sync()
    assert mirror.differences() == {}
    ids = ids_in(mirror.store, mirror.window)
    mirror.store.edit(ids[0], {"subject": "Edited"})
    mirror.store.delete(ids[-1])
    proof = proved(mirror)
    assert not proof.shown or mirror.differences() == {}
    assert mirror.differences(set(ids[:-1])) == {}


def test_one_page_for_every_number_ends_with_a_reason(mirror_of: MakeMirror, lie: Tell) -> None:
    mirror = mirror_of(
        Store(60),
        switches=Switches(
            max_per_page=10,
            honours_sort=False,
            honours_id_predicates=False,
            honours_created_at=False,
        ),
    )
    truth = routes.answer

    def repeat(request: Request, answer: Answer) -> Answer:
        if not is_list(request):
            return answer
        # Whichever page is asked for first: lanes ask in any order.
        first = [pair for pair in request.query if pair[0] != "page"]
        return truth(mirror.sandbox, replace(request, query=first))

    lie(repeat)
    with pytest.raises(CurrentRmsError, match="the first page for every page number"):
        mirror.full_sync()


def test_the_last_page_for_every_number_behind_it_is_the_end(
    mirror_of: MakeMirror, lie: Tell
) -> None:
    mirror = mirror_of(
        Store(60),
        switches=Switches(
            max_per_page=10,
            honours_sort=False,
            honours_id_predicates=False,
            honours_created_at=False,
        ),
    )
    while len(ids_in(mirror.store, mirror.window)) % 10:
        mirror.store.delete(ids_in(mirror.store, mirror.window)[0])
    # By number, not by time: a walk asks for several pages at once.
    pages: dict[str, dict[int, bytes]] = defaultdict(dict)

    def repeat(request: Request, answer: Answer) -> Answer:
        if not is_list(request):
            return answer
        seen = pages[json.dumps([p for p in request.query if p[0] != "page"])]
        if json.loads(answer.body)["opportunities"]:
            seen[int(dict(request.query).get("page", 1))] = answer.body
            return answer
        return replace(answer, body=seen[max(seen)] if seen else answer.body)

    lie(repeat)
    mirror.full_sync()
    assert mirror.differences() == {}


@pytest.mark.parametrize("id_", [2**63 - 1, -(2**63) + 1, 0, -5])
def test_an_id_at_the_end_of_all_numbers_costs_nothing(mirror_of: MakeMirror, id_: int) -> None:
    store = Store(30)
    mirror = mirror_of(store, switches=TEN)
    record = store.get(ids_in(store, mirror.window)[0])
    assert record is not None
    store.put(id_, {**record, "id": id_})
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert done.settled.certificate.shown, done.settled.certificate.sentence
    proof = proved(mirror)
    assert proof.shown, proof.sentence


WRONG: dict[str, Callable[[int, dict[str, Any]], object]] = {
    "another": lambda id_, body: {"opportunity": {**body["opportunity"], "id": id_ + 1}},
    "none": lambda id_, body: {"opportunity": None},
    "one without an id": lambda id_, body: {"opportunity": {"subject": "x"}},
    "an error": lambda id_, body: {"errors": ["Something went wrong"]},
}


def tell_gone(mirror: Mirror, *ids: int) -> None:
    query(
        mirror.database,
        "INSERT INTO webhook_events (subject_type, action_type, opportunity_id)"
        " SELECT 'Opportunity', 'destroy', unnest(%s)",
        list(ids),
    )


def proved(mirror: Mirror) -> Proof:
    proof = mirror.proved_sync()
    assert proof is not None
    return proof


def spoil(lie: Tell, wrong: str, *spoilt: int) -> None:
    def change(request: Request, answer: Answer) -> Answer:
        if not is_single(request) or int(request.path.split("/")[2]) not in spoilt:
            return answer
        id_ = int(request.path.split("/")[2])
        body = json.loads(answer.body) if answer.status == 200 else {"opportunity": {"id": 7}}
        return Answer(200, json.dumps(WRONG[wrong](id_, body)).encode())

    lie(change)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_single_record_that_is_another_settles_no_event_and_costs_no_other(
    mirror_of: MakeMirror, lie: Tell, wrong: str
) -> None:
    mirror = mirror_of(Store(40), switches=TEN)
    mirror.full_sync()
    bad, good = ids_in(mirror.store, mirror.window)[:2]
    mirror.store.edit(bad, {"subject": "Edited"})
    mirror.store.edit(good, {"subject": "Edited"})
    spoil(lie, wrong, bad)
    tell_gone(mirror, bad, good)
    done = work(mirror)
    assert (done.settled, done.failed, done.waiting) == (0, 1, 1)
    assert mirror.rows()[good]["name"] == "Edited"
    assert mirror.deleted() == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", some_in_drills([*WRONG, "500"], {"another", "an error", "500"}.__contains__)
)
def test_a_suspect_that_cannot_be_asked_for_stops_neither_the_sync_nor_other_deletions(
    mirror_of: MakeMirror, lie: Tell, wrong: str
) -> None:
    mirror = mirror_of(Store(60), switches=TEN)
    mirror.full_sync()
    bad, gone = ids_in(mirror.store, mirror.window)[:2]
    for id_ in bad, gone:
        mirror.store.delete(id_)
    if wrong == "500":
        lie(lambda r, a: Answer(500, b"{}") if r.path == f"/opportunities/{bad}" else a)
    else:
        spoil(lie, wrong, bad)
    done = mirror.full_sync()
    assert mirror.deleted() == {gone}
    assert not done.settled.certificate.shown
    assert str(bad) in done.settled.certificate.sentence, done.settled.certificate.sentence
    proof = proved(mirror)
    assert not proof.shown
    assert str(bad) in proof.sentence
    assert bad in mirror.rows()


@pytest.mark.parametrize("by_mistake", [True, False])
def test_one_answer_that_a_record_is_not_there_deletes_no_row_that_a_person_refreshes(
    mirror_of: MakeMirror, lie: Tell, by_mistake: bool
) -> None:
    mirror = mirror_of(Store(40), switches=TEN)
    mirror.full_sync()
    id_, other = ids_in(mirror.store, mirror.window)[:2]
    mirror.store.edit(id_, {"subject": "Edited"})
    others = set[str]()

    def change(request: Request, answer: Answer) -> Answer:
        if request.path != f"/opportunities/{id_}":
            others.update([request.path] if is_single(request) else [])
            return answer
        # The mistake is over when the next record is asked for.
        absent = not (by_mistake and others)
        return Refusal("not found", 404).answer("texts") if absent else answer

    lie(change)
    done = refresh(mirror.database, mirror.client(), [id_, other], "run")
    assert done.gone == mirror.deleted() == (set() if by_mistake else {id_})
    if by_mistake:
        assert mirror.rows()[id_]["name"] == "Edited"


def client_that_knows_what_is_granted(mirror: Mirror) -> CurrentRmsClient:
    """One that need not doubt what it asks for when a record is not found."""
    client = mirror.client()
    client.get_record(mirror.store.ids()[-1])
    return client


def by_webhooks(mirror: Mirror, ids: list[int]) -> None:
    """They name their record and say nothing that happened to it."""
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO webhook_events (subject_type, opportunity_id)"
            " SELECT 'Opportunity', unnest(%s::bigint[])",
            (ids,),
        )
    work(mirror, client_that_knows_what_is_granted(mirror))


def by_refresh(mirror: Mirror, ids: list[int]) -> None:
    client = client_that_knows_what_is_granted(mirror)
    refresh(mirror.database, client, ids, "run")


def by_proof(mirror: Mirror, ids: list[int]) -> None:
    """The one beside it is gone, so that their ids are compared. An hour has gone by."""
    query(
        mirror.database,
        "UPDATE raw_rms_pages SET fetched_at = fetched_at - interval '1 h' RETURNING 1",
    )
    mirror.store.delete(ids[1])
    mirror.proved_sync()


WAYS_TO_ASK: dict[str, Callable[[Mirror, list[int]], object]] = {
    "the next full sync": lambda mirror, _: mirror.full_sync(),
    "the next incremental sync": by_proof,
    "a webhook": lambda mirror, ids: by_webhooks(mirror, [ids[0]]),
    "many webhooks": by_webhooks,
    "a refresh of many": by_refresh,
}


@pytest.mark.parametrize("by_mistake", [True, False])
@pytest.mark.parametrize("way", WAYS_TO_ASK)
def test_one_answer_that_a_record_is_not_there_deletes_no_row_that_no_list_ever_showed(
    mirror_of: MakeMirror, lie: Tell, way: str, by_mistake: bool
) -> None:
    mirror = mirror_of(Store(40), switches=TEN)
    hidden, *others = ids_in(mirror.store, mirror.window)[:9]
    there = mirror.store.get(hidden)
    assert there is not None
    mistakes, seen = 0, 0

    def change(request: Request, answer: Answer) -> Answer:
        nonlocal seen
        if request.path == f"/opportunities/{hidden}" and mistakes:
            seen += 1
            return Refusal("not found", 404).answer("texts") if seen <= mistakes else answer
        if not is_list(request) or answer.status != 200:
            return answer
        said = json.loads(answer.body)
        # It is counted, and never sent.
        said["opportunities"] = [r for r in said["opportunities"] if r["id"] != hidden]
        return replace(answer, body=json.dumps(said).encode())

    lie(change)
    mirror.full_sync()
    refresh(mirror.database, mirror.client(), [hidden], "run")
    assert hidden in mirror.rows()
    mistakes = 1 if by_mistake else 1000
    WAYS_TO_ASK[way](mirror, [hidden, *others])
    assert seen > 1
    assert (hidden in mirror.deleted()) is not by_mistake
    assert (hidden in mirror.rows()) is by_mistake


def test_lists_are_witnesses_only_of_what_they_showed_last(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(40), switches=TEN)
    id_ = ids_in(mirror.store, mirror.window)[0]

    def is_unlisted() -> bool:
        with mirror.database.session() as connection:
            return unlisted(connection, OPPORTUNITIES, [id_]) == {id_}

    mirror.full_sync()
    assert not is_unlisted()
    refresh(mirror.database, mirror.client(), [id_], "run")
    assert is_unlisted()
    mirror.full_sync()
    assert not is_unlisted()


def test_a_row_that_lists_showed_and_lack_is_asked_for_once(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(40), switches=TEN)
    mirror.full_sync()
    by_proof, by_sync = ids_in(mirror.store, mirror.window)[:2]
    for id_, sync in ((by_proof, mirror.proved_sync), (by_sync, mirror.full_sync)):
        mirror.store.delete(id_)
        mirror.sandbox.requests.clear()
        sync()
        assert id_ in mirror.deleted()
        paths = [path.partition("?")[0] for _, path, _ in mirror.sandbox.requests]
        assert sum(path.endswith(f"/opportunities/{id_}") for path in paths) == 1


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("count", [30, 3, 1])
def test_a_refresh_gets_all_but_the_one_that_cannot_be_delivered(
    mirror_of: MakeMirror, count: int, alone: bool
) -> None:
    mirror = mirror_of(Store(60), switches=TEN)
    ids = mirror.store.ids()[:count]
    bad = ids[count // 2]
    turn(mirror, undeliverable=frozenset([bad]), undeliverable_single=alone)
    done = refresh(mirror.database, mirror.client(), ids, "run")
    expected = set(ids) - ({bad} if alone else set())
    assert set(mirror.rows()) == expected
    assert set(done.failed) == set(ids) - expected


def test_an_undeliverable_row_outside_the_window_stops_no_nightly_sync(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60), switches=TEN)
    refresh(mirror.database, mirror.client(), mirror.store.ids(), "run")
    outside = sorted(set(mirror.store.ids()) - set(ids_in(mirror.store, mirror.window)))
    mirror.store.delete(outside[-1])
    turn(mirror, undeliverable=frozenset(outside[:1]), undeliverable_single=True)
    done = mirror.full_sync(reverify_calls=20)
    assert done.settled.certificate.shown
    assert mirror.deleted() == {outside[-1]}


def test_what_could_not_be_delivered_since_it_was_counted_is_named(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(60), switches=TEN)
    mirror.full_sync()
    bad = ids_in(mirror.store, mirror.window)[4]
    mirror.store.edit(bad, {"subject": "Edited"})
    turn(mirror, undeliverable=frozenset([bad]), undeliverable_single=True)
    proof = proved(mirror)
    assert not proof.shown or str(bad) in proof.sentence, proof.sentence
    proof = proved(mirror)
    assert proof.shown
    assert f"cannot deliver: {bad}" in proof.sentence


def test_what_could_not_be_stored_since_it_was_counted_is_named(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(60), switches=TEN)
    mirror.full_sync()
    bad = ids_in(mirror.store, mirror.window)[4]
    mirror.store.edit(bad, {"subject": "Edited"})
    query(
        mirror.database,
        f"ALTER TABLE opportunities ADD CONSTRAINT mine CHECK (id <> {bad} OR name <> 'Edited')",
    )
    try:
        proof = proved(mirror)
    finally:
        query(mirror.database, "ALTER TABLE opportunities DROP CONSTRAINT mine")
    assert "1 that cannot be stored" in proof.sentence, proof.sentence


@pytest.mark.parametrize(
    ("by", "found_before"),
    some_in_drills(
        [("event", 0), *itertools.product(("refresh", "full sync", "proof"), (0, 1, 2))],
        {("event", 0), ("refresh", 1), ("full sync", 2), ("proof", 0), ("proof", 1)}.__contains__,
    ),
)
def test_an_api_that_finds_no_record_by_its_id_deletes_none(
    mirror_of: MakeMirror, lie: Tell, by: str, found_before: int
) -> None:
    """Nor one that does so from the second or third record on."""
    mirror = mirror_of(Store(60), switches=TEN)
    mirror.full_sync()
    some = ids_in(mirror.store, mirror.window)[:3]
    found = set[str]()

    def astray(request: Request, answer: Answer) -> Answer:
        if is_single(request):
            found.add(request.path)
            if len(found) <= found_before:
                return answer
            return Answer(404, b'{"errors":["Not found"]}')
        if is_list(request) and by in ("full sync", "proof") and answer.status == 200:
            said = json.loads(answer.body)
            left = [o for o in said["opportunities"] if o["id"] not in some]
            said["meta"]["total_row_count"] -= len(said["opportunities"]) - len(left)
            return replace(answer, body=json.dumps({**said, "opportunities": left}).encode())
        return answer

    lie(astray)
    if by == "refresh":
        with pytest.raises(CurrentRmsError, match="finds no opportunity by its id"):
            refresh(mirror.database, mirror.client(), some, "run")
    elif by == "event":
        tell_gone(mirror, some[0])
        for _ in range(3):
            query(mirror.database, "UPDATE webhook_events SET next_attempt_at = now()")
            done = work(mirror)
            assert (done.settled, done.failed, done.dead) == (0, 1, 0)
        assert query(mirror.database, "SELECT attempts FROM webhook_events") == [(0,)]
    elif by == "proof":
        proof = proved(mirror)
        assert not proof.shown, proof.sentence
    else:
        assert not mirror.full_sync().settled.certificate.shown
    assert mirror.deleted() == set()


def nothing(request: Request, answer: Answer) -> Answer:
    """What an API says that is half up, and what it says to a key that may see nothing."""
    if is_list(request):
        meta = {"total_row_count": 0, "row_count": 0, "page": 1, "per_page": 10}
        return replace(answer, body=json.dumps({"opportunities": [], "meta": meta}).encode())
    return Answer(404, b'{"errors":["Not found"]}') if is_single(request) else answer


@pytest.mark.parametrize("after", some_in_drills([0, 4, 5, 8], {0, 5}.__contains__))
def test_an_api_that_shows_nothing_all_of_a_sudden_deletes_none(
    mirror_of: MakeMirror, lie: Tell, after: int
) -> None:
    """In a small account, whose rows are fewer than a person has to confirm."""
    mirror = mirror_of(Store(30), switches=TEN)
    mirror.full_sync()
    rows = mirror.rows()
    asked = itertools.count()
    lie(lambda request, answer: answer if next(asked) < after else nothing(request, answer))
    try:
        proof = mirror.full_sync().settled.certificate
        assert not proof.shown, proof.sentence
    except CurrentRmsError:
        pass
    assert mirror.deleted() == set()
    lie(nothing)
    with pytest.raises(CurrentRmsError, match="lists no opportunity at all"):
        refresh(mirror.database, mirror.client(), sorted(rows)[:3], "run")
    assert not proved(mirror).shown
    assert mirror.deleted() == set()
    lie(lambda _, answer: answer)
    assert mirror.full_sync().settled.certificate.shown
    assert mirror.rows().keys() == rows.keys()


def test_the_last_rows_go_when_a_person_confirms_that_nothing_is_left(
    mirror_of: MakeMirror, lie: Tell
) -> None:
    mirror = mirror_of(Store(12), switches=TEN)
    mirror.full_sync()
    rows = mirror.rows()
    assert 1 < len(rows) <= 20
    lie(nothing)
    done = mirror.full_sync()
    assert not done.settled.certificate.shown
    assert mirror.deleted() == set()
    done = mirror.full_sync(confirm_deletions=True)
    assert done.settled.certificate.shown, done.settled.certificate.sentence
    assert mirror.deleted() == set(rows)
