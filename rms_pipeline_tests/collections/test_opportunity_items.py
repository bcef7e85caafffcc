"""Items are read opportunity by opportunity: those due, whole, within a bound of calls."""

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from rms_pipeline.cli.sync import _refreshable
from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.collections.opportunity_items import OPPORTUNITY_ITEMS
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import ApiUnavailable, NotFound, Unauthorized
from rms_pipeline.current_rms.records import record_id
from rms_pipeline.current_rms.window import CHANGED_SINCE, Window
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import held_back
from rms_pipeline.mirror.housekeeping import purge
from rms_pipeline.mirror.parts import note_problems
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.walks import has_full_sync, watermarks
from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline.sandbox.api import items as sandbox_items
from rms_pipeline.sandbox.api import routes
from rms_pipeline.sandbox.api.answers import Answer, Request
from rms_pipeline.settings import SettingsError
from rms_pipeline.sync import parts as sync_parts
from rms_pipeline.sync.landing import LandedWalk
from rms_pipeline.sync.parts import StoredParts, land_parts, refresh_told, store_parts
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.sync.rebuilding import rebuild
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline.web.parts_lane import PartsLane
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.copies import read_all, write_all
from rms_pipeline_tests.core import full_sync, proved_sync
from rms_pipeline_tests.processes import wait_until
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
    soon: list[int]
    beginning: "Beginning"
    runs: int = 0

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
            proved_sync(self.database, self.opportunities, since, f"run {self.runs}")
        return self.sync_items(nightly=nightly, calls=calls, **options)

    def begin_mirrored(self) -> None:
        """As `sync` leaves an account that nobody has changed. It is made once, and its rows are
        kept.
        """
        assert self.runs == 0
        with self.database.session() as connection:
            if self.beginning.rows:
                write_all(connection, self.beginning.rows, self.beginning.sequences)
                self.runs = self.beginning.runs
                return
        self.sync()
        self.beginning.runs = self.runs
        with self.database.session() as connection:
            self.beginning.rows, self.beginning.sequences = read_all(connection)

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

    def store_items(self, landed: LandedWalk, run: str, *, confirm: bool = False) -> StoredParts:
        with self.database.session() as connection:
            walk = walks.find_walk(connection, landed.walk)
        assert walk is not None
        return store_parts(self.database, self.items, walk, run, confirm_deletions=confirm)

    def is_mirrored(self, *parents: int) -> bool:
        """Whether the rows of these are what the account has, and there are no others."""
        return self.mirrored() == self.there(*parents)

    def mirrored(self, *parents: int) -> dict[int, dict[str, Any]]:
        of = "" if not parents else " WHERE opportunity_id = ANY(%s)"
        values = [list(parents)] if parents else []
        return dict(query(self.database, f"SELECT id, data FROM opportunity_items{of}", *values))

    def there(self, *parents: int) -> dict[int, dict[str, Any]]:
        return {item["id"]: item for parent in parents for item in self.store.items(parent)}

    def plant(self, id_: int, days: float, length: float = 2.0, **fields: Any) -> None:
        """Has an opportunity start in so many days, without a word to anybody."""
        plant(self.store, id_, days, length, **fields)


def plant(store: Store, id_: int, days: float, length: float = 2.0, **fields: Any) -> None:
    record = store.get(id_, ()) or {}
    starts = store.now() + days * DAY
    schedule = {name: None for name in record if name.endswith(("_starts_at", "_ends_at"))}
    store.put(
        id_,
        record
        | schedule
        | {"starts_at": written(starts), "ends_at": written(starts + length * DAY)}
        | {"open_ended_rental": False, "status": 5, "status_name": "Reserved"}
        | fields,
    )


@dataclass
class Beginning:
    """What the accounts of these tests begin with: records by id, as of the day `today`, and what a
    sync stores of them.
    """

    today: datetime
    records: dict[int, dict[str, Any]]
    rows: dict[str, str] = field(default_factory=dict)
    sequences: list[tuple[str, int]] = field(default_factory=list)
    runs: int = 0


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


@pytest.fixture(scope="module")
def beginning() -> Beginning:
    store = Store(30)
    for id_ in store.ids():
        plant(store, id_, 40)
    for place, id_ in enumerate(store.ids()[:SOON]):
        plant(store, id_, 3 * place - 4, 5)
    return Beginning(store.today, {id_: store.get(id_, ()) or {} for id_ in store.ids()})


@pytest.fixture
def account(emptied: Database, client_for: MakeClient, beginning: Beginning) -> Iterator[Account]:
    store = Store(30, today=beginning.today)
    for id_, record in beginning.records.items():
        store.put(id_, record)
    with SandboxServer(store) as sandbox:
        client, items = (
            client_for(sandbox.url, collection=c) for c in (OPPORTUNITIES, OPPORTUNITY_ITEMS)
        )
        client.now = items.now = emptied.clock()
        yield Account(emptied, sandbox, client, items, store.ids()[:SOON], beginning)


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


def test_what_is_done_to_items_comes_with_the_change_of_their_opportunity(
    account: Account,
) -> None:
    account.begin_mirrored()
    one, other, *_ = account.soon
    gone, edited = (item["id"] for item in account.store.items(one)[-2:])
    account.store.edit_item(one, edited, {"name": "Renamed"})
    account.store.delete_item(one, gone)
    account.store.create_item(other, {"name": "New here"})
    done = account.sync()
    assert sorted(done.asked) == [one, other]
    assert account.is_mirrored(*account.soon)
    assert done.shown, done.sentence
    because = "SELECT id, deleted_because FROM deleted_opportunity_items"
    assert query(account.database, because) == [
        (gone, "what it is a part of was changed, and its whole list no longer shows it")
    ]
    # Each version of an item is kept, and that it went.
    history = (
        "SELECT name = 'Renamed', deleted FROM opportunity_item_history"
        " WHERE opportunity_item_id = %s ORDER BY valid_from"
    )
    assert query(account.database, history, edited) == [(False, False), (True, False)]
    assert query(account.database, history, gone) == [(False, False), (False, True)]
    # One that was listed within a minute of its change is listed once more, and then no more.
    assert sorted(account.sync().asked) == [one, other]


def test_an_opportunity_that_changes_is_listed_whenever_it_takes_place(account: Account) -> None:
    account.begin_mirrored()
    later, lost, *_ = account.store.ids()[SOON:]
    account.store.edit(later, {"subject": "Later"})
    account.store.edit(lost, {"status": 60, "subject": "Lost after all"})
    done = account.sync()
    assert sorted(done.asked) == [later, lost]
    assert account.is_mirrored(*account.soon, later, lost)
    assert f"complete for {SOON + 2} opportunities" in done.sentence


def test_what_moves_no_time_is_found_in_the_night(account: Account) -> None:
    account.begin_mirrored()
    one, other, *_ = account.soon
    edited, gone = account.store.items(one)[-1]["id"], account.store.items(other)[-1]["id"]
    account.store.edit_item(one, edited, {"quantity": "77.0"}, loud=False)
    account.store.delete_item(other, gone, loud=False)
    assert account.sync().asked == []
    done = account.sync(nightly=True)
    assert account.is_mirrored(*account.soon)
    assert done.shown, done.sentence
    assert query(account.database, "SELECT id FROM deleted_opportunity_items") == [(gone,)]


