"""Whether the mirror is complete: every place that tells it says the same."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.defs.asset_checks import _deletions, _is_complete
from rms_pipeline.doctor import syncs
from rms_pipeline.insight.health import read_health
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import HELD_BACK, HELD_BACK_ADVICE
from rms_pipeline.mirror.proofs import _utc, standing
from rms_pipeline.web.metrics import Metrics
from rms_pipeline_tests.mirror.test_collection_states import NOW, insert_walk
from rms_pipeline_tests.rows import insert, insert_proof, insert_sync, query
from rms_pipeline_tests.test_collections_shown import by_check, examination, told, with_history
from rms_pipeline_tests.test_collections_shown import sandbox as sandbox

__all__ = ["told", "with_history"]
DAY = timedelta(days=1)


@dataclass(frozen=True)
class State:
    """What happened to a collection, and how good that is: of the proof, and of the whole line."""

    proof: dict[str, Any] | None
    standing: str
    line: str
    is_read: bool = True
    failed: bool = False
    held: bool = False
    words: tuple[str, ...] = field(default=())


NOT_SHOWN = {"shown": False, "mirrored": 5_009, "reason": "3 are missing."}
STATES = {
    "never synced": State(None, "none", "none", is_read=False),
    "not compared": State(None, "none", "none"),
    "proved": State({}, "green", "green", words=("5,012 of 5,012",)),
    "proved without one that cannot be delivered": State(
        {"mirrored": 5_011, "unreadable": [37]}, "green", "green", words=("cannot deliver: 37",)
    ),
    "not proved": State(NOT_SHOWN, "red", "red", words=("5,009 of 5,012", "3 are missing.")),
    "behind": State({"as_of": NOW - 2 * DAY}, "amber", "amber", words=("more than a day ago",)),
    "failing": State(
        {"as_of": NOW - timedelta(minutes=5)},
        "amber",
        "amber",
        failed=True,
        words=("A later sync failed",),
    ),
    "held back": State({}, "green", "amber", held=True),
    "held back, and so not proved": State(
        NOT_SHOWN | {"reason": HELD_BACK}, "red", "red", held=True, words=(HELD_BACK,)
    ),
}
LEVELS = {"none": "warning", "green": "ok", "amber": "warning", "red": "problem"}


def happen(database: Database, collection: Collection, state: State) -> None:
    name, single = collection.name, collection.single
    if state.is_read:
        insert_walk(database, name, ago=600)
        insert_sync(database, f"full {name}", ago=600)
    if state.proof is not None:
        whole = {} if collection is OPPORTUNITIES else {"window_start": None, "window_end": None}
        insert_proof(database, **({"collection": name} | whole | state.proof))
    if state.failed:
        failed = {"kind": "changes", "runs": ["failed"], "collection": name}
        insert(database, "walks", [failed | {"started_at": NOW}])
    if state.held:
        row = {"id": 8} | ({} if collection is INVOICES else {"name": "Gone"})
        insert(database, name, [row])
        hour = NOW - timedelta(hours=1)
        insert(database, f"{single}_versions", [{"id": 8, "asked_at": hour, "answered_at": hour}])
        held = {"collection": name, "id": 8, "because": "gone"}
        insert(database, "held_deletions", [held | {"asked_at": NOW, "answered_at": NOW}])


@pytest.mark.parametrize("collection", [OPPORTUNITIES, MEMBERS, INVOICES], ids=str)
@pytest.mark.parametrize("name", STATES)
def test_every_place_says_the_same_of_each_state(
    emptied: Database, told: Callable[..., str], name: str, collection: Collection
) -> None:
    state = STATES[name]
    happen(emptied, collection, state)
    on = ",".join(dict.fromkeys(("opportunities", collection.name)))
    with emptied.session() as connection:
        known = standing(connection, collection)
        line = read_health(connection, [collection])
        metrics = Metrics().render(connection, "sandbox", [collection]).decode()
    assert (known.state, line.state) == (state.standing, state.line)
    for words in state.words:
        assert words in known.sentence
    figures = dict(each.rsplit(" ", 1) for each in metrics.splitlines() if each[0] != "#")
    assert figures[f'rms_collection_complete{{collection="{collection}"}}'] == (
        "1.0" if state.standing == "green" else "0.0"
    )
    assert float(figures[f'rms_collection_deletions_held_back{{collection="{collection}"}}']) == (
        state.held
    )
    printed = " ".join(told("status", collections=on).split())
    shown = json.loads(told("status", "--json", collections=on))["sync"]["collections"]
    (of,) = (each for each in shown if each["name"] == collection.name)
    found = by_check(syncs.check_certificate(examination(emptied, collections=on)))
    of_check = "" if collection is OPPORTUNITIES else f"{collection} "
    proof = found.get("completeness" if not of_check else f"{collection} proof")
    check = _is_complete(collection, emptied, "full", None)
    if state.proof is None:
        assert of["certificate"] is None
        assert proof is None or proof.level == "warning"
    else:
        sentence = known.sentence
        assert sentence.rstrip(".") in line.sentence(_utc).replace(f"{collection}".title(), "") or (
            sentence[1:].rstrip(".") in line.sentence(_utc)
        )
        assert sentence[1:] in printed
        assert (of["certificate"]["state"], of["certificate"]["sentence"]) == (
            state.standing,
            sentence,
        )
        assert proof is not None
        assert (proof.level, proof.found) == (LEVELS[state.standing], sentence)
        assert check.description == sentence
    assert check.passed == (state.standing == "green")
    deletions = found.get(f"{of_check}deletions")
    assert (deletions is not None) == state.held
    assert _deletions(collection, emptied, "full", None).passed != state.held
    assert of["held_back"] == state.held
    assert (HELD_BACK_ADVICE in printed) == state.held
    assert (line.advice == HELD_BACK_ADVICE) == state.held
    # And nothing of another collection.
    assert query(emptied, "SELECT DISTINCT collection FROM proofs WHERE collection <> %s",
                 collection.name) == []  # fmt: skip
