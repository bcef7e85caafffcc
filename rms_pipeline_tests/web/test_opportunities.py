"""Lists, single opportunities and the CSV, over real HTTP and whatever is asked of them."""

import csv
import gc
import io
import logging
import re
import threading
import urllib.parse
from collections.abc import Generator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.client import HTTPConnection
from typing import Any

import pytest
import requests

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings
from rms_pipeline.web import downloads
from rms_pipeline.web.refusals import Refusal
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import (
    insert,
    insert_opportunities,
    insert_proof,
    insert_sync,
    query,
)
from rms_pipeline_tests.web.conftest import BEARER, Web, serving
from rms_pipeline_tests.web.page import EVIL, get, visit

NOW = datetime.now(UTC).replace(microsecond=0)
FIELDS = ("q", "status", "customer", "owner", "from", "to", "sort", "page")
HOSTILE = [
    "0", "-1", "1", "9" * 20, "1" + "0" * 30, "9" * 199, "9" * 201, "9" * 5_000, "1.5", "1e9",
    "'; DROP TABLE opportunities; --", "' OR '1'='1", "%(part)s", "%s", "%", "\\", "_", EVIL,
    "{{7*7}}", "${7*7}", "\x00", "a\x00b", "\ud800", "\udcff", "\u202e", "🎪", "\r\nX: a",
    "unknown", "-unknown", "updated", "--updated", "updated\n", "2026-13-01", "2026-02-30",
    "0000-01-01", "0001-01-01", "9999-12-31", "10000-01-01", "2026-W01-1", "20260531", "NaN",
    "", " ", "٣", "²",
]  # fmt: skip


def quoted(text: str) -> str:
    return urllib.parse.quote(text.encode(errors="surrogatepass"), safe="")


def statuses_of(web: Web, paths: list[str]) -> dict[str, int]:
    """How each of `paths` is answered, as they are: nothing is quoted once more."""
    host = web.url.removeprefix("http://")
    connection = HTTPConnection(host, timeout=30)
    found = {}
    for path in paths:
        connection.request("GET", path, headers={**BEARER, "Accept": "text/html"})
        answer = connection.getresponse()
        body = answer.read()
        found[path] = answer.status
        assert b"Traceback" not in body
        assert b"psycopg" not in body
    connection.close()
    return found


@pytest.mark.parametrize("page", ["/opportunities", "/opportunities.csv"])
@pytest.mark.parametrize("field", FIELDS)
def test_no_parameter_of_a_list_is_an_error_of_ours(web: Web, page: str, field: str) -> None:
    insert_opportunities(web.database, *({"name": f"Ball {i}"} for i in range(3)))
    paths = [f"{page}?{field}={quoted(value)}" for value in HOSTILE]
    paths += [f"{page}?{field}=%ff", f"{page}?{field}=%ed%a0%80", f"{page}?{field}=%zz%"]
    paths += [f"{page}?{field}=a&{field}=b", f"{page}?{field}", f"{page}?{field}[]=1"]
    answered = statuses_of(web, paths)
    assert set(answered.values()) <= {200, 422}, answered
    assert 200 in answered.values()
    assert query(web.database, "SELECT count(*) FROM opportunities") == [(3,)]


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_no_id_is_an_error_of_ours(web: Web, suffix: str) -> None:
    insert_opportunities(web.database, {"id": 1}, {"id": -1}, {"id": 2**63 - 1})
    paths = [f"/opportunities/{quoted(value)}{suffix}" for value in HOSTILE if value.strip()]
    paths += [
        f"/opportunities/{raw}{suffix}" for raw in ("%ff", "%00", "%ed%a0%80", "%zz", "a%2fb")
    ]
    paths += [f"/opportunities/{2**63}{suffix}", f"/opportunities/{-(2**63)}{suffix}"]
    answered = statuses_of(web, paths)
    assert set(answered.values()) <= {200, 404, 422}, answered
    there = [f"/opportunities/{id_}{suffix}" for id_ in (1, -1, 2**63 - 1)]
    assert set(statuses_of(web, there).values()) == {200}


