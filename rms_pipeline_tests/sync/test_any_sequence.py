"""Whatever happens, in whatever order: one quiet sync later the mirror is right.

Some sequences here, and many more in `drills/test_many_sequences.py`.
"""

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.current_rms.window import iso
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.sandbox import Churn, Faults, Store, Switches
from rms_pipeline.sync import landing, settling, storing
from rms_pipeline.sync.landing import OVERLAP
from rms_pipeline.sync.refreshing import ASKED_SINGLY, refresh
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

pytestmark = pytest.mark.slow
NO_OVERLAP = timedelta(0)
FAULTS = {"error_500": 0.05, "truncated": 0.05, "dropped": 0.05, "html_200": 0.05}

SWITCHES = st.sampled_from(
    [
        Switches(max_per_page=10),
        Switches(max_per_page=10),
        Switches(max_per_page=10, honours_sort=False),
        Switches(max_per_page=10, honours_id_predicates=False),
        Switches(max_per_page=100),
        Switches(max_per_page=10, null_predicates="ignored"),
        Switches(max_per_page=10, honours_or=False, unknown_predicate="ignored"),
        Switches(max_per_page=10, gone_status=410, most_records=4),
        Switches(max_per_page=10, lists_lag=0.06),
        Switches(max_per_page=10, lists_lag=0.3),
        Switches(max_per_page=10, singles_lag=0.1),
        Switches(max_per_page=10, count_cap=12),
        Switches(max_per_page=10, honours_filtermode=False),
        Switches(max_per_page=10, lists_twice=frozenset(range(1_003, 1_008))),
        Switches(max_per_page=10, undeliverable=frozenset({1_005})),
        Switches(max_per_page=10, undeliverable=frozenset({1_004}), undeliverable_single=True),
    ]
)
# Of a list that obeys no filtermode.
CLOSED = frozenset({40, 50, 60, 70})
FOR_EVER = 1e9
WHERE = st.sampled_from(["inside", "outside", "undated", "no end"])
STAMP = st.sampled_from(["now", "now", "now", "absent", "back"])
ANY = st.integers(0, 10_000)


