"""What the command says of each collection: `status`, `doctor` and `refresh`."""

import io
import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rms_pipeline.cli.main import app
from rms_pipeline.cli.up import _tell_of_rows
from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.doctor import accounts, syncs, webhooks
from rms_pipeline.doctor.finding import Examination, Finding
from rms_pipeline.mirror.api_terms import StoredTerms
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import Settings, SettingsError, load_settings, settings
from rms_pipeline_tests.conftest import dagsters_tables
from rms_pipeline_tests.core import full_sync
from rms_pipeline_tests.mirror.test_collection_states import NOW, insert_walk
from rms_pipeline_tests.rows import insert, insert_opportunities, insert_proof, query
from rms_pipeline_tests.sandbox.account import turn

ALL = "opportunities,members,invoices"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(3)) as server:
        yield server


@pytest.fixture(scope="module")
def migrated(ready: Database) -> Database:
    """Also with Dagster's tables."""
    return ready


@pytest.fixture(scope="module", autouse=True)
def with_history(migrated: Database) -> Iterator[None]:
    with dagsters_tables(migrated):
        yield


@pytest.fixture
def told(
    emptied: Database, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Runs the command over the module's database; what it prints."""
    url = emptied.url.get_secret_value()
    values = {"POSTGRES_URL": url, "POSTGRES_URL_NON_POOLING": url, "COLUMNS": "200"}
    values |= {"CURRENT_RMS_SUBDOMAIN": SANDBOX_SUBDOMAIN, "CURRENT_RMS_API_KEY": SANDBOX_API_KEY}
    for name, value in (values | {"CURRENT_RMS_BASE_URL": sandbox.url}).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, collections: str = ALL) -> str:
        monkeypatch.setenv("RMS_COLLECTIONS", collections)
        settings.cache_clear()
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    yield run
    settings.cache_clear()


def examination(
    database: Database, sandbox: SandboxServer | None = None, collections: str = ALL
) -> Examination:
    values = {"CURRENT_RMS_SUBDOMAIN": SANDBOX_SUBDOMAIN, "CURRENT_RMS_API_KEY": SANDBOX_API_KEY}
    if sandbox is not None:
        values["CURRENT_RMS_BASE_URL"] = sandbox.url
    current: Settings = load_settings(_env_file=None, RMS_COLLECTIONS=collections, **values)
    return Examination(current, database, tables_ready=True)


@pytest.mark.parametrize(
    ("most", "said"), [(1, ""), (4, "1 member, 0 invoices, 2 opportunity items")]
)
def test_up_tells_how_many_there_are_of_each_that_is_on(
    emptied: Database, most: int, said: str
) -> None:
    insert(emptied, "members", [{"id": 7, "name": "[b]Somebody"}])
    insert(emptied, "opportunity_items", [{"id": 1}, {"id": 2}])
    counted = {"as_of": NOW, "charge_total": 0, "total_value": 0}
    insert(emptied, "status_counts",
           [counted | {"opportunity_status": "[b]Open", "opportunities": 2_000}])  # fmt: skip
    heard = io.StringIO()
    _tell_of_rows(emptied, COLLECTIONS[:most], Console(file=heard, width=100))
    assert heard.getvalue() == f"2,000 opportunities: 2,000 [b]Open\n{said}{said and chr(10)}"


def by_check(*findings: Iterator[Finding]) -> dict[str, Finding]:
    every = [finding for each in findings for finding in each]
    found = {finding.check: finding for finding in every}
    assert len(found) == len(every)
    for finding in every:
        assert bool(finding.advice) == (finding.level != "ok"), finding
    return found


