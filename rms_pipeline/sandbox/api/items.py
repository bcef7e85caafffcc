"""`/opportunities/{id}/opportunity_items` and, where there is one, `/opportunity_items`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from rms_pipeline.sandbox.account import InventedAccount
from rms_pipeline.sandbox.api.answers import Answer, Refusal, Request
from rms_pipeline.sandbox.api.filters import (
    Fields,
    Filters,
    fields_of,
    in_order,
    parse,
    shuffled,
)
from rms_pipeline.sandbox.api.paging import cut

_NAME = "opportunity_items"
_INCLUDES = ("item", "item_assets")
FIELDS: Fields = {
    **dict.fromkeys(
        ("id", "opportunity_id", "parent_opportunity_item_id", "item_id", "opportunity_item_type",
         "transaction_type", "quantity", "price", "status", "charge_total", "weight"),
        "number",
    ),
    **dict.fromkeys(("has_shortage", "sub_rent"), "flag"),
    **dict.fromkeys(("starts_at", "ends_at", "created_at", "updated_at"), "time"),
    **dict.fromkeys(("name", "description", "item_type", "path"), "text"),
}  # fmt: skip


def answer(account: InventedAccount, id_: int, below: str, request: Request) -> Answer:
    """For the items of one opportunity, which is there; `below` follows its id. Raises Refusal."""
    store, method = account.store, request.method
    if method == "GET" and id_ in account.switches.refused_items:
        raise Refusal("Items cannot be shown", account.switches.refused_items[id_])
    if below == _NAME and method == "GET":
        filters = parse(request.query, FIELDS, account.switches)
        found = [item for item in store.items(id_) if filters.hold(fields_of(item, FIELDS))]
        if account.switches.honours_sort:
            found = in_order(found, filters, lambda item, field: fields_of(item, FIELDS)(field))
        else:
            by_id = {item["id"]: item for item in found}
            found = [by_id[each] for each in shuffled(by_id)]
        page = cut(found, request.query, account.switches)
        return Answer(200, page.body(_NAME, _bodies(account, page.rows, request)))
    if below == _NAME and method == "POST":
        item_id = store.create_item(id_, request.fields("opportunity_item")) or 0
        return _single(account, id_, item_id, 201)
    tail = below.removeprefix(f"{_NAME}/")
    item_id = int(tail) if tail.isdigit() else 0
    if method == "GET":
        return _single(account, id_, item_id)
    if method in ("PUT", "PATCH") and store.edit_item(
        id_, item_id, request.fields("opportunity_item")
    ):
        return _single(account, id_, item_id)
    if method == "DELETE" and store.delete_item(id_, item_id):
        return Answer(204)
    raise Refusal("Opportunity item not found", 404)


def answer_for_all(account: InventedAccount, request: Request) -> Answer:
    """For `/opportunity_items`, the items of the whole account by id. Raises Refusal."""
    how, store = account.switches.all_items, account.store
    if how == "absent" or request.path != f"/{_NAME}" or request.method != "GET":
        raise Refusal("Not found", 404)
    query = request.query
    if how == "unfiltered":
        query = [(key, value) for key, value in query if not key.startswith("q[")]
    filters = parse(query, FIELDS, account.switches)

    def matching() -> list[tuple[int, int]]:
        """As (opportunity, place among its items): whole items would be too many to hold."""
        return [
            (id_, place)
            for id_ in _owners(filters, store.ids())
            for place, item in enumerate(store.items(id_))
            if not filters.conditions or filters.hold(fields_of(item, FIELDS))
        ]

    def value(row: tuple[int, int], field: str) -> Any:
        return fields_of(store.items(row[0])[row[1]], FIELDS)(field)

    found = store.remembered(("items", filters.conditions), matching)
    page = cut(in_order(found, filters, value), query, account.switches)
    items = [store.items(id_)[place] for id_, place in page.rows]
    return Answer(200, page.body(_NAME, _bodies(account, items, request)))


def _owners(filters: Filters, ids: list[int]) -> list[int]:
    """Whose items need be looked at: those of a few are not sought among all."""
    for condition in filters.conditions:
        if condition.fields == ("opportunity_id",) and condition.predicate == "in":
            return [id_ for id_ in ids if id_ in condition.wanted]
    return ids


def _bodies(
    account: InventedAccount, items: Sequence[dict[str, Any]], request: Request
) -> list[bytes]:
    include = {value for key, value in request.query if key == "include[]"}
    for name in sorted(include & account.switches.refused_includes.keys()):
        raise Refusal(f"{name} cannot be included", account.switches.refused_includes[name])
    left_out = [] if account.switches.api == "v1" else [n for n in _INCLUDES if n not in include]
    return [
        msgspec.json.encode({name: value for name, value in item.items() if name not in left_out})
        for item in items
    ]


def _single(account: InventedAccount, id_: int, item_id: int, status: int = 200) -> Answer:
    for item in account.store.items(id_):
        if item["id"] == item_id:
            return Answer(status, msgspec.json.encode({"opportunity_item": item}))
    raise Refusal("Opportunity item not found", 404)