def test_a_refusal_names_the_parameter_to_programs_and_its_field_to_people(web: Web) -> None:
    insert_opportunities(web.database, {"id": 1})
    for path, name, label in (
        ("/opportunities?from=2026-13-01", "from is not a date", "“Starts from” is not a date"),
        ("/opportunities?to=soon", "to is not a date", "“Starts until” is not a date"),
        ("/opportunities?onhire=2026-13-01", "onhire is", "“On hire on” is"),
        ("/opportunities?least=much", "least is not an amount", "“Value from” is not an amount"),
        ("/opportunities?greatest=1e9", "greatest is not", "“Value until” is not an amount"),
        (f"/opportunities?q={'x' * 201}", "q is too long", "“Search” is too long"),
        (f"/calendar?customer={'x' * 201}", "customer is too", "“Customer” is too long"),
        ("/changes?least=much", "least is not a number", "“Charge by at least” is not a number"),
        ("/changes?day=soon", "day is not a period", "“Day” is not a period"),
        ("/further-back?since=soon", "since is not a date", "“Back to” is not a date"),
        ("/further-back?since=2199-01-01", "since has to be", "“Back to” has to be a day before"),
        ("/opportunities/1?as_of=soon", "as_of is not", "“As of the end of” is not a date"),
        ("/opportunities?sort=unknown", "sort is not one of", "sort is not one of"),
        ("/opportunities?page=0", "page is not a number", "page is not a number"),
    ):
        text = visit(web, path, 422).text
        assert label in text, path
        # A script shows the answer to a person too.
        assert label in get(web, path, **{"HX-Request": "true"}).json()["error"], path
        answer = get(web, path.replace("?", ".json?"), Accept="application/json")
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(name), path
    for path in ("from=2026-13-01", "to=soon", "sort=unknown", "sort=0", f"q={'x' * 201}"):
        assert get(web, f"/opportunities.csv?{path}").status_code == 422


@pytest.mark.parametrize(
    "query",
    [
        *("least=500&greatest=100", "from=2026-05-02&to=2026-05-01"),
        *("onhire=2026-05-02..2026-05-01", "created=2026-05-02..2026-05-01&status=Lost"),
    ],
)
def test_a_list_whose_ends_are_the_wrong_way_round_says_why_it_is_empty(
    web: Web, query: str
) -> None:
    insert_opportunities(web.database, {"starts_at": NOW, "total_value": 300})
    assert "is greater than the last" in visit(web, f"/opportunities?{query}").text
    assert "is greater than the last" not in visit(web, "/opportunities?least=301").text
    assert "is greater than the last" not in visit(web, "/opportunities?least=1&greatest=1").text


def test_dates_at_the_ends_of_time_find_what_is_between(web: Web) -> None:
    insert_opportunities(web.database, {"starts_at": NOW}, {})
    for path in ("?from=0001-01-01", "?to=9999-12-31", "?from=0001-01-01&to=9999-12-31"):
        assert "1 opportunity" in visit(web, f"/opportunities{path}").text
    assert "No opportunity matches" in visit(web, "/opportunities?from=9999-12-31").text


def everything_evil(web: Web) -> None:
    """One opportunity live, one deleted, and all that is told of them, with EVIL in every text."""
    row: dict[str, Any] = {
        "name": EVIL,
        "subject": EVIL,
        "description": EVIL,
        "opportunity_status": EVIL,
        "organisation_name": EVIL,
        "venue_name": EVIL,
        "owner_name": EVIL,
        "starts_at": NOW,
        "ends_at": NOW,
        "total_value": 12,
        "updated_at_rms": NOW,
        "data": {"number": EVIL, "reference": EVIL, "state_name": EVIL, EVIL: EVIL},
    }
    insert_opportunities(web.database, row)
    deleted = {"deleted_at": NOW, "deleted_because": EVIL}
    insert(web.database, "deleted_opportunities", [{"id": 2, **row, **deleted}])
    event = {"action_type": EVIL, "member_name": EVIL, "error": EVIL, "received_at": NOW}
    change = {"old_value": EVIL, "new_value": EVIL, "changed_by": EVIL, "changed_at": NOW}
    for id_ in (1, 2):
        insert(
            web.database,
            "webhook_events",
            [
                {"opportunity_id": id_, "dead_at": NOW, **event},
                {"opportunity_id": id_, **event},
                {"opportunity_id": id_, "processed_at": NOW, **event},
            ],
        )
        insert(
            web.database,
            "opportunity_changes",
            [
                {"opportunity_id": id_, "field": field, **change}
                for field in ("opportunity_status", "state_name", EVIL)
            ],
        )
    started = {"runs": ["run"], "kind": "full", "started_at": NOW, "completed_at": NOW}
    insert(web.database, "walks", [{**started, "settled_at": NOW}])
    insert_proof(web.database, shown=False, reason=EVIL)
    insert_sync(web.database, "run")
    insert_sync(web.database, EVIL, EVIL, "failed", error=EVIL)
    refresh_status_counts(web.database, "UTC")


