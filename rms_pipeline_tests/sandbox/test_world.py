"""The invented company hangs together."""

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.sandbox.account import ask, turn

Record = dict[str, Any]
TIMES = ("prep", "load", "deliver", "setup", "show", "takedown", "collect", "unload", "deprep")
KINDS = ("rental_charge", "sale_charge", "service_charge", "surcharge", "tax", "charge")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(500)) as server:
        turn(server, api="v2.1", max_per_page=100)
        yield server


@pytest.fixture(scope="module")
def everything(sandbox: SandboxServer) -> list[Record]:
    return list(sandbox.store.truth())


def pages(sandbox: SandboxServer, path: str, query: str = "") -> list[Record]:
    name = path.rsplit("/", 1)[1]
    found: list[Record] = []
    for page in itertools.count(1):
        answer = ask(sandbox, f"{path}?per_page=100&page={page}&{query}")
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["meta"]["row_count"] == len(body[name])
        found += body[name]
        if len(found) >= body["meta"]["total_row_count"]:
            return found
    raise AssertionError


def test_items_add_up_to_their_opportunity(
    sandbox: SandboxServer, everything: list[Record]
) -> None:
    kinds: Counter[int] = Counter()
    for record in everything[:60]:
        items = pages(sandbox, f"/opportunities/{record['id']}/opportunity_items")
        lines = [item for item in items if item["opportunity_item_type"] != 0]
        kinds.update(item["transaction_type"] for item in lines)
        for kind in KINDS:
            added = sum(Decimal(item[f"{kind}_total"]) for item in lines)
            assert added == Decimal(record[f"{kind}_total"]), (record["id"], kind)
        for item in lines:
            price, quantity, days = (
                Decimal(item[name]) for name in ("price", "quantity", "chargeable_days")
            )
            off = 1 - Decimal(item["discount_percent"]) / 100
            charged = Decimal(item["charge_total"]) - Decimal(item["surcharge_total"])
            assert abs(price * quantity * days * off - charged) <= Decimal("0.005")
        groups = [item for item in items if item["opportunity_item_type"] == 0]
        for group in groups:
            below = [i for i in items if i["parent_opportunity_item_id"] == group["id"]]
            assert below
            added = sum(Decimal(item["charge_total"]) for item in below)
            assert added == Decimal(group["charge_total"])
        paths = [item["path"] for item in items]
        assert paths == sorted(set(paths))
        assert {i["opportunity_id"] for i in items} == {record["id"]}
    assert set(kinds) == {1, 2, 3}


def test_surcharges_are_those_of_the_total(everything: list[Record]) -> None:
    for record in everything:
        added = sum(Decimal(s["charge"]) for s in record["opportunity_surcharges"])
        assert added == Decimal(record["surcharge_total"])
    assert any(record["opportunity_surcharges"] for record in everything)


def test_items_have_their_products_and_assets_only_when_asked(sandbox: SandboxServer) -> None:
    path = f"/opportunities/{sandbox.store.ids()[0]}/opportunity_items"
    assert not {"item", "item_assets"} & set(pages(sandbox, path)[0])
    asked = pages(sandbox, path, "include[]=item&include[]=item_assets")
    products = {p["id"]: p for p in pages(sandbox, "/products", "filtermode=all")}
    for item in asked:
        if item["item_type"] in ("Product", "AccessoryProduct"):
            assert item["item"]["name"] == products[item["item_id"]]["name"] == item["name"]
            held = sum(Decimal(asset["quantity"]) for asset in item["item_assets"])
            assert held == Decimal(item["quantity"])
    assert any(item["item_assets"] for item in asked)


