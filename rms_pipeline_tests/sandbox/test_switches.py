"""What nobody is sure of, each in both positions, turned over HTTP."""

import base64
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline.sandbox.records import LISTED
from rms_pipeline_tests.sandbox.account import ALL, HEADERS, ask, ids, listed, meta, turn

ASKED = "&".join(f"include[]={name}" for name in (*LISTED, "participants"))


# Pages that hold all of a small account.
FIRST = Switches(max_per_page=100)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[SandboxServer]:
    with SandboxServer(Store(60, clock=clock), switches=FIRST) as server:
        yield server


def switches_url(sandbox: SandboxServer) -> str:
    return sandbox.url.replace("/api/v1", "/sandbox/switches")


def test_switches_are_shown_and_turned_without_touching_the_others(sandbox: SandboxServer) -> None:
    turn(sandbox, max_per_page=7)
    turn(sandbox, gone_status=410)
    shown = requests.get(switches_url(sandbox), headers=HEADERS, timeout=10).json()
    assert (shown["max_per_page"], shown["gone_status"]) == (7, 410)
    turn(sandbox, **shown)
    assert sandbox.switches == replace(FIRST, max_per_page=7, gone_status=410)
    requests.delete(switches_url(sandbox), headers=HEADERS, timeout=10)
    assert sandbox.switches == FIRST


def test_the_version_of_the_api_brings_its_own_size_of_page_unless_one_is_named(
    sandbox: SandboxServer,
) -> None:
    turn(sandbox, api="v2.1")
    assert meta(sandbox, "per_page=100")["per_page"] == 25
    turn(sandbox, api="v1")
    assert meta(sandbox, "per_page=100")["per_page"] == 100
    turn(sandbox, api="v2.1", max_per_page=50)
    assert meta(sandbox, "per_page=100")["per_page"] == 50
    assert Switches(api="v2.1").max_per_page == 25
    assert Switches(api="v2.1", max_per_page=9).max_per_page == 9
    assert Switches(api="v1").unknown_predicate == "422"
    assert Switches(api="v2.1").unknown_predicate == "ignored"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"max_per_pge": 7}', "max_per_pge"),
        (b'{"max_per_page": 0}', "max_per_page"),
        (b'{"max_per_page": "many"}', "max_per_page"),
        (b'{"gone_status": 500}', "gone_status"),
        (b'{"lists_lag": -1}', "lists_lag"),
        (b'{"api": "v3"}', "api"),
        (b'{"bodies": {"7": "not base64!"}}', "bodies"),
        (b'{"refused_includes": {"member": 1000}}', "refused_includes"),
        (b"[]", "switch"),
        (b"{", "switch"),
        (b"\xff", "switch"),
    ],
)
def test_a_switch_that_cannot_be_turned_so_is_a_422_that_names_it(
    sandbox: SandboxServer, body: bytes, said: str
) -> None:
    answer = requests.put(switches_url(sandbox), headers=HEADERS, data=body, timeout=10)
    assert answer.status_code == 422
    assert said in answer.json()["errors"][0]
    assert sandbox.switches == FIRST


def test_per_page_over_the_most_is_clamped_or_refused(sandbox: SandboxServer) -> None:
    turn(sandbox, max_per_page=25)
    assert len(listed(sandbox, "per_page=100")) == 25
    turn(sandbox, per_page_over="422")
    assert ask(sandbox, "/opportunities?per_page=100").status_code == 422
    assert len(listed(sandbox, "per_page=25")) == 25


@pytest.mark.parametrize("query", ["q[nonsense_eq]=1", "q[subject_resembles]=x", "q[]=1"])
def test_an_unknown_predicate_is_ignored_or_refused(sandbox: SandboxServer, query: str) -> None:
    turn(sandbox, unknown_predicate="ignored")
    assert meta(sandbox, query)["total_row_count"] == 60
    for status in (400, 422):
        turn(sandbox, unknown_predicate=status)
        assert ask(sandbox, f"/opportunities?{query}").status_code == status


