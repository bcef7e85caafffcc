"""Who changed what: the list of changes, its filters and its pages."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.settings import load_settings
from rms_pipeline.web.formatting import Clock
from rms_pipeline.web.values import field_title, shown_change
from rms_pipeline_tests.rows import insert, insert_opportunities
from rms_pipeline_tests.web.conftest import Web, serving
from rms_pipeline_tests.web.page import EVIL, get, visit
from rms_pipeline_tests.web.test_opportunities import HOSTILE, quoted, statuses_of

SATURDAY = datetime(2031, 5, 17, 10, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def line(opportunity: int = 1, **fields: Any) -> dict[str, Any]:
    values = {"field": "opportunity_status", "old_value": "Open", "new_value": "Reserved"}
    return {"opportunity_id": opportunity, "changed_at": SATURDAY, **values, **fields}


def told(web: Web, query: str = "") -> dict[str, Any]:
    answer = get(web, f"/changes.json?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(web: Web, query: str = "") -> list[int]:
    return [each["id"] for each in told(web, query)["changes"]]


def test_a_change_tells_who_changed_what_when_from_and_to(web: Web) -> None:
    row = {"name": "Ball", "number": "00000012", "organisation_name": "Acme"}
    insert_opportunities(web.database, row)
    insert(web.database, "opportunity_changes", [line(changed_by="Ada Blake")])
    (found,) = told(web)["changes"]
    expected = {
        "opportunity_id": 1,
        "name": "Ball",
        "number": "00000012",
        "customer": "Acme",
        "field": "opportunity_status",
        "old_value": "Open",
        "new_value": "Reserved",
        "changed_by": "Ada Blake",
        "at": "2031-05-17T10:00:00Z",
    }
    assert {name: found[name] for name in expected} == expected
    page = visit(web, "/changes")
    for words in ("Saturday 17 May 2031", "Ada Blake", "Ball", "00000012", "Acme", "Status"):
        assert words in page.text
    assert "/opportunities/1" in page.links


def test_a_rename_is_called_one_and_is_nobodys_edit(web: Web) -> None:
    insert_opportunities(web.database, {"name": "Ball"})

    def one(field: str, old: str | None, new: str, by: str | None = None, **more: Any) -> Any:
        values = {"field": field, "old_value": old, "new_value": new, "changed_by": by}
        return line(**{"seen_at": SATURDAY, **values, **more})

    later = {"changed_at": SATURDAY + HOUR, "seen_at": SATURDAY + HOUR}
    insert(
        web.database,
        "opportunity_changes",
        [
            one("opportunity_status", "Open", "Lost", "Ada"),
            one("owner_name", "Ann", "Ann Lee"),
            one("reference", "A", "B", "Ada"),
            one("owner_name", "Ann", "Bob", "Ada", **later),
            one("owner_id", "1", "2", "Ada", **later),
            one("owner_name", None, "Ann", opportunity_id=2),
        ],
    )
    assert [x["id"] for x in told(web)["changes"] if x["is_rename"]] == [2]
    text = " ".join(visit(web, "/changes").text.split())
    assert text.count("Owner renamed") == 1
    assert re.search("Ada Ball Status ?Open → Lost Reference ?A → B", text)
    text = " ".join(visit(web, "/opportunities/1").text.split())
    assert re.search("Changed by Ada.*Owner renamed ?Ann → Ann Lee", text)


def test_the_newest_come_first_and_a_deleted_opportunity_keeps_its_name(web: Web) -> None:
    gone = {"id": 2, "name": "Gone", "deleted_at": SATURDAY, "deleted_because": "told"}
    insert(web.database, "deleted_opportunities", [gone])
    lines = [
        line(2, changed_at=SATURDAY),
        line(2, changed_at=SATURDAY + HOUR),
        line(2, changed_at=None, seen_at=SATURDAY - HOUR),
        line(2, changed_at=SATURDAY),
        line(3),
    ]
    insert(web.database, "opportunity_changes", lines)
    assert ids(web) == [2, 5, 4, 1, 3]
    page = visit(web, "/changes")
    assert "Gone" in page.text
    assert "Opportunity 3" in page.text


def test_each_filter_leaves_what_it_says(web: Web) -> None:
    insert_opportunities(web.database, {})
    money: dict[str, Any] = {"field": "charge_total"}
    dates: dict[str, Any] = {"field": "starts_at"}
    lines = [
        line(changed_by="Ada Blake"),
        line(changed_by="Sam Okoro", changed_at=SATURDAY - DAY),
        line(),
        line(**money, old_value="100.50", new_value="1100.50", changed_by="Ada Blake"),
        line(**money, old_value=None, new_value="999.99"),
        line(**money, old_value="2000", new_value="-5"),
        line(
            **dates, old_value="2031-05-01 10:00:00+00", new_value="2031-05-03 10:00:00+00"
        ),
        line(
            **dates, old_value="2031-05-03 10:00:00+00", new_value="2031-05-01 10:00:01+00"
        ),
        line(field="custom_fields.risk", old_value="1", new_value="5000"),
        line(field="weight_total", old_value="1", new_value="5000"),
    ]  # fmt: skip
    insert(web.database, "opportunity_changes", lines)
    for query, expected in {
        "day=2031-05-16": [2],
        "day=2031-05-17..": [10, 9, 8, 7, 6, 5, 4, 3, 1],
        "day=2031-05-15..2031-05-16": [2],
        "day=last-7": [],
        "who=Ada+Blake": [4, 1],
        "who=ada": [],
        "who=is:unknown": [10, 9, 8, 7, 6, 5, 3],
        "field=charge_total": [6, 5, 4],
        "field=custom_fields.risk": [9],
        "field=unheard_of": [],
        "least=1000": [6, 4],
        "least=0": [6, 5, 4],
        "least=1000&who=Ada+Blake": [4],
        "least=1000&field=weight_total": [10],
        # Nothing but a number has that size.
        "least=1&field=starts_at": [],
        "least=1&field=custom_fields.risk": [],
        "days=2": [7],
        "days=1": [8, 7],
        "days=1&least=2000": [8, 7, 6],
        "days=1&field=ends_at": [],
    }.items():
        assert ids(web, query) == expected, query
        page = visit(web, f"/changes?{query}")
        assert ("No change matches" in page.text) == (not expected), query
    # A form without a script sends both dates.
    sent = get(web, "/changes?day=custom&day_from=&day_to=2031-05-16&who=")
    assert sent.headers["Location"] == "/changes?day=..2031-05-16"


def test_what_follows_from_another_field_is_told_only_when_every_column_is_asked_for(
    web: Web,
) -> None:
    fields = ("charge_total", "total_value", "tax_total", "subject", "name", "owner_id", "number")
    insert(web.database, "opportunity_changes", [line(field=field) for field in fields])
    assert ids(web) == [7, 4, 1]
    assert ids(web, "field=is:every") == [7, 6, 5, 4, 3, 2, 1]
    assert ids(web, "field=total_value") == [2]


def test_pages_go_on_where_the_last_one_ended_and_lose_nothing_to_what_comes_meanwhile(
    web: Web,
) -> None:
    # Many of the same moment, as a sync notes them.
    moments = [SATURDAY + n // 40 * HOUR for n in range(230)]
    lines = [line(n, changed_at=at) for n, at in enumerate(moments)]
    insert(web.database, "opportunity_changes", lines)
    seen, where = [], "/changes.json?field=is:every"
    while where:
        answer = get(web, where).json()
        seen += [each["id"] for each in answer["changes"]]
        where = answer["next"]
        insert(web.database, "opportunity_changes", [line(changed_at=SATURDAY + DAY)])
    assert seen == list(range(230, 0, -1))
    page = visit(web, "/changes?who=is:unknown")
    (older,) = [a["href"] for a in page.all("a", rel="next")]
    assert "who=is%3Aunknown" in older
    visit(web, older)


def test_lines_that_were_changed_together_are_shown_together(web: Web) -> None:
    insert_opportunities(web.database, {}, {})
    together: dict[str, Any] = {"seen_at": SATURDAY, "changed_by": "Ada Blake"}
    lines = [
        line(1, field="subject", **together),
        line(1, field="reference", **together),
        line(2, field="subject", **together),
        line(1, field="description", seen_at=SATURDAY + HOUR),
    ]
    insert(web.database, "opportunity_changes", lines)
    page = visit(web, "/changes")
    assert [link for link in page.links if link.startswith("/opportunities/")] == [
        *("/opportunities/1", "/opportunities/2", "/opportunities/1")
    ]
    assert page.text.index("Subject") < page.text.rindex("Reference")


def test_a_day_of_changes_is_that_of_the_company(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMS_TIME_ZONE", "America/New_York")
    # On the day that has 25 hours.
    moments = ["2026-11-01T03:59:59Z", "2026-11-01T04:00Z", "2026-11-02T04:59:59Z"]
    moments += ["2026-11-02T05:00Z"]
    lines = [line(changed_at=datetime.fromisoformat(text)) for text in moments]
    insert(web.database, "opportunity_changes", lines)
    with serving(web.database, web.sandbox, current=load_settings(_env_file=None)) as elsewhere:
        assert ids(elsewhere, "day=2026-11-01") == [3, 2]
        text = visit(elsewhere, "/changes").text
    days = [f"{name} November 2026" for name in ("Monday 2", "Sunday 1")]
    assert [text.count(day) for day in days] == [1, 1]
    assert "Saturday 31 October 2026" in text


@pytest.mark.parametrize("page", ["/changes", "/changes.json"])
@pytest.mark.parametrize("field", ["day", "who", "field", "least", "days", "after"])
def test_no_parameter_of_changes_is_an_error_of_ours(web: Web, page: str, field: str) -> None:
    # Lines that people wrote by hand.
    by_hand = [
        line(field=name, old_value=old, new_value="2031-99-99 99:00:00+00")
        for name in ("charge_total", "starts_at")
        for old in (EVIL, "", "NaN", "1e5", None, "2031-13-01 10:00:00+00", "2031-02-31 10:00:00")
    ]
    insert(web.database, "opportunity_changes", by_hand)
    values = [*HOSTILE, "2031-05-17T10:00:00+00:00.1", "2031-05-17T10:00:00.1", f"{SATURDAY}.-1"]
    paths = [f"{page}?{field}={quoted(value)}" for value in values]
    paths += [f"{page}?{field}={quoted(value)}&field=starts_at" for value in ("0", "1")]
    answered = statuses_of(web, paths)
    assert set(answered.values()) <= {200, 422}, answered
    assert 200 in answered.values()


def test_the_page_escapes_what_people_type(web: Web) -> None:
    insert_opportunities(web.database, {"name": EVIL, "number": EVIL, "organisation_name": EVIL})
    lines = [
        line(field=field, old_value=EVIL, new_value=EVIL, changed_by=EVIL)
        for field in ("opportunity_status", "tags", "charge_total", "starts_at", EVIL)
    ]
    insert(web.database, "opportunity_changes", lines)
    assert visit(web, "/changes").text.count("alert(1)") >= 8
    visit(web, f"/changes?who={quoted(EVIL)}&field={quoted(EVIL)}")


@pytest.mark.parametrize(
    ("field", "before", "after", "expected"),
    [
        ("charge_total", "1000", "12500.5", ("1,000.00", "12,500.50", "+11,500")),
        ("charge_total", None, "5", ("–", "5.00", "+5")),
        (
            "starts_at",
            "2026-05-01 10:00:00+00",
            "2026-05-03 12:30:00+00",
            ("01 May 2026, 10:00", "03 May 2026, 12:30", "+2 d 2 h 30 min"),
        ),
        ("starts_at", "2026-05-01 10:00:00+00", None, ("01 May 2026, 10:00", "–", "")),
        ("invoiced", "false", "true", ("no", "yes", "")),
        ("tags", '{vip,"late night"}', "{}", ("vip, late night", "–", "")),
        ("charge_total", "not a number", "5", ("not a number", "5", "")),
        ("starts_at", "infinity", "soon", ("infinity", "soon", "")),
        ("subject", "x" * 300, "", ("x" * 200 + "…", "–", "")),
    ],
)
def test_a_value_reads_as_people_write_it(
    field: str, before: str | None, after: str | None, expected: tuple[str, str, str]
) -> None:
    shown = shown_change(field, before, after, Clock("UTC"))
    assert (shown.before, shown.after, shown.difference) == expected


def test_a_field_is_called_by_what_people_call_it() -> None:
    names = ("opportunity_status", "organisation_name", "deliver_starts_at", "custom_fields.risk")
    assert [field_title(n) for n in names] == ["Status", "Customer", "Deliver starts", "risk"]
