"""Lists that are not what was asked for, in ways that no specification foresees: what is said to be
complete is, nothing goes that is there, and what can be read is read."""

import contextlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import pytest

from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.mirror.walks import watermarks
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sandbox.api import routes
from rms_pipeline.sandbox.api.answers import Answer, Request
from rms_pipeline.sync import counting, prove
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.core import full_sync, proved_sync
from rms_pipeline_tests.drills.lying_api import new_world, served
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.sync.test_lies import Lie, MakeMirror, Tell, is_list, lie, proved
from rms_pipeline_tests.sync.test_prove import dated
from rms_pipeline_tests.test_sync import ids_in

pytestmark = pytest.mark.slow

__all__ = ["lie"]
TEN = Switches(max_per_page=10)
NEVER_SENT = 1_010
Said = dict[str, Any]
Change = Callable[[Said, Request], object]


class CutsAt(random.Random):
    """Cuts the list behind the row of this number, if it has as many."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return min(self._place, (stop or start) - 1)


@dataclass(frozen=True)
class Odd:
    """How lists are changed, and whether all can be mirrored and shown all the same.

    `every` so many lists only, None for all of them. Which ones, each address goes by for itself:
    else it would depend on how the lanes of a walk take turns.
    """

    change: Change
    every: int | None = None
    is_mirrored: bool = True
    is_shown: bool = True

    def lie(self) -> Lie:
        asked: Counter[str] = Counter()

        def told(request: Request, answer: Answer) -> Answer:
            if not is_list(request) or answer.status != 200:
                return answer
            address = repr(request.query)
            asked[address] += 1
            if self.every is not None and (asked[address] + crc32(address.encode())) % self.every:
                return answer
            said = json.loads(answer.body)
            changed = self.change(said, request)
            if isinstance(changed, Answer):
                return changed
            return replace(answer, body=json.dumps(said).encode())

        return told


def first(request: Request) -> bool:
    """Whether it is the first page of a whole list."""
    return not any(name.startswith(("q[id_", "page")) and value != "1"
                   for name, value in request.query)  # fmt: skip


def repeat_one(said: Said, _: Request) -> None:
    said["opportunities"] += said["opportunities"][:1]


def repeat_one_and_count_it(said: Said, _: Request) -> None:
    if said["opportunities"]:
        said["opportunities"].insert(1, said["opportunities"][0])
        said["meta"]["total_row_count"] += 1


def shrink(said: Said, request: Request) -> None:
    if not first(request):
        said["meta"]["total_row_count"] = len(said["opportunities"])


def grow(said: Said, request: Request) -> None:
    if not first(request):
        said["meta"]["total_row_count"] += 7


def turn_ids(kind: Callable[[int], object]) -> Change:
    def change(said: Said, _: Request) -> None:
        for record in said["opportunities"]:
            record["id"] = kind(record["id"])

    return change


def shuffle(said: Said, _: Request) -> None:
    random.Random(1).shuffle(said["opportunities"])


def lose_the_last(said: Said, _: Request) -> None:
    said["opportunities"] = said["opportunities"][:-1]


def lose_one(said: Said, _: Request) -> None:
    said["opportunities"] = [o for o in said["opportunities"] if o["id"] != NEVER_SENT]


def empty_it(said: Said, _: Request) -> None:
    said["opportunities"] = []


def empty_all_of_it(said: Said, _: Request) -> None:
    said["opportunities"], said["meta"]["total_row_count"] = [], 0


def add_nothings(said: Said, _: Request) -> None:
    said["opportunities"] += [None, {}, 7]


def with_answer(body: bytes) -> Change:
    return lambda said, _: Answer(200, body)


def as_string(said: Said, _: Request) -> None:
    said["opportunities"] = json.dumps(said["opportunities"])


MEMBERS = json.dumps(
    {"members": [{"id": 1_003, "name": "A member"}], "meta": {"total_row_count": 1, "per_page": 10}}
).encode()
ODD = {
    "a record stands twice on each page": Odd(repeat_one, is_shown=False),
    "a record stands twice on some pages": Odd(repeat_one, every=3, is_shown=False),
    "a record stands twice on each page and is counted twice": Odd(
        repeat_one_and_count_it, is_mirrored=True, is_shown=False
    ),
    "counts shrink on later pages": Odd(shrink, is_shown=False),
    "counts grow on later pages": Odd(grow, is_shown=False),
    "ids are text": Odd(turn_ids(str)),
    "ids are text with blanks": Odd(turn_ids(lambda i: f" {i} ")),
    "ids are fractions": Odd(turn_ids(float)),
    "pages are in no order": Odd(shuffle),
    "some pages are in no order": Odd(shuffle, every=4),
    "each page lacks its last record": Odd(lose_the_last, is_mirrored=False, is_shown=False),
    "some pages lack their last record": Odd(lose_the_last, every=3, is_shown=False),
    "some pages are empty": Odd(empty_it, every=3, is_shown=False),
    "some lists are empty": Odd(empty_all_of_it, every=3, is_mirrored=False, is_shown=False),
    "pages hold nothings": Odd(add_nothings, is_shown=False),
    "some pages are of HTML": Odd(with_answer(b"<html><body>Please wait</body></html>"), every=3),
    "some pages are errors with 200": Odd(with_answer(b'{"errors": ["Try later"]}'), every=3),
    "some pages are of members": Odd(with_answer(MEMBERS), every=3),
    "some lists are null": Odd(with_answer(b'{"opportunities": null, "meta": {}}'), every=3),
    "some lists are objects": Odd(
        with_answer(b'{"opportunities": {}, "meta": {"total_row_count": 3}}'), every=3
    ),
    "some lists are text": Odd(as_string, every=3),
    "some answers have no meta": Odd(lambda said, _: said.pop("meta"), every=3),
    "some answers are empty": Odd(with_answer(b""), every=3),
}


def without_id(data: Any) -> Any:
    return {name: value for name, value in data.items() if name != "id"}


def demand_truth(mirror: Mirror, shown: bool, but_for: set[int], why: str) -> None:
    there = set(mirror.store.ids())
    assert not mirror.deleted() & there
    if shown:
        left = {i: d for i, d in mirror.differences(but_for=without_id).items() if i not in but_for}
        assert left == {}, why


# One of each kind: counts, ids, order, records that are too many, that lack, and what is no list.
ALWAYS = {
    *("a record stands twice on each page and is counted twice", "counts grow on later pages"),
    *("ids are text with blanks", "some pages are in no order", "pages hold nothings"),
    *("each page lacks its last record", "some pages are of members", "some answers have no meta"),
}


@pytest.mark.parametrize("odd", some_in_drills(ODD, ALWAYS.__contains__, ODD))
def test_whatever_lists_hold_what_is_said_to_be_complete_is(
    mirror_of: MakeMirror, lie: Tell, odd: str
) -> None:
    mirror = mirror_of(Store(60), switches=TEN)
    kind = ODD[odd]
    lie(kind.lie())
    was_read = False
    with contextlib.suppress(CurrentRmsError):
        proof = mirror.full_sync().settled.certificate
        demand_truth(mirror, proof.shown is True, set(proof.left), proof.sentence)
        was_read = True
        assert proof.shown or not kind.is_shown, proof.sentence
    assert was_read or not kind.is_shown
    if kind.is_mirrored:
        assert mirror.differences(but_for=without_id) == {}
    if not was_read:
        return
    ids = ids_in(mirror.store, mirror.window)
    mirror.store.edit(ids[-1], {"subject": "Edited"})
    mirror.store.delete(ids[2])
    for _ in range(2):
        with contextlib.suppress(CurrentRmsError):
            proof = proved(mirror)
            demand_truth(mirror, proof.shown is True, set(proof.left), proof.sentence)


@pytest.mark.parametrize(
    ("rows", "cap"),
    some_in_drills(
        itertools.product((30, 60), (10, 20, 30)), {(30, 10), (60, 20), (60, 30)}.__contains__
    ),
)
def test_a_cap_at_a_multiple_of_the_page_size_hides_nothing(
    mirror_of: MakeMirror, cap: int, rows: int
) -> None:
    mirror = mirror_of(Store(rows), switches=replace(TEN, count_cap=cap))
    done = mirror.full_sync()
    assert mirror.differences(but_for=without_id) == {}
    certificate = done.settled.certificate
    assert not certificate.shown or certificate.counted == len(ids_in(mirror.store, mirror.window))
    mirror.store.delete(ids_in(mirror.store, mirror.window)[0])
    proof = proved(mirror)
    assert not proof.shown or mirror.differences(but_for=without_id) == {}


@pytest.mark.parametrize("name", ["q[id_gt]", "q[id_lt]"])
def test_a_bound_that_includes_its_end_loses_nothing(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mirror = mirror_of(Store(60), switches=TEN)
    other = {"q[id_gt]": "q[id_gteq]", "q[id_lt]": "q[id_lteq]"}[name]
    truth = routes.answer

    def answer(account: Any, request: Request) -> Answer:
        query = [(other if n == name else n, v) for n, v in request.query]
        return truth(account, replace(request, query=query))

    monkeypatch.setattr(routes, "answer", answer)
    done = mirror.full_sync()
    assert mirror.differences(but_for=without_id) == {}
    certificate = done.settled.certificate
    demand_truth(mirror, certificate.shown is True, set(certificate.left), certificate.sentence)
    mirror.store.delete(ids_in(mirror.store, mirror.window)[0])
    proof = proved(mirror)
    demand_truth(mirror, proof.shown is True, set(proof.left), proof.sentence)


def test_a_page_larger_than_asked_for_is_read_and_counted(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from an API that ignores `per_page`, also where one record is all that is wanted."""
    mirror = mirror_of(Store(60), switches=TEN)
    truth = routes.answer

    def answer(account: Any, request: Request) -> Answer:
        query = [(n, "10" if n == "per_page" else v) for n, v in request.query]
        return truth(account, replace(request, query=query))

    monkeypatch.setattr(routes, "answer", answer)
    done = mirror.full_sync()
    assert mirror.differences(but_for=without_id) == {}
    assert done.settled.certificate.shown, done.settled.certificate.sentence
    mirror.store.delete(ids_in(mirror.store, mirror.window)[0])
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert mirror.differences(but_for=without_id) == {}