@pytest.mark.parametrize(
    ("path", "times"),
    [
        ("/", 12),
        ("/fragments/overview", 5),
        ("/fragments/sync", 6),
        ("/opportunities", 5),
        (f"/opportunities?q={quoted(EVIL)}&customer={quoted(EVIL)}", 5),
        (f"/opportunities?status={quoted(EVIL)}&owner={quoted(EVIL)}", 5),
        (f"/opportunities?q={quoted('x' + EVIL)}", 0),
        (f"/opportunities?sort={quoted(EVIL)}", 0),
        ("/opportunities/1", 15),
        ("/opportunities/2", 16),
    ],
)
def test_html_in_any_text_is_text_and_every_page_keeps_to_the_content_policy(
    web: Web, path: str, times: int
) -> None:
    everything_evil(web)
    page = visit(web, path, 422 if "sort=" in path else 200)
    assert page.text.count(EVIL) >= times


@pytest.mark.parametrize("path", ["/login", "/nothing-here", f"/opportunities/{quoted(EVIL)}"])
def test_other_pages_keep_to_the_content_policy_too(web: Web, path: str) -> None:
    visit(web, path, 200 if path == "/login" else 404)


def test_filters_come_back_in_the_form_and_in_every_link(web: Web) -> None:
    rows = [
        {
            "name": f"Ball & <b> {i}",
            "opportunity_status": " Odd  status ",
            "organisation_name": "Ä&B",
            "starts_at": NOW,
        }
        for i in range(120)
    ]
    insert_opportunities(web.database, *rows)
    refresh_status_counts(web.database, "UTC")
    wanted = {"q": "Ball & <b>", "status": " Odd  status ", "customer": "ä&b", "sort": "name"}
    wanted["from"] = wanted["to"] = f"{NOW:%Y-%m-%d}"
    page = visit(web, f"/opportunities?{urllib.parse.urlencode(wanted)}&page=2")
    assert "120 opportunities, page 2 of 3" in page.text
    for name in ("q", "customer", "from", "to", "sort"):
        assert wanted[name] in [found.get("value") for found in page.all("input", name=name)]
    assert [o["value"] for o in page.all("option") if "selected" in o] == [wanted["status"]]
    # The ready views are lists of their own.
    ours = [a["href"] for a in page.all("a") if "href" in a and a.get("class") != "ready"]
    followed = [
        link for link in ours if link.startswith(("/opportunities?", "/opportunities.csv?"))
    ]
    assert len(followed) == 3 + 8
    for link in followed:
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(link).query))
        kept = {k: v for k, v in wanted.items() if k != "sort"}
        assert {k: v for k, v in asked.items() if k not in ("sort", "page")} == kept
    assert visit(web, page.all("a", rel="next")[0]["href"]).text.count("Ball & <b>") == 20


def test_each_status_on_the_dashboard_leads_to_as_many_opportunities(web: Web) -> None:
    statuses = [
        None,
        " ",
        "x ",
        "a" * 500,
        "ä" * 500,
        "%",
        "+",
        "&",
        "#",
        "Open",
        "Open\n",
        "(none)",
    ]
    insert_opportunities(
        web.database,
        *({"opportunity_status": s} for i, s in enumerate(statuses) for _ in range(i + 1)),
    )
    refresh_status_counts(web.database, "UTC")
    bars = [link for link in visit(web, "/").links if re.match(r".*\?status=(?!is:)", link)]
    counted = dict(
        query(web.database, "SELECT opportunity_status, opportunities FROM status_counts")
    )
    assert len(bars) == len(counted) == 11
    for link in bars:
        status = urllib.parse.parse_qs(link.partition("?")[2])["status"][0]
        page = visit(web, link)
        number = counted[status]
        assert f"{number} opportunit{'y' if number == 1 else 'ies'}" in page.text, repr(status)


