"""Lists of items that lie in up to three ways at once while people work: what is called complete
is, and no row goes whose item is there.

The account is written apart from the product and from the sandbox. Opportunities are told truly:
what lies about those is in `test_lying_apis`.
"""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.collections.opportunity_items import OPPORTUNITY_ITEMS
from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.mirror.walks import watermarks
from rms_pipeline.sync.parts import land_parts, refresh_told, store_parts
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.core import full_sync, proved_sync
from rms_pipeline_tests.drills.conftest import Tell
from rms_pipeline_tests.drills.lying_api import Query, Record, Said, World, moment_of, served
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.test_any_sequence import empty

# Two of the first few found rows deleted that were there, when empty lists were believed at once.
SEEDS, LONG = (*range(4), 26, 37), range(4, 400)
AT_ONCE = Patience(connect=5, read=5, answer=10, attempts=4, throttled=3, backoff=0.001)
_LIST = re.compile(r"/opportunities/(\d+)/opportunity_items")
_COMPARED = re.compile(r"q\[(id|updated_at)_(gt|gteq)\]")

LIES: dict[str, Callable[[random.Random], Any]] = {
    "no order": lambda dice: dice.choice(["any", "as typed", "newest first"]),
    "ignored": lambda dice: dice.choice(["q[id_gt]", "q[updated_at_gteq]", "q[opportunity_id_in]"]),
    "counts end": lambda dice: dice.choice([0, 1, 2, 3, 5, 10]),
    "counts are off": lambda dice: dice.choice([-2, -1, 1, 3]),
    "now and then only": lambda dice: dice.choice([0.2, 0.5]),
    "empty now and then": lambda dice: dice.choice([0.1, 0.4]),
    "listed twice": lambda dice: dice.choice([2, 3, 7]),
    "without an id": lambda dice: dice.choice([5, 9]),
    "of another": lambda dice: dice.choice([6, 11]),
    "pages of": lambda dice: dice.choice([1, 2, 3, 7]),
    "meta": lambda dice: dice.choice(["as asked for", "no size", "text", "no count"]),
    "noise": lambda _: 0.1,
    "404": lambda dice: dice.choice([3, 5]),
}


