"""Something goes wrong with the database at any one statement of an operation.

Whatever it is, nothing is said to be complete that is not, and the same operation, run once more in
peace, makes everything right: rows, history, changes, queue.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import psycopg2
import pytest
from sqlalchemy.exc import SQLAlchemyError

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import DatabaseError
from rms_pipeline.mirror.deletions import confirm_deletions
from rms_pipeline.mirror.housekeeping import purge
from rms_pipeline.mirror.promoted import (
    Promoted,
    PromotionError,
    demote,
    promote,
    promoted_fields,
)
from rms_pipeline.mirror.proofs import Proof, newest_proof
from rms_pipeline.mirror.schema import demand_whole, migrate
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync.queued import work_off
from rms_pipeline.sync.rebuilding import rebuild
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.conftest import database_at, new_database
from rms_pipeline_tests.drills.conftest import Tell
from rms_pipeline_tests.drills.statements import (
    CUT,
    TROUBLES,
    UNHEARD,
    Trouble,
    troubled,
)
from rms_pipeline_tests.mirror.releases import load_release
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

ROWS = 14
FIELD = Promoted("event_type", "event_type", "text")


@dataclass
class World:
    mirror: Mirror
    chance: random.Random
    edits: int = 0

    def change(self) -> dict[int, str]:
        """Edit three, create one, delete one. Returns the new subjects."""
        ids = self.chance.sample(ids_in(self.mirror.store, self.mirror.window), 4)
        told = {}
        for id_ in ids[:3]:
            self.edits += 1
            told[id_] = f"Edit {self.edits}"
            self.mirror.store.edit(id_, {"subject": told[id_]})
        model = ids[0]
        dates = {k: self.mirror.store.value(model, k) for k in ("starts_at", "ends_at")}
        self.mirror.store.create({"subject": f"New {self.edits}", **dates})
        self.mirror.store.delete(ids[3])
        return told

    def count(self, name: str, kind: str) -> int:
        """How many statements the operation has that can meet this kind of trouble."""
        operate, before = OPERATIONS[name]
        before(self)
        with troubled(Trouble(self.mirror.database, kind, 0)) as counted:
            operate(self)
        return counted.count

    def trouble(self, name: str, kind: str, at: int) -> str:
        """Operate with trouble, then in peace. Returns how the troubled one ended."""
        operate, before = OPERATIONS[name]
        mirror, ended = self.mirror, "completed"
        with mirror.database.session() as connection:
            # Each time one is deleted. In the long form that is soon more than goes in a day.
            confirm_deletions(connection, OPPORTUNITIES)
        before(self)
        last = self.newest()
        with troubled(Trouble(mirror.database, kind, at)) as trouble:
            try:
                operate(self)
            # A lock that was waited for in vain is told of by the command itself.
            except (psycopg2.Error, DatabaseError, PromotionError):
                ended = "failed"
        said = f"{kind} at {at}: {trouble.met}"
        proof = self.newest()
        if proof is not None and proof != last and proof.shown:
            assert mirror.differences() == {}, said
        operate(self)
        query(
            mirror.database,
            "UPDATE webhook_events SET claimed_until = NULL, next_attempt_at = clock_timestamp()",
        )
        _queue(self)
        proof = mirror.proved_sync()
        assert proof is not None
        assert proof.shown, (said, proof.sentence)
        assert mirror.differences() == {}, said
        assert _inconsistent(mirror) == [], said
        return ended

    def newest(self) -> Proof | None:
        with self.mirror.database.session() as connection:
            return newest_proof(connection, OPPORTUNITIES)

    def tell(self) -> None:
        """Webhooks tell of every opportunity, also of those that are gone."""
        ids = [*self.mirror.store.ids(), *self.mirror.rows()]
        query(
            self.mirror.database,
            "INSERT INTO webhook_events (subject_type, opportunity_id, action_type)"
            " SELECT 'Opportunity', i, NULL FROM unnest(%s::bigint[]) AS i",
            sorted(set(ids)),
        )


def _full(world: World) -> None:
    world.mirror.full_sync(fresh_for=timedelta(hours=1), confirm_deletions=True)


def _incremental(world: World) -> None:
    world.mirror.proved_sync()


def _refresh(world: World) -> None:
    ids = {*world.mirror.store.ids(), *world.mirror.rows()}
    refresh(world.mirror.database, world.mirror.client(), ids, world.mirror.run())


def _queue(world: World) -> None:
    database = world.mirror.database
    with database.session() as connection:
        work_off(database, connection, world.mirror.client(), world.mirror.run())


def _rebuild(world: World) -> None:
    rebuild(world.mirror.database, OPPORTUNITIES, world.mirror.run())


def _housekeeping(world: World) -> None:
    with world.mirror.database.session() as connection:
        purge(connection, faults_days=0, webhook_events_days=0, walks_days=0)


def _promotion(world: World) -> None:
    with world.mirror.database.session() as connection:
        with connection.cursor() as cursor:
            there = promoted_fields(cursor, OPPORTUNITIES)
        if there:
            demote(connection, OPPORTUNITIES, there[0].key)
        else:
            promote(connection, OPPORTUNITIES, FIELD)


def _damage(world: World) -> None:
    query(world.mirror.database, "UPDATE opportunities SET name = 'damaged' WHERE id % 3 = 0")


OPERATIONS: dict[str, tuple[Callable[[World], None], Callable[[World], object]]] = {
    "full": (_full, World.change),
    "incremental": (_incremental, World.change),
    "refresh": (_refresh, World.change),
    "queue": (_queue, World.tell),
    "rebuild": (_rebuild, _damage),
    "housekeeping": (_housekeeping, World.tell),
    "promotion": (_promotion, World.change),
}


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_happens_at_a_statement_the_next_one_makes_right(
    mirror_of: Callable[..., Mirror], name: str, tell: Tell, long: bool
) -> None:
    """Each trouble at some statements; at all of them, or fifty, in the long form."""
    mirror = mirror_of(Store(ROWS), switches=Switches(max_per_page=5))
    world = World(mirror, random.Random(name))
    mirror.full_sync()
    counts = {kind: world.count(name, kind) for kind in (CUT, UNHEARD)}
    done = Counter[str]()
    for kind in TROUBLES:
        count = counts.get(kind, counts[CUT])
        times = min(50 if long else 1, count)
        for at in sorted(world.chance.sample(range(1, count + 1), times)):
            done[world.trouble(name, kind, at)] += 1
    tell(f"{name}: trouble at one of {counts[CUT]} statements, {dict(done)}, equal each time")


@pytest.mark.timeout(3_600)
def test_an_upgrade_with_trouble_at_a_statement_is_completed_by_the_next(
    embedded_url: str, tell: Tell, long: bool
) -> None:
    kept = "SELECT count(*), count(data), max(updated_at_rms) FROM opportunities"
    chance, count = random.Random(3), 0
    truth: list[tuple[object, ...]] = []
    ended = Counter[str]()
    for number in range(1 + (60 if long else 4)):
        with new_database(embedded_url) as url:
            load_release(url, "0018")
            database = database_at(url)
            kind = chance.choice(TROUBLES) if number else CUT
            trouble = Trouble(database, kind, chance.randint(1, count) if number else 0)
            with troubled(trouble):
                try:
                    migrate(database)
                except (SQLAlchemyError, psycopg2.Error, DatabaseError):
                    ended["failed"] += 1
                else:
                    ended["completed"] += 1
            migrate(database)
            if not number:
                count, truth = trouble.count, query(database, kept)
            assert query(database, kept) == truth, (kind, trouble.at, trouble.met)
            with database.session() as connection:
                demand_whole(connection)
    tell(f"migrate: trouble at one of {count} statements, {dict(ended)}, rows there each time")


def _inconsistent(mirror: Mirror) -> list[tuple[object, ...]]:
    """What of the history, the side tables and the queue contradicts the rows."""
    return query(
        mirror.database,
        """
        SELECT 'row without version', id FROM opportunities o WHERE NOT EXISTS
            (SELECT FROM opportunity_versions v WHERE v.id = o.id AND NOT v.deleted)
        UNION ALL
        SELECT 'version without row', id FROM opportunity_versions v WHERE NOT deleted
            AND asked_at IS NOT NULL AND NOT EXISTS (SELECT FROM opportunities o WHERE o.id = v.id)
        UNION ALL
        SELECT 'deleted and live', id FROM opportunities JOIN deleted_opportunities USING (id)
        UNION ALL
        SELECT 'words', id FROM opportunities o WHERE NOT EXISTS
            (SELECT FROM opportunity_words w WHERE w.id = o.id)
        UNION ALL
        SELECT 'waits', opportunity_id FROM webhook_events WHERE processed_at IS NULL
        """,
    )
