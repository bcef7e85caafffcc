"""Whatever happens, in whatever order: one quiet sync later the mirror is right.

Some sequences here, and many more in `drills/test_many_sequences.py`.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import Churn, Faults, Store, Switches
from rms_pipeline.sync import landing, settling, storing
from rms_pipeline.sync.refreshing import refresh
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
    ]
)
WHERE = st.sampled_from(["inside", "outside", "undated", "no end"])
STAMP = st.sampled_from(["now", "now", "now", "absent", "back"])
ANY = st.integers(0, 10_000)


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Sequences(RuleBasedStateMachine):
    mirror_of: Callable[..., Mirror]
    database: Database

    @initialize(switches=SWITCHES, seed=st.integers(0, 50), rows=st.integers(0, 70))
    def begin(self, switches: Switches, seed: int, rows: int) -> None:
        empty(self.database)
        self.mirror = self.mirror_of(Store(rows, seed), switches=switches)
        self.churn = Churn(self.mirror.store, seed=seed)
        self.random = random.Random(seed)
        # What the API has changed without moving updated_at, since the last full sync began.
        self.silent: set[int] = set()
        self.silent_meanwhile: set[int] = set()
        # What it last changed with a new updated_at, after the first sync, in the window or not.
        self.edited: set[int] = set()
        self.removed: dict[int, dict[str, Any]] = {}

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
        self.silent.add(id_)
        self.edited.discard(id_)
        if kind == "now":
            self.note_edit(id_)

    def note_edit(self, id_: int) -> None:
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
        refresh(self.mirror.database, self.mirror.client(), ids, self.mirror.run())

    @precondition(lambda self: self.mirror.watermarks)
    @rule(moving=st.booleans(), faulty=st.booleans())
    def incremental_sync(self, moving: bool, faulty: bool) -> None:
        with self.troubled(moving, faulty), contextlib.suppress(CurrentRmsError):
            self.mirror.incremental_sync(NO_OVERLAP)

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
        fresh_for = timedelta(hours=1) if resumes else timedelta(0)
        try:
            with self.troubled(moving, faulty), kill(killed, after):
                done = self.mirror.full_sync(fresh_for=fresh_for, overlap=NO_OVERLAP)
        except (Killed, CurrentRmsError) as error:
            event(f"a full sync ended by {type(error).__name__}")
            return
        if done.landed.pages_kept == 0:
            self.silent = self.silent_meanwhile
        else:
            event("a full sync went on with an unfinished one")

    @contextlib.contextmanager
    def troubled(self, moving: bool, faulty: bool) -> Iterator[None]:
        sandbox = self.mirror.sandbox
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

    def teardown(self) -> None:
        if not hasattr(self, "mirror"):
            return
        mirror = self.mirror
        if mirror.watermarks:
            mirror.incremental_sync(NO_OVERLAP)
            loud = set(ids_in(mirror.store, mirror.window)) - self.silent
            edited = self.edited & set(mirror.store.ids())
            assert mirror.differences(loud | edited) == {}
        done = mirror.full_sync(overlap=NO_OVERLAP, confirm_deletions=True, reverify_calls=50)
        assert mirror.differences() == {}
        assert done.settled.certificate.shown, done.settled.certificate.sentence
        assert not mirror.deleted() & set(mirror.rows())
        mirror.close()
        mirror.sandbox.stop()


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
            " raw_rms_pages, sync_faults, sync_progress RESTART IDENTITY CASCADE"
        )


def sequences_of(mirror_of: Callable[..., Mirror], database: Database) -> type[Sequences]:
    """The sequences, on that database."""
    Sequences.mirror_of = staticmethod(mirror_of)
    Sequences.database = database
    return Sequences


@pytest.mark.timeout(0)
def test_after_any_sequence_one_quiet_full_sync_makes_the_window_equal_to_the_api(
    mirror_of: Callable[..., Mirror], database: Database
) -> None:
    """And before it, one quiet incremental sync leaves nothing missing but deletions."""
    run_state_machine_as_test(sequences_of(mirror_of, database))