class Account(World):
    """Opportunities as of `World`, and their items: by opportunity, `items[id]` in typing order."""

    items: dict[int, list[Record]]
    all_items: bool
    by_lies: dict[str, Any]
    moving_items = False
    next_item = 1

    def begin(self) -> None:
        """Give each opportunity some items, and most of them dates that make them due."""
        self.items, self.by_lies = {}, {}
        self.all_items = self.dice.random() < 0.4
        for id_ in list(self.records):
            record = self.records[id_]
            if self.dice.random() < 0.7:
                starts = datetime.now(UTC) + timedelta(days=self.dice.choice([-1, 2, 9]))
                record["starts_at"] = self._written(starts)
                record["ends_at"] = self._written(starts + timedelta(days=3))
            self.items[id_] = []
            for _ in range(self.dice.choice([0, 1, 2, 3, 4, 6, 9, 25, 30])):
                self._add(id_)
            self._charge(id_)

    def _add(self, id_: int) -> None:
        now = self._written(datetime.now(UTC))
        item = {
            "id": self.next_item,
            "opportunity_id": id_,
            "name": f"I{self.next_item}",
            "quantity": "1.0",
            "created_at": now,
            "updated_at": now,
        }
        self.next_item += self.dice.choice([1, 1, 2])
        self.items[id_].insert(self.dice.randint(0, len(self.items[id_])), item)

    def _charge(self, id_: int) -> None:
        """Each item costs something."""
        charge = f"{len(self.items[id_])}.0"
        self.records[id_] = {**self.records[id_], "rental_charge_total": charge}

    def work(self) -> int | None:
        """Somebody adds, edits or deletes an item. Mostly its opportunity's time moves, too.

        Returns the opportunity if its time did not move.
        """
        with self._lock:
            there = [i for i in sorted(self.items) if i in self.records]
            if not there:
                return None
            id_ = self.dice.choice(there)
            items, what = self.items[id_], self.dice.random()
            now = self._written(datetime.now(UTC))
            if what < 0.4 or not items:
                self._add(id_)
            elif what < 0.65:
                self.dice.choice(items).update(name=f"E{self.dice.random()}", updated_at=now)
            elif what < 0.97:
                items.remove(self.dice.choice(items))
            else:
                items.clear()
            self._charge(id_)
            if self.dice.random() < 0.75:
                self.records[id_] = {**self.records[id_], "updated_at": now}
                return None
            return id_

    def answer(self, path: str, query: Query) -> Said:
        with self._lock:
            match = _LIST.fullmatch(path)
            if match is None and path != "/opportunity_items":
                return super().answer(path, query)
            self.asked += 1
            lies, dice = self.by_lies, self.dice
            if self.moving_items and dice.random() < 0.3:
                self.work()
            if dice.random() < lies.get("noise", 0):
                return dice.choice(["500", "502", "slow down", "half an answer", "null"]), None
            if match is None:
                if not self.all_items:
                    return "404", None
                found = [item for id_ in sorted(self.items) for item in self.items[id_]
                         if id_ in self.records]  # fmt: skip
            else:
                id_ = int(match[1])
                if id_ not in self.records or id_ % lies.get("404", 10**9) == 0:
                    return "404", None
                found = list(self.items[id_])
            return "", self._items(found, query)

    def _items(self, found: list[Record], query: Query) -> Any:
        lies, dice = self.by_lies, self.dice
        wanted = {int(v) for n, v in query if n == "q[opportunity_id_in][]"}
        if wanted and lies.get("ignored") != "q[opportunity_id_in]":
            found = [i for i in found if i["opportunity_id"] in wanted]
        for name, value in query:
            compared = _COMPARED.fullmatch(name)
            if compared and name != lies.get("ignored"):
                if compared[1] == "id":
                    found = [i for i in found if i["id"] > int(value)]
                else:
                    since = moment_of(value)
                    assert since is not None
                    found = [i for i in found if (moment_of(i["updated_at"]) or since) >= since]
        order = lies.get("no order")
        if order is None:
            found = sorted(found, key=lambda i: i["id"])
        elif order == "any":
            found = random.Random(len(found)).sample(found, len(found))
        elif order == "newest first":
            found = sorted(found, key=lambda i: -i["id"])
        if dice.random() < lies.get("empty now and then", 0):
            found = []
        if every := lies.get("listed twice"):
            found = [x for i in found for x in ([i, i] if i["id"] % every == 0 else [i])]
        total = len(found)
        asked = dict(query)
        number, per_page = int(asked.get("page", 1)), int(asked.get("per_page", 20))
        size = min(lies.get("pages of", self.most), per_page)
        page = found[(number - 1) * size : number * size]
        if every := lies.get("of another"):
            page = [{**i, "opportunity_id": 1} if i["id"] % every == 0 else i for i in page]
        if every := lies.get("without an id"):
            page = [{**i, "id": None} if i["id"] % every == 0 else i for i in page]
        is_off = dice.random() < lies.get("now and then only", 1)
        if "counts end" in lies:
            total = min(total, lies["counts end"])
        if "counts are off" in lies and is_off:
            total = max(0, total + lies["counts are off"])
        meta: dict[str, Any] = {
            "total_row_count": total, "row_count": len(page), "page": number, "per_page": size
        }  # fmt: skip
        if lies.get("meta") == "no count":
            del meta["total_row_count"]
        else:
            self.lies, before = {"meta": lies.get("meta")}, self.lies
            meta, self.lies = self._told(meta, per_page), before
        return {"opportunity_items": page, "meta": meta}


def new_account(seed: int) -> Account:
    dice = random.Random(seed)
    account = Account("opportunities", "opportunity", dice, dice.choice([4, 10, 25]), "z", 1)
    for _ in range(dice.choice([1, 3, 6, 12])):
        account.create()
    account.begin()
    return account