def test_status_lists_each_collection_with_its_rows_and_how_complete_it_is(
    emptied: Database, told: Callable[..., str]
) -> None:
    insert_opportunities(emptied, {}, {})
    insert(emptied, "members", [{"id": id_, "name": "Somebody"} for id_ in (7, 8, 9)])
    insert_walk(emptied, "opportunities")
    read_at = insert_walk(emptied, "members", ago=3_600)
    whole = {"window_start": None, "window_end": None, "counted": 3, "mirrored": 3}
    insert_proof(emptied, collection="members", **whole)
    shown = told("status")
    rows = {line.split()[1]: line for line in shown.splitlines() if line.startswith("│")}
    assert " 3 " in rows["members"]
    assert f"{read_at:%Y-%m-%d %H:%M}" in rows["members"]
    assert "never" in rows["invoices"]
    assert "members: complete as of" in shown
    assert "invoices: not read yet" in shown
    found = json.loads(told("status", "--json"))["sync"]["collections"]
    assert [(c["name"], c["rows"], c["is_on"]) for c in found] == [
        *(("opportunities", 2, True), ("members", 3, True), ("invoices", 0, True))
    ]
    off = told("status", collections="opportunities,invoices")
    assert "members: not kept up to date any more" in off
    found = json.loads(told("status", "--json", collections=""))["sync"]["collections"]
    assert [(c["name"], c["is_on"]) for c in found] == [("opportunities", True), ("members", False)]


def test_status_says_nothing_of_collections_where_there_is_one(
    emptied: Database, told: Callable[..., str]
) -> None:
    insert_opportunities(emptied, {})
    assert "Collections" not in told("status", collections="")


def test_the_doctor_tells_of_each_collection_whether_it_is_fresh_and_proved(
    emptied: Database,
) -> None:
    exam = examination(emptied)
    found = by_check(syncs.check_collections(exam), syncs.check_certificate(exam))
    assert {check: f.level for check, f in found.items()} == {
        "members sync": "warning",
        "invoices sync": "warning",
        "completeness": "warning",
    }
    insert_walk(emptied, "members", ago=60)
    insert_walk(emptied, "invoices", ago=5 * 3_600)
    whole = {"window_start": None, "window_end": None}
    insert_proof(emptied, collection="members", counted=3, mirrored=3, **whole)
    insert_proof(emptied, collection="invoices", shown=False, reason="Two are missing.", **whole)
    found = by_check(syncs.check_collections(exam), syncs.check_certificate(exam))
    assert {check: f.level for check, f in found.items()} == {
        "members sync": "ok",
        "members proof": "ok",
        "invoices sync": "warning",
        "invoices proof": "problem",
        "completeness": "warning",
    }
    assert "last read 5 h ago" in found["invoices sync"].found
    assert "Two are missing" in found["invoices proof"].found
    assert "3 of 3" in found["members proof"].found


def test_the_doctor_names_the_collection_whose_deletions_wait(emptied: Database) -> None:
    insert(emptied, "members", [{"id": 8, "name": "Somebody"}])
    insert(emptied, "member_versions", [{"id": 8, "asked_at": NOW - timedelta(hours=1)}])
    held = {"collection": "members", "id": 8, "because": "gone"}
    insert(emptied, "held_deletions", [held | {"asked_at": NOW, "answered_at": NOW}])
    found = by_check(syncs.check_certificate(examination(emptied)))
    assert "1 member no longer exists" in found["members deletions"].found
    assert "deletions" not in found


def test_the_doctor_tells_what_the_account_refuses_of_each_collection(emptied: Database) -> None:
    exam = examination(emptied)
    assert set(by_check(accounts.check_terms(exam))) == {"terms"}
    StoredTerms(emptied, SANDBOX_SUBDOMAIN, MEMBERS).note("filter", "q[id_in]", None, NOW)
    found = by_check(accounts.check_terms(exam))
    assert {check: f.level for check, f in found.items()} == {
        "terms": "ok",
        "members terms": "warning",
    }
    assert "q[id_in] ignored" in found["members terms"].found