@pytest.mark.parametrize("place", [3, 25], ids=["where it shows", "where it is counted only"])
def test_one_that_is_counted_and_never_sent_is_said_and_makes_up_for_no_row_that_is_gone(
    mirror_of: MakeMirror, lie: Tell, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(counting, "random", SimpleNamespace(Random=lambda: CutsAt(place)))
    mirror = mirror_of(Store(60), switches=TEN)
    lie(Odd(lose_one).lie())
    certificate = mirror.full_sync().settled.certificate
    ids = ids_in(mirror.store, mirror.window)
    said = f"{len(ids) - 1} of {len(ids)}, and 1 that cannot be stored (see sync_faults)"
    assert certificate.shown, certificate.sentence
    assert said in certificate.sentence
    [(fault,)] = query(mirror.database, "SELECT problem FROM sync_faults")
    assert "counts 1 more" in fault
    beside = ids[ids.index(NEVER_SENT) - 1]
    mirror.store.delete(beside)
    proof = proved(mirror)
    assert mirror.deleted() == {beside}
    assert proof.shown, proof.sentence
    # Nothing new is found from then on, and it is found again once it comes.
    assert proved(mirror).shown
    assert len(query(mirror.database, "SELECT problem FROM sync_faults")) == 1
    lie(lambda _, answer: answer)
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}