@dataclass
class Draw:
    """A mirror of `account`. `said` is what was done, for whoever looks for a fault."""

    account: Account
    database: Database
    opportunities: CurrentRmsClient
    items: CurrentRmsClient
    window: Window
    runs: int = 0
    said: list[str] = field(default_factory=list)

    def sync(self, kind: str) -> Proof | None:
        self.runs += 1
        run = f"run {self.runs}"
        if kind == "full":
            full_sync(self.database, self.opportunities, self.window, run)
        elif kind == "told":
            known = sorted(self.account.records)
            told = self.account.dice.sample(known, len(known) // 3)
            refresh(self.database, self.opportunities, told, run)
            query(self.database, "UPDATE opportunities SET last_webhook_at = clock_timestamp()"
                                 " WHERE id = ANY(%s) RETURNING 1", told)  # fmt: skip
            refresh_told(self.database, self.items, f"{run} told")
            return None
        else:
            with self.database.session() as connection:
                starts = watermarks(connection, OPPORTUNITIES)
            if not starts:
                return None
            proved_sync(self.database, self.opportunities, starts, run)
        run = f"{run} items"
        landed = land_parts(self.database, self.items, run, nightly=kind == "full", calls=500)
        with self.database.session() as connection:
            walk = walks.find_walk(connection, landed.walk)
        assert walk is not None
        self.said += landed.notes
        stored = store_parts(self.database, self.items, walk, run)
        return stored.proof

    def let_ten_minutes_go_by(self) -> None:
        for table, columns in {
            "part_lists": ("asked_at", "answered_at", "stored_at", "problem_at"),
            OPPORTUNITIES.name: ("last_webhook_at",),
            OPPORTUNITIES.versions: ("asked_at", "answered_at", "valid_from"),
            OPPORTUNITY_ITEMS.versions: ("asked_at", "answered_at"),
        }.items():
            older = ", ".join(f"{column} = {column} - interval '10 min'" for column in columns)
            query(self.database, f"UPDATE {table} SET {older} RETURNING 1")

    def demand_truth(self, proof: Proof | None, silent: set[int]) -> None:
        """What was deleted is gone. What was certified is so, but for opportunities whose items
        were changed without a word to anybody (`silent`)."""
        account = self.account
        there = {i["id"]: i for id_ in account.items if id_ in account.records
                 for i in account.items[id_]}  # fmt: skip
        deleted = {i for (i,) in query(self.database, "SELECT id FROM deleted_opportunity_items")}
        assert not deleted & there.keys(), (deleted & there.keys(), self.said)
        if proof is None or not proof.shown:
            return
        rows = dict(query(self.database, "SELECT id, data FROM opportunity_items"))
        listed = {
            i for (i,) in query(
                self.database,
                "SELECT parent_id FROM part_lists WHERE stored_at IS NOT NULL AND problem IS NULL",
            )
        }  # fmt: skip
        told = listed - silent
        covered = {i: item for i, item in there.items() if item["opportunity_id"] in told}
        every = account.by_lies.get("without an id", 10**9)
        missing = {i for i in covered.keys() - rows.keys() if i % every}
        assert len(missing) <= proof.unstorable, (missing, proof.sentence, self.said)
        stale = {i for i in covered.keys() & rows.keys() if rows[i] != covered[i]}
        assert not stale, (stale, proof.sentence, self.said)
        told &= account.records.keys()
        surplus = {i for i, row in rows.items() if row["opportunity_id"] in told} - there.keys()
        assert not surplus, (surplus, proof.sentence, self.said)


def run(draw: Draw, counted: Counter[str]) -> None:
    account, dice = draw.account, draw.account.dice
    lies = {n: LIES[n](dice) for n in dice.sample(sorted(LIES), dice.choice([0, 1, 1, 2, 3]))}
    account.by_lies = lies if dice.random() < 0.5 else {}
    draw.said.append(f"{lies}, at first {account.by_lies}, {account.most}, {account.all_items}")
    silent: set[int] = set()
    for number in range(dice.choice([3, 4, 5])):
        account.moving_items = dice.random() < 0.25
        kind = dice.choice(["full", "incremental", "incremental", "told"]) if number else "full"
        before, proof = account.asked, None
        try:
            proof = draw.sync(kind)
            counted["shown" if proof is not None and proof.shown else "not shown"] += 1
        except CurrentRmsError as error:
            counted["errors"] += 1
            draw.said.append(str(error)[:150])
        draw.said.append(
            f"{kind}, {account.moving_items}, {account.asked - before}: {proof and proof.sentence}"
        )
        if account.moving_items:
            # What moved behind its list is for the next sync.
            silent |= account.records.keys()
            account.moving_items = False
        else:
            if kind == "full" and proof is not None and proof.shown:
                silent.clear()
            draw.demand_truth(proof, silent)
        account.by_lies = lies
        for _ in range(dice.choice([0, 1, 3, 8])):
            if (quiet := account.work()) is not None:
                silent.add(quiet)
        # An empty list is believed in time, and this one would be empty by mistake again.
        if dice.random() < 0.4 and "empty now and then" not in lies:
            draw.let_ten_minutes_go_by()


@pytest.mark.timeout(0)
def test_whatever_lists_of_items_say_what_is_called_complete_is_and_nothing_goes_that_is_there(
    emptied: Database, client_for: Callable[..., CurrentRmsClient], long: bool, tell: Tell
) -> None:
    counted: Counter[str] = Counter()
    seeds = LONG if long else SEEDS
    window = Window.around(datetime.now(UTC), days_back=30, days_ahead=365)
    for seed in seeds:
        empty(emptied)
        for collection in (OPPORTUNITIES, OPPORTUNITY_ITEMS):
            tables = f"{collection.name}, {collection.deleted}, {collection.versions}"
            query(emptied, f"TRUNCATE {tables}, part_lists, held_deletions CASCADE")
        account = new_account(seed)
        with (
            served(account) as address,
            client_for(address, collection=OPPORTUNITIES, patience=AT_ONCE) as opportunities,
            client_for(address, collection=OPPORTUNITY_ITEMS, patience=AT_ONCE) as items,
        ):
            opportunities.now = items.now = emptied.clock()
            draw = Draw(account, emptied, opportunities, items, window, said=[f"{seed}"])
            run(draw, counted)
    tell(f"lying lists of items: {len(seeds)} draws, {dict(counted)}")
    assert counted["shown"] >= len(seeds) // 2