# The certificates that were issued, and compared; the switches of sequences that came to an end.
SHOWN: list[int] = []
ENDED: list[Switches] = []


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Sequences(RuleBasedStateMachine):
    mirror_of: Callable[..., Mirror]
    database: Database

    @initialize(switches=SWITCHES, seed=st.integers(0, 50), rows=st.integers(0, 70))
    def begin(self, switches: Switches, seed: int, rows: int) -> None:
        empty(self.database)
        self.mirror = self.mirror_of(Store(rows, seed), switches=switches)
        self.mirror.store.remember(FOR_EVER)
        # A list that lags by less than that is what the overlap is for.
        self.overlap = OVERLAP if switches.lists_lag else NO_OVERLAP
        self.is_told = threading.Lock()
        # What changed since the last sync began, and what of that went while one was counting.
        self.changed: set[int] = set()
        self.fleeting: set[int] = set()
        self.churn = Churn(self.mirror.store, seed=seed)
        self.random = random.Random(seed)
        # What the API has changed without moving updated_at, since the last full sync began.
        self.silent: set[int] = set()
        self.silent_meanwhile: set[int] = set()
        # What it last changed with a new updated_at, after the first sync, in the window or not.
        self.edited: set[int] = set()
        self.removed: dict[int, dict[str, Any]] = {}
        # When those changed that were asked for singly, unless they were set back since: no list
        # that lags may take them back.
        self.fetched: dict[int, str] = {}

    def some_id(self, number: int) -> int | None:
        ids = self.mirror.store.ids()
        return ids[number % len(ids)] if ids else None

    def stamp(self, kind: str) -> dict[str, Any]:
        past = (self.mirror.store.today - timedelta(days=300)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        stamps: dict[str, dict[str, Any]] = {
            "now": {},
            "absent": {"updated_at": None},
            "back": {"updated_at": past},
        }
        return stamps[kind]

    def dates(self, where: str) -> dict[str, Any]:
        days = {"inside": 3, "outside": 900, "undated": 0, "no end": 3}[where]
        day = (self.mirror.store.today + timedelta(days=days)).strftime("%Y-%m-%dT00:00:00.000Z")
        return {
            "starts_at": None if where == "undated" else day,
            "ends_at": None if where in ("undated", "no end") else day,
        }

    def note(self, id_: int, kind: str) -> None:
        self.changed.add(id_)
        self.fetched.pop(id_, None)
        self.silent.add(id_)
        self.edited.discard(id_)
        if kind == "now":
            self.note_edit(id_)

    def note_edit(self, id_: int) -> None:
        self.changed.add(id_)
        self.silent.discard(id_)
        self.silent_meanwhile.discard(id_)
        if self.mirror.watermarks:
            self.edited.add(id_)

    @rule(where=WHERE, kind=STAMP)
    def create(self, where: str, kind: str) -> None:
        fields = {"subject": "New", **self.dates(where), **self.stamp(kind)}
        self.note(self.mirror.store.create(fields), kind)

    @rule(number=ANY, kind=STAMP, status=st.sampled_from([0, 5, 20, 60]))
    def edit(self, number: int, kind: str, status: int) -> None:
        id_ = self.some_id(number)
        if id_ is not None:
            self.mirror.store.edit(id_, {"status": status, **self.stamp(kind)})
            self.note(id_, kind)

    @rule(number=ANY, where=WHERE, kind=STAMP)
    def move(self, number: int, where: str, kind: str) -> None:
        id_ = self.some_id(number)
        if id_ is not None:
            self.mirror.store.edit(id_, {**self.dates(where), **self.stamp(kind)})
            self.note(id_, kind)

    @rule(number=ANY)
    def delete(self, number: int) -> None:
        id_ = self.some_id(number)
        if id_ is not None:
            self.removed[id_] = self.mirror.store.get(id_, ()) or {}
            self.mirror.store.delete(id_)

    @precondition(lambda self: self.removed)
    @rule()
    def reappear(self) -> None:
        id_, record = self.removed.popitem()
        self.mirror.store.put(id_, record)
        self.note(id_, "absent")

    @rule(seconds=st.integers(2, 4_000))
    def time_passes(self, seconds: int) -> None:
        self.mirror.store.ahead += timedelta(seconds=seconds)

    @rule(numbers=st.lists(ANY, min_size=1, max_size=5), gone=st.booleans())
    def refresh(self, numbers: list[int], gone: bool) -> None:
        ids = {i for n in numbers if (i := self.some_id(n)) is not None}
        if gone:
            ids |= set(self.removed)
        # One that the API cannot deliver fails alone.
        with contextlib.suppress(CurrentRmsError):
            done = refresh(self.mirror.database, self.mirror.client(), ids, self.mirror.run())
            if len(ids) <= ASKED_SINGLY:
                for id_ in ids - done.gone - done.failed.keys():
                    if at := self.mirror.store.value(id_, "updated_at"):
                        self.fetched[id_] = at

    @precondition(lambda self: self.mirror.watermarks)
    @rule(moving=st.booleans(), faulty=st.booleans(), told=st.booleans())
    def incremental_sync(self, moving: bool, faulty: bool, told: bool) -> None:
        before, self.changed = self.changed, set()
        proof = None
        try:
            with self.troubled(moving, faulty, told, before):
                proof = self.mirror.proved_sync(self.overlap)
        except CurrentRmsError:
            self.changed |= before
        self.check(proof)

    @rule(
        moving=st.booleans(),
        faulty=st.booleans(),
        resumes=st.booleans(),
        killed=st.sampled_from([None, None, "landing", "merging", "settling"]),
        after=st.integers(0, 6),
    )
    def full_sync(
        self, moving: bool, faulty: bool, resumes: bool, killed: str | None, after: int
    ) -> None:
        self.silent_meanwhile = set()
        before, self.changed = self.changed, set()
        fresh_for = timedelta(hours=1) if resumes else timedelta(0)
        try:
            with self.troubled(moving, faulty, False, before), kill(killed, after):
                done = self.mirror.full_sync(fresh_for=fresh_for, overlap=self.overlap)
        except (Killed, CurrentRmsError) as error:
            self.changed |= before
            event(f"a full sync ended by {type(error).__name__}")
            return
        # A list that lags may not have shown yet what changed silently just before.
        if done.landed.pages_kept == 0 and not self.mirror.sandbox.switches.lists_lag:
            self.silent = self.silent_meanwhile
        else:
            event("a full sync may not have seen all there was")
        self.check(done.settled.certificate)

    def check(self, proof: Proof | None) -> None:
        """What a certificate says was so: the API's lists held then exactly what is mirrored, but
        for what its own text says that counting cannot see."""
        rows = self.mirror.rows()
        for id_, at in self.fetched.items():
            if id_ in rows:
                assert (iso_or_none(rows[id_]["updated_at_rms"]) or "") >= at, id_
        if proof is None or not proof.shown:
            event("not shown" if proof else "nothing to prove")
            return
        event("shown")
        SHOWN.append(proof.id)
        mirror, switches = self.mirror, self.mirror.sandbox.switches
        records = mirror.lists_then(proof.as_of)
        listed = {i: (records.value(i, "starts_at"), records.value(i, "ends_at"))
                  for i in records.ids()
                  if switches.honours_filtermode or records.value(i, "status") not in CLOSED
                 }  # fmt: skip
        held = {i: (iso_or_none(r["starts_at"]), iso_or_none(r["ends_at"]))
                for i, r in mirror.rows().items()}  # fmt: skip

        def inside(found: dict[int, tuple[Any, Any]]) -> set[int]:
            assert proof.window is not None
            start, end = iso(proof.window[0]), iso(proof.window[1])
            return {
                i
                for i, (starts, ends) in found.items()
                if (
                    None in (starts, ends)
                    and proof.covers_undated
                    and ("no_end" if starts else "no_start") not in proof.earlier
                )
                or (None not in (starts, ends) and ends >= start and starts <= end)
            } - {*proof.left, *proof.unreadable}

        wanted, found = inside(listed), inside(held)
        missing, surplus = wanted - found, found - wanted
        unseen = self.silent | self.silent_meanwhile
        assert missing <= unseen | self.fleeting, (missing, proof.sentence)
        # Each can stand in for one other.
        assert len(surplus - unseen) <= len(missing), (surplus, missing, proof.sentence)
        if not switches.lists_lag:
            for id_ in (wanted & found) - unseen:
                assert listed[id_] == held[id_], (id_, proof.sentence)

    @contextlib.contextmanager
    def troubled(self, moving: bool, faulty: bool, told: bool, changed: set[int]) -> Iterator[None]:
        """`told` when webhooks tell of some changes at once, and they are refreshed."""
        sandbox = self.mirror.sandbox
        self.told, self.changed_before, self.fleeting = told, changed, set()
        if faulty:
            sandbox.faults = Faults(probabilities=dict(FAULTS), seed=self.random.randrange(1_000))  # type: ignore[arg-type]
        if moving:
            sandbox.before_request = self.step
        try:
            yield
        finally:
            sandbox.before_request = None
            sandbox.faults = Faults()

    def step(self, _: str) -> None:
        change, id_ = self.churn.step()
        if change == "silent_edit":
            self.note(id_, "back")
            self.silent_meanwhile.add(id_)
        elif change != "delete":
            self.note_edit(id_)
        elif id_ in self.changed | self.changed_before:
            self.fleeting.add(id_)
        if self.told and self.random.random() < 0.3 and self.is_told.acquire(blocking=False):
            try:
                with contextlib.suppress(CurrentRmsError):
                    refresh(self.database, self.mirror.another_client(), [id_], "webhook")
            finally:
                self.is_told.release()

    def teardown(self) -> None:
        if not hasattr(self, "mirror"):
            return
        mirror = self.mirror
        # In the end it lags no more and delivers everything.
        before = mirror.sandbox.switches
        mirror.sandbox.switches = replace(
            before, lists_lag=0, singles_lag=0, count_cap=None, honours_filtermode=True,
            undeliverable=frozenset(), most_records=None,
        )  # fmt: skip
        mirror.store.remember(FOR_EVER)
        obeys = before.honours_filtermode
        if mirror.watermarks:
            proof = mirror.proved_sync(self.overlap)
            if obeys:
                self.check(proof)
            loud = set(ids_in(mirror.store, mirror.window)) - self.silent
            edited = self.edited & set(mirror.store.ids())
            if obeys and before.count_cap is None:
                assert mirror.differences(loud | edited) == {}
        done = mirror.full_sync(overlap=NO_OVERLAP, confirm_deletions=True, reverify_calls=50)
        assert mirror.differences() == {}
        assert done.settled.certificate.shown, done.settled.certificate.sentence
        assert not mirror.deleted() & set(mirror.rows())
        mirror.close()
        mirror.sandbox.stop()
        ENDED.append(before)
        if len(ENDED) % 50 == 0:
            sys.stdout.write(f"{len(ENDED):,} sequences, {len(SHOWN):,} certificates.\n")
            sys.stdout.flush()


@contextlib.contextmanager
def kill(where: str | None, after: int) -> Iterator[None]:
    """Ends the sync at the `after`th page landed or merged, or before the walk is settled."""
    target: Any = {"landing": landing, "merging": storing, "settling": settling}.get(where or "")
    name = {"landing": "land_page", "merging": "merge", "settling": "unseen_rows"}.get(where or "")
    if target is None or name is None:
        yield
        return
    original, count = getattr(target, name), 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > after or where == "settling":
            raise Killed
        return original(*args, **kwargs)

    setattr(target, name, counting)
    try:
        yield
    finally:
        setattr(target, name, original)


def empty(database: Database) -> None:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE opportunities, deleted_opportunities, opportunity_versions, walks,"
            " raw_rms_pages, raw_page_bodies, sync_faults, sync_progress, proofs, proof_counts,"
            " held_deletions, deletions_confirmed, unreadable_records RESTART IDENTITY CASCADE"
        )


def iso_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def sequences_of(mirror_of: Callable[..., Mirror], database: Database) -> type[Sequences]:
    """The sequences, on that database."""
    Sequences.mirror_of = staticmethod(mirror_of)
    Sequences.database = database
    return Sequences


@pytest.mark.timeout(0)
def test_after_any_sequence_one_quiet_full_sync_makes_the_window_equal_to_the_api(
    mirror_of: Callable[..., Mirror], emptied: Database
) -> None:
    """And before it, one quiet incremental sync leaves nothing missing but deletions."""
    # The drills try forty, or thousands.
    run_state_machine_as_test(sequences_of(mirror_of, emptied), settings=settings(max_examples=10))
