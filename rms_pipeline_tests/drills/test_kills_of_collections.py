"""Members, invoices and items beside opportunities, each kind of sync of them killed at random
moments. After the next incremental one the mirror has to be the account, and every history whole.
"""

import random
import time
from typing import Any

import pytest

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.deletions import confirm_deletions
from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.drills.conftest import Tell
from rms_pipeline_tests.drills.test_faults import OPERATION, Operation, World
from rms_pipeline_tests.processes import SECRET_KEY, command
from rms_pipeline_tests.rows import query

# The short form kills the second of them once.
OPERATIONS = {
    "full": Operation(("sync", "initial")),
    "incremental": Operation(("sync", "incremental")),
    "reconciliation": Operation(("reconciliation",), module=OPERATION),
    "rebuild": Operation(("rebuild",)),
}
SINGLE = ("opportunity", "member", "invoice", "opportunity_item")
# Of one id no two versions overlap, and the open one began when the last before it had ended.
OVERLAPPING = (
    "SELECT id, valid_from, valid_to FROM (SELECT *, lead(valid_from) OVER (PARTITION BY id"
    " ORDER BY valid_from) AS next FROM (SELECT {0}_id AS id, valid_from, valid_to FROM {0}_past"
    " UNION ALL SELECT id, valid_from, 'infinity' FROM {0}_versions) every) v"
    " WHERE next < valid_to LIMIT 3"
)
WITH_ITEMS = "SELECT DISTINCT opportunity_id FROM opportunity_items ORDER BY 1"


@pytest.mark.timeout(7_200)
def test_a_sync_of_all_collections_killed_at_random_moments_is_completed_by_the_next(
    empty_url: str, tell: Tell, long: bool
) -> None:
    server = SandboxServer(Store(90), api_key=SECRET_KEY, switches=Switches(max_per_page=10))
    with server as sandbox:
        world = World(empty_url, sandbox, random.Random(16))
        world.environment["RMS_COLLECTIONS"] = ",".join(c.name for c in COLLECTIONS)
        assert command("sync", "initial", environment=world.environment).returncode == 0
        # It reads the items of what starts soon.
        lasts = OPERATIONS["reconciliation"].run(world)
        assert query(database_at(world.url), WITH_ITEMS)
        for name in OPERATIONS if long else ("incremental",):
            killed = 0
            for _ in range(30 if long else 1):
                people_work(world)
                with OPERATIONS[name].start(world) as process:
                    time.sleep(world.chance.uniform(0.2, lasts))
                    killed += process.poll() is None
                    process.kill()
                done = command("sync", "incremental", environment=world.environment)
                assert done.returncode == 0, done.stderr
                assert differences(world) == {}, done.stdout
            tell(f"all collections, {name}: killed {killed} times in {lasts:.1f} s, equal")


def people_work(world: World) -> None:
    # Whoever deletes so many in a day confirms them: from some twenty on they would be held back.
    with database_at(world.url).session() as connection:
        for collection in COLLECTIONS:
            confirm_deletions(connection, collection)
    world.edit(10)
    store, chance = world.store, world.chance
    # Not those that an opportunity or an invoice shows as well: it would change without a word.
    shown = {
        record.get(name)
        for record in (*store.truth(), *store.invoices.all())
        for name in ("member_id", "venue_id", "owned_by", "billing_address_id")
    }
    others = [m["id"] for m in store.members.all() if m["id"] not in shown]
    gone, *edited = chance.sample(others, 12)
    for id_ in edited:
        store.members.edit(id_, {"name": f"Edit {chance.random()}"})
    store.members.create({"name": "New"})
    store.members.delete(gone)
    # From then on they follow no opportunity, which would be without a word as well.
    for invoice in store.invoices.all():
        store.invoices.edit(invoice["id"], {"subject": f"Edit {chance.random()}"})
    parents = [id_ for (id_,) in query(database_at(world.url), WITH_ITEMS)]
    for id_ in chance.sample(parents, min(len(parents), 8)):
        if items := store.items(id_):
            store.edit_item(id_, chance.choice(items)["id"], {"name": f"{chance.random()}"})
        store.create_item(id_, {"name": "New", "parent_opportunity_item_id": None})


def differences(world: World) -> dict[str, Any]:
    """By what it is in: ids of records that are not as they are in the account, and of versions
    that overlap."""
    store = world.store
    parents = [id_ for (id_,) in query(database_at(world.url), WITH_ITEMS)]
    living = set(store.ids()) & set(parents)
    truth: dict[str, list[dict[str, Any]]] = {
        "members": store.members.all(),
        "invoices": store.invoices.all(),
        "opportunity_items": [item for id_ in living for item in store.items(id_)],
    }
    found: dict[str, Any] = {}
    for name, records in truth.items():
        there = {record["id"]: record for record in records}
        mirrored = dict(query(database_at(world.url), f"SELECT id, data FROM {name}"))
        if odd := [i for i in {*there, *mirrored} if there.get(i) != mirrored.get(i)]:
            found[name] = odd
    for single in SINGLE:
        if odd := query(database_at(world.url), OVERLAPPING.format(single)):
            found[f"history of {single}"] = odd
    if wrong := world.differences():
        found["opportunities"] = wrong
    return found