def test_each_week_and_each_sum_on_the_dashboard_leads_to_what_was_added_up(web: Web) -> None:
    statuses = ["Open", "Reserved", "Completed", "Lost", "Dead", "Postponed", None, "Invented"]
    insert_opportunities(
        web.database,
        *(
            {"opportunity_status": status, "starts_at": NOW, "total_value": Decimal(10**i)}
            for i, status in enumerate(statuses)
        ),
    )
    refresh_status_counts(web.database, "UTC")
    page = visit(web, "/")
    first = next(a for a in page.all("a") if "from=" in a.get("href", ""))
    assert first["title"].endswith("110 confirmed, 11,100,001 undecided, 6 opportunities")
    words = {
        first["href"]: "6 opportunities worth 11,100,111.00 with tax",
        "/opportunities?status=is:confirmed": "2 opportunities worth 110.00 with tax",
        "/opportunities?status=is:closed": "2 opportunities worth 11,000.00 with tax",
    }
    for link, told in words.items():
        assert link in page.links
        listed = visit(web, link)
        assert told in listed.text, link
        chosen = [o["value"] for o in listed.all("option") if "selected" in o]
        assert chosen == re.findall(r"is:\w+", urllib.parse.unquote(link))


def test_a_list_leads_to_each_opportunity_in_it(web: Web) -> None:
    insert_opportunities(web.database, {"id": 5}, {"id": -5}, {"id": 2**63 - 1})
    links = [a for a in visit(web, "/opportunities").links if a.startswith("/opportunities/")]
    assert len(links) == 3
    for link in links:
        assert "Opportunity " in visit(web, link).text


def test_an_empty_list_says_why(web: Web) -> None:
    assert "No opportunities yet" in visit(web, "/opportunities").text
    insert_opportunities(web.database, {"name": "Ball"})
    assert "No opportunity matches these filters" in visit(web, "/opportunities?q=nothing").text
    assert "fewer pages than that" in visit(web, "/opportunities?page=2").text
    assert "fewer pages than that" in visit(web, "/opportunities?page=1000000").text