def test_lists_lag_in_every_respect_and_single_records_do_not(
    sandbox: SandboxServer, clock: Clock
) -> None:
    turn(sandbox, lists_lag=5)
    edited, removed, *_ = before = ids(sandbox, "per_page=100")
    everything = listed(sandbox, "per_page=100")
    sandbox.store.edit(edited, {"subject": "Now", "status": 77})
    sandbox.store.delete(removed)
    made = sandbox.store.create({"subject": "New"})
    sandbox.store.put_raw(900_000, b'{"id":900000}')
    clock.now += 4.9
    assert listed(sandbox, "per_page=100") == everything
    assert meta(sandbox)["total_row_count"] == 60
    assert ids(sandbox, "q[status_eq]=77") == []
    assert ask(sandbox, f"/opportunities/{edited}").json()["opportunity"]["subject"] == "Now"
    assert ask(sandbox, f"/opportunities/{removed}").status_code == 404
    assert ask(sandbox, f"/opportunities/{made}").status_code == 200
    clock.now += 0.2
    assert ids(sandbox, "per_page=100") == [
        *sorted({*before, made} - {removed}),
        900_000,
    ]
    assert ids(sandbox, "q[status_eq]=77") == [edited]


def test_lists_catch_up_change_by_change(sandbox: SandboxServer, clock: Clock) -> None:
    turn(sandbox, lists_lag=5)
    (id_, *_) = ids(sandbox)
    for subject in "abc":
        sandbox.store.edit(id_, {"subject": subject})
        clock.now += 2
    assert [r["subject"] for r in listed(sandbox, f"q[id_eq]={id_}")] == ["a"]
    clock.now += 2
    assert [r["subject"] for r in listed(sandbox, f"q[id_eq]={id_}")] == ["b"]
    turn(sandbox, lists_lag=0)
    assert [r["subject"] for r in listed(sandbox, f"q[id_eq]={id_}")] == ["c"]


def test_a_new_record_is_404_by_id_for_a_while_though_lists_have_it(
    sandbox: SandboxServer, clock: Clock
) -> None:
    turn(sandbox, singles_lag=3)
    old = ids(sandbox)[0]
    made = sandbox.store.create({})
    sandbox.store.edit(old, {"subject": "an edit makes nothing new"})
    assert made in ids(sandbox, "per_page=100")
    assert ask(sandbox, f"/opportunities/{made}").status_code == 404
    assert ask(sandbox, f"/opportunities/{old}").status_code == 200
    sandbox.store.edit(made, {"subject": "still new"})
    assert ask(sandbox, f"/opportunities/{made}").status_code == 404
    clock.now += 3.1
    assert ask(sandbox, f"/opportunities/{made}").status_code == 200


def test_a_count_may_be_capped_and_pages_go_on_beyond_it(sandbox: SandboxServer) -> None:
    assert meta(sandbox)["total_row_count"] == 60
    turn(sandbox, count_cap=25)
    page = "per_page=20&page=3"
    assert meta(sandbox, page)["total_row_count"] == 25
    assert len(listed(sandbox, page)) == 20
    turn(sandbox, count_cap=100)
    assert meta(sandbox, page)["total_row_count"] == 60


def test_filtermode_is_honoured_or_ignored(sandbox: SandboxServer) -> None:
    live = ask(sandbox, "/opportunities?per_page=100").json()["meta"]["total_row_count"]
    assert meta(sandbox)["total_row_count"] == 60 > live
    turn(sandbox, honours_filtermode=False)
    assert meta(sandbox)["total_row_count"] == live


