"""A mirror beside its account, and the check whether they are equal."""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.terms import Terms
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.sandbox.records import Records
from rms_pipeline.sync.landing import OVERLAP, LandedWalk
from rms_pipeline.sync.storing import MergedWalk
from rms_pipeline_tests.copies import put_back, rows_in
from rms_pipeline_tests.core import FullSync, full_sync, incremental_sync, proved_sync
from rms_pipeline_tests.test_sync import expected, ids_in, rows, written

settings.register_profile(
    "sequences",
    # The drills try a hundred, or thousands.
    max_examples=25,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
settings.load_profile("sequences")

MakeClient = Callable[..., CurrentRmsClient]


class Cut(random.Random):
    """Cuts the list behind a row that is named."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def randrange(self, *_: object, **__: object) -> int:
        return self.rank


@dataclass
class Mirror:
    """A database, an account served over HTTP, and the history of syncs between them."""

    database: Database
    sandbox: SandboxServer
    client_for: MakeClient
    watermarks: list[datetime] = field(default_factory=list)
    runs: int = 0
    terms: Terms = field(default_factory=Terms)
    _client: CurrentRmsClient | None = None
    window: Window = field(
        default_factory=lambda: Window.around(datetime.now(UTC), days_back=30, days_ahead=365)
    )

    @property
    def store(self) -> Store:
        return self.sandbox.store

    def client(self) -> CurrentRmsClient:
        """Return a new client with counts of its own. The client before it is closed."""
        self.close()
        self._client = self.client_for(self.sandbox.url)
        self._client.now = self.database.clock()
        # What one client learned the next one knows, like terms that are stored.
        self._client.terms = self.terms
        return self._client

    def another_client(self) -> CurrentRmsClient:
        """Return one more client beside the last one."""
        client = self.client_for(self.sandbox.url)
        client.now = self.database.clock()
        return client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def run(self) -> str:
        self.runs += 1
        return f"run {self.runs}"

    def full_sync(self, **options: Any) -> FullSync:
        done = full_sync(self.database, self.client(), self.window, self.run(), **options)
        if not self.watermarks:
            self.watermarks = [done.landed.watermark]
        return done

    def incremental_sync(self, overlap: timedelta = OVERLAP) -> tuple[LandedWalk, MergedWalk]:
        done = incremental_sync(
            self.database, self.client(), self.watermarks, self.run(), overlap=overlap
        )
        self.watermarks.insert(0, done[0].watermark)
        return done

    def proved_sync(
        self, overlap: timedelta = OVERLAP, dice: random.Random | None = None
    ) -> Proof | None:
        """Run an incremental sync that ends with a proof, if there is something to prove."""
        landed, _, proof = proved_sync(
            self.database, self.client(), self.watermarks, self.run(), overlap=overlap, dice=dice
        )
        self.watermarks.insert(0, landed.watermark)
        return proof

    def lists_then(self, moment: datetime) -> Records:
        """Return what the API's lists held at `moment`, by the clock of the last client."""
        assert self._client is not None
        seconds = (self._client.now() - moment).total_seconds()
        return self.store.ago(seconds + self.sandbox.switches.lists_lag)

    def rows(self) -> dict[int, dict[str, Any]]:
        return rows(self.database)

    def deleted(self) -> set[int]:
        with self.database.session() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM deleted_opportunities")
            return {row[0] for row in cursor.fetchall()}

    def differences(
        self, ids: set[int] | None = None, but_for: Callable[[Any], Any] = lambda data: data
    ) -> dict[int, str]:
        """Return how the window differs from the API, or only `ids`, inside or outside the window.

        `but_for` removes from a record what must not be compared.
        """
        found, problems = self.rows(), {}
        wanted = set(ids_in(self.store, self.window))
        for id_ in wanted if ids is None else ids:
            if id_ not in found:
                problems[id_] = "missing"
                continue
            record = self.store.get(id_)
            assert record is not None
            row = found[id_]
            for column, value in row.items():
                row[column] = written(value)
            if row["hire"] is not None:
                row["hire"] = [written(row["hire"].lower), written(row["hire"].upper)]
            true = expected(record)
            row["data"], true["data"] = but_for(row["data"]), but_for(true["data"])
            wrong = [c for c, value in true.items() if row[c] != value]
            if wrong:
                problems[id_] = f"differs in {', '.join(wrong)}"
        for id_, row in found.items():
            if ids is None and id_ not in wanted and self.store.get(id_) is None:
                problems[id_] = "gone from the API"
            elif id_ not in wanted and ids is None and self._in_window(row):
                problems[id_] = "no longer in the window"
        return problems

    def _in_window(self, row: dict[str, Any]) -> bool:
        start, end = row["starts_at"], row["ends_at"]
        if isinstance(start, str):
            start = datetime.fromisoformat(start)
        if isinstance(end, str):
            end = datetime.fromisoformat(end)
        return self.window.contains(start, end)


@contextlib.contextmanager
def mirrors_in(database: Database, client_for: MakeClient) -> Iterator[Callable[..., Mirror]]:
    """Makes mirrors of stores in `database`, each behind a sandbox of its own."""
    with contextlib.ExitStack() as servers:

        def make(store: Store, **options: Any) -> Mirror:
            server = servers.enter_context(SandboxServer(store, **options))
            return Mirror(database, server, client_for)

        yield make


@pytest.fixture(scope="module")
def rows_of_new(migrated: Database) -> dict[str, str]:
    """What the module's new database held in tables that `emptied` does not change, by table."""
    with migrated.session() as connection:
        return rows_in(connection, ("mirror_state", "statuses"))


@pytest.fixture
def mirror_of(
    rows_of_new: dict[str, str], emptied: Database, client_for: MakeClient
) -> Iterator[Callable[..., Mirror]]:
    """Makes a mirror of a store in the module's one database, which is as new."""
    with emptied.session() as connection:
        put_back(connection, rows_of_new)
    with mirrors_in(emptied, client_for) as make:
        yield make
