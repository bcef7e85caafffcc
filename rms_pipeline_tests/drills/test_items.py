"""Items while people work and the API fails now and then: in the end the mirror is the account."""

import contextlib
import random
from dataclasses import dataclass, field, replace

from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.sync.parts import refresh_told
from rms_pipeline_tests.collections.test_opportunity_items import (
    SOON,
    Account,
    account,
    beginning,
    leaf,
    told_of,
)
from rms_pipeline_tests.rows import query

__all__ = ["account", "beginning"]

SEEDS, LONG = 2, 60


@dataclass
class People:
    """Who create, edit and delete, loudly or not, and what webhooks told of it."""

    account: Account
    dice: random.Random
    told: set[int] = field(default_factory=set)

    def act(self) -> None:
        store, dice = self.account.store, self.dice
        id_ = dice.choice([*self.account.soon, *store.ids()[SOON : SOON + 6]])
        if store.get(id_, ()) is None:
            return
        items, loud = store.items(id_), dice.random() < 0.7
        kind = dice.choice(["create", "edit", "delete", "rename", "destroy", "tell"])
        if kind == "create":
            new = {"name": f"New {dice.random()}", "parent_opportunity_item_id": None}
            store.create_item(id_, new, loud=loud)
        elif kind == "edit" and items:
            store.edit_item(id_, dice.choice(items)["id"], {"name": f"{dice.random()}"}, loud=loud)
        elif kind == "delete" and len(items) > 2:
            store.delete_item(id_, leaf(items), loud=loud)
        elif kind == "rename":
            store.edit(id_, {"subject": f"{dice.random()}"})
        elif kind == "destroy" and dice.random() < 0.15:
            store.delete(id_)
        elif kind == "tell":
            self.told.add(id_)

    def meanwhile(self, _: str) -> None:
        """Before a call of the API."""
        if self.dice.random() < 0.1:
            self.act()
        if self.dice.random() < 0.03:
            self.account.sandbox.faults.queue += ["error_500"] * self.dice.randint(1, 4)


def sync_once(account: Account, people: People) -> None:
    """By night, by day, or because of webhooks; within many calls or few."""
    dice = people.dice
    if dice.random() < 0.3 and people.told:
        told_of(account, *(i for i in people.told if account.store.get(i, ()) is not None))
        refresh_told(account.database, account.items, "fast lane")
        people.told.clear()
    else:
        account.sync(nightly=dice.random() < 0.3, calls=dice.choice([3, 8, 500]))


def test_whatever_happens_and_fails_the_next_night_makes_it_good(
    account: Account, long: bool
) -> None:
    for seed in range(LONG if long else SEEDS):
        dice = random.Random(seed)
        people = People(account, dice)
        sandbox = account.sandbox
        sandbox.switches = replace(
            sandbox.switches,
            all_items=dice.choice(["absent", "filtered", "unfiltered"]),
            max_per_page=dice.choice([3, 10, 25]),
            ignored=dice.choice([(), ("q[id_gt]",)]),
        )
        with contextlib.suppress(CurrentRmsError):
            account.sync()
        for _ in range(7):
            for _ in range(dice.randint(0, 6)):
                people.act()
            sandbox.before_request = people.meanwhile
            with contextlib.suppress(CurrentRmsError):
                sync_once(account, people)
            sandbox.before_request = None
            sandbox.faults.queue.clear()
        query(account.database, "UPDATE part_lists SET problem_at = problem_at - interval '1 h'")
        # Deletions of so many seeds are a multitude.
        account.sync(nightly=True, confirm=True)
        done = account.sync(nightly=True, confirm=True, parents=account.opportunities)
        assert done.shown, (seed, done.sentence)
        soon = [i for i in account.soon if account.store.get(i, ()) is not None]
        assert account.mirrored(*account.soon) == account.there(*soon), seed
        gone = query(account.database, "SELECT id FROM deleted_opportunity_items")
        assert not {id_ for (id_,) in gone} & account.there(*soon).keys(), seed
