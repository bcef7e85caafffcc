"""The table of what is taken for granted of the API names files and tests that are there; and syncs
are right with each unsure fact in its other position, and with all new ones at once."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.deliveries import read_delivery
from rms_pipeline.mirror.queue import Event, store_event
from rms_pipeline.sandbox import Faults, Store, Switches
from rms_pipeline.sandbox.faults import FaultKind
from rms_pipeline.sync.queued import work_off
from rms_pipeline_tests.cases import IN_DRILLS
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror, mirror_of, rows_of_new
from rms_pipeline_tests.test_sync import ids_in

__all__ = ["mirror_of", "rows_of_new"]

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "docs/api-facts.md").read_text().splitlines()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in LINES
    if line.startswith("| ") and not line.startswith("| fact |")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_fact_names_code_and_a_test_that_are_there(row: list[str]) -> None:
    fact, code, otherwise, shown = row
    assert fact
    assert otherwise
    assert (ROOT / code.strip("`")).is_file()
    path, _, name = shown.strip("` |").partition("::")
    assert re.search(rf"^def {name}\b", (ROOT / path).read_text(), re.MULTILINE)


def test_no_fact_is_told_twice_and_each_way_it_may_be_is_tried() -> None:
    facts = [row[0] for row in ROWS]
    assert len(facts) == len(set(facts)) > 80
    # Whatever the sandbox can do otherwise in answers about opportunities is among the ways.
    for switch in fields(Switches):
        positions = {repr(getattr(o.switches, switch.name)) for o in OTHERWISE.values()}
        assert len(positions) > 1 or switch.name in TRIED_ELSEWHERE, switch.name


# Of single records that are broken, and of what no sync asks for: `sync/test_one_bad_record.py`,
# `sandbox/test_switches.py`.
TRIED_ELSEWHERE = frozenset(
    {
        *("most_records", "deepest_page", "deep_page_status", "lists_twice", "bodies"),
        *("undeliverable", "undeliverable_single", "all_items", "webhooks_enabled", "forbidden"),
        "refused_items",
    }
)
CLOSED = frozenset({40, 50, 60, 70})
SMALL = Switches(max_per_page=10)
LAG = 30.0


@dataclass(frozen=True)
class Otherwise:
    """One way the API may be. `lacks` are associations that no record has then, `hides_closed`
    whether its lists show no closed ones; `certified`: whether a sync can show that nothing is
    missing. `fault` meets the first call of all."""

    switches: Switches = SMALL
    lacks: tuple[str, ...] = ()
    hides_closed: bool = False
    certified: bool = True
    fault: FaultKind | None = None


def turned(**switches: Any) -> Otherwise:
    return Otherwise(replace(SMALL, **switches))


REFUSED = ("destination", "opportunity_surcharges")
OTHERWISE = {
    "as it is likely to be": Otherwise(),
    "v1": Otherwise(Switches(api="v1", max_per_page=20)),
    "associations always": turned(nested="always"),
    "per_page refused": turned(per_page_over="422"),
    "12 a page by default": turned(default_per_page=12),
    "unknown predicates 400": turned(unknown_predicate="400"),
    "unknown predicates 422": turned(unknown_predicate="422"),
    "joined fields unknown": turned(honours_or=False),
    "order ignored": turned(honours_sort=False),
    "id_in ignored": turned(honours_id_in=False),
    "id ranges ignored": turned(honours_id_predicates=False),
    "id ranges and created_at ignored": turned(
        honours_id_predicates=False, honours_created_at=False
    ),
    "created_at ignored": turned(honours_created_at=False),
    "updated_at ignored": turned(ignored=("q[updated_at",)),
    "null filters ignored": turned(null_predicates="ignored"),
    "null filters refused": turned(null_predicates="422"),
    "dates ignored": replace(turned(ignored=("q[ends_at_g", "q[starts_at_l")), certified=False),
    "dates refused": replace(turned(refused=("q[ends_at_g", "q[starts_at_l")), certified=False),
    "filtermode ignored, live ones come": replace(
        turned(honours_filtermode=False), hides_closed=True, certified=False
    ),
    "filtermode ignored, all come": turned(honours_filtermode=False, filtermode_default="all"),
    "all by default": turned(filtermode_default="all"),
    "counts stop at 20": replace(turned(count_cap=20), certified=False),
    "counts stop at a page": replace(turned(count_cap=10), certified=False),
    "gone is 410": turned(gone_status=410),
    "no Date": turned(tells_date=False),
    "signed links": turned(signed_links=True),
    "lists lag": turned(lists_lag=LAG),
    "new ones are 404 for a while": turned(singles_lag=LAG),
    "lists lag and new ones are 410 for a while": turned(
        lists_lag=LAG, singles_lag=LAG, gone_status=410
    ),
    "429 with a date": replace(turned(retry_after="date"), fault="rate_limited"),
    "429 without Retry-After": replace(turned(retry_after="none"), fault="rate_limited"),
    **{
        f"includes refused with {status} as {shape}": replace(
            turned(refused_includes=dict.fromkeys(REFUSED, status), error_shape=shape),
            lacks=REFUSED,
        )
        for status, shape in ((400, "by_field"), (404, "error"), (422, "message"))
    },
    "all that is new at once": Otherwise(
        Switches(
            api="v2.1",
            max_per_page=25,
            per_page_over="clamped",
            nested="asked",
            unknown_predicate="ignored",
            signed_links=True,
            lists_lag=LAG,
            singles_lag=LAG,
            gone_status=410,
            retry_after="none",
            error_shape="details",
            default_per_page=12,
        ),
        fault="rate_limited",
    ),
    "all that is new at once, and what can be refused is": Otherwise(
        Switches(
            api="v2.1",
            max_per_page=25,
            per_page_over="422",
            unknown_predicate="422",
            null_predicates="422",
            refused_includes=dict.fromkeys(REFUSED, 404),
            signed_links=True,
            lists_lag=LAG,
            singles_lag=LAG,
            honours_or=False,
            tells_date=False,
        ),
        lacks=REFUSED,
    ),
}


def comparable(value: Any, lacks: tuple[str, ...] = ()) -> Any:
    """A record without the associations `lacks`, and its links without what is signed anew."""
    if isinstance(value, dict):
        return {k: comparable(v) for k, v in value.items() if k not in lacks}
    if isinstance(value, list):
        return [comparable(v) for v in value]
    if isinstance(value, str) and value.startswith("http"):
        return value.partition("?")[0]
    return value


def deliver(mirror: Mirror, body: bytes) -> bool:
    """Whether the event is a new one, and not a repeat."""
    told = read_delivery(body, [OPPORTUNITIES])
    event = Event(
        action_id=told.action_id,
        action_type=told.action_type,
        subject_type=told.subject_type,
        collection=told.collection,
        record=told.record,
        member_id=told.member_id,
        member_name=told.member_name,
        happened_at=told.happened_at,
        payload=told.payload,
        kept=told.payload,
    )
    with mirror.database.session() as connection:
        return store_event(connection, event)[1]


# What a refusal or a filter that is ignored does to the proof is tried by `sync/` as well.
ALWAYS = {
    *("as it is likely to be", "v1", "per_page refused", "joined fields unknown"),
    *("id ranges and created_at ignored", "updated_at ignored", "null filters refused"),
    *("dates refused", "filtermode ignored, live ones come", "counts stop at a page", "no Date"),
    *("lists lag and new ones are 410 for a while", "429 without Retry-After"),
    *("includes refused with 422 as message", "all that is new at once"),
    "all that is new at once, and what can be refused is",
}


@pytest.mark.parametrize(
    "otherwise",
    [
        pytest.param(otherwise, id=name, marks=() if name in ALWAYS else IN_DRILLS)
        for name, otherwise in OTHERWISE.items()
    ],
)
def test_every_way_of_syncing_is_right_with_each_fact_otherwise(
    mirror_of: Callable[..., Mirror], otherwise: Otherwise
) -> None:
    clock = [1_000.0]
    store = Store(60, clock=lambda: clock[0])
    faults = Faults(queue=[otherwise.fault] if otherwise.fault else [])
    mirror = mirror_of(store, switches=otherwise.switches, faults=faults)
    closed = {i for i in ids_in(store, mirror.window) if store.value(i, "status") in CLOSED}
    assert closed
    told: list[bytes] = []
    store.listen(lambda event: told.append(event.body()))

    def rest() -> None:
        """Lists and single records have caught up."""
        clock[0] += 2 * LAG

    def work() -> None:
        query(mirror.database, "UPDATE webhook_events SET next_attempt_at = now()")
        with mirror.database.session() as connection:
            work_off(mirror.database, connection, mirror.client(), mirror.run())

    def name_of(id_: int) -> object:
        return mirror.rows()[id_]["name"]

    rest()
    mirror.full_sync()
    polled, hooked, hooked_gone, gone = [
        i for i in ids_in(store, mirror.window) if i not in closed
    ][:4]

    store.edit(polled, {"subject": "By an incremental sync"})
    rest()
    mirror.incremental_sync()
    assert name_of(polled) == "By an incremental sync"

    told.clear()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="milliseconds")
    dates = dict.fromkeys(("starts_at", "ends_at"), tomorrow.replace("+00:00", "Z"))
    made = store.create({"subject": "New", "status": 0, "status_name": "Open"} | dates)
    store.edit(hooked, {"subject": "By a webhook"})
    store.delete(hooked_gone)
    assert len(told) == 3
    for body in told:
        assert deliver(mirror, body)
        assert not deliver(mirror, body)
    work()
    assert name_of(hooked) == "By a webhook"
    assert mirror.deleted() == {hooked_gone}

    # Lists that lag still show what was before.
    mirror.incremental_sync()
    assert name_of(hooked) == "By a webhook"
    assert hooked_gone not in mirror.rows()

    rest()
    mirror.incremental_sync()
    assert name_of(made) == "New"
    # Current RMS repeats what was answered too late.
    assert not any(deliver(mirror, body) for body in reversed(told))
    work()

    store.delete(gone)
    rest()
    done = mirror.full_sync()
    assert mirror.deleted() == {hooked_gone, gone}
    but_for = partial(comparable, lacks=otherwise.lacks)
    missing = dict.fromkeys(closed if otherwise.hides_closed else (), "missing")
    assert mirror.differences(but_for=but_for) == missing
    assert done.settled.certificate.shown == otherwise.certified, done.settled.certificate.reason
