"""`/members`, `/products`, `/stores` and `/invoices`: the list, and one alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from rms_pipeline.sandbox.account import InventedAccount
from rms_pipeline.sandbox.api.answers import Answer, Refusal, Request
from rms_pipeline.sandbox.api.filters import Fields, fields_of, in_order, parse, shuffled, unknown
from rms_pipeline.sandbox.api.paging import cut
from rms_pipeline.sandbox.store import Store
from rms_pipeline.sandbox.tables import Table
from rms_pipeline.sandbox.world.members import with_signed_picture

Record = dict[str, Any]
Mode = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class _Collection:
    """`modes` are its filtermodes, the first of which is meant when none is named."""

    single: str
    table: Callable[[Store], Table]
    fields: Fields
    modes: dict[str, Mode]


_DATED: Fields = {"id": "number", "name": "text", "created_at": "time", "updated_at": "time"}


def _of_type(name: str) -> Mode:
    return lambda record: bool(record.get("active")) and record.get("membership_type") == name


_COLLECTIONS = {
    "members": _Collection(
        "member",
        lambda store: store.members,
        {**_DATED, "uuid": "text", "description": "text", "membership_type": "text",
         "membership_id": "number", "active": "flag", "bookable": "flag"},
        {
            "active": lambda record: bool(record.get("active")),
            "inactive": lambda record: not record.get("active"),
            "all": lambda record: True,
            **{name.lower(): _of_type(name)
               for name in ("Organisation", "Contact", "Venue", "User", "Vehicle")},
        },
    ),
    "products": _Collection(
        "product",
        lambda store: store.products,
        {**_DATED, "description": "text", "active": "flag", "stock_method": "number",
         "product_group_id": "number", "barcode": "text"},
        {
            "active": lambda record: bool(record.get("active")),
            "inactive": lambda record: not record.get("active"),
            "all": lambda record: True,
            "rental": lambda record: bool(record.get("active") and record.get("rental_rate")),
        },
    ),
    "stores": _Collection(
        "store",
        lambda store: store.stores,
        {**_DATED, "city": "text", "active": "flag"},
        {"all": lambda record: True},
    ),
}  # fmt: skip
_INVOICE_FIELDS: Fields = {
    "id": "number", "number": "text", "subject": "text", "status": "number",
    "invoice_type": "number", "member_id": "number", "owned_by": "number",
    "charge_total": "number", "invoiced_at": "time", "due_at": "time", "created_at": "time",
    "updated_at": "time",
}  # fmt: skip


def answer(account: InventedAccount, name: str, request: Request) -> Answer:
    """For `/{name}`, one of members, products and stores, and what is below. Raises Refusal."""
    collection = _COLLECTIONS[name]
    table, method = collection.table(account.store), request.method
    tail = request.path.removeprefix(f"/{name}")
    if tail == "" and method == "GET":
        return _list(account, name, collection, request)
    if tail == "" and method == "POST":
        return _single(account, collection, table.create(request.fields(collection.single)), 201)
    id_ = int(tail[1:]) if tail[1:].isdigit() else 0
    found = table.get(id_)
    if found is None:
        raise Refusal(f"{collection.single.capitalize()} not found", 404)
    if method == "GET":
        return _single(account, collection, found)
    if method == "DELETE" and table.delete(id_):
        return Answer(204)
    if method in ("PUT", "PATCH"):
        changed = table.edit(id_, request.fields(collection.single))
        return _single(account, collection, changed or found)
    raise Refusal("Not found", 404)


def answer_invoices(account: InventedAccount, request: Request) -> Answer:
    """For `/invoices` and what is below it. Raises Refusal."""
    invoices, method = account.store.invoices, request.method
    tail = request.path.removeprefix("/invoices")
    if not tail and method == "GET":
        return _list_invoices(account, request)
    if not tail and method == "POST":
        return _invoice(invoices.create(request.fields("invoice")), 201)
    id_ = int(tail[1:]) if tail[1:].isdigit() else 0
    found = invoices.get(id_)
    if found is None:
        raise Refusal("Invoice not found", 404)
    if method == "GET":
        return _invoice(found)
    if method == "DELETE" and invoices.delete(id_):
        return Answer(204)
    if method in ("PUT", "PATCH"):
        return _invoice(invoices.edit(id_, request.fields("invoice")) or found)
    raise Refusal("Not found", 404)


def _list_invoices(account: InventedAccount, request: Request) -> Answer:
    store = account.store
    filters = parse(request.query, _INVOICE_FIELDS, account.switches)

    def value(invoice: Record, field: str) -> Any:
        return fields_of(invoice, _INVOICE_FIELDS)(field)

    key = ("invoices", store.now().date(), store.invoices.version)
    found = [
        invoice
        for invoice in store.remembered(key, store.invoices.all)
        if filters.hold(fields_of(invoice, _INVOICE_FIELDS))
    ]
    page = cut(in_order(found, filters, value), request.query, account.switches)
    return Answer(200, page.body("invoices", [msgspec.json.encode(row) for row in page.rows]))


def _invoice(record: Record, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode({"invoice": record}))


def _list(account: InventedAccount, name: str, collection: _Collection, request: Request) -> Answer:
    switches = account.switches
    filters = parse(request.query, collection.fields, switches)
    for mode in filters.modes:
        if mode not in collection.modes:
            unknown(f"filtermode {mode}", switches)
    modes = [collection.modes[mode] for mode in filters.modes if mode in collection.modes]
    modes = modes or [next(iter(collection.modes.values()))]

    def value(record: Record, field: str) -> Any:
        return fields_of(record, collection.fields)(field)

    found = [
        record
        for record in collection.table(account.store).all()
        if all(mode(record) for mode in modes)
        and filters.hold(fields_of(record, collection.fields))
    ]
    if switches.honours_sort:
        found = in_order(found, filters, value)
    else:
        by_id = {record["id"]: record for record in found}
        found = [by_id[id_] for id_ in shuffled(by_id)]
    page = cut(found, request.query, switches)
    rows = [_shown(account, record) for record in page.rows]
    return Answer(200, page.body(name, [msgspec.json.encode(row) for row in rows]))


def _single(
    account: InventedAccount, collection: _Collection, record: Record, status: int = 200
) -> Answer:
    body = {collection.single: _shown(account, record)}
    return Answer(status, msgspec.json.encode(body))


def _shown(account: InventedAccount, record: Record) -> Record:
    return with_signed_picture(record) if account.switches.signed_links else record
