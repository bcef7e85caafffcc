"""`/opportunities`: the list, one alone, and the items of one."""

from typing import Any

from rms_pipeline.sandbox.account import InventedAccount
from rms_pipeline.sandbox.api import items
from rms_pipeline.sandbox.api.answers import Answer, Refusal, Request, page_of_a_proxy
from rms_pipeline.sandbox.api.opportunity_list import select
from rms_pipeline.sandbox.api.paging import cut
from rms_pipeline.sandbox.records import LISTED, PLAIN, SINGLE_ONLY, Records


def answer(account: InventedAccount, request: Request) -> Answer:
    """For `/opportunities` and what is below it. Raises Refusal."""
    if request.path == "/opportunities":
        if request.method == "GET":
            return _list(account, request)
        if request.method == "POST":
            id_ = account.store.create(request.fields("opportunity"))
            return _single(account, id_, request, status=201)
    number, slash, below = request.path.removeprefix("/opportunities/").partition("/")
    if not number.isdigit():
        raise Refusal("Not found", 404)
    id_ = int(number)
    if request.method == "GET":
        _check_readable(account, id_)
    if below.startswith("opportunity_items"):
        if account.store.get(id_, ()) is None:
            raise _gone(account)
        return items.answer(account, id_, below, request)
    if slash:
        raise Refusal("Not found", 404)
    if request.method == "GET":
        return _single(account, id_, request)
    if request.method in ("PUT", "PATCH") and account.store.edit(
        id_, _changes(account, id_, request)
    ):
        return _single(account, id_, request)
    if request.method == "DELETE" and account.store.delete(id_):
        return Answer(204)
    raise _gone(account)


def _check_readable(account: InventedAccount, id_: int) -> None:
    """Raises Refusal."""
    switches = account.switches
    if switches.undeliverable_single and id_ in switches.undeliverable:
        raise Refusal("Internal server error", 500)
    if account.store.age(id_) < switches.singles_lag:
        raise Refusal("Opportunity not found", 404)


def _changes(account: InventedAccount, id_: int, request: Request) -> dict[str, Any]:
    """What a PUT or PATCH names; custom fields that it does not name stay. Raises Refusal."""
    changes = request.fields("opportunity")
    record = account.store.get(id_, ()) or {}
    before, named = record.get("custom_fields"), changes.get("custom_fields")
    if isinstance(before, dict) and isinstance(named, dict):
        changes["custom_fields"] = {**before, **named}
    return changes


def _single(account: InventedAccount, id_: int, request: Request, *, status: int = 200) -> Answer:
    include = _include(account, request, single=True)
    body = _body(account, account.store, id_, include)
    if body is None:
        raise _gone(account)
    return Answer(status, b'{"opportunity":%b}' % body)


def _list(account: InventedAccount, request: Request) -> Answer:
    switches = account.switches
    include = _include(account, request, single=False)
    records = account.store.ago(switches.lists_lag)
    ids = select(records, request.query, account.store.now(), switches)
    if switches.lists_twice:
        ids = [i for id_ in ids for i in ([id_, id_] if id_ in switches.lists_twice else [id_])]
    page = cut(ids, request.query, switches, switches.max_per_page)
    if switches.deepest_page is not None and page.page > switches.deepest_page:
        if switches.deep_page_status == 200:
            return Answer(200, page.body("opportunities", []))
        raise Refusal(f"page must be at most {switches.deepest_page}", switches.deep_page_status)
    if switches.undeliverable.intersection(page.rows):
        raise Refusal("Internal server error", 500)
    if switches.most_records is not None and len(page.rows) > switches.most_records:
        return page_of_a_proxy(504)
    bodies = [_body(account, records, id_, include) for id_ in page.rows]
    return Answer(200, page.body("opportunities", [body for body in bodies if body is not None]))


def _body(
    account: InventedAccount, records: Records, id_: int, include: tuple[str, ...]
) -> bytes | None:
    switches = account.switches
    body = records.body(id_, include, signed=switches.signed_links)
    return body if body is None else switches.bodies.get(id_, body)


def _include(account: InventedAccount, request: Request, *, single: bool) -> tuple[str, ...]:
    """The associations that come with a record. Raises Refusal."""
    switches = account.switches
    asked = [value for key, value in request.query if key == "include[]"]
    for name in asked:
        if name in switches.refused_includes:
            raise Refusal(f"{name} cannot be included", switches.refused_includes[name])
    known = LISTED if switches.api == "v2.1" and not single else (*LISTED, *SINGLE_ONLY)
    come = set(asked) if switches.nested == "asked" else set()
    if switches.nested == "always":
        come = set(LISTED)
    if switches.api == "v1":
        come |= set(PLAIN)
    return tuple(name for name in known if name in come)


def _gone(account: InventedAccount) -> Refusal:
    return Refusal("Opportunity not found", account.switches.gone_status)
