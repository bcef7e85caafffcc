"""What the proof of completeness costs, in calls of the API.

    python benchmarks/proof.py [--rows 20000] [--page 25] [--server embedded]

A full sync of the account, then incremental syncs that end with a proof: a quiet one, one after
five edits, and one each after a deletion and after a record that came without an `updated_at`.
The sandbox runs in this process, so that it can be changed in between.
"""

import argparse
import contextlib
import math
from collections.abc import Callable
from datetime import datetime

import ground
from pydantic import SecretStr

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import Lane, ProcessBudget
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store, Switches
from rms_pipeline.sync.doubts import merge_walk
from rms_pipeline.sync.landing import land_changes, land_window
from rms_pipeline.sync.prove import begin_proof, finish_proof
from rms_pipeline.sync.settling import settle_full_walk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--page", type=int, default=25)
    parser.add_argument("--server", default="embedded")
    options = parser.parse_args()
    store = Store(options.rows)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(ground.a_server(options.server))
        api = stack.enter_context(
            SandboxServer(store, switches=Switches(max_per_page=options.page))
        )
        database = ground.database_at(stack.enter_context(ground.new_database(url)))
        migrate(database)
        ground.headline(f"The proof among {options.rows:,} opportunities", url)
        proving = Proving(database, api)
        records, calls = proving.full()
        costs = [("full sync", "", calls)]
        ids = store.ids()
        changes: dict[str, Callable[[], object]] = {
            "quiet": lambda: None,
            "5 edits": lambda: [store.edit(i, {"subject": "Edited"}) for i in ids[100:105]],
            "1 deletion": lambda: store.delete(proving.some_dated(len(ids) // 3)),
            "1 silent creation": lambda: store.create(
                {**proving.dates_of(len(ids) // 2), "updated_at": None}
            ),
        }
        for name, change in changes.items():
            change()
            proof, spent = proving.incremental(name)
            costs.append((f"incremental sync, {name}", proof.sentence, spent))
    ground.table(["sync", "it says", "API calls"], costs)
    pages = -(-records // options.page)
    asked = 2 * math.ceil(math.log2(records)) + 6
    _, quiet, edits, deletion, creation = (spent for _, _, spent in costs)
    ground.judge(
        [
            ground.Asked("calls of a full sync besides its pages", calls - pages, most=8),
            ground.Asked("calls of a quiet incremental sync", quiet, most=4),
            ground.Asked("calls after 5 edits", edits, most=9),
            ground.Asked("calls to notice a deletion", deletion, most=asked),
            ground.Asked("calls to notice a silent creation", creation, most=asked),
        ]
    )


class Proving:
    """Syncs of one account as the assets run them."""

    def __init__(self, database: Database, api: SandboxServer) -> None:
        self._database, self._api = database, api
        self._since: list[datetime] = []
        now = database.clock()()
        self._window = Window.around(now, days_back=30, days_ahead=365)
        self._client = CurrentRmsClient(
            collection=OPPORTUNITIES,
            base_url=api.url,
            subdomain=SANDBOX_SUBDOMAIN,
            api_key=SecretStr(SANDBOX_API_KEY),
            budget=ProcessBudget(0),
            now=database.clock(),
        )

    def full(self) -> tuple[int, int]:
        """Records, and calls."""
        landed = land_window(self._database, self._client, self._window, "full")
        self._since = [landed.watermark]
        walk = self._walk(landed.walk)
        merge_walk(self._database, self._client, walk, "full", lane=Lane.WALK)
        settle_full_walk(self._database, self._client, walk, "full")
        return landed.distinct_records, self._client.counts.calls

    def incremental(self, run: str) -> tuple[Proof, int]:
        """The proof, and all calls."""
        before = self._client.counts.calls
        begun = begin_proof(self._database, self._client, run)
        assert begun is not None
        landed = land_changes(self._database, self._client, self._since, run)
        self._since.insert(0, landed.watermark)
        walk = self._walk(landed.walk)
        merged = merge_walk(self._database, self._client, walk, run, lane=Lane.INCREMENTAL)
        proof, _ = finish_proof(self._database, self._client, begun, walk, merged.result, run)
        with self._database.session() as connection:
            walks.settle_walk(connection, walk.id)
        return proof, self._client.counts.calls - before

    def some_dated(self, place: int) -> int:
        """An opportunity of the window, with dates, from `place` on."""
        for id_ in self._api.store.ids()[place:]:
            record = self._api.store.get(id_, ()) or {}
            if record["starts_at"] and record["ends_at"]:
                return id_
        raise ValueError(f"none has dates from {place} on")

    def dates_of(self, place: int) -> dict[str, str]:
        record = self._api.store.get(self.some_dated(place), ()) or {}
        return {name: record[name] for name in ("starts_at", "ends_at")}

    def _walk(self, id_: int) -> walks.StoredWalk:
        with self._database.session() as connection:
            walk = walks.find_walk(connection, id_)
        assert walk is not None
        return walk


if __name__ == "__main__":
    main()