def test_items_go_with_their_opportunity_and_come_back_with_it(account: Account) -> None:
    account.begin_mirrored()
    gone, *left = account.soon
    record, there = account.store.get(gone, ()), account.there(gone)
    assert record is not None
    account.store.delete(gone)
    done = account.sync()
    assert account.is_mirrored(*left)
    assert done.shown, done.sentence
    assert query(
        account.database, "SELECT DISTINCT deleted_because FROM deleted_opportunity_items"
    ) == [("what it is a part of is gone",)]
    count = "SELECT count(*) FROM deleted_opportunity_items"
    assert query(account.database, count) == [(len(there),)]
    account.store.put(gone, record)
    refresh(account.database, account.opportunities, [gone], "it is back")
    account.sync_items()
    assert account.is_mirrored(*account.soon)
    assert query(account.database, count) == [(0,)]


def test_lists_of_opportunities_that_are_gone_for_long_are_forgotten_and_no_others(
    account: Account,
) -> None:
    account.begin_mirrored()
    gone, lately, held, absent, *left = account.soon
    with account.database.session() as connection:
        note_problems(connection, OPPORTUNITY_ITEMS, {absent: "Current RMS answers 404"})
    record = account.store.get(gone, ())
    assert record is not None
    for id_ in (gone, lately, held, absent):
        account.store.delete(id_)
    # By their ids: what a proof finds of four deletions at once is for its own tests.
    refresh(account.database, account.opportunities, [gone, lately, held, absent], "they are gone")
    account.sync_items()
    # A row of it is left, whatever left it.
    query(
        account.database,
        f"INSERT INTO opportunity_items (id, name, opportunity_id) SELECT 1, 'Left behind', {held}",
    )

    def age(column: str, table: str, days: int, *ids: int) -> None:
        key = "parent_id" if table == "part_lists" else "id"
        query(
            account.database,
            f"UPDATE {table} SET {column} = {column} - make_interval(days => {days})"
            f" WHERE {key} = ANY(%s)",
            list(ids),
        )

    def forgotten() -> int:
        with account.database.session() as connection:
            gone = purge(connection, faults_days=90, webhook_events_days=90, walks_days=365)
        return gone["part_lists"]

    def listed() -> set[int]:
        return {id_ for (id_,) in query(account.database, "SELECT parent_id FROM part_lists")}

    age("asked_at", "part_lists", 400, *account.soon)
    age("deleted_at", "deleted_opportunities", 400, gone, held, absent)
    # What could not be read was tried a short time ago.
    assert forgotten() == 1
    assert listed() == {lately, held, absent, *left}
    age("problem_at", "part_lists", 400, absent)
    assert forgotten() == 1
    assert listed() == {lately, held, *left}
    # One that comes back after all is listed as any other that begins soon.
    account.store.put(gone, record)
    refresh(account.database, account.opportunities, [gone], "it is back")
    query(account.database, "DELETE FROM opportunity_items WHERE id = 1")
    account.sync_items(nightly=True)
    assert account.is_mirrored(gone, *left)


@pytest.mark.parametrize(
    "status", some_in_drills([404, 410, 403, 422, 500], {404, 403, 500}.__contains__)
)
def test_a_list_that_cannot_be_read_costs_only_itself_and_is_named(
    account: Account, status: int
) -> None:
    account.begin_mirrored()
    before = account.mirrored()
    hidden, edited, *_ = account.soon
    account.sandbox.switches = replace(account.sandbox.switches, refused_items={hidden: status})
    for id_ in (hidden, edited):
        account.store.edit_item(id_, account.store.items(id_)[0]["id"], {"name": "Edited"})
    done = account.sync()
    assert not done.shown
    assert f"Left out: {hidden} (" in done.sentence
    assert str(hidden) in done.landed.notes[-1]
    assert account.mirrored(edited) == account.there(edited)
    assert account.mirrored(hidden) == {
        i: item for i, item in before.items() if item["opportunity_id"] == hidden
    }
    assert query(account.database, "SELECT count(*) FROM deleted_opportunity_items") == [(0,)]
    # It is not asked for over and over again, and once it can be read it is.
    assert hidden not in account.sync().asked
    account.sandbox.switches = replace(account.sandbox.switches, refused_items={})
    done = account.sync(nightly=True)
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


def test_where_no_list_is_given_the_sync_fails_and_nothing_is_taken_for_gone(
    account: Account,
) -> None:
    account.begin_mirrored()
    everybody = dict.fromkeys(account.store.ids(), 404)
    account.sandbox.switches = replace(account.sandbox.switches, refused_items=everybody)
    with pytest.raises(NotFound):
        account.sync_items(nightly=True)
    assert account.is_mirrored(*account.soon)
    account.sandbox.switches = replace(account.sandbox.switches, refused_items={})
    assert account.sync_items(nightly=True).shown


def test_opportunities_that_are_all_gone_cost_no_other_list_and_end_no_sync(
    account: Account,
) -> None:
    account.begin_mirrored()
    *gone, left = account.soon
    for id_ in gone:
        account.store.delete(id_)
    # Nothing has brought the deletions yet.
    account.plant(left, 13)
    done = account.sync_items(nightly=True)
    assert f"{len(gone)} could not be listed" in done.landed.notes[-1]
    assert left in done.asked
    assert account.mirrored(left) == account.there(left)


def test_an_api_that_goes_down_on_the_way_costs_nothing_that_came(account: Account) -> None:
    def fail(path: str) -> None:
        if LISTS.search(path) and len(account.sandbox.requests) > 2:
            account.sandbox.faults.probabilities = {"error_503": 1.0}

    account.sync()
    for id_ in account.soon:
        account.store.create_item(id_, {"name": "New"})
    account.sandbox.before_request = fail
    with pytest.raises(ApiUnavailable):
        account.sync_items(nightly=True)
    account.sandbox.before_request = None
    account.sandbox.faults.probabilities = {}
    with account.database.session() as connection:
        assert standing(connection, OPPORTUNITY_ITEMS).state == "amber"
    done = account.sync_items(nightly=True, fresh_for=timedelta(hours=1))
    assert 0 < len(done.asked) < SOON
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


SMALL_PAGES: list[dict[str, Any]] = [
    {},
    {"ignored": ("q[id_gt]",)},
    {"refused": ("q[id_gt]",)},
    {"honours_sort": False},
    {"honours_sort": False, "ignored": ("q[id_gt]",)},
    {"count_cap": 2},
    {"refused": ("filtermode",)},
    {"refused_includes": {"item_assets": 422}},
    {"refused_includes": {"item": 404}},
]


@pytest.mark.parametrize(
    "switches",
    some_in_drills(
        SMALL_PAGES,
        [SMALL_PAGES[n] for n in (0, 2, 4, 5, 7)].__contains__,
        ["-".join(s) or "as it should be" for s in SMALL_PAGES],
    ),
)
def test_a_list_of_several_pages_is_read_whole_whatever_the_api_obeys(
    account: Account, switches: dict[str, Any]
) -> None:
    account.sandbox.switches = replace(account.sandbox.switches, max_per_page=3)
    refused = switches.get("refused_includes", {})
    if "count_cap" not in switches:
        account.sandbox.switches = replace(account.sandbox.switches, **switches)
    refresh(account.database, account.opportunities, account.store.ids(), "opportunities")
    account.sandbox.switches = replace(account.sandbox.switches, **switches)
    done = account.sync_items(nightly=True)
    there = account.there(*account.soon)
    assert max(len(account.store.items(id_)) for id_ in account.soon) > 6
    assert account.mirrored() == {
        id_: {name: value for name, value in item.items() if name not in refused}
        for id_, item in there.items()
    }
    assert done.shown, done.sentence
    assert account.sync_items(nightly=True).stored.deleted == 0


