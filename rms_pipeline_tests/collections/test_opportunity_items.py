"""Items are read opportunity by opportunity: those due, whole, within a bound of calls."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.collections.opportunity_items import OPPORTUNITY_ITEMS
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.history import has_full_sync, watermarks
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.sync.landing import LandedWalk
from rms_pipeline.sync.parts import StoredParts, land_parts, store_parts
from rms_pipeline_tests.core import full_sync, incremental_sync
from rms_pipeline_tests.rows import query

MakeClient = Callable[..., CurrentRmsClient]
DAY = timedelta(days=1)
# The first so many start within 14 days, or are out: the first of them since four days.
SOON = 6
LISTS = re.compile(r"/opportunities/(\d+)/opportunity_items\?")


@dataclass
class Account:
    """A small account, mirrored: some opportunities soon, some later, some that came to nothing."""

    database: Database
    sandbox: SandboxServer
    opportunities: CurrentRmsClient
    items: CurrentRmsClient
    runs: int = 0

    @property
    def soon(self) -> list[int]:
        return self.store.ids()[:SOON]

    @property
    def store(self) -> Store:
        return self.sandbox.store

    def sync(self, *, nightly: bool = False, calls: int = 500, **options: Any) -> "Synced":
        """Of opportunities, and of their items after that."""
        self.runs += 1
        if self.runs == 1 or nightly:
            full_sync(self.database, self.opportunities, window(), f"run {self.runs}")
        else:
            with self.database.session() as connection:
                since = watermarks(connection, OPPORTUNITIES)
            incremental_sync(self.database, self.opportunities, since, f"run {self.runs}")
        return self.sync_items(nightly=nightly, calls=calls, **options)

    def sync_items(
        self, *, nightly: bool = False, calls: int = 500, confirm: bool = False, **options: Any
    ) -> "Synced":
        self.sandbox.requests.clear()
        self.runs += 1
        run = f"run {self.runs}"
        landed = land_parts(self.database, self.items, run, nightly=nightly, calls=calls, **options)
        with self.database.session() as connection:
            walk = walks.find_walk(connection, landed.walk)
        assert walk is not None
        stored = store_parts(self.database, self.items, walk, run, confirm_deletions=confirm)
        asked = [int(m[1]) for _, path, _ in self.sandbox.requests if (m := LISTS.search(path))]
        return Synced(landed, stored, asked)

    def mirrored(self, *parents: int) -> dict[int, dict[str, Any]]:
        of = "" if not parents else " WHERE opportunity_id = ANY(%s)"
        values = [list(parents)] if parents else []
        return dict(query(self.database, f"SELECT id, data FROM opportunity_items{of}", *values))

    def there(self, *parents: int) -> dict[int, dict[str, Any]]:
        return {item["id"]: item for parent in parents for item in self.store.items(parent)}

    def plant(self, id_: int, days: float, length: float = 2.0, **fields: Any) -> None:
        """Has an opportunity start in so many days, without a word to anybody."""
        record = self.store.get(id_, ()) or {}
        starts = self.store.now() + days * DAY
        schedule = {name: None for name in record if name.endswith(("_starts_at", "_ends_at"))}
        self.store.put(
            id_,
            record
            | schedule
            | {"starts_at": written(starts), "ends_at": written(starts + length * DAY)}
            | {"open_ended_rental": False, "status": 5, "status_name": "Reserved"}
            | fields,
        )


@dataclass(frozen=True)
class Synced:
    """`asked` are the opportunities whose own lists were asked for, call by call."""

    landed: LandedWalk
    stored: StoredParts
    asked: list[int]

    @property
    def sentence(self) -> str:
        assert self.stored.proof is not None
        return self.stored.proof.sentence

    @property
    def shown(self) -> bool:
        assert self.stored.proof is not None
        return bool(self.stored.proof.shown)


def written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def window() -> Window:
    return Window.around(datetime.now(UTC), days_back=60, days_ahead=700)


@pytest.fixture
def account(emptied: Database, client_for: MakeClient) -> Iterator[Account]:
    with SandboxServer(Store(30)) as sandbox:
        client, items = (
            client_for(sandbox.url, collection=c) for c in (OPPORTUNITIES, OPPORTUNITY_ITEMS)
        )
        client.now = items.now = emptied.clock()
        account = Account(emptied, sandbox, client, items)
        ids = sandbox.store.ids()
        for id_ in ids:
            account.plant(id_, 40)
        for place, id_ in enumerate(ids[:SOON]):
            account.plant(id_, 3 * place - 4, 5)
        yield account


def test_a_full_sync_lists_those_that_start_or_are_out_soon_and_nobody_else(
    account: Account,
) -> None:
    first, *_ = others = account.store.ids()[SOON:]
    account.plant(first, 3, status=60, status_name="Lost")
    account.plant(others[1], -20, 5)
    account.plant(others[2], 13, deliver_starts_at=None, open_ended_rental=True)
    account.plant(others[3], 16, deliver_starts_at=written(account.store.now() + 13 * DAY))
    done = account.sync()
    soon = [*account.store.ids()[:SOON], others[2], others[3]]
    assert sorted(done.asked) == sorted(soon)
    assert account.mirrored() == account.there(*soon)
    assert done.shown, done.sentence
    assert f"complete for {len(soon)} opportunities as of" in done.sentence
    assert query(account.database, "SELECT count(*) FROM sync_faults") == [(0,)]
    with account.database.session() as connection:
        assert standing(connection, OPPORTUNITY_ITEMS).state == "green"
        assert has_full_sync(connection, OPPORTUNITY_ITEMS)
    # Nothing changed, so nothing is asked for.
    quiet = account.sync()
    assert quiet.asked == []
    assert quiet.shown