def test_a_page_that_would_hold_an_undeliverable_one_answers_500(sandbox: SandboxServer) -> None:
    bad = ids(sandbox, "per_page=10&page=2")[3]
    turn(sandbox, undeliverable=[bad])
    for page, status in ((1, 200), (2, 500), (3, 200)):
        assert ask(sandbox, f"/opportunities?{ALL}&per_page=10&page={page}").status_code == status
    assert ask(sandbox, f"/opportunities?q[id_in][]={bad}&{ALL}").status_code == 500
    assert bad not in ids(sandbox, f"q[id_gt]={bad}&per_page=100")
    one = f"/opportunities/{bad}"
    assert ask(sandbox, one).json()["opportunity"]["id"] == bad
    turn(sandbox, undeliverable_single=True)
    assert ask(sandbox, one).status_code == 500
    turn(sandbox, undeliverable=[])
    assert ask(sandbox, one).status_code == 200


@pytest.mark.parametrize("raw", [b'{"id":NaN}', b'{"id":7,"reference":"caf\xe9"}', b'{"a":"x\ny"}'])
def test_a_record_may_be_bytes_that_are_no_json(sandbox: SandboxServer, raw: bytes) -> None:
    odd, next_, *_ = ids(sandbox)
    turn(sandbox, bodies={odd: base64.b64encode(raw).decode()})
    assert ask(sandbox, f"/opportunities/{odd}").content == b'{"opportunity":%b}' % raw
    page = ask(sandbox, f"/opportunities?{ALL}&per_page=2").content
    assert page.startswith(b'{"opportunities":[%b,{' % raw)
    assert page.endswith(b'"meta":{"total_row_count":60,"row_count":2,"page":1,"per_page":2}}')
    assert ask(sandbox, f"/opportunities/{next_}").json()["opportunity"]["id"] == next_
    turn(sandbox, bodies={})
    assert ask(sandbox, f"/opportunities/{odd}").json()["opportunity"]["id"] == odd


def test_a_page_with_too_many_records_times_out(sandbox: SandboxServer) -> None:
    assert ask(sandbox, f"/opportunities?{ALL}&per_page=50").status_code == 200
    turn(sandbox, most_records=10)
    refused = ask(sandbox, f"/opportunities?{ALL}&per_page=50")
    assert (refused.status_code, refused.headers["Content-Type"]) == (504, "text/html")
    assert ask(sandbox, f"/opportunities?{ALL}&per_page=10").status_code == 200
    assert len(ids(sandbox, "per_page=55&page=2")) == 5


def test_pages_beyond_the_deepest_are_refused_or_empty(sandbox: SandboxServer) -> None:
    assert len(listed(sandbox, "per_page=10&page=4")) == 10
    turn(sandbox, deepest_page=3)
    assert len(listed(sandbox, "per_page=10&page=3")) == 10
    deep = f"/opportunities?{ALL}&per_page=10&page=4"
    assert ask(sandbox, deep).status_code == 422
    turn(sandbox, deep_page_status=500)
    assert ask(sandbox, deep).status_code == 500
    turn(sandbox, deep_page_status=200)
    answer = ask(sandbox, deep).json()
    assert answer["opportunities"] == []
    assert answer["meta"] == {"total_row_count": 60, "row_count": 0, "page": 4, "per_page": 10}


def test_an_opportunity_may_be_listed_and_counted_twice_even_across_pages(
    sandbox: SandboxServer,
) -> None:
    first, second, third, *_ = ids(sandbox)
    turn(sandbox, lists_twice=[second])
    assert ids(sandbox, "per_page=2") == [first, second]
    assert ids(sandbox, "per_page=2&page=2") == [second, third]
    assert meta(sandbox)["total_row_count"] == 61
    assert ids(sandbox, f"q[id_in][]={second}") == [second, second]
    turn(sandbox, lists_twice=[])
    assert meta(sandbox)["total_row_count"] == 60


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_gone_is_404_or_410(sandbox: SandboxServer, status: int) -> None:
    turn(sandbox, gone_status=status)
    gone = ids(sandbox)[0]
    sandbox.store.delete(gone)
    for method, body in (("GET", None), ("PUT", {"opportunity": {}}), ("DELETE", None)):
        assert ask(sandbox, f"/opportunities/{gone}", method, body).status_code == status
    assert ask(sandbox, "/nowhere").status_code == 404