def test_the_single_record_brings_what_a_list_never_does(sandbox: SandboxServer) -> None:
    names = ("opportunity_items", "item_assets", "return_item_assets", "participants")
    asked = "&".join(f"include[]={name}" for name in names)
    id_ = sandbox.store.ids()[0]
    row = ask(sandbox, f"/opportunities?filtermode=all&{asked}").json()["opportunities"][0]
    assert not set(names) & set(row)
    one = ask(sandbox, f"/opportunities/{id_}?{asked}").json()["opportunity"]
    assert set(names) <= set(one)
    assert {i["opportunity_id"] for i in one["opportunity_items"]} == {id_}
    plain = ask(sandbox, f"/opportunities/{id_}").json()["opportunity"]
    assert not set(names) & set(plain)


@pytest.mark.parametrize("loud", [True, False])
def test_an_edited_item_moves_the_totals_and_perhaps_nothing_else(loud: bool) -> None:
    store = Store(5)
    id_ = store.ids()[1]
    before = store.get(id_) or {}
    told: list[str] = []
    store.listen(lambda event: told.append(event.action))
    line = next(i for i in store.items(id_) if i["opportunity_item_type"] == 1)
    change = {"charge_total": "5000.0", "rental_charge_total": "5000.0"}
    assert store.edit_item(id_, line["id"], change, loud=loud)
    after = store.get(id_) or {}
    gained = Decimal(5000) - Decimal(line["charge_total"])
    assert Decimal(after["charge_total"]) - Decimal(before["charge_total"]) == gained
    assert (after["updated_at"] != before["updated_at"]) is loud
    assert told == (["update_item"] if loud else [])
    made = store.create_item(id_, {"name": "More", "charge_total": "1.0"}, loud=loud)
    assert made == max(item["id"] for item in store.items(id_))
    assert store.delete_item(id_, store.items(id_)[0]["id"], loud=loud)
    parents = {item["parent_opportunity_item_id"] for item in store.items(id_)} - {None}
    assert parents <= {item["id"] for item in store.items(id_)}
    assert not store.delete_item(id_, 1)
    assert not store.edit_item(1, 1, {})
    assert store.create_item(1, {}) is None


def test_items_are_edited_and_deleted_over_http(sandbox: SandboxServer) -> None:
    path = f"/opportunities/{sandbox.store.ids()[2]}/opportunity_items"
    first = pages(sandbox, path)[0]
    one = f"{path}/{first['id']}"
    body = {"opportunity_item": {"name": "Renamed"}}
    assert ask(sandbox, one, "PUT", body).json()["opportunity_item"]["name"] == "Renamed"
    assert ask(sandbox, one).json()["opportunity_item"]["name"] == "Renamed"
    assert ask(sandbox, path, "POST", body).status_code == 201
    assert ask(sandbox, one, "DELETE").status_code == 204
    assert ask(sandbox, one).status_code == 404
    assert ask(sandbox, "/opportunities/1/opportunity_items").status_code == 404