def rows_of(web: Web, path: str = "/opportunities.csv") -> list[dict[str, str]]:
    answer = get(web, path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["Content-Disposition"]
    text = answer.content.decode()
    assert text.startswith("\ufeffid,number,name")
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "＝1+1"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_of_the_csv_is_a_formula(web: Web, formula: str) -> None:
    text = {"name": formula, "opportunity_status": formula, "organisation_name": formula}
    text |= {"venue_name": formula, "owner_name": formula}
    insert_opportunities(
        web.database, {**text, "total_value": Decimal("-5.20"), "data": {"number": formula}}
    )
    (row,) = rows_of(web)
    # What begins a line begins a cell where the lines are cut before the quotes are read.
    kept = f"'{formula}" if formula[0] not in "\r\n" else f"'{formula[0]}'{formula[1:]}"
    for column in ("number", "name", "status", "customer", "venue", "owner"):
        assert row[column] == kept, column
    assert row["total_value"] == "-5.20"


@pytest.mark.parametrize(("typed", "kept"), [
    ("Gala;=1+1", "Gala;'=1+1"), ("Gala; @SUM(A1)", "Gala; '@SUM(A1)"), ('a;"-1', "a;\"'-1"),
    ("a\n=1", "a\n'=1"), ("a\r\n+1", "a\r\n'+1"), ("a;;=1;-2", "a;;'=1;'-2"),
    ("a;＝1", "a;'＝1"), ("a=1; b-2", "a=1; b-2"),
])  # fmt: skip
def test_no_cell_is_a_formula_where_semicolons_part_the_cells(
    web: Web, typed: str, kept: str
) -> None:
    """Spreadsheets of most of Europe do so, and read no quotes but those a cell begins with."""
    insert_opportunities(web.database, {"name": typed})
    (row,) = rows_of(web)
    assert row["name"] == kept


def test_every_other_cell_of_the_csv_is_what_the_row_has(web: Web) -> None:
    name = "He said \"yes\", twice;\r\nthen\nleft, '=1' 🎪 Ä"
    insert_opportunities(
        web.database,
        {
            "name": name,
            "starts_at": datetime(1, 1, 1, 1, 2, 3, tzinfo=UTC),
            "ends_at": datetime(2026, 6, 1, 12, 0, 5, 999_999, tzinfo=UTC),
            "charge_total": Decimal("12345678901234567890.1234"),
            "data": {"number": "0005"},
        },
    )
    (row,) = rows_of(web)
    assert row == {
        "id": "1",
        "number": "0005",
        "name": name,
        "status": "",
        "starts_at": "0001-01-01T01:02:03Z",
        "ends_at": "2026-06-01T12:00:05Z",
        "customer": "",
        "venue": "",
        "owner": "",
        "charge_total": "12345678901234567890.1234",
        "total_value": "",
        "updated_at": "",
    }


def test_an_open_ended_hire_is_called_so_wherever_its_end_stands(web: Web) -> None:
    import openpyxl  # type: ignore[import-untyped]

    ends = {"starts_at": NOW, "open_ended_rental": True}
    insert_opportunities(
        web.database,
        {"name": "No end", **ends},
        {"name": "Some end", "ends_at": NOW + timedelta(days=2), **ends},
        {"name": "Unknown end", "starts_at": NOW},
    )
    asked = "column=name&column=ends&column=back&sort=name"
    for path in ("/opportunities", "/print/opportunities"):
        page = visit(web, f"{path}?{asked}")
        ended = re.findall(r'data-label="(?:Ends|Comes back)">(.*?)</td>', page.html, re.S)
        words = [" ".join(re.sub("<[^>]+>", "", cell).split()) for cell in ended]
        some = words.pop(2)
        assert words == ["open-ended", "open-ended", "open-ended", "–", "–"]
        assert re.fullmatch(r".*\d.* open-ended", some)
    text = get(web, f"/opportunities.csv?{asked}").content.decode("utf-8-sig")
    rows = [row[-2:] for row in csv.reader(io.StringIO(text))][1:]
    assert rows[0] == ["open-ended", "open-ended"]
    assert (rows[1][0][:4].isdigit(), rows[1][1]) == (True, "open-ended")
    assert rows[2] == ["", ""]
    book = openpyxl.load_workbook(io.BytesIO(get(web, f"/opportunities.xlsx?{asked}").content))
    (_, first, second, third) = book["Opportunities"].iter_rows(values_only=True)
    assert first[-2:] == ("open-ended", "open-ended")
    assert (type(second[-2]), second[-1]) == (datetime, "open-ended")
    assert third[-2:] == (None, None)
    told = get(web, f"/opportunities.json?{asked}").json()["opportunities"]
    assert [row["open_ended"] for row in told] == [True, True, False]
    assert "open-ended" in visit(web, "/opportunities/1").text
    assert re.search(r"\d\d:\d\d[^<]*, open-ended</dd>", visit(web, "/opportunities/2").html)
    assert "open-ended" not in visit(web, "/opportunities/3").text


def test_the_csv_holds_all_that_the_list_finds_in_its_order(web: Web) -> None:
    query(
        web.database,
        "INSERT INTO opportunities (id, name, organisation_name, total_value)"
        " SELECT i, 'Opportunity ' || i, repeat('x', 100), i % 7 FROM generate_series(1, 3300) i",
    )
    rows = rows_of(web, "/opportunities.csv?sort=-value")
    assert [int(r["id"]) for r in rows] == sorted(range(1, 3_301), key=lambda i: (-(i % 7), -i))
    assert [r["id"] for r in rows_of(web, "/opportunities.csv?q=Opportunity+3299")] == ["3299"]
    assert rows_of(web, "/opportunities.csv?q=nothing") == []


def idle_in_transaction(web: Web) -> int:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND"
    return int(query(web.database, f"{statement} state = 'idle in transaction'")[0][0])


def test_a_download_that_is_broken_off_leaves_no_transaction_open(web: Web) -> None:
    query(
        web.database,
        "INSERT INTO opportunities (id, name)"
        " SELECT i, repeat('x', 2000) FROM generate_series(1, 20000) i",
    )
    for _ in range(2):
        asked = {**BEARER, "Accept-Encoding": "identity"}
        with requests.get(
            f"{web.url}/opportunities.csv", headers=asked, stream=True, timeout=30
        ) as answer:
            next(answer.iter_content(1_000))
    wait_until(lambda: not idle_in_transaction(web), timeout=10)


def test_a_slow_reader_of_a_long_list_holds_no_transaction_and_gets_all_of_it(web: Web) -> None:
    query(
        web.database,
        "INSERT INTO opportunities (id, name)"
        " SELECT i, repeat('x', 2000) FROM generate_series(1, 8000) i",
    )
    asked = {**BEARER, "Accept-Encoding": "identity"}
    with requests.get(
        f"{web.url}/opportunities.csv?sort=name", headers=asked, stream=True, timeout=30
    ) as answer:
        begun = answer.raw.read(1_000)
        wait_until(lambda: not idle_in_transaction(web), timeout=30)
        rest = answer.raw.read()
    rows = list(csv.reader(io.StringIO((begun + rest).decode("utf-8-sig"))))
    assert [row[0] for row in rows] == ["id", *map(str, range(8_000, 0, -1))]


def test_long_files_leave_connections_to_the_pages(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_PATIENCE", 0.05)
    with ExitStack() as opened:
        for _ in range(downloads._MOST_AT_ONCE):
            opened.enter_context(downloads.a_turn())
        for kind in ("csv", "xlsx"):
            answer = get(web, f"/opportunities.{kind}")
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
            assert "Try again in a minute" in answer.text
        assert get(web, "/opportunities").status_code == 200
    assert get(web, "/opportunities.csv").status_code == 200


def test_the_file_of_what_is_written_ahead_is_closed_by_the_collector_of_garbage_too() -> None:
    ahead = downloads._Ahead(part for part in (b"a", b"b"))
    file = ahead._file
    assert b"".join(ahead.taken()) == b"ab"
    wait_until(lambda: not any(t.name == "download" for t in threading.enumerate()))
    del ahead
    # Only among what is new: what is old are the objects of all tests.
    gc.collect(1)
    assert file.closed


def test_a_download_leaves_room_on_the_disk_and_says_what_to_do(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_opportunities(web.database, {}, {})

    def parts() -> Generator[bytes, None, None]:
        yield b"a"
        # From here on no disk has enough.
        monkeypatch.setattr(downloads, "_LEFT_BYTES", 2**90)
        monkeypatch.setattr(downloads, "_LEFT_PART", 1)
        yield b"b"

    taken = list[bytes]()
    with pytest.raises(Refusal, match="nearly full"):
        taken.extend(downloads.written_ahead(parts()))
    assert taken == [b"a"]
    for kind in ("csv", "xlsx"):
        page = visit(web, f"/opportunities.{kind}", 507)
        assert "No room on the disk" in page.text
        assert "Choose a filter" in page.text
    monkeypatch.undo()
    assert get(web, "/opportunities.csv").text.count("\n") == 3


def test_what_is_written_ahead_ends_as_its_source_does() -> None:
    closed = threading.Event()

    def parts(error: Exception | None) -> Generator[bytes, None, None]:
        try:
            yield b"a" * 100_000
            yield b"b"
            if error is not None:
                raise error
            yield b"c"
        finally:
            closed.set()

    assert b"".join(downloads.written_ahead(parts(None))) == b"a" * 100_000 + b"bc"
    assert closed.wait(10)
    taken: list[bytes] = []
    # Half a file must not look like a whole one.
    with pytest.raises(ZeroDivisionError):
        taken.extend(downloads.written_ahead(parts(ZeroDivisionError())))
    assert b"".join(taken) == b"a" * 100_000 + b"b"
    closed.clear()
    left = downloads.written_ahead(parts(None))
    next(left)
    left.close()
    assert closed.wait(10)


def test_head_of_the_csv_is_its_headers_and_no_error(
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    query(
        web.database,
        "INSERT INTO opportunities (id, name)"
        " SELECT i, repeat('x', 100) FROM generate_series(1, 2000) i",
    )
    with requests.Session() as session, caplog.at_level(logging.ERROR):
        for _ in range(2):
            answer = session.head(f"{web.url}/opportunities.csv", headers=BEARER, timeout=30)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert caplog.text == ""
    wait_until(lambda: not idle_in_transaction(web), timeout=10)


def test_a_deleted_opportunity_shows_as_deleted_and_how_it_was(web: Web) -> None:
    insert(
        web.database,
        "deleted_opportunities",
        [
            {
                "id": 9,
                "name": "Cancelled ball",
                "data": {"id": 9, "number": "R9"},
                "deleted_at": NOW,
                "deleted_because": "the API answered 404",
            }
        ],
    )
    page = visit(web, "/opportunities/9")
    for words in ("Cancelled ball", "Deleted", "the API answered 404", "R9"):
        assert words in page.text
    assert get(web, "/opportunities/9.json").json() == {"id": 9, "number": "R9"}
    assert "Cancelled ball" not in visit(web, "/opportunities").text
    insert_opportunities(web.database, {"id": 9, "name": "Back again"})
    page = visit(web, "/opportunities/9")
    assert "Back again" in page.text
    assert "Deleted" not in page.text


def test_an_opportunity_that_was_never_here_is_404_with_what_brings_it(web: Web) -> None:
    insert_opportunities(web.database, {"id": 5})
    # An incremental sync is not possible before a full one.
    early = visit(web, "/opportunities/77", 404).text
    assert "Not all opportunities are mirrored yet. Start an initial sync" in early
    assert "rms-pipeline refresh 77" in early
    assert "incremental" not in early
    full = {"kind": "full", "runs": ["full"], "completed_at": NOW, "settled_at": NOW}
    insert(web.database, "walks", [full | {"watermark": NOW}])
    later = visit(web, "/opportunities/77", 404).text
    assert "If it is new in Current RMS, run an incremental sync" in later
    assert "rms-pipeline refresh 77" in later
    assert "Not all" not in later
    answer = get(web, "/opportunities/77.json", Accept="application/json")
    assert (answer.status_code, answer.json()["success"]) == (404, False)


def test_a_record_too_long_for_the_page_is_left_to_its_own_address(web: Web) -> None:
    long = {"id": 1, "items": ["x" * 1_000] * 200}
    insert_opportunities(web.database, {"data": long, "description": "y" * 50_000}, {"data": {}})
    answer = get(web, "/opportunities/1")
    assert len(answer.content) < 20_000
    assert "too long to show here" in answer.text
    assert "/opportunities/1.json" in visit(web, "/opportunities/1").links
    record = get(web, "/opportunities/1.json")
    assert record.headers["Content-Type"] == "application/json"
    assert record.json() == long
    assert "too long" not in visit(web, "/opportunities/2").text


@pytest.mark.parametrize(
    "record",
    [
        '{"n": 1' + "0" * 6_000 + "}",
        '{"n": 1' + "0" * 400 + ".5}",
        '{"n": 0.10000000000000000001}',
        '{"n": ' + "[" * 900 + "]" * 900 + "}",
        '["no object"]',
        "null",
    ],
)
def test_no_record_is_too_odd_for_its_page(web: Web, record: str) -> None:
    insert_opportunities(web.database, {})
    query(web.database, "UPDATE opportunities SET data = %s", record)
    text = "".join(visit(web, "/opportunities/1").text.split())
    assert "".join(record.split()) in text
    assert "".join(get(web, "/opportunities/1.json").text.split()) == "".join(record.split())
    visit(web, "/opportunities")


def test_times_money_changes_and_webhooks_are_told(web: Web) -> None:
    insert_opportunities(
        web.database,
        {
            "starts_at": datetime(2026, 5, 31, 8, 30, tzinfo=UTC),
            "total_value": Decimal("1234.5"),
            "owner_id": 12,
            "data": {"reference": "PO 17", "state_name": "Order"},
        },
    )
    change = {"field": "opportunity_status", "old_value": "Open", "new_value": "Reserved"}
    insert(
        web.database, "opportunity_changes", [{"opportunity_id": 1, "changed_by": "Ann", **change}]
    )
    event = {"opportunity_id": 1, "received_at": NOW, "action_type": "update"}
    insert(
        web.database,
        "webhook_events",
        [
            {**event, "processed_at": NOW + timedelta(seconds=80)},
            {**event, "dead_at": NOW, "error": "answered 422"},
            {**event, "error": "answered 500"},
        ],
    )
    text = visit(web, "/opportunities/1").text
    for words in (
        *("Sun 31 May 2026, 08:30", "1,234.50", "PO 17", "Order", "by Ann", "Reserved"),
        *("refreshed after 1 min 20 s", "dead letter: answered 422", "waiting: answered 500"),
    ):
        assert words in text
    assert "08:30:00" not in text, "seconds are for nobody"


def test_an_opportunity_of_an_account_links_to_current_rms_and_nothing_speaks_of_a_sandbox(
    emptied: Database,
) -> None:
    insert_opportunities(emptied, {"id": 7, "name": "Gala"})
    account = load_settings(
        _env_file=None, CURRENT_RMS_SUBDOMAIN="acme", CURRENT_RMS_API_KEY="planted-key-of-acme"
    )
    with SandboxServer(Store(1)) as sandbox, serving(emptied, sandbox, current=account) as web:
        page = visit(web, "/opportunities/7")
    assert "https://acme.current-rms.com/opportunities/7" in [a.get("href") for a in page.all("a")]
    assert "invented" not in page.text
    assert "acme" in page.text
    assert "planted-key-of-acme" not in page.text