@pytest.mark.parametrize("status", [400, 404, 422])
def test_an_include_may_be_refused_in_the_list_and_alone(
    sandbox: SandboxServer, status: int
) -> None:
    id_ = ids(sandbox, "include[]=venue")[0]
    turn(sandbox, refused_includes={"venue": status})
    for path in ("/opportunities", f"/opportunities/{id_}"):
        assert ask(sandbox, f"{path}?include[]=venue&include[]=member").status_code == status
        assert ask(sandbox, f"{path}?include[]=member").status_code == 200
    turn(sandbox, refused_includes={})
    assert ask(sandbox, "/opportunities?include[]=venue").status_code == 200


def test_webhooks_may_be_switched_off_in_the_account(sandbox: SandboxServer) -> None:
    hook = {"name": "Ours", "event": "opportunity_create", "target_url": "https://a.example/x"}
    assert ask(sandbox, "/webhooks", "POST", {"webhook": hook}).status_code == 201
    turn(sandbox, webhooks_enabled=False)
    for method, path in (("GET", "/webhooks"), ("POST", "/webhooks"), ("GET", "/webhook_logs")):
        answer = ask(sandbox, path, method, {"webhook": hook})
        assert answer.status_code == 403
        assert "not enabled" in answer.text
    sandbox.store.create({})
    turn(sandbox, webhooks_enabled=True)
    assert len(ask(sandbox, "/webhooks").json()["webhooks"]) == 1
    assert sandbox.deliveries.wait_until_idle(0)


def test_links_to_pictures_differ_at_each_read_when_they_are_signed(sandbox: SandboxServer) -> None:
    id_ = sandbox.store.create({})

    def links() -> list[Any]:
        record = ask(sandbox, f"/opportunities/{id_}?include[]=member").json()["opportunity"]
        row = listed(sandbox, f"q[id_eq]={id_}&include[]=member")[0]
        return [record["member"]["icon"]["url"], row["member"]["icon"]["thumb_url"]]

    assert links() == links()
    turn(sandbox, signed_links=True)
    first, second = links(), links()
    assert not set(first) & set(second)
    assert [link.split("?")[0] for link in first] == [link.split("?")[0] for link in second]


def test_associations_come_by_the_version_of_the_api(sandbox: SandboxServer) -> None:
    def come(path: str) -> set[str]:
        record = ask(sandbox, path).json()
        record = record.get("opportunity") or record["opportunities"][0]
        return {*LISTED, "participants"} & set(record)

    many, one = f"/opportunities?{ALL}", f"/opportunities/{ids(sandbox)[0]}?"
    turn(sandbox, api="v1")
    plain = {"destination", "billing_address", "opportunity_surcharges"}
    assert come(many) == come(one) == plain
    assert come(f"{many}&{ASKED}") == come(f"{one}&{ASKED}") == {*LISTED, "participants"}
    turn(sandbox, api="v2.1")
    assert come(many) == come(one) == set()
    assert come(f"{many}&{ASKED}") == set(LISTED)
    assert come(f"{one}&{ASKED}") == {*LISTED, "participants"}
    turn(sandbox, nested="never")
    assert come(f"{many}&{ASKED}") == set()
    turn(sandbox, nested="always")
    assert come(many) == come(one) == set(LISTED)