@pytest.mark.parametrize("ignored", [(), ("q[id_gt]",)], ids=["by ranges", "by pages"])
def test_items_that_come_and_go_while_their_list_is_read_hide_no_other(
    account: Account, ignored: tuple[str, ...]
) -> None:
    one = max(account.soon, key=lambda id_: len(account.store.items(id_)))

    def move(path: str) -> None:
        match = LISTS.search(path)
        if match and int(match[1]) == one and turn in path and moves.acquire(blocking=False):
            # What follows moves up by one, and the count stays.
            account.store.delete_item(one, leaf(account.store.items(one)), loud=False)
            account.store.create_item(one, {"name": "New"}, loud=False)

    # A lock: two such requests may come at once, and one of them gets it.
    moves = threading.Lock()
    moves.acquire()
    turn = "?page=2&" if ignored else "id_gt"
    account.sandbox.switches = replace(account.sandbox.switches, max_per_page=3, ignored=ignored)
    account.sync()
    moves.release()
    account.sandbox.before_request = move
    account.sync_items(nightly=True)
    account.sandbox.before_request = None
    assert moves.locked()
    gone = {row[0] for row in query(account.database, "SELECT id FROM deleted_opportunity_items")}
    assert not gone & account.there(one).keys()
    account.sync_items(nightly=True)
    assert account.is_mirrored(*account.soon)


Said = dict[str, Any]


def lose_the_last(said: Said) -> None:
    del said["opportunity_items"][-1:]


def lose_the_first(said: Said) -> None:
    del said["opportunity_items"][:1]


def lose_all(said: Said) -> None:
    said["opportunity_items"].clear()


def lose_an_id(said: Said) -> None:
    for item in said["opportunity_items"][:1]:
        del item["id"]


def repeat_one_instead_of_another(said: Said) -> None:
    """As of a list whose order is not the same for each of its pages."""
    said["opportunity_items"][1:2] = said["opportunity_items"][:1]


@pytest.mark.parametrize(
    ("change", "every", "size"),
    some_in_drills(
        [
            (lose_the_last, 1, 3),
            (lose_the_last, 3, 3),
            (lose_the_first, 1, 3),
            (lose_the_first, 3, 3),
            (lose_the_first, 1, 25),
            (lose_all, 3, 3),
            (lose_an_id, 1, 3),
            (lose_an_id, 3, 25),
            (repeat_one_instead_of_another, 1, 25),
            (repeat_one_instead_of_another, 3, 3),
        ],
        # Each in one of the ways.
        {
            *((lose_the_last, 1, 3), (lose_the_first, 3, 3), (lose_all, 3, 3)),
            *((lose_an_id, 3, 25), (repeat_one_instead_of_another, 1, 25)),
        }.__contains__,
    ),
)
def test_no_item_goes_because_a_list_sends_less_than_it_counts(
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Said], None],
    every: int,
    size: int,
) -> None:
    """Nor one of which a list does not tell the id, or in whose place it lists another twice."""
    account.sandbox.switches = replace(account.sandbox.switches, max_per_page=size)
    assert account.sync().shown
    truth, asked = routes.answer, itertools.count(1)

    def answer(of: Any, request: Request) -> Answer:
        given = truth(of, request)
        is_list = request.path.endswith("/opportunity_items") and given.status == 200
        if not is_list or next(asked) % every:
            return given
        said = msgspec.json.decode(given.body)
        change(said)
        return replace(given, body=msgspec.json.encode(said))

    monkeypatch.setattr(routes, "answer", answer)
    for id_ in account.soon[:2]:
        account.store.create_item(id_, {"name": "New"}, loud=False)
        account.store.delete_item(id_, leaf(account.store.items(id_)), loud=False)
    done = account.sync(nightly=True)
    there = account.there(*account.soon)
    assert not there.keys() & {
        row[0] for row in query(account.database, "SELECT id FROM deleted_opportunity_items")
    }
    assert not done.shown or account.mirrored().keys() == there.keys(), done.sentence
    monkeypatch.undo()
    assert account.sync(nightly=True).shown
    assert account.is_mirrored(*account.soon)


def leaf(items: list[dict[str, Any]]) -> int:
    """An item that nothing stands below, of the first there are."""
    above = {item["parent_opportunity_item_id"] for item in items}
    return next(int(item["id"]) for item in items if item["id"] not in above)


def test_a_page_that_is_in_order_by_chance_hides_no_part(account: Account) -> None:
    account.sandbox.switches = Switches(max_per_page=2, honours_sort=False)
    done = account.sync()
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