def test_a_full_page_that_ends_its_range_is_followed_by_no_other_whatever_is_counted(
    mirror_of: MakeMirror, lie: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The range of what would follow has no ids, and PostgreSQL refuses to store such a range."""

    def count_more(said: Said, request: Request) -> None:
        if any(name == "q[id_gt]" for name, _ in request.query):
            said["meta"]["total_row_count"] += 4

    # The half in which one is gone has ten then, as many as a page.
    monkeypatch.setattr(counting, "random", SimpleNamespace(Random=lambda: CutsAt(22)))
    mirror = mirror_of(Store(60), switches=TEN)
    assert mirror.full_sync().settled.certificate.shown
    mirror.store.delete(ids_in(mirror.store, mirror.window)[15])
    lie(Odd(count_more).lie())
    proof = proved(mirror)
    assert not proof.shown
    assert "its counts prove nothing" in proof.sentence


def test_a_counter_that_always_counts_one_too_many_makes_up_for_no_row_that_is_gone(
    mirror_of: MakeMirror, lie: Tell
) -> None:
    def count_one_more(said: Said, _: Request) -> None:
        if said["opportunities"]:
            said["meta"]["total_row_count"] += 1

    mirror = mirror_of(Store(60), switches=TEN)
    assert mirror.full_sync().settled.certificate.shown
    lie(Odd(count_one_more).lie())
    ids = ids_in(mirror.store, mirror.window)
    for id_ in (ids[2], ids[-2]):
        # As many as there are parts that are counted by number.
        mirror.store.delete(id_)
    for _ in range(3):
        proof = proved(mirror)
        demand_truth(mirror, proof.shown is True, set(proof.left), proof.sentence)


@pytest.mark.parametrize(
    "since", ["always", "after the full sync", "ranges are ignored since then, too"]
)
def test_a_counter_that_counts_one_where_there_is_none_makes_up_for_no_row_that_is_gone(
    emptied: Database, client_for: Callable[..., CurrentRmsClient], since: str
) -> None:
    """Ranges of ids seem to be ignored then, because one that holds nothing is not empty."""
    world = new_world("invoices", "invoice", 397)
    is_wrong: dict[str, Any] = {"counts are off": 1}
    if since.startswith("ranges"):
        is_wrong["ignored"] = ("id",)
    with served(world) as url, client_for(url, collection=INVOICES) as client:
        client.now = emptied.clock()

        def full() -> Proof:
            return full_sync(emptied, client, None).settled.certificate

        def incremental() -> Proof:
            with emptied.session() as connection:
                starts = watermarks(connection, INVOICES)
            proof = proved_sync(emptied, client, starts)[2]
            assert proof is not None
            return proof

        world.lies = is_wrong if since == "always" else {}
        assert full().shown is (since != "always")
        world.lies = is_wrong
        world.delete()
        gone = query(emptied, "SELECT count(*) FROM invoices")[0][0] - len(world.records)
        proof = incremental()
        assert not (proof.shown and gone), proof.sentence
        # Once it counts well, it is believed again.
        world.lies = {}
        assert full().shown
        assert incremental().shown
    ids = query(emptied, "SELECT array_agg(id ORDER BY id) FROM invoices")
    assert ids == [(sorted(world.records),)]


@pytest.mark.parametrize("seed", some_in_drills(range(3), (2).__eq__))
def test_what_begins_to_be_listed_twice_makes_up_for_no_row_that_is_gone(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """As where a list is joined with what belongs to its records, and counts each pair."""
    mirror = mirror_of(Store(90), switches=TEN)
    assert mirror.full_sync().settled.certificate.shown
    chance = random.Random(seed)
    monkeypatch.setattr(counting, "random", SimpleNamespace(Random=lambda: chance))
    ids = ids_in(mirror.store, mirror.window)
    twice, gone = frozenset(chance.sample(ids, 12)), chance.sample(ids, 6)
    mirror.sandbox.switches = replace(TEN, lists_twice=twice)
    for id_ in gone:
        mirror.store.delete(id_)
    proof = proved(mirror)
    demand_truth(mirror, proof.shown is True, set(proof.left), proof.sentence)
    assert proof.shown, proof.sentence
    assert set(gone) == mirror.deleted()
    # A full sync reads all ids anyhow.
    certificate = mirror.full_sync().settled.certificate
    assert certificate.shown, certificate.sentence
    assert certificate.calls <= 4 + 4 * len(twice)
    # What is known to be listed twice costs no more than its own pages from then on.
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert proof.calls <= 4 + len(twice)


@pytest.mark.parametrize(
    "place", some_in_drills([0.02, 0.4, 0.97], (0.4).__eq__, ["first", "middle", "last"])
)
def test_where_all_ids_cost_too_many_calls_one_that_begins_to_be_listed_twice_is_found_by_halving(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch, place: float
) -> None:
    """And the proof says what it rests on, until all ids are compared again."""
    monkeypatch.setattr(prove, "MOST_CALLS", 40)
    five = Switches(max_per_page=5)
    mirror = mirror_of(Store(300), switches=five)
    mirror.full_sync()
    ids = dated(mirror)
    assert len(ids) > 5 * prove.MOST_CALLS / 2
    mirror.sandbox.switches = replace(five, lists_twice=frozenset([ids[int(place * len(ids))]]))
    mirror.sandbox.requests.clear()
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert proof.repeated == 1
    assert len(mirror.sandbox.requests) <= 2 * math.ceil(math.log2(len(ids))) + 6
    assert any("began to list" in note for note in proof.notes)
    mirror.store.delete(ids[len(ids) // 2])
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}
    assert any("began to list" in note for note in proof.notes)
    mirror.full_sync()
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert not any("began to list" in note for note in proof.notes)


@pytest.mark.parametrize("change", some_in_drills(["deleted", "listed twice"], "deleted".__eq__))
def test_what_takes_more_calls_than_one_proof_may_make_is_found_by_the_next_ones(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(prove, "MOST_CALLS", 40)
    five = Switches(max_per_page=5)
    mirror = mirror_of(Store(300), switches=five)
    mirror.full_sync()
    ids = dated(mirror)
    some = ids[7 :: len(ids) // 12]
    if change == "deleted":
        for id_ in some:
            mirror.store.delete(id_)
    else:
        mirror.sandbox.switches = replace(five, lists_twice=frozenset(some))
    calls = []
    for _ in range(6):
        proof = proved(mirror)
        calls.append(proof.calls)
        demand_truth(mirror, proof.shown is True, set(), proof.sentence)
        if proof.shown:
            break
    assert proof.shown, proof.sentence
    assert max(calls) <= prove.MOST_CALLS + 3 * len(some), calls
    assert mirror.differences() == {}
    assert proof.repeated == (0 if change == "deleted" else len(some))


def test_counts_that_leave_out_what_the_list_holds_make_up_for_no_row_that_lacks(
    mirror_of: MakeMirror, lie: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a counter of its own, that knows nothing of some records."""
    mirror = mirror_of(Store(90), switches=TEN)
    uncounted = set(dated(mirror)[::2])

    def leave_out(said: Said, request: Request) -> None:
        asked = dict(request.query)
        if not any("updated_at" in name or "null" in name for name in asked):
            lower, upper = int(asked.get("q[id_gt]", 0)), int(asked.get("q[id_lt]", 10**9))
            left_out = sum(lower < id_ < upper for id_ in uncounted)
            said["meta"]["total_row_count"] = max(0, said["meta"]["total_row_count"] - left_out)

    lie(Odd(leave_out).lie())
    mirror.full_sync()
    assert mirror.differences() == {}
    # As many rows go astray as the counts leave out.
    monkeypatch.setattr(counting, "random", SimpleNamespace(Random=lambda: CutsAt(20)))
    query(mirror.database, "DELETE FROM opportunities WHERE id = ANY(%s)", sorted(uncounted))
    proof = proved(mirror)
    demand_truth(mirror, proof.shown is True, set(proof.left), proof.sentence)


def test_a_page_that_comes_empty_once_is_asked_for_again_and_all_is_read_by_id(
    mirror_of: MakeMirror, lie: Tell
) -> None:
    """Every other way of reading costs up to twice the calls."""
    mirror = mirror_of(Store(120), switches=TEN)
    asked: set[str] = set()

    def empty_once(said: Said, request: Request) -> None:
        address = repr(request.query)
        if not first(request) and address not in asked:
            asked.add(address)
            said["opportunities"] = []

    lie(Odd(empty_once).lie())
    landed = mirror.full_sync().landed
    assert mirror.differences() == {}
    [(read_by,)] = query(mirror.database, "SELECT read_by FROM walks")
    assert set(read_by.values()) == {"id"}, landed.notes