# Between the first and the last of what the account has, whatever today is.
SOME_DAY = (datetime.now(UTC) - timedelta(days=40)).date()
ONE_WAY_OR_THE_OTHER: list[tuple[str, Any, Any, str]] = [
    ("honours_sort", True, False, "/opportunities?filtermode=all&per_page=60&q[s]=id%20asc"),
    ("honours_id_predicates", True, False, "/opportunities?filtermode=all&q[id_gt]=1030"),
    ("honours_created_at", True, False, f"/opportunities?q[created_at_gteq]={SOME_DAY}"),
    ("honours_id_in", True, False, "/opportunities?filtermode=all&q[id_in][]=1003"),
    ("honours_filtermode", True, False, "/opportunities?filtermode=all&per_page=1"),
    ("honours_or", True, False, "/opportunities?q[subject_or_description_cont]=gala"),
    ("null_predicates", "honoured", "ignored", "/opportunities?q[starts_at_not_null]=1"),
    ("filtermode_default", "live", "all", "/opportunities?per_page=1"),
    ("default_per_page", 20, 12, "/opportunities"),
    ("per_page_over", "clamped", "422", "/opportunities?per_page=500"),
    ("nested", "asked", "always", "/opportunities"),
    ("nested", "asked", "never", "/opportunities?include[]=member"),
    ("refused", [], ["q[s]"], "/opportunities?q[s]=id%20asc"),
    ("ignored", [], ["q[ends_at"], f"/opportunities?filtermode=all&q[ends_at_gteq]={SOME_DAY}"),
    ("all_items", "absent", "filtered", "/opportunity_items"),
    ("refused_items", {}, {1003: 500}, "/opportunities/1003/opportunity_items"),
    ("error_shape", "texts", "message", "/opportunities/1"),
    ("webhooks_enabled", True, False, "/webhooks"),
]


@pytest.mark.parametrize(("name", "one", "other", "path"), ONE_WAY_OR_THE_OTHER)
def test_a_switch_changes_the_answer_and_back(
    sandbox: SandboxServer, name: str, one: Any, other: Any, path: str
) -> None:
    sandbox.store.create({"starts_at": None, "ends_at": None})
    turn(sandbox, **{name: one})
    before = ask(sandbox, path).content
    turn(sandbox, **{name: other})
    assert ask(sandbox, path).content != before
    turn(sandbox, **{name: one})
    assert ask(sandbox, path).content == before


def test_null_predicates_may_be_refused(sandbox: SandboxServer) -> None:
    turn(sandbox, null_predicates="422")
    assert ask(sandbox, "/opportunities?q[starts_at_null]=1").status_code == 422
    assert ask(sandbox, "/opportunities?q[starts_at_gteq]=2026-01-01").status_code == 200


def test_the_date_may_be_missing(sandbox: SandboxServer) -> None:
    assert "Date" in ask(sandbox, "/opportunities").headers
    turn(sandbox, tells_date=False)
    assert "Date" not in ask(sandbox, "/opportunities").headers


@pytest.mark.parametrize(
    ("form", "looks_like"), [("seconds", r"\d+"), ("date", r"\w{3}, .* GMT"), ("none", None)]
)
def test_a_429_says_in_several_forms_when_to_come_back(
    sandbox: SandboxServer, form: str, looks_like: str | None
) -> None:
    turn(sandbox, retry_after=form)
    sandbox.faults.queue.append("rate_limited")
    said = ask(sandbox, "/opportunities").headers.get("Retry-After")
    if looks_like is None:
        assert said is None
    else:
        assert re.fullmatch(looks_like, said or "")


def test_what_the_keys_user_may_not_see_is_refused_and_nothing_else(
    sandbox: SandboxServer,
) -> None:
    turn(sandbox, forbidden=["members", "invoices"])
    paths = ("/members", "/members/100", "/invoices", "/opportunities", "/products")
    assert [ask(sandbox, path).status_code for path in paths] == [403, 403, 403, 200, 200]


def test_every_switch_has_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for field in fields(Switches):
        assert re.search(rf"\b{field.name}\b", tests), field.name
        assert f"`{field.name}`" in (Switches.__doc__ or ""), field.name
