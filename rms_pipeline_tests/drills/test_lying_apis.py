"""APIs that lie in up to three ways at once, of each collection, while they change: what is called
complete is, nothing goes that is there, and no sync ends otherwise than with an error of ours.

The API, and what it holds, is of `lying_api`. What is compared here is its records and the rows.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from rms_pipeline.collections.base import Collection as Mirrored
from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.mirror.walks import watermarks
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.core import full_sync, proved_sync
from rms_pipeline_tests.drills.conftest import Tell
from rms_pipeline_tests.drills.lying_api import World, moment_of, new_world, served, some_lies
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.test_any_sequence import empty

# One of the later ones found a certificate of counts alone, where the full sync's proof had failed:
# one that is counted and never sent stood for a row that was gone.
SEEDS, LONG = (*range(9), 25), range(9, 400)
AT_ONCE = Patience(connect=5, read=5, answer=10, attempts=4, throttled=3, backoff=0.001)
MOST_CALLS = 600
# Lists hide some records, so that a proof by lists cannot know of them.
HIDING = {"lag", "unlisted", "the last one lacks", "shifted pages"}


@dataclass
class Draw:
    """A mirror of `world`. `said` is what was done, for whoever looks for a fault."""

    world: World
    database: Database
    client: CurrentRmsClient
    collection: Mirrored
    window: Window | None
    said: list[str] = field(default_factory=list)

    def sync(self, kind: str) -> Proof | None:
        run = f"run {len(self.said)}"
        if kind == "full":
            proof = full_sync(self.database, self.client, self.window, run).settled.certificate
            if proof.shown and not self.world.moving:
                self.world.silent.clear()
            return proof
        if kind == "refresh":
            known = sorted(self.world.records.keys() | self.world.gone.keys())
            refresh(self.database, self.client, self.world.dice.sample(known, len(known) // 9), run)
            return None
        with self.database.session() as connection:
            starts = watermarks(connection, self.collection)
        return proved_sync(self.database, self.client, starts, run)[2] if starts else None

    def demand_truth(self, proof: Proof | None) -> None:
        """What was deleted is gone; what was certified is so, but for what the proof itself names
        and what no list shows."""
        name, world = self.collection.name, self.world
        rows = dict(query(self.database, f"SELECT id, data FROM {name}"))
        deleted = {i for (i,) in query(self.database, f"SELECT id FROM {self.collection.deleted}")}
        every = world.lies.get("not found singly")
        there = {i for i in world.records if not (every and i % every == 0)}
        assert not deleted & there - world.silent, self.said
        if proof is None or not proof.shown or "lag" in world.lies:
            return
        apart = {*proof.left, *proof.unreadable} | world.silent
        records = {i: r for i, r in world.records.items() if self._is_covered(r, proof)}
        held = {i for i, data in rows.items() if self._is_covered(data, proof)}
        missing = self._to_be_had(records.keys() - held - apart)
        assert len(missing) <= proof.unstorable, (missing, proof.sentence, self.said)
        surplus = held - records.keys() - apart
        # One that began to be listed twice, which no count has shown yet, may stand for another.
        every = world.lies.get("listed twice")
        twice = sum(1 for i in records if every and i % every == 0) - proof.repeated
        assert len(surplus) <= max(twice, 0), (surplus, proof.sentence, self.said)
        stale = {i for i in held & records.keys() - apart if rows[i] != records[i]}
        assert not stale, (stale, proof.sentence, self.said)

    def _is_covered(self, record: Any, proof: Proof) -> bool:
        if proof.window is None:
            return True
        starts, ends = moment_of(record["starts_at"]), moment_of(record["ends_at"])
        if starts is None or ends is None:
            return proof.covers_undated and not proof.earlier
        return ends >= proof.window[0] and starts <= proof.window[1]

    def _to_be_had(self, ids: Collection[int]) -> set[int]:
        lies = self.world.lies
        hidden = [lies[lie] for lie in ("unlisted", "counted and never sent") if lie in lies]
        return {i for i in ids if all(i % every for every in hidden)}


def run(draw: Draw, counted: Counter[str]) -> None:
    world = draw.world
    dice, lies = world.dice, some_lies(world.dice)
    # Half of them lie from the first sync on.
    world.lies = lies if dice.random() < 0.5 else {}
    draw.said.append(f"{lies}, at first {world.lies}, {len(world.records)} records")
    for number in range(dice.choice([2, 3, 4])):
        world.moving = dice.random() < 0.3
        kind = dice.choice(["full", "incremental", "incremental", "refresh"]) if number else "full"
        before, proof = world.asked, None
        try:
            proof = draw.sync(kind)
            counted["shown" if proof is not None and proof.shown else "not shown"] += 1
        except CurrentRmsError as error:
            counted["errors"] += 1
            draw.said.append(str(error)[:150])
        calls = world.asked - before
        draw.said.append(f"{kind}, {world.moving}, {calls}: {proof and proof.sentence}")
        assert calls <= MOST_CALLS, draw.said
        if not world.moving:
            draw.demand_truth(proof)
        world.moving, world.lies = False, lies
        for _ in range(dice.choice([0, 1, 2, 5])):
            world.change()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("collection", [MEMBERS, INVOICES, OPPORTUNITIES], ids=lambda c: c.name)
def test_whatever_an_api_says_what_is_called_complete_is_and_nothing_goes_that_is_there(
    emptied: Database,
    client_for: Callable[..., CurrentRmsClient],
    collection: Mirrored,
    long: bool,
    tell: Tell,
) -> None:
    counted: Counter[str] = Counter()
    seeds = LONG if long else SEEDS
    window = None
    if collection.has_window:
        window = Window.around(datetime.now(UTC), days_back=30, days_ahead=365)
    for seed in seeds:
        empty(emptied)
        query(emptied, f"TRUNCATE {collection.name}, {collection.deleted}, {collection.versions}"
                       " CASCADE")  # fmt: skip
        world = new_world(collection.name, collection.single, seed)
        with (
            served(world) as address,
            client_for(address, collection=collection, patience=AT_ONCE) as client,
        ):
            client.now = emptied.clock()
            draw = Draw(world, emptied, client, collection, window, [f"{collection.name}, {seed}"])
            run(draw, counted)
    tell(f"lying APIs of {collection.name}: {len(seeds)} draws, {dict(counted)}")
    assert counted["shown"] >= len(seeds) // 2