@pytest.mark.parametrize("size", some_in_drills([2, 3], (3).__eq__))
def test_no_part_is_hidden_by_an_order_by_chance_and_a_count_of_one_page(
    account: Account, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    account.begin_mirrored()
    assert account.is_mirrored(*account.soon)
    first = {min(account.there(id_)) for id_ in account.soon}
    monkeypatch.setattr(
        sandbox_items, "shuffled", lambda ids: sorted(ids, key=lambda id_: (id_ in first, id_))
    )
    account.sandbox.switches = Switches(max_per_page=size, honours_sort=False, count_cap=size)
    done = account.sync_items(nightly=True)
    assert not done.stored.deleted
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


def test_a_page_in_the_middle_that_fails_leaves_its_list_out_and_deletes_nothing(
    account: Account,
) -> None:
    one = max(account.soon, key=lambda id_: len(account.store.items(id_)))

    def fail(path: str) -> None:
        match = LISTS.search(path)
        if match and int(match[1]) == one and "id_gt" in path:
            account.sandbox.faults.queue.append("error_500")

    account.sandbox.switches = replace(account.sandbox.switches, max_per_page=3)
    account.sync()
    before = account.mirrored()
    account.store.delete_item(one, leaf(account.store.items(one)[::-1]))
    account.sandbox.before_request = fail
    done = account.sync()
    account.sandbox.before_request = None
    assert not done.shown
    assert f"{one} (no usable answer" in done.sentence
    assert account.mirrored().keys() == before.keys()
    done = account.sync(nightly=True)
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


def test_an_opportunity_that_is_deleted_during_the_walk_is_named_and_then_gone(
    account: Account,
) -> None:
    account.begin_mirrored()
    gone, *left = account.soon

    def delete(path: str) -> None:
        if LISTS.search(path):
            account.store.delete(gone)

    account.sandbox.before_request = delete
    done = account.sync_items(nightly=True)
    account.sandbox.before_request = None
    assert f"Left out: {gone} (Current RMS answers 404 for them)" in done.sentence
    # The opportunity is asked for then, and they go with it.
    done = account.sync_items(nightly=True, parents=account.opportunities)
    assert done.shown, done.sentence
    assert account.is_mirrored(*left)
    assert query(account.database, "SELECT id FROM deleted_opportunities") == [(gone,)]


def test_one_that_comes_nearer_is_of_the_next_night_and_none_is_missed_meanwhile(
    account: Account,
) -> None:
    *others, nearing = account.store.ids()[SOON:]
    for id_, days in (*((id_, 40) for id_ in others), (nearing, 15)):
        account.plant(id_, days, updated_at=written(account.store.now() - 300 * DAY))
    account.sync()
    query(account.database, "UPDATE walks SET started_at = started_at - interval '2 days'")
    query(
        account.database,
        "UPDATE opportunities SET starts_at = starts_at - interval '2 days' WHERE id = %s",
        nearing,
    )
    quiet = account.sync_items()
    assert (quiet.asked, quiet.shown) == ([], True)
    assert account.sync_items(nightly=True).asked[0] == nearing


def test_a_wider_window_brings_no_flood_of_lists(account: Account) -> None:
    """Opportunities that the mirror comes to know of only now have not changed."""
    new, *others = account.store.ids()[SOON:]
    for id_ in others:
        account.plant(id_, 40, updated_at=written(account.store.now() - 300 * DAY))
    account.sync()
    for table in ("opportunities", "opportunity_versions"):
        query(account.database, f"DELETE FROM {table} WHERE id > %s", max(account.soon))
    account.store.edit(new, {"subject": "New"})
    refresh(account.database, account.opportunities, account.store.ids()[SOON:], "wider")
    assert account.sync_items().asked == [new]


def test_what_waits_is_read_by_the_lane_behind_the_fast_lane(account: Account) -> None:
    done: list[WorkedOff] = []
    rests = threading.Semaphore(0)

    @contextmanager
    def client() -> Iterator[CurrentRmsClient]:
        yield account.items
        rests.release()

    lane = PartsLane(
        account.database,
        OPPORTUNITY_ITEMS,
        client,
        lambda _, each: done.append(each),
        gather=0,
    )
    account.sync()
    one, other, *_ = account.soon
    account.store.create_item(one, {"name": "Told of before"})
    told_of(account, one)
    lane.start()
    try:
        # It looks no more until it is called: half of what tells of the other would be read, too.
        assert rests.acquire(timeout=60)
        account.store.create_item(other, {"name": "Told of now"})
        told_of(account, other)
        lane(OPPORTUNITIES, WorkedOff(records=1))
        assert rests.acquire(timeout=60)
    finally:
        lane.stop()
    assert account.is_mirrored(*account.soon)
    assert [each.records for each in done] == [1, 1]


def test_the_list_of_the_whole_account_is_used_once_it_is_shown_to_hold(account: Account) -> None:
    account.sandbox.switches = replace(account.sandbox.switches, all_items="filtered")
    done = account.sync()
    assert account.is_mirrored(*account.soon)
    assert done.shown, done.sentence
    # One call for all, and one list to hold it against.
    assert len(done.asked) == 1
    assert done.landed.api_calls <= 4
    assert "by the account's list" in done.landed.notes[0]
    # It tells of edits that leave the opportunity as it was.
    one, other, third, *_ = account.soon
    account.store.edit_item(one, account.store.items(one)[0]["id"], {"name": "Quiet"}, loud=False)
    done = account.sync()
    assert done.asked == [one]
    assert account.is_mirrored(*account.soon)
    # Whoever is gone is found by comparing, there too.
    for id_ in (other, third, one):
        account.store.delete_item(id_, leaf(account.store.items(id_)))
    account.sync()
    assert account.is_mirrored(*account.soon)
    assert query(account.database, "SELECT count(*) FROM deleted_opportunity_items") == [(3,)]


def test_a_list_of_the_account_that_ignores_what_is_asked_is_not_used(account: Account) -> None:
    account.sandbox.switches = replace(account.sandbox.switches, all_items="unfiltered")
    done = account.sync()
    assert sorted(done.asked) == account.soon
    assert account.is_mirrored(*account.soon)
    assert {r.name for r in account.items.terms.refusals} == {"q[opportunity_id_in][]"}
    account.store.edit(account.soon[0], {"subject": "Edited"})
    assert account.sync().asked == [account.soon[0]]
    # Found out once, for a week.
    assert {r.name for r in account.items.terms.refusals} == {
        "q[opportunity_id_in][]", "q[updated_at_gteq]"
    }  # fmt: skip
    account.sync()
    assert not [p for _, p, _ in account.sandbox.requests if p.startswith("/api/v1/opportunity_i")]


def test_changes_are_found_on_every_page_whatever_the_account_s_list_obeys(
    account: Account,
) -> None:
    account.sandbox.switches = replace(account.sandbox.switches, all_items="filtered")
    account.sync()
    pass_time(account)
    account.sandbox.switches = replace(
        account.sandbox.switches, max_per_page=3, ignored=("q[id_gt]",)
    )
    for id_ in account.soon:
        for item in account.store.items(id_):
            account.store.edit_item(id_, item["id"], {"name": "Quiet"}, loud=False)
    account.sync_items()
    assert account.is_mirrored(*account.soon)


def test_a_list_of_the_account_that_cannot_be_read_whole_is_named_and_costs_nothing_else(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.sandbox.switches = replace(account.sandbox.switches, all_items="filtered")
    account.sync()
    pass_time(account)
    one = account.soon[0]
    account.store.edit_item(one, account.store.items(one)[0]["id"], {"name": "Quiet"}, loud=False)
    truth = routes.answer

    def answer(of: Any, request: Request) -> Answer:
        given = truth(of, request)
        if request.path != "/opportunity_items":
            return given
        said = msgspec.json.decode(given.body)
        said["meta"]["total_row_count"] += 1
        return replace(given, body=msgspec.json.encode(said))

    monkeypatch.setattr(routes, "answer", answer)
    done = account.sync_items()
    assert one in done.asked
    assert account.is_mirrored(*account.soon)
    assert "the account's list of changed opportunity_items" in " ".join(done.landed.notes)


@pytest.mark.parametrize(
    "trouble",
    some_in_drills(
        ["counts one too many", "fails", "is refused", "is ignored"],
        {"fails", "is ignored"}.__contains__,
    ),
)
def test_an_item_that_changed_while_the_account_s_list_could_not_be_read_is_found_by_a_later_sync(
    account: Account, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    far = listed_once(account)
    # As if the last sync had been two hours ago, and the item had changed an hour ago.
    query(account.database, "UPDATE walks SET watermark = watermark - interval '2 h' RETURNING 1")
    quiet_edit(account, far, updated_at=written(account.store.now() - timedelta(hours=1)))
    with monkeypatch.context() as patched:
        patched.setattr(routes, "answer", troubled(trouble))
        account.sync_items()
        pass_time(account)
        account.sync_items(nightly=True)
    # As if a week had passed. What was refused is then tried again.
    account.items.terms.forget("filter", CHANGED_SINCE)
    done = account.sync_items()
    assert account.mirrored(far) == account.there(far)
    assert done.landed.watermark > account.store.now() - timedelta(hours=1)


def test_lists_of_all_are_read_again_if_the_list_of_what_changed_stays_unreadable_for_days(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = listed_once(account)
    query(account.database, "UPDATE walks SET watermark = watermark - interval '5 d' RETURNING 1")
    quiet_edit(account, far, updated_at=written(account.store.now() - 4 * DAY))
    monkeypatch.setattr(routes, "answer", troubled("fails"))
    account.sync_items()
    assert account.mirrored(far) != account.there(far)
    done = account.sync_items(nightly=True)
    assert account.mirrored(far) == account.there(far)
    assert done.landed.watermark > account.store.now() - timedelta(hours=1)


@pytest.mark.parametrize(
    "clock",
    ["the API's is behind", "the API's was set back", "the database's was a year ahead"],
)
def test_no_wrong_clock_hides_an_item_that_changed_and_that_nothing_else_tells_of(
    account: Account, clock: str
) -> None:
    behind = timedelta(hours=3)
    if clock == "the API's is behind":
        account.store.ahead = -behind
    far = listed_once(account)
    account.sync_items()
    if clock == "the API's was set back":
        account.store.ahead = -behind
    elif clock != "the API's is behind":
        year = "interval '1 year'"
        query(account.database, f"UPDATE walks SET watermark = watermark + {year} RETURNING 1")
    quiet_edit(account, far)
    account.sync_items()
    assert account.mirrored(far) == account.there(far)


def listed_once(account: Account) -> int:
    """Has the items of one that is far away listed, long after they changed. Returns its id.

    It does not change from then on, so only the account's list of what changed can tell of it.
    """
    account.sandbox.switches = replace(account.sandbox.switches, all_items="filtered")
    far = account.store.ids()[SOON]
    for item in account.store.items(far):
        long_ago = {"updated_at": written(account.store.now() - 30 * DAY)}
        account.store.edit_item(far, item["id"], long_ago, loud=False)
    account.sync()
    account.store.edit(far, {"subject": "Edited"})
    account.sync()
    assert account.mirrored(far) == account.there(far) != {}
    pass_time(account)
    return far


def quiet_edit(account: Account, id_: int, **fields: Any) -> None:
    """Edits an item without a word to anybody."""
    item = account.store.items(id_)[0]["id"]
    account.store.edit_item(id_, item, {"name": "Quiet", **fields}, loud=False)


def troubled(trouble: str) -> Callable[[Any, Request], Answer]:
    """The sandbox's answers, with trouble in the account's list of items."""
    truth = routes.answer

    def answer(of: Any, request: Request) -> Answer:
        given = truth(of, request)
        if request.path != "/opportunity_items":
            return given
        if trouble == "fails":
            return Answer(500, b'{"errors":["Internal error"]}')
        if trouble == "is refused":
            return Answer(422, b'{"errors":["No such filter"]}')
        if trouble == "is ignored":
            others = [(name, value) for name, value in request.query if name != CHANGED_SINCE]
            return truth(of, replace(request, query=others))
        said = msgspec.json.decode(given.body)
        said["meta"]["total_row_count"] += 1
        return replace(given, body=msgspec.json.encode(said))

    return answer


def test_a_list_of_the_account_that_fails_costs_no_opportunity_its_own_list(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.begin_mirrored()
    pass_time(account)
    for id_ in account.soon:
        account.store.edit(id_, {"subject": "Edited"})
        account.store.create_item(id_, {"name": "New"})
    truth = routes.answer

    def answer(of: Any, request: Request) -> Answer:
        if request.path == "/opportunity_items":
            return Answer(500, b'{"errors":["Internal error"]}')
        return truth(of, request)

    monkeypatch.setattr(routes, "answer", answer)
    done = account.sync()
    assert account.is_mirrored(*account.soon)
    assert "Internal error" in " ".join(done.landed.notes)


def test_a_list_of_the_account_that_leaves_items_out_is_found_out(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = account.items.list_records

    def fewer(*args: Any, **options: Any) -> ListAnswer:
        answer = listed(*args, **options)
        kept = [
            raw for raw in answer.page.records if b'"opportunity_item_type":2' not in bytes(raw)
        ]
        kept = kept if len(kept) < len(answer.page.records) else kept[:-1]
        meta = msgspec.structs.replace(answer.page.meta, total_row_count=len(kept))
        ids = tuple(i for raw in kept if (i := record_id(raw)) is not None)
        page = msgspec.structs.replace(answer.page, records=kept, meta=meta)
        return replace(answer, page=page, ids=ids)

    monkeypatch.setattr(account.items, "list_records", fewer)
    account.sandbox.switches = replace(account.sandbox.switches, all_items="filtered")
    account.sync()
    assert account.is_mirrored(*account.soon)
    assert "q[opportunity_id_in][]" in {r.name for r in account.items.terms.refusals}


def test_calls_are_bounded_and_what_is_not_reached_waits_for_the_next_sync(
    account: Account,
) -> None:
    done = account.sync(calls=2)
    # The account's list is tried first.
    assert done.landed.api_calls <= 4
    assert not done.shown
    assert (
        "wait for the next sync, because the calls of a sync are limited" in done.landed.notes[-1]
    )
    assert f"complete for {SOON}" not in done.sentence
    asked = set(done.asked)
    while len(asked) < SOON:
        done = account.sync_items(nightly=True, calls=2)
        assert 0 < len(done.asked) <= 2
        asked |= {*done.asked}
    # Those of longest ago come first.
    assert sorted(asked) == account.soon
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


def edited_during_the_walk(account: Account, id_: int, after: int) -> None:
    """The opportunity is edited once the lists of so many were asked for, and a webhook tells."""
    asked = 0

    def edit(path: str) -> None:
        nonlocal asked
        asked += bool(LISTS.search(path))
        if asked == after:
            asked += 1
            account.store.create_item(id_, {"name": "Just now"}, loud=True)
            refresh(account.database, account.opportunities, [id_], "webhook")

    account.sandbox.before_request = edit


def test_what_changes_while_lists_are_read_is_of_the_next_sync_and_contradicts_no_proof(
    account: Account,
) -> None:
    account.begin_mirrored()
    busy, *others = account.soon
    edited_during_the_walk(account, busy, after=SOON)
    done = account.sync_items(nightly=True)
    account.sandbox.before_request = None
    assert done.shown, done.sentence
    since = "SELECT valid_from FROM opportunity_versions WHERE id = %s"
    assert done.stored.proof is not None
    assert done.stored.proof.as_of < query(account.database, since, busy)[0][0]
    assert not account.is_mirrored(*account.soon)
    assert account.mirrored(*others) == account.there(*others)
    done = account.sync_items()
    assert busy in done.asked
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


def test_what_changes_just_before_its_list_is_read_and_again_after_that_contradicts_no_proof(
    account: Account,
) -> None:
    account.begin_mirrored()
    busy = account.soon[0]
    account.store.create_item(busy, {"name": "Just before"}, loud=True)
    refresh(account.database, account.opportunities, [busy], "webhook")
    edited_during_the_walk(account, busy, after=SOON)
    done = account.sync_items(nightly=True)
    account.sandbox.before_request = None
    assert done.shown, done.sentence
    assert busy in account.sync_items().asked
    assert account.is_mirrored(*account.soon)


def test_a_night_that_reads_every_list_is_proved_as_of_its_start(account: Account) -> None:
    account.begin_mirrored()
    now = account.items.now
    account.items.now = lambda: now() + timedelta(seconds=5)
    done = account.sync_items(nightly=True)
    began = query(account.database, "SELECT started_at FROM walks WHERE id = %s", done.landed.walk)
    assert done.stored.proof is not None
    assert done.shown, done.sentence
    assert [(done.stored.proof.as_of,)] == began


def test_what_a_night_did_not_reach_is_left_to_the_next_night(account: Account) -> None:
    account.begin_mirrored()
    assert len(account.sync_items(nightly=True, calls=1).asked) < SOON
    assert account.sync_items().asked == []


@pytest.mark.parametrize("lives", [True, False])
def test_a_proof_waits_for_a_list_that_the_fast_lane_is_just_storing(
    account: Account, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    monkeypatch.setattr(sync_parts, "_OTHERS_STORE", 20.0 if lives else 0.2)
    account.sync()
    busy = account.soon[0]
    whole, read, goes_on = sync_parts._store, threading.Event(), threading.Event()

    def wait_and_store(*args: Any, **options: Any) -> Any:
        if threading.current_thread() is lane:
            read.set()
            goes_on.wait(60)
        return whole(*args, **options)

    monkeypatch.setattr(sync_parts, "_store", wait_and_store)
    lane = threading.Thread(
        target=lambda: refresh_told(account.database, account.items, "fast lane")
    )
    landed = land_parts(account.database, account.items, "run", nightly=False, calls=500)
    account.store.create_item(busy, {"name": "New"})
    told_of(account, busy)
    lane.start()
    assert read.wait(30)
    if lives:
        threading.Timer(0.5, goes_on.set).start()
    proof = account.store_items(landed, "run").proof
    assert proof is not None
    # A process that has died is not waited for any longer, and nothing is hidden.
    assert proof.shown is lives, proof.sentence
    assert account.is_mirrored(*account.soon) is lives
    goes_on.set()
    lane.join(30)


def test_a_change_that_was_not_reached_is_not_hidden_by_a_later_one(account: Account) -> None:
    account.begin_mirrored()
    first, second, *_ = account.soon
    for id_ in (first, second):
        account.store.create_item(id_, {"name": "Not reached"}, loud=True)
    refresh(account.database, account.opportunities, [first, second], "webhook")
    # Only one of the two is reached. While it is read, the other changes again.
    edited_during_the_walk(account, second, after=1)
    done = account.sync_items(calls=1)
    account.sandbox.before_request = None
    assert done.asked == [first]
    assert not done.shown
    assert f"Left out: {second} (not read yet)" in done.sentence
    done = account.sync_items()
    assert second in done.asked
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


class Killed(BaseException):
    """The process is no more."""


STATEMENTS = (
    *("land_page", "note_list", "merge_walks", "compare_lists", "remove_orphans", "prove_lists"),
)
KILLS = list(itertools.product((False, True), STATEMENTS))


@pytest.mark.parametrize(
    ("after", "statement"),
    some_in_drills(
        KILLS,
        # At each statement, in turn before it and after it.
        lambda kill: kill[0] == bool(STATEMENTS.index(kill[1]) % 2),
        [f"{'after' if after else 'before'}-{statement}" for after, statement in KILLS],
    ),
)
def test_a_kill_at_any_statement_loses_nothing_and_deletes_nothing_wrongly(
    account: Account, monkeypatch: pytest.MonkeyPatch, statement: str, after: bool
) -> None:
    account.begin_mirrored()
    one, other, third, *_ = account.soon
    account.store.delete_item(one, leaf(account.store.items(one)))
    account.store.create_item(other, {"name": "New"})
    account.store.delete(third)
    whole, turns = getattr(sync_parts, statement), [0, 0]

    def killed(*args: Any, **options: Any) -> Any:
        turns.pop()
        done = whole(*args, **options) if after or turns else None
        if not turns:
            raise Killed
        return done

    if statement not in ("land_page", "note_list"):
        turns.pop()
    monkeypatch.setattr(sync_parts, statement, killed)
    with pytest.raises(Killed):
        account.sync()
    monkeypatch.setattr(sync_parts, statement, whole)
    done = account.sync_items()
    left = [id_ for id_ in account.soon if id_ != third]
    assert account.mirrored() == account.there(*left)
    assert done.shown, done.sentence
    gone = {row[0] for row in query(account.database, "SELECT id FROM deleted_opportunity_items")}
    assert not gone & account.there(*left).keys()


def test_lists_whose_pages_are_gone_are_read_again(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.begin_mirrored()
    for id_ in account.soon:
        account.store.create_item(id_, {"name": "New"}, loud=False)
    monkeypatch.setattr(sync_parts._Landing, "notes", lambda self, due: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        account.sync_items(nightly=True)
    monkeypatch.undo()
    query(account.database, "UPDATE opportunity_versions SET valid_from = valid_from - '1 d'"
                            "::interval")  # fmt: skip
    # Of all that the unfinished walk has read, three lists have come of age.
    for column, table in (("asked_at", "part_lists"), ("asked_at", "raw_rms_pages")):
        which = "parent_id" if table == "part_lists" else "record_ids[1] / 100"
        query(
            account.database,
            f"UPDATE {table} SET {column} = {column} - interval '3 h' WHERE {which} = ANY(%s)",
            account.soon[:3],
        )
    done = account.sync_items(nightly=True, fresh_for=timedelta(hours=1))
    assert sorted(done.asked) == account.soon[:3]
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


def test_two_syncs_at_once_lead_to_what_one_does(account: Account, client_for: MakeClient) -> None:
    account.begin_mirrored()
    beside = client_for(account.sandbox.url, collection=OPPORTUNITY_ITEMS)
    beside.now = account.database.clock()
    twin = replace(account, items=beside, runs=1000)
    for id_ in account.soon:
        account.store.delete_item(id_, leaf(account.store.items(id_)))
        account.store.create_item(id_, {"name": "New"})
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(each.sync_items, nightly=True) for each in (account, twin)]
        for each in both:
            each.result()
    assert account.is_mirrored(*account.soon)
    assert account.sync_items().shown
    found = query(account.database, "SELECT count(*) FROM deleted_opportunity_items")
    assert found == [(SOON,)]


def test_what_was_learnt_after_a_list_was_asked_for_does_not_go_by_that_list(
    account: Account,
) -> None:
    account.begin_mirrored()
    one = account.soon[0]
    older = land_parts(account.database, account.items, "older", nightly=True, calls=100)
    noted = query(account.database, "SELECT walk, asked_at, ids, parent_id FROM"
                                    " part_lists")  # fmt: skip
    item = account.store.create_item(one, {"name": "New"}, loud=False)
    newer = land_parts(account.database, account.items, "newer", nightly=True, calls=100)
    account.store_items(newer, "newer")
    # As if the older ones had taken long, and that others were read was not noted yet.
    for row in noted:
        query(
            account.database,
            "UPDATE part_lists SET walk = %s, asked_at = %s, answered_at = clock_timestamp(),"
            " ids = %s, stored_at = NULL WHERE parent_id = %s",
            *row,
        )
    account.store_items(older, "older")
    assert item in account.mirrored(one)
    # Such a list is read once more.
    assert one in account.sync_items().asked
    assert account.is_mirrored(*account.soon)


def thin_out(account: Account) -> int:
    """Takes the items of three opportunities away but for one each, and tells nobody."""
    before = len(account.there(*account.soon))
    for id_ in account.soon[:3]:
        account.store._items[id_] = account.store.items(id_)[:1]
    return before - len(account.there(*account.soon))


def grow(account: Account) -> None:
    for id_ in account.soon[:3]:
        for _ in range(8):
            account.store.create_item(id_, {"name": "More", "parent_opportunity_item_id": None})


def test_many_that_go_without_a_word_wait_for_a_person(account: Account) -> None:
    grow(account)
    account.sync()
    # That they grew is long past.
    query(account.database, "UPDATE part_lists SET again = false")
    before = account.mirrored()
    assert thin_out(account) > 20
    done = account.sync(nightly=True)
    assert account.mirrored().keys() == before.keys()
    assert done.stored.held_back > 20
    assert not done.shown
    with account.database.session() as connection:
        assert held_back(connection, OPPORTUNITY_ITEMS)
    done = account.sync_items(nightly=True, confirm=True)
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)
    assert done.stored.held_back == 0


def test_many_that_go_as_their_opportunity_is_rewritten_go_at_once_and_count_for_nobody(
    account: Account,
) -> None:
    grow(account)
    account.sync()
    assert thin_out(account) > 20
    for id_ in account.soon[:3]:
        account.store.edit(id_, {"subject": "Rewritten"})
    done = account.sync()
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)
    # A few that go by themselves after that are no multitude.
    last = account.soon[-1]
    account.store.delete_item(last, leaf(account.store.items(last)), loud=False)
    done = account.sync_items(nightly=True)
    assert (done.stored.deleted, done.stored.held_back) == (1, 0)


def test_lists_that_are_empty_all_of_a_sudden_are_not_believed(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(account)
    account.sync()
    before = account.mirrored()
    for id_ in account.soon:
        account.store.edit(id_, {"subject": "Edited"})
    monkeypatch.setattr(account.store, "items", lambda id_: [])
    assert not account.sync().shown
    assert account.mirrored().keys() == before.keys()
    # They stay empty, but so many rows wait for a person.
    pass_time(account)
    done = account.sync()
    assert account.mirrored().keys() == before.keys()
    assert done.stored.held_back > 20
    assert not done.shown


def pass_time(account: Account) -> None:
    """Makes what happened half an hour older."""
    for table, columns in {
        "part_lists": ("asked_at", "answered_at", "stored_at"),
        OPPORTUNITIES.versions: ("asked_at", "answered_at", "valid_from"),
        OPPORTUNITY_ITEMS.versions: ("asked_at", "answered_at"),
    }.items():
        older = ", ".join(f"{column} = {column} - interval '30 min'" for column in columns)
        query(account.database, f"UPDATE {table} SET {older} RETURNING 1")
    query(account.database, "UPDATE part_lists SET again = false RETURNING 1")


@pytest.mark.parametrize("is_told", [True, False], ids=["of one that changed", "at night"])
def test_a_list_that_is_empty_by_mistake_takes_no_row_away(
    account: Account, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    account.begin_mirrored()
    pass_time(account)
    one, items = account.soon[0], account.store.items
    before = account.mirrored()
    assert account.mirrored(one)
    if is_told:
        account.store.edit(one, {"subject": "Edited"})
    monkeypatch.setattr(account.store, "items", lambda id_: [] if id_ == one else items(id_))
    done = account.sync(nightly=not is_told)
    assert one in done.asked
    assert account.mirrored().keys() == before.keys()
    assert not done.shown
    assert f"{one} (its list is empty, although it had some" in done.sentence
    # A sync right behind asks again, and cannot know any more.
    assert account.sync_items().asked == [one]
    assert account.mirrored().keys() == before.keys()
    monkeypatch.undo()
    done = account.sync_items()
    assert done.asked == [one]
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)
    assert query(account.database, "SELECT count(*) FROM deleted_opportunity_items") == [(0,)]


def test_a_first_list_that_is_empty_although_there_are_charges_is_not_believed_at_once(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, *_ = account.soon
    # Of one that has neither items nor charges for some there is nothing to doubt.
    account.plant(other, 3, rental_charge_total="0.0", sale_charge_total="0.0",
                  service_charge_total="0.0")  # fmt: skip
    items = account.store.items
    nothing = {one, other}
    monkeypatch.setattr(account.store, "items", lambda id_: [] if id_ in nothing else items(id_))
    done = account.sync()
    assert not done.shown
    assert f"{one} (its list is empty, although" in done.sentence
    assert str(other) not in done.sentence
    nothing = {other}
    done = account.sync_items()
    assert done.shown, done.sentence
    assert account.mirrored(one) == account.there(one) != {}


def test_a_list_that_stays_empty_is_believed(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.begin_mirrored()
    pass_time(account)
    one, items = account.soon[0], account.store.items
    monkeypatch.setattr(account.store, "items", lambda id_: [] if id_ == one else items(id_))
    account.store.edit(one, {"subject": "Edited"})
    account.sync()
    assert account.mirrored(one)
    pass_time(account)
    done = account.sync_items()
    assert done.asked == [one]
    assert done.shown, done.sentence
    assert not account.mirrored(one)
    account.sync_items()
    pass_time(account)
    assert not account.sync_items().asked


def test_a_person_who_confirms_need_not_wait_for_a_list_that_became_empty(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.begin_mirrored()
    pass_time(account)
    one, items = account.soon[0], account.store.items
    monkeypatch.setattr(account.store, "items", lambda id_: [] if id_ == one else items(id_))
    done = account.sync_items(nightly=True, confirm=True)
    assert done.shown, done.sentence
    assert not account.mirrored(one)


def test_rows_that_were_deleted_by_hand_are_read_again(account: Account) -> None:
    account.begin_mirrored()
    one = account.soon[0]
    query(account.database, "DELETE FROM opportunity_items WHERE opportunity_id = %s", one)
    done = account.sync_items()
    assert done.asked == [one]
    assert done.shown
    assert account.is_mirrored(*account.soon)


def test_items_that_say_they_are_of_another_opportunity_are_not_taken_for_a_whole_list(
    account: Account,
) -> None:
    account.begin_mirrored()
    one, other, *_ = account.soon
    strange, absent = account.store.items(one)[-1]["id"], account.store.items(other)[-1]["id"]
    account.store.edit_item(one, strange, {"name": "Odd"})
    account.store.edit_item(other, absent, {"name": "Odd"})
    account.store._items[one][-1]["opportunity_id"] = other
    account.store._items[other][-1]["opportunity_id"] = None
    before = account.mirrored()
    done = account.sync()
    assert f"{one} (the answer has parts of {other}, which were not requested)" in done.sentence
    assert f"{other} (one of its parts has no opportunity_id)" in done.sentence
    assert account.mirrored().keys() == before.keys()


@pytest.mark.parametrize("said", some_in_drills([None, [], 4_711], [None, 4_711].__contains__))
def test_an_item_whose_opportunity_is_odd_costs_only_itself(account: Account, said: Any) -> None:
    account.begin_mirrored()
    one = account.soon[0]
    # One that was mirrored before, one that was not, and one beside them that is well.
    old = account.store.items(one)[-1]["id"]
    new = account.store.create_item(one, {"name": "Odd from the start"})
    well = account.store.create_item(one, {"name": "Well"})
    assert well is not None
    before = account.mirrored()
    for item in account.store._items[one]:
        if item["id"] in (old, new):
            item["opportunity_id"] = said
    for nightly in (False, True):
        done = account.sync(nightly=nightly)
        # Nobody says that all is there, and nobody takes anything away.
        assert f"{one} (" in done.sentence
        assert not done.shown
        rows = account.mirrored(one)
        assert rows[well]["name"] == "Well"
        assert rows[old] == before[old]
        assert new not in account.mirrored()
        assert account.mirrored().keys() == before.keys() | {well}
    faults = query(
        account.database,
        "SELECT DISTINCT opportunity_id FROM sync_faults WHERE collection = 'opportunity_items'"
        " AND field = 'opportunity_id' ORDER BY 1",
    )
    assert faults == [(old,), (new,)]
    for item in account.store._items[one]:
        item["opportunity_id"] = one
    done = account.sync(nightly=True)
    assert done.shown, done.sentence
    assert account.is_mirrored(*account.soon)


def test_an_item_that_cannot_be_stored_costs_only_itself(account: Account) -> None:
    account.begin_mirrored()
    one = account.soon[0]
    account.store.create_item(one, {"name": "Odd"})
    account.store._items[one][-1]["id"] = "none"
    account.store._items[one][0]["quantity"] = "plenty"
    done = account.sync()
    assert done.shown, done.sentence
    assert "1 that cannot be stored (see sync_faults)" in done.sentence
    fields = "SELECT DISTINCT field FROM sync_faults WHERE collection = 'opportunity_items'"
    assert sorted(query(account.database, fields)) == [("id",), ("quantity",)]


def test_an_item_of_which_an_older_state_is_there_counts_as_one_that_cannot_be_stored(
    account: Account,
) -> None:
    account.begin_mirrored()
    one, other, *_ = account.soon
    old, new = account.store.items(one)[0]["id"], account.store.create_item(other, {"name": "New"})
    rule = "ALTER TABLE opportunity_items {} CONSTRAINT few"
    query(account.database, rule.format("ADD") + " CHECK (quantity < 1000)")
    try:
        for parent, id_ in ((one, old), (other, new)):
            assert id_ is not None
            account.store.edit_item(parent, id_, {"quantity": "5000.0"})
        done = account.sync()
        assert done.shown, done.sentence
        assert "2 that cannot be stored (see sync_faults)" in done.sentence
        proof = done.stored.proof
        assert proof is not None
        there = len(account.there(*account.soon))
        assert (proof.counted, proof.mirrored, proof.unstorable) == (there, there - 2, 2)
    finally:
        query(account.database, rule.format("DROP"))
    done = account.sync(nightly=True)
    assert done.shown, done.sentence
    assert "cannot be stored" not in done.sentence
    assert account.is_mirrored(*account.soon)


def told_of(account: Account, *ids: int) -> None:
    """As the refresh of an opportunity by a webhook leaves it, some moments ago."""
    refresh(account.database, account.opportunities, ids, "fast lane")
    told = query(
        account.database,
        "UPDATE opportunities SET last_webhook_at = clock_timestamp() WHERE id = ANY(%s)"
        " RETURNING last_webhook_at",
        list(ids),
    )
    # The client's clock is behind the server's for as long as it once waited for its answer. What
    # it asks for at once seems to have been asked for before, and is read again.
    wait_until(lambda: account.items.now() > max(at for (at,) in told))


def test_webhooks_of_an_opportunity_cost_one_call_for_its_items_however_many_there_are(
    account: Account,
) -> None:
    account.begin_mirrored()
    one, later = account.soon[0], account.store.ids()[-1]
    account.store.delete_item(one, leaf(account.store.items(one)))
    account.store.create_item(later, {"name": "New"})
    told_of(account, one, later)
    told_of(account, one)
    account.sandbox.requests.clear()
    done = refresh_told(account.database, account.items, "fast lane")
    assert (done.claimed, done.records, done.refreshed.deleted) == (2, 2, 1)
    assert len(account.sandbox.requests) == 2
    assert account.is_mirrored(*account.soon, later)
    assert not refresh_told(account.database, account.items, "fast lane").claimed
    # What cannot be read is not asked for again until something new is told.
    account.sandbox.switches = replace(account.sandbox.switches, refused_items={one: 500})
    told_of(account, one)
    assert refresh_told(account.database, account.items, "fast lane").records == 0
    assert not refresh_told(account.database, account.items, "fast lane").claimed
    account.sandbox.switches = replace(account.sandbox.switches, refused_items={})
    told_of(account, one)
    assert refresh_told(account.database, account.items, "fast lane").records == 1


def test_lists_of_a_clock_that_was_ahead_are_read_once_more_and_then_when_they_change(
    account: Account,
) -> None:
    account.begin_mirrored()
    one, other, failed, *_ = account.soon
    year = "interval '1 year'"
    for stamped in (
        f"part_lists SET asked_at = asked_at + {year}, answered_at = answered_at + {year}",
        f"opportunity_versions SET valid_from = valid_from + {year}",
        f"opportunities SET last_webhook_at = clock_timestamp() + {year}",
    ):
        query(account.database, f"UPDATE {stamped} RETURNING 1")
    with account.database.session() as connection:
        note_problems(connection, OPPORTUNITY_ITEMS, {failed: "status 500"})
    query(account.database, f"UPDATE part_lists SET problem_at = problem_at + {year} RETURNING 1")
    assert not refresh_told(account.database, account.items, "fast lane").claimed
    account.store.create_item(one, {"name": "New, and told"})
    told_of(account, one)
    assert refresh_told(account.database, account.items, "fast lane").records == 1
    account.store.create_item(other, {"name": "New"})
    done = account.sync()
    assert {other, failed} <= set(done.asked) <= set(account.soon)
    assert account.is_mirrored(*account.soon)
    assert done.shown, done.sentence
    # But for those that were listed within a minute of their change.
    assert set(account.sync().asked) <= {one, other}


def test_a_wrong_key_ends_the_sync_at_once(account: Account, client_for: MakeClient) -> None:
    account.begin_mirrored()
    wrong = client_for(account.sandbox.url, collection=OPPORTUNITY_ITEMS, api_key="wrong")
    wrong.now = account.database.clock()
    with pytest.raises(Unauthorized):
        replace(account, items=wrong).sync_items(nightly=True)
    assert account.is_mirrored(*account.soon)


def test_rows_are_made_again_from_what_is_stored(account: Account) -> None:
    account.begin_mirrored()
    one = account.soon[0]
    account.store.delete_item(one, leaf(account.store.items(one)))
    account.sync()
    rows = "SELECT * FROM opportunity_items ORDER BY id"
    before = query(account.database, rows)
    query(account.database, "UPDATE opportunity_items SET name = 'damaged', quantity = NULL")
    account.sandbox.requests.clear()
    done = rebuild(account.database, OPPORTUNITY_ITEMS, "rebuild")
    assert query(account.database, rows) == before
    assert done.redecoded.failed == 0
    assert not account.sandbox.requests


def test_each_field_becomes_its_column(account: Account) -> None:
    account.begin_mirrored()
    columns = [c for c in OPPORTUNITY_ITEMS.columns if c.kind not in ("timestamptz", "numeric")]
    rows = query(
        account.database, f"SELECT id, {', '.join(c.name for c in columns)} FROM opportunity_items"
    )
    there = account.there(*account.soon)
    for id_, *values in rows:
        sources = [there[id_][str(c.source)] for c in columns]
        assert values == [None if value == "" else value for value in sources]


def test_items_are_never_refreshed_by_their_ids() -> None:
    with pytest.raises(SettingsError, match="The next incremental sync reads those of each"):
        _refreshable("opportunity_items", COLLECTIONS)