def test_an_account_without_a_list_of_all_items_is_as_it_should_be(emptied: Database) -> None:
    (items,) = (c for c in COLLECTIONS if c.parts is not None)
    exam = examination(emptied, collections=f"opportunities,{items.name}")
    terms = StoredTerms(emptied, SANDBOX_SUBDOMAIN, items)
    terms.note("filter", "q[opportunity_id_in][]", 404, NOW)
    found = by_check(accounts.check_terms(exam))[f"{items.name} terms"]
    assert (found.level, "no list of all" in found.found) == ("ok", True)
    terms.note("include", "item_assets", 422, NOW)
    found = by_check(accounts.check_terms(exam))[f"{items.name} terms"]
    assert found.level == "warning"
    assert "item_assets" in found.found
    assert "opportunity_id_in" not in found.found


def test_the_doctor_names_the_collections_whose_webhooks_seem_to_have_stopped(
    emptied: Database,
) -> None:
    for collection, stopped in (("opportunities", False), ("members", True), ("invoices", True)):
        audit = {"changed": 8, "by_webhook": 0, "share": 0.0, "seem_stopped": stopped}
        row = {"kind": "changes", "runs": ["run"], "collection": collection, "audit": audit}
        insert(emptied, "walks", [row])
    found = by_check(webhooks.check_queue(examination(emptied)))
    assert "none arrived for the 8 members and the 8 invoices that" in found["queue"].found
    found = by_check(webhooks.check_queue(examination(emptied, collections="")))
    assert found["queue"].level == "ok"


def test_the_doctor_says_that_what_is_off_is_no_longer_kept(emptied: Database) -> None:
    insert(emptied, "members", [{"id": 8, "name": "Somebody"}])
    found = by_check(syncs.check_collections(examination(emptied, collections="")))
    assert set(found) == {"members sync"}
    assert "not kept up to date any more" in found["members sync"].found
    assert "RMS_COLLECTIONS=opportunities,members" in found["members sync"].advice


def test_the_doctor_asks_for_one_record_of_each_collection_that_is_on(
    emptied: Database, sandbox: SandboxServer
) -> None:
    exam = examination(emptied, sandbox)
    assert not by_check(accounts.check_access(exam))
    list(accounts.check_credentials(exam))
    sandbox.requests.clear()
    found = by_check(accounts.check_access(exam))
    assert {check: f.level for check, f in found.items()} == {
        "members access": "ok",
        "invoices access": "ok",
    }
    assert len(sandbox.requests) == 2
    count = len(sandbox.store.members.all())
    assert f"the account has {count:,}" in found["members access"].found
    assert by_check(accounts.check_access(examination(emptied, sandbox, collections=""))) == {}


def test_the_doctor_tells_a_collection_that_the_keys_user_may_not_see(
    emptied: Database, sandbox: SandboxServer
) -> None:
    exam = examination(emptied, sandbox)
    list(accounts.check_credentials(exam))
    turn(sandbox, forbidden=["members"])
    try:
        found = by_check(accounts.check_access(exam))
    finally:
        turn(sandbox, forbidden=[])
    assert {check: f.level for check, f in found.items()} == {
        "members access": "problem",
        "invoices access": "ok",
    }
    assert "403" in found["members access"].found
    assert "RMS_COLLECTIONS=opportunities,invoices." in found["members access"].advice


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unicorns", "There are: opportunities, members, invoices"),
        ("", "There are: opportunities, members, invoices"),
        ("invoices", "RMS_COLLECTIONS=opportunities,members,invoices"),
    ],
)
def test_a_collection_that_cannot_be_refreshed_is_refused_as_wrong_usage(
    told: Callable[..., str], name: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        told("refresh", "--collection", name, "5", collections="members")


def test_the_counts_in_status_are_those_after_a_sync(
    emptied: Database,
    sandbox: SandboxServer,
    client_for: Callable[..., CurrentRmsClient],
    told: Callable[..., str],
) -> None:
    client = client_for(sandbox.url, collection=MEMBERS)
    client.now = emptied.clock()
    full_sync(emptied, client, None)
    found = json.loads(told("status", "--json"))["sync"]["collections"][1]
    assert query(emptied, "SELECT count(*) FROM members") == [(found["rows"],)]
    assert found["certificate"]["state"] == "green"
    assert found["has_full_sync"]