@pytest.mark.slow
def test_items_of_the_whole_account_come_filtered_unfiltered_or_not_at_all(
    sandbox: SandboxServer,
) -> None:
    assert ask(sandbox, "/opportunity_items").status_code == 404
    turn(sandbox, all_items="filtered")
    every = pages(sandbox, "/opportunity_items")
    assert [i["id"] for i in every] == sorted(i["id"] for i in every)
    assert {i["opportunity_id"] for i in every} == set(sandbox.store.ids())
    moment = sorted(i["updated_at"] for i in every)[len(every) // 2]
    query = f"q[updated_at_gteq]={moment}"
    later = [i for i in every if i["updated_at"] >= moment]
    assert pages(sandbox, "/opportunity_items", query) == later
    turn(sandbox, all_items="unfiltered")
    total = ask(sandbox, f"/opportunity_items?{query}").json()["meta"]["total_row_count"]
    assert total == len(every) > len(later)
    turn(sandbox, all_items="absent")


def test_an_order_was_ordered_after_it_was_created_and_before_it_changed(
    everything: list[Record],
) -> None:
    for record in everything:
        ordered, created, updated = (record[f"{n}_at"] for n in ("ordered", "created", "updated"))
        assert (ordered is not None) is (record["state"] == 3)
        if ordered:
            assert created < ordered
            assert updated is None or ordered <= updated


def test_nine_pairs_of_times_lie_around_start_and_end(everything: list[Record]) -> None:
    for record in everything:
        starts, ends = record["starts_at"], record["ends_at"]
        for name in TIMES:
            first, last = record[f"{name}_starts_at"], record[f"{name}_ends_at"]
            assert bool(first) is bool(last)
            if not first:
                continue
            assert first < last
            if name in TIMES[:4]:
                assert last <= starts
            elif name in TIMES[5:]:
                assert first >= ends
            else:
                assert (first, last) == (starts, ends)
    known = [sum(bool(r[f"{n}_starts_at"]) for n in TIMES) for r in everything]
    assert set(known) >= {0, 5, 9}


def test_a_new_order_is_ordered_now_and_only_once(sandbox: SandboxServer) -> None:
    store = Store()
    id_ = store.create({"subject": "Gala"})
    store.edit(id_, {"state": 3, "status": 5})
    ordered = (store.get(id_) or {})["ordered_at"]
    assert ordered
    store.edit(id_, {"state": 2})
    store.edit(id_, {"state": 3})
    assert (store.get(id_) or {})["ordered_at"] == ordered


def test_custom_fields_are_of_all_kinds_and_some_are_never_filled(
    everything: list[Record],
) -> None:
    fields = [record["custom_fields"] for record in everything]
    filled = {name: sum(bool(f[name]) for f in fields) for name in fields[0]}
    assert sum(count == 0 for count in filled.values()) == 2
    assert sum(0 < count < len(fields) for count in filled.values()) >= 10
    types = {type(value).__name__ for f in fields for value in f.values()}
    assert types == {"str", "int", "list"}
    assert any(len(f["services_required"]) > 1 for f in fields)


def test_what_was_lost_or_cancelled_has_a_history(everything: list[Record]) -> None:
    lost = [r for r in everything if r["status_name"] == "Lost"]
    cancelled = [r for r in everything if r["status_name"] == "Cancelled"]
    assert lost
    assert cancelled
    assert all(r["ordered_at"] for r in cancelled)
    assert any(r["quote_invalid_at"] for r in lost)
    assert all(r["custom_fields"]["reason_lost"] for r in lost + cancelled)
    assert not any(r["custom_fields"]["reason_lost"] for r in everything if r["status"] < 40)
    assert all(Decimal(r["charge_total"]) > 0 for r in lost + cancelled)


def test_customers_come_back_mostly_to_the_same_place(everything: list[Record]) -> None:
    by_customer = Counter(r["member_id"] for r in everything)
    assert sum(count for count in by_customer.values() if count > 1) > len(everything) * 0.7
    assert min(by_customer.values()) == 1
    places = Counter((r["member_id"], r["venue_id"]) for r in everything)
    assert sum(count for count in places.values() if count > 1) > len(everything) * 0.4


def test_tags_and_stores_differ(everything: list[Record]) -> None:
    tags = Counter(len(r["tag_list"]) for r in everything)
    assert tags[0]
    assert tags[1]
    assert tags[2]
    assert {r["store_id"] for r in everything} == {1, 2}


def test_members_are_those_of_the_opportunities(
    sandbox: SandboxServer, everything: list[Record]
) -> None:
    members = {m["id"]: m for m in pages(sandbox, "/members", "filtermode=all")}
    for record in everything[:80]:
        for name in ("member", "venue", "owner"):
            whole = members[record[name]["id"]]
            assert whole["name"] == record[name]["name"]
            assert whole["membership_type"] == record[name]["membership_type"]
    assert {m["membership_type"] for m in members.values()} == {
        "Organisation", "Contact", "Venue", "User", "Vehicle",
    }  # fmt: skip
    contact = next(m for m in members.values() if m["membership_type"] == "Contact")
    organisation = members[contact["parent_members"][0]["relatable_id"]]
    assert contact["id"] in [c["related_id"] for c in organisation["child_members"]]
    assert contact["membership"]["title"]


@pytest.mark.parametrize(
    ("query", "types", "active"),
    [
        ("", None, {True}),
        ("filtermode=active", None, {True}),
        ("filtermode=inactive", None, {False}),
        ("filtermode=all", None, {True, False}),
        ("filtermode=organisation", {"Organisation"}, {True}),
        ("filtermode=contact", {"Contact"}, {True}),
        ("filtermode=venue", {"Venue"}, {True}),
        ("filtermode=user", {"User"}, {True}),
        ("q[membership_type_eq]=Venue", {"Venue"}, {True}),
        ("q[id_in][]=100&q[id_in][]=101", {"Organisation"}, {True}),
    ],
)
def test_members_are_filtered(
    sandbox: SandboxServer, query: str, types: set[str] | None, active: set[bool]
) -> None:
    found = pages(sandbox, "/members", query)
    assert {m["active"] for m in found} == active
    if types:
        assert {m["membership_type"] for m in found} == types


def test_a_member_is_created_edited_and_removed(sandbox: SandboxServer) -> None:
    body = {"member": {"name": "New Events", "membership_type": "Organisation"}}
    made = ask(sandbox, "/members", "POST", body).json()["member"]
    one = f"/members/{made['id']}"
    edited = ask(sandbox, one, "PUT", {"member": {"name": "Newer"}}).json()["member"]
    assert edited["name"] == "Newer"
    assert edited["updated_at"] >= made["updated_at"]
    found = pages(sandbox, "/members", f"q[updated_at_gteq]={made['updated_at']}")
    assert [m["id"] for m in found] == [made["id"]]
    assert ask(sandbox, one, "DELETE").status_code == 204
    assert ask(sandbox, one).status_code == 404
    assert ask(sandbox, "/members/100").json()["member"]["id"] == 100


def test_products_stores_and_invoices_are_listed_and_found_alone(
    sandbox: SandboxServer, everything: list[Record]
) -> None:
    for name in ("products", "stores", "invoices"):
        found = pages(sandbox, f"/{name}", "filtermode=all")
        assert found
        one = ask(sandbox, f"/{name}/{found[0]['id']}").json()
        assert one[name[:-1]] == found[0]
        assert ask(sandbox, f"/{name}/{10**12}").status_code == 404
        assert ask(sandbox, f"/{name}/").json() == ask(sandbox, f"/{name}").json()
    rental = pages(sandbox, "/products", "filtermode=rental")
    assert all(p["rental_rate"] and p["active"] for p in rental)
    assert len(rental) < len(pages(sandbox, "/products", "filtermode=all"))
    invoiced = {r["id"]: r for r in everything if r["invoiced"]}
    invoices = pages(sandbox, "/invoices")
    of = {i["invoice_items"][0]["invoiceable_id"] for i in invoices}
    assert of == set(invoiced)
    for invoice in invoices:
        record = invoiced[invoice["invoice_items"][0]["invoiceable_id"]]
        assert invoice["charge_total"] == record["charge_total"]
        assert invoice["member_id"] == record["member_id"]
    credits = [i for i in invoices if i["invoice_type"] == 1]
    assert credits
    assert all(
        invoiced[i["invoice_items"][0]["invoiceable_id"]]["status_name"] == "Cancelled"
        for i in credits
    )


def test_other_collections_give_a_hundred_a_page(sandbox: SandboxServer) -> None:
    turn(sandbox, max_per_page=25)
    assert ask(sandbox, "/members?per_page=500").json()["meta"]["per_page"] == 100
    assert ask(sandbox, "/opportunities?per_page=500").json()["meta"]["per_page"] == 25
    turn(sandbox, max_per_page=100)


def test_an_invoice_is_of_the_same_moment_whenever_somebody_asks_on_any_day() -> None:
    store = Store(400)
    for day in range(0, 40, 2):
        store.ahead = timedelta(days=day)
        before = {made["id"]: made["invoiced_at"] for made in store.invoices.all()}
        store.ahead += timedelta(seconds=7)
        after = {made["id"]: made["invoiced_at"] for made in store.invoices.all()}
        assert after == before
