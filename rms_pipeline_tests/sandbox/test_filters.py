"""Filters, filtermodes and orders of lists, against a filter written down a second time."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest

from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline_tests.sandbox.account import ask, ids, listed, meta, turn

Record = dict[str, Any]
CLOSED = {40, 50, 60, 70}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(400), switches=Switches(max_per_page=100)) as server:
        yield server


@pytest.fixture(scope="module")
def everything(sandbox: SandboxServer) -> list[Record]:
    return list(sandbox.store.truth())


def matching(sandbox: SandboxServer, query: str) -> list[int]:
    """Of all pages."""
    found: list[int] = []
    while True:
        page = ids(sandbox, f"{query}&per_page=100&page={len(found) // 100 + 1}")
        found += page
        if len(page) < 100:
            return found


def at(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def after(field: str, moment: str) -> Callable[[Record], bool]:
    bound = datetime.fromisoformat(moment)
    return lambda r: (found := at(r[field])) is not None and found >= bound


CASES: list[tuple[str, Callable[[Record], bool]]] = [
    ("q[status_eq]=5", lambda r: r["status"] == 5),
    ("q[status_not_eq]=5", lambda r: r["status"] != 5),
    ("q[status_in][]=5&q[status_in][]=20", lambda r: r["status"] in (5, 20)),
    ("q[status_not_in][]=5&q[status_not_in][]=20", lambda r: r["status"] not in (5, 20)),
    ("q[charge_total_gt]=900", lambda r: float(r["charge_total"]) > 900),
    ("q[charge_total_lteq]=900.5", lambda r: float(r["charge_total"]) <= 900.5),
    ("q[subject_cont]=GALA", lambda r: "gala" in (r["subject"] or "").lower()),
    ("q[subject_not_cont]=gala", lambda r: "gala" not in (r["subject"] or "gala").lower()),
    ("q[subject_start]=wedding", lambda r: (r["subject"] or "").lower().startswith("wedding")),
    ("q[subject_end]=rigging", lambda r: (r["subject"] or "").lower().endswith("rigging")),
    ("q[subject_matches]=w%25, led wall", lambda r: (r["subject"] or "").startswith("W")
     and (r["subject"] or "").endswith(", LED wall")),
    ("q[subject_not_start]=wedding", lambda r: not (r["subject"] or "wedding").lower()
     .startswith("wedding")),
    ("q[subject_not_end]=rigging", lambda r: not (r["subject"] or "rigging").endswith("rigging")),
    ("q[subject_does_not_match]=w%25", lambda r: not (r["subject"] or "W").startswith("W")),
    ("q[subject_cont_any][]=gala&q[subject_cont_any][]=wedding", lambda r: any(
     word in (r["subject"] or "").lower() for word in ("gala", "wedding"))),
    ("q[subject_cont_all][]=gala&q[subject_cont_all][]=lighting", lambda r: all(
     word in (r["subject"] or "").lower() for word in ("gala", "lighting"))),
    ("q[status_eq_any][]=5&q[status_eq_any][]=20", lambda r: r["status"] in (5, 20)),
    ("q[subject_null]=1", lambda r: r["subject"] is None),
    ("q[subject_null]=0", lambda r: r["subject"] is not None),
    ("q[starts_at_null]=true", lambda r: not r["starts_at"]),
    ("q[starts_at_not_null]=1", lambda r: bool(r["starts_at"])),
    ("q[description_blank]=1", lambda r: not r["description"]),
    ("q[description_present]=1", lambda r: bool(r["description"])),
    ("q[invoiced_true]=1", lambda r: r["invoiced"]),
    ("q[invoiced_false]=1", lambda r: not r["invoiced"]),
    ("q[invoiced_eq]=true", lambda r: r["invoiced"]),
    ("q[ordered_at_present]=1", lambda r: bool(r["ordered_at"])),
    ("q[member_name_cont]=harbour", lambda r: "Harbour" in r["member"]["name"]),
    ("q[venue_name_start]=castle", lambda r: r["venue"]["name"].startswith("Castle")),
    ("q[owner_name_eq]=Kim Garden", lambda r: r["owner"]["name"] == "Kim Garden"),
    ("q[member_id_eq]=100", lambda r: r["member_id"] == 100),
    ("q[subject_or_description_cont]=power", lambda r: "power" in
     f"{r['subject'] or ''}\n{r['description'] or ''}".lower()),
    ("q[member_name_or_venue_name_cont]=castle", lambda r: "Castle" in
     f"{r['member']['name']} {r['venue']['name']}"),
    ("q[subject_and_description_cont]=power", lambda r: "power" in (r["subject"] or "").lower()
     and "power" in (r["description"] or "").lower()),
    ("q[starts_at_gteq]=2027-01-01", after("starts_at", "2027-01-01T00:00:00Z")),
    ("q[starts_at_gteq]=2027-01-01 23:59:59", after("starts_at", "2027-01-01T23:59:59Z")),
    ("q[starts_at_gteq]=2027-01-01T12:00:00.500Z",
     after("starts_at", "2027-01-01T12:00:00.500Z")),
    ("q[starts_at_gteq]=2027-01-01T12:00:00%2B02:00", after("starts_at", "2027-01-01T10:00:00Z")),
    ("q[status_eq]=5&q[state_eq]=3&q[customer_collecting_true]=1",
     lambda r: (r["status"], r["state"], r["customer_collecting"]) == (5, 3, True)),
]  # fmt: skip


@pytest.mark.parametrize(("query", "holds"), CASES, ids=[query for query, _ in CASES])
def test_a_predicate_lets_in_exactly_what_it_says(
    sandbox: SandboxServer,
    everything: list[Record],
    query: str,
    holds: Callable[[Record], bool],
) -> None:
    assert matching(sandbox, query) == [r["id"] for r in everything if holds(r)]


def test_the_cases_above_tell_records_apart(everything: list[Record]) -> None:
    told = [sum(map(holds, everything)) for _, holds in CASES]
    assert sum(0 < count < len(everything) for count in told) >= len(CASES) - 3


@pytest.mark.parametrize(
    "query",
    [
        "q[prep_starts_at_gteq]=2030-01-01",
        "q[status_name_eq]=Lost",
        "q[custom_fields_po_eq]=1",
        "q[member_shoe_size_eq]=9",
        "q[subject_or_shoe_size_cont]=x",
        "q[id]=7",
        "q[id_eq][5]=7",
        "q[g][0][id_eq]=7",
        "q[starts_at_gteq]=soon",
        "q[status_eq]=Lost",
        "q[s]=shoe_size asc",
        "q[s]=id sideways",
        "filtermode=nonsense",
    ],
)
def test_what_it_does_not_know_is_ignored_or_refused(query: str) -> None:
    with SandboxServer(Store(30)) as sandbox:
        whole = query if query.startswith("filtermode") else f"filtermode=all&{query}"
        plain = ask(
            sandbox, "/opportunities?" + whole.partition("&")[0].replace("nonsense", "live")
        )
        turn(sandbox, unknown_predicate="ignored")
        answer = ask(sandbox, f"/opportunities?{whole}")
        assert answer.json() == plain.json()
        for status in (400, 422):
            turn(sandbox, unknown_predicate=status)
            assert ask(sandbox, f"/opportunities?{whole}").status_code == status


@pytest.mark.parametrize("query", ["q[subject_cont]=", "q[status_eq]=", "q[starts_at_gteq]="])
def test_a_filter_that_was_not_filled_in_is_none(sandbox: SandboxServer, query: str) -> None:
    assert meta(sandbox, query)["total_row_count"] == 400


MODES: list[tuple[str, Callable[[Record], bool]]] = [
    ("", lambda r: r["status"] not in CLOSED),
    ("filtermode=live", lambda r: r["status"] not in CLOSED),
    ("filtermode=active", lambda r: r["status"] not in CLOSED),
    ("filtermode[]=all", lambda r: True),
    ("filtermode=inactive", lambda r: r["status"] in CLOSED),
    ("filtermode=enquiries", lambda r: r["state"] == 0 and r["status"] not in CLOSED),
    ("filtermode=drafts", lambda r: r["state"] == 1 and r["status"] not in CLOSED),
    ("filtermode=quotations", lambda r: r["state"] == 2 and r["status"] not in CLOSED),
    ("filtermode=orders", lambda r: r["state"] == 3 and r["status"] not in CLOSED),
    ("filtermode=not_cancelled", lambda r: r["status"] != 50),
    ("filtermode=invoiced", lambda r: r["invoiced"]),
    ("filtermode=not_invoiced", lambda r: r["state"] == 3 and not r["invoiced"]
     and r["status"] not in CLOSED),
    ("filtermode[]=orders&filtermode[]=quotations",
     lambda r: r["state"] in (2, 3) and r["status"] not in CLOSED),
    ("filtermode[]=orders&filtermode[]=all", lambda r: r["state"] == 3),
]  # fmt: skip


@pytest.mark.parametrize(("query", "holds"), MODES, ids=[query for query, _ in MODES])
def test_every_filtermode_lets_in_what_its_name_says(
    sandbox: SandboxServer,
    everything: list[Record],
    query: str,
    holds: Callable[[Record], bool],
) -> None:
    answer = ask(sandbox, f"/opportunities?{query}&per_page=1").json()
    assert answer["meta"]["total_row_count"] == sum(map(holds, everything))


def test_needing_prep_is_what_is_reserved_and_starts_soon(sandbox: SandboxServer) -> None:
    found = ask(sandbox, "/opportunities?filtermode=needing_prep&per_page=100").json()
    assert found["opportunities"]
    assert {o["status_name"] for o in found["opportunities"]} == {"Reserved"}
    assert {o["state_name"] for o in found["opportunities"]} == {"Order"}


def test_a_filter_on_a_member_follows_the_member(sandbox: SandboxServer) -> None:
    before = matching(sandbox, "q[member_name_eq]=Renamed Ltd")
    sandbox.store.members.edit(100, {"name": "Renamed Ltd"})
    after_ = matching(sandbox, "q[member_name_eq]=Renamed Ltd")
    assert before == []
    assert after_ == matching(sandbox, "q[member_id_eq]=100") != []
    row = listed(sandbox, f"q[id_eq]={after_[0]}&include[]=member")[0]
    assert row["member"]["name"] == "Renamed Ltd"
    sandbox.store.members.edit(100, {"name": "Harbour Events"})


def test_several_sorts_follow_one_another(sandbox: SandboxServer, everything: list[Record]) -> None:
    query = f"q[s][]={quote('status desc')}&q[s][]={quote('charge_total asc')}"
    wanted = sorted(everything, key=lambda r: (-r["status"], float(r["charge_total"]), r["id"]))
    assert ids(sandbox, f"{query}&per_page=100") == [r["id"] for r in wanted[:100]]
    assert ids(sandbox, f"{query}&per_page=100&page=2") == [r["id"] for r in wanted[100:200]]
    last = sorted(everything, key=lambda r: -r["id"])
    assert ids(sandbox, f"q[s][]={quote('id desc')}&per_page=9") == [r["id"] for r in last[:9]]
    ignored = ids(sandbox, f"sort={quote('-updated_at')}&per_page=9")
    assert ignored == [r["id"] for r in everything[:9]]
