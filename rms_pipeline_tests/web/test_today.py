"""The page of a day, on days whose answers are known."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.settings import load_settings
from rms_pipeline_tests.rows import insert, insert_opportunities, query
from rms_pipeline_tests.web.conftest import Web, serving
from rms_pipeline_tests.web.page import EVIL, get, visit

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Far from now, so that nothing of it is late; a Saturday.
SATURDAY = datetime(2031, 5, 17, tzinfo=UTC)
LISTS = ("goes_out", "comes_back", "on_hire", "not_confirmed")


def job(starts: datetime | None, ends: datetime | None, **fields: Any) -> dict[str, Any]:
    return {"starts_at": starts, "ends_at": ends, "opportunity_status": "Reserved", **fields}


def told(web: Web, day: str = "") -> dict[str, Any]:
    answer = get(web, f"/today.json{f'?day={day}' if day else ''}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(jobs: dict[str, Any]) -> list[int]:
    return [each["id"] for each in jobs["jobs"]]


def test_a_day_knows_what_leaves_what_returns_and_what_is_out(web: Web) -> None:
    insert_opportunities(
        web.database,
        job(SATURDAY + 9 * HOUR, SATURDAY + 3 * DAY, total_value=100),
        job(SATURDAY - 2 * DAY, SATURDAY + 17 * HOUR, total_value="20.5"),
        job(SATURDAY - 2 * DAY, SATURDAY + 5 * DAY),
        job(SATURDAY + 8 * HOUR, SATURDAY + 9 * HOUR),
        job(SATURDAY - 2 * DAY, SATURDAY - HOUR),
        job(SATURDAY + DAY, SATURDAY + 2 * DAY),
    )
    found = told(web, "2031-05-17")
    assert ids(found["goes_out"]) == [4, 1]
    assert ids(found["comes_back"]) == [4, 2]
    assert sorted(ids(found["on_hire"])) == [1, 2, 3, 4]
    assert found["goes_out"]["count"] == 2
    assert found["comes_back"]["total_value"] == "20.5"
    assert found["late_back"] is None
    text = visit(web, "/today?day=2031-05-17").text
    assert "Saturday 17 May 2031" in text
    assert "Opportunity 3" in text
    assert "Opportunity 5" not in text


def test_a_day_sheet_is_of_one_store_where_there_are_several(web: Web) -> None:
    first = {"store_id": 1, "organisation_id": 7, "organisation_name": "Acme"}
    insert_opportunities(
        web.database,
        job(SATURDAY + 9 * HOUR, SATURDAY + 3 * DAY, total_value=100, **first),
        job(SATURDAY + 9 * HOUR, SATURDAY + 3 * DAY, total_value=20, store_id=2),
        job(SATURDAY + 9 * HOUR, SATURDAY + 3 * DAY),
        job(SATURDAY + 5 * DAY, SATURDAY + 6 * DAY, store_id=3),
    )
    found = told(web, "2031-05-17")
    assert (found["stores"], found["store"]) == ([1, 2], None)
    assert ids(found["goes_out"]) == [1, 2, 3]
    page = visit(web, "/today?day=2031-05-17")
    assert "Acme · Store 1" in " ".join(page.text.split())
    assert "/customers/7" in page.links
    [one] = {link for link in page.links if link.endswith("store=2")}
    sheet = visit(web, one)
    for listed in (told(web, "2031-05-17&store=2"), get(web, one.replace("?", ".json?")).json()):
        for name in ("goes_out", "on_hire"):
            assert (ids(listed[name]), listed[name]["total_value"]) == ([2], "20")
    assert "Saturday 17 May 2031 Store 2" in " ".join(sheet.text.split())
    assert "Week before" not in sheet.text
    # The day after, and its lists, stay with the store.
    assert "/today?day=2031-05-18&store=2" in sheet.links
    lists = [a["href"] for a in sheet.all("a") if a.get("class") == "listed"]
    assert lists
    assert all("store=2" in link for link in lists)
    assert get(web, "/today?store=two").status_code == 422
    query(web.database, "UPDATE opportunities SET store_id = 1")
    assert "Store" not in visit(web, "/today?day=2031-05-17").text, "one is no choice"


def test_of_a_busy_day_a_thousand_of_each_kind_are_counted_before_it_is_shown(web: Web) -> None:
    query(
        web.database,
        "INSERT INTO opportunities (id, name, opportunity_status, starts_at, ends_at, total_value)"
        " SELECT i, 'Busy', 'Reserved', '2031-05-17 09:00+00', '2031-05-19', 2"
        " FROM generate_series(1, 1001) i",
    )
    page = visit(web, "/today?day=2031-05-17")
    assert "1,000+" in page.text
    assert "The first 100 of 1,000 and more are listed." in page.text
    goes_out = told(web, "2031-05-17")["goes_out"]
    assert (goes_out["count"], goes_out["total_value"], goes_out["is_counted"]) == (
        1001,
        "2002",
        True,
    )
    assert len(goes_out["jobs"]) == 100
    compared = get(web, "/today/compared.json?day=2031-05-17").json()["figures"]
    assert compared[0]["now"]["count"] == 1001
    query(web.database, "DELETE FROM opportunities WHERE id > 100")
    assert "The first 100" not in visit(web, "/today?day=2031-05-17").text
    assert told(web, "2031-05-17")["goes_out"]["total_value"] == "200"


def test_each_list_of_a_day_leads_to_the_same_as_a_list(web: Web) -> None:
    soon = {"opportunity_status": "Open", "charge_total": 1}
    insert_opportunities(
        web.database,
        job(SATURDAY + 9 * HOUR, SATURDAY + 3 * DAY),
        job(SATURDAY - 2 * DAY, SATURDAY + 17 * HOUR),
        job(SATURDAY - 2 * DAY, SATURDAY + 5 * DAY),
        job(SATURDAY + 6 * DAY + 23 * HOUR, SATURDAY + 9 * DAY, **soon),
        job(SATURDAY + 7 * DAY + HOUR, SATURDAY + 9 * DAY, **soon),
        job(SATURDAY - DAY, SATURDAY + 9 * DAY, opportunity_status="Lost"),
    )
    found = told(web, "2031-05-17")
    lists = [a for a in visit(web, "/today?day=2031-05-17").all("a") if a.get("class") == "listed"]
    changed = lists.pop()
    assert changed["href"] == "/changes?day=2031-05-16..2031-05-17"
    assert len(lists) == 4
    for link, name in zip(lists, LISTS, strict=True):
        rows = visit(web, link["href"]).links
        listed = {
            int(x.rpartition("/")[2]) for x in rows if re.fullmatch("/opportunities/[0-9]+", x)
        }
        assert listed == {*ids(found[name])}, name


def test_equipment_leaves_with_the_delivery_and_is_back_with_the_collection(web: Web) -> None:
    """A show on Saturday is delivered on Friday and collected on Monday."""
    show = job(
        SATURDAY + 12 * HOUR,
        SATURDAY + 20 * HOUR,
        deliver_starts_at=SATURDAY - 10 * HOUR,
        collect_ends_at=SATURDAY + 2 * DAY + 9 * HOUR,
    )
    insert_opportunities(web.database, show)
    by_day = {n: told(web, str((SATURDAY + n * DAY).date())) for n in (-2, -1, 0, 1, 2, 3)}
    for name, days in {"goes_out": [-1], "comes_back": [2], "on_hire": [-1, 0, 1, 2]}.items():
        assert [n for n, found in by_day.items() if found[name]["count"]] == days, name


@pytest.mark.parametrize(
    ("status", "lists"),
    [
        ("Reserved", ["goes_out", "comes_back", "on_hire"]),
        ("Active", ["goes_out", "comes_back", "on_hire"]),
        ("Completed", ["goes_out", "comes_back", "on_hire"]),
        ("Provisional", ["not_confirmed"]),
        ("Open", ["not_confirmed"]),
        (None, ["not_confirmed"]),
        ("A status of their own", ["not_confirmed"]),
        ("Lost", []),
        ("Cancelled", []),
    ],
)
def test_what_is_confirmed_is_work_and_what_is_open_is_a_question(
    web: Web, status: str | None, lists: list[str]
) -> None:
    insert_opportunities(
        web.database, job(SATURDAY + HOUR, SATURDAY + 2 * HOUR, opportunity_status=status)
    )
    found = told(web, "2031-05-17")
    assert [name for name in LISTS if found[name]["count"]] == lists


def test_a_job_with_one_date_is_not_forgotten(web: Web) -> None:
    insert_opportunities(
        web.database,
        job(SATURDAY + HOUR, None),
        job(None, SATURDAY + HOUR),
        job(SATURDAY + 2 * HOUR, SATURDAY - DAY),
        job(SATURDAY + 3 * HOUR, None, open_ended_rental=True),
        job(None, None),
    )
    found = told(web, "2031-05-17")
    assert ids(found["goes_out"]) == [1, 3, 4]
    assert ids(found["comes_back"]) == [2]
    # Those with one date are out on that day, as the calendar shows them.
    assert sorted(ids(found["on_hire"])) == [1, 2, 3, 4]
    calendar = get(web, "/calendar.json?view=week&day=2031-05-17").json()
    assert {bar["id"] for bar in calendar["bars"]} == {1, 2, 3, 4}
    for order in ("", "&sort=out", "&sort=-out", "&sort=back"):
        listed = get(web, f"/opportunities.json?onhire=2031-05-17{order}").json()["opportunities"]
        assert sorted(row["id"] for row in listed) == [1, 2, 3, 4], order
    assert ids(told(web, "2031-05-16")["on_hire"]) == []
    assert "open-ended" in visit(web, "/today?day=2031-05-17").text
    assert ids(told(web, "2041-05-17")["on_hire"]) == [4]


def test_what_is_out_and_due_is_late_today_and_on_no_other_day(web: Web) -> None:
    insert_opportunities(
        web.database,
        job(NOW - 9 * DAY, NOW - 2 * DAY, opportunity_status="Active"),
        job(NOW - 9 * DAY, NOW - timedelta(minutes=1), opportunity_status="Active"),
        job(NOW - 9 * DAY, NOW + HOUR, opportunity_status="Active"),
        job(NOW - 9 * DAY, NOW - 2 * DAY, opportunity_status="Completed"),
        job(NOW - 9 * DAY, NOW - 2 * DAY, opportunity_status="Reserved"),
        job(NOW - 9 * DAY, NOW - DAY, opportunity_status="Active", open_ended_rental=True),
        job(NOW - 9 * DAY, NOW - DAY, opportunity_status="Active", collect_ends_at=NOW + DAY),
    )
    found = told(web)
    assert found["is_today"]
    assert ids(found["late_back"]) == [1, 2]
    assert "Late back" in visit(web, "/today").text
    yesterday = str((NOW - DAY).date())
    assert told(web, yesterday)["late_back"] is None
    assert "Late back" not in visit(web, f"/today?day={yesterday}").text


def change(opportunity: int, old: object, new: object, **fields: Any) -> dict[str, Any]:
    values = {"old_value": old and str(old), "new_value": new and str(new)}
    values |= {"field": "opportunity_status", "changed_at": SATURDAY + 10 * HOUR}
    return {"opportunity_id": opportunity, **values, **fields}


def test_a_day_knows_what_was_confirmed_and_lost_since_the_day_before_and_by_whom(
    web: Web,
) -> None:
    insert_opportunities(web.database, *({} for _ in range(9)))
    insert(
        web.database,
        "opportunity_changes",
        [
            change(1, "Provisional", "Reserved", changed_by="Ada Blake"),
            change(2, "Reserved", "Active", changed_by="Ada Blake"),
            change(3, "Open", "Lost", changed_by="Sam Okoro", changed_at=SATURDAY - HOUR),
            change(4, "Reserved", "Cancelled"),
            # Before the day before, and after the day.
            change(5, "Open", "Reserved", changed_at=SATURDAY - DAY - timedelta(seconds=1)),
            change(6, "Open", "Reserved", changed_at=SATURDAY + DAY),
            # There and back: it is confirmed once, the last time.
            change(7, "Open", "Reserved", changed_by="Sam Okoro"),
            change(7, "Reserved", "Open"),
            change(7, "Open", "Active", changed_by="Ada Blake"),
            # No time of Current RMS: when it was seen counts.
            change(8, "Open", "Dead", changed_at=None, seen_at=SATURDAY + 2 * HOUR),
            change(9, "Reserved", None),
        ],
    )
    found = told(web, "2031-05-17")
    assert {(d["id"], d["before"], d["after"], d["by"]) for d in found["confirmed"]} == {
        (1, "Provisional", "Reserved", "Ada Blake"),
        (7, "Open", "Active", "Ada Blake"),
    }
    assert [(d["id"], d["by"]) for d in found["lost"]] == [(4, None), (8, None), (3, "Sam Okoro")]
    assert "by Ada Blake" in visit(web, "/today?day=2031-05-17").text


def test_on_a_monday_what_was_decided_since_the_friday_is_new(web: Web) -> None:
    insert_opportunities(web.database, *({} for _ in range(4)))
    moments = (-10 * HOUR, 10 * HOUR, 2 * DAY + 8 * HOUR, -25 * HOUR)
    insert(
        web.database,
        "opportunity_changes",
        [
            change(1 + n, "Open", "Reserved", changed_at=SATURDAY + moment)
            for n, moment in enumerate(moments)
        ],
    )
    found = told(web, "2031-05-19")
    assert found["since"] == "2031-05-16T00:00:00Z"
    assert {each["id"] for each in found["confirmed"]} == {1, 2, 3}
    page = visit(web, "/today?day=2031-05-19")
    assert "Confirmed since Fri 16 3" in page.text
    assert "/changes?day=2031-05-16..2031-05-19" in page.links
    counted = get(web, "/today/compared.json?day=2031-05-19").json()["figures"]
    assert [f["now"]["count"] for f in counted if f["id"] == "confirmed"] == [0], "not yet"


def test_what_was_entered_as_confirmed_was_confirmed_and_what_is_gone_was_lost(web: Web) -> None:
    entered = job(None, None, confirmed_at=SATURDAY + HOUR)
    # One that was confirmed later than entered has a line of its own; one lost before is no loss.
    insert_opportunities(web.database, entered, entered)
    insert(web.database, "opportunity_changes", [change(2, "Open", "Reserved")])
    gone = {"deleted_at": SATURDAY + HOUR, "deleted_because": "told"}
    deleted = [
        {"id": 3, "name": "Gone", "opportunity_status": "Reserved", **gone},
        {"id": 4, "name": "Lost before", "opportunity_status": "Lost", **gone},
        {"id": 5, "name": "Gone later", **gone, "deleted_at": SATURDAY + DAY},
    ]
    insert(web.database, "deleted_opportunities", deleted)
    events = [(1, "create"), (1, "update"), (3, "Destroy")]
    insert(
        web.database,
        "webhook_events",
        [
            {"opportunity_id": i, "action_type": what, "member_name": f"Who {what}"}
            for i, what in events
        ],
    )
    found = told(web, "2031-05-17")
    confirmed = {(d["id"], d["before"], d["after"], d["by"]) for d in found["confirmed"]}
    assert confirmed == {(1, None, "Reserved", "Who create"), (2, "Open", "Reserved", None)}
    lost = [(d["id"], d["before"], d["after"], d["by"]) for d in found["lost"]]
    assert lost == [(3, "Reserved", None, "Who Destroy")]
    assert "deleted in Current RMS, was Reserved" in visit(web, "/today?day=2031-05-17").text


def test_what_was_lost_taken_up_again_and_deleted_is_one_loss(web: Web) -> None:
    day = datetime(2024, 5, 18, tzinfo=UTC)
    gone = {"id": 1, "name": "Gone", "opportunity_status": "Open", "deleted_because": "told"}
    insert(web.database, "deleted_opportunities", [{**gone, "deleted_at": day + 3 * HOUR}])
    changes = [
        change(1, "Open", "Lost", changed_at=day + HOUR),
        change(1, "Lost", "Open", changed_at=day + 2 * HOUR),
    ]
    insert(web.database, "opportunity_changes", changes)
    found = told(web, "2024-05-18")
    assert (found["lost_count"], [d["after"] for d in found["lost"]]) == (1, [None])
    figures = get(web, "/today/compared.json?day=2024-05-18").json()["figures"]
    assert [f["now"]["count"] for f in figures if f["id"] == "lost"] == [1]


def test_what_was_entered_as_confirmed_stays_so_whatever_became_of_it_since(web: Web) -> None:
    # In the past: of the future no figure knows a decision.
    day = datetime(2024, 5, 18, tzinfo=UTC)
    entered = job(None, None, confirmed_at=day + HOUR)
    insert_opportunities(web.database, *[entered] * 3, {**entered, "opportunity_status": "Lost"})
    insert(
        web.database,
        "opportunity_changes",
        [
            # The warehouse booked it out.
            change(1, "Reserved", "Active", changed_at=day + 2 * HOUR),
            # It was opened once more, and confirmed again: one line, the last one.
            change(2, "Reserved", "Provisional", changed_at=day + 2 * HOUR),
            change(2, "Provisional", "Active", changed_by="Ada Blake", changed_at=day + 2 * HOUR),
            # It had no status at first, so a change says when it was confirmed, here long before.
            change(3, None, "Reserved", changed_at=day - 9 * DAY),
            change(3, "Reserved", "Active", changed_at=day + 2 * HOUR),
            change(4, "Active", "Lost", changed_at=day + 2 * HOUR),
        ],
    )
    found = told(web, "2024-05-18")
    assert {(d["id"], d["before"], d["after"]) for d in found["confirmed"]} == {
        (1, None, "Reserved"),
        (2, "Provisional", "Active"),
        (4, None, "Active"),
    }
    figures = get(web, "/today/compared.json?day=2024-05-18").json()["figures"]
    assert [f["now"]["count"] for f in figures if f["id"] == "confirmed"] == [3]


def test_the_biggest_changes_are_what_all_changes_of_the_time_came_to(web: Web) -> None:
    insert_opportunities(web.database, *({} for _ in range(13)))
    lines: list[dict[str, Any]] = [
        change(1, "100", "5000", field="charge_total", changed_by="Ada Blake"),
        change(1, "5000", "200", field="charge_total", changed_by="Sam Okoro"),
        change(2, "900.5", "100", field="charge_total"),
        change(3, None, "700", field="charge_total"),
        # It came to nothing.
        change(4, "5", "9000", field="charge_total"),
        change(4, "9000", "5", field="charge_total"),
        # Not its value, and not of these days.
        change(5, "1", "9000", field="weight_total"),
        change(5, "1", "9000", field="charge_total", changed_at=SATURDAY - 3 * DAY),
        *(change(n, n, n + 1, field="charge_total") for n in range(6, 14)),
    ]
    insert(web.database, "opportunity_changes", lines)
    found = told(web, "2031-05-17")["biggest_changes"]
    assert [each["id"] for each in found] == [2, 3, 1, 13, 12, 11, 10, 9, 8, 7]
    assert (found[2]["before"], found[2]["after"]) == ("100", "200")
    assert found[2]["by"] == ["Ada Blake", "Sam Okoro"]
    text = visit(web, "/today?day=2031-05-17").text
    assert "−800" in text
    assert "+700" in text


def test_what_makes_no_sense_is_told_beside_the_day(web: Web) -> None:
    zero = {"opportunity_status": "Reserved", "charge_total": 0, "starts_at": SATURDAY}
    late = job(NOW - 9 * DAY, NOW - DAY, opportunity_status="Active", charge_total=5)
    backwards = {"starts_at": NOW, "ends_at": NOW - DAY, "opportunity_status": "Lost"}
    insert_opportunities(web.database, *([zero] * 7), late, {**backwards, "name": EVIL})
    found = get(web, "/today/checks.json").json()["checks"]
    assert [(c["check"], c["count"], len(c["first"])) for c in found] == [
        ("confirmed_at_zero", 7, 5),
        ("ends_before_it_starts", 1, 1),
    ]
    assert [one["id"] for one in found[1]["first"]] == [9]
    whole = visit(web, "/today/checks")
    assert "and 2 more" in whole.text
    part = get(web, "/today/checks", **{"HX-Request": "true"}).text
    assert part.startswith('<div id="checks">')
    page = visit(web, "/today")
    assert {"hx-get": "/today/checks", "hx-trigger": "load"}.items() <= page.all(
        "div", id="checks"
    )[0].items()
    assert not visit(web, "/today?day=2031-05-17").all("div", id="checks")
    query(web.database, "DELETE FROM opportunities")
    full = {"kind": "full", "runs": ["full"], "completed_at": NOW, "settled_at": NOW}
    insert(web.database, "walks", [full | {"watermark": NOW}])
    assert "No problems found" in visit(web, "/today/checks").text


def test_a_confirmed_job_without_dates_which_no_day_shows_is_named_beside_today(web: Web) -> None:
    lost_sight_of = {"opportunity_status": "Reserved", "charge_total": 5, "name": "No day yet"}
    insert_opportunities(web.database, lost_sight_of, {"opportunity_status": "Provisional"})
    for path in ("/today.json", "/calendar.json"):
        assert "No day yet" not in get(web, path).text
    (found,) = get(web, "/today/checks.json").json()["checks"]
    assert (found["check"], found["count"]) == ("confirmed_without_dates", 1)
    assert found["first"][0]["says"] == "It is confirmed, and has neither a start nor an end."
    page = visit(web, "/today/checks")
    assert "Confirmed, and has no dates" in page.text
    assert page.all("a", href="/opportunities/1")


def test_the_checks_name_fields_as_the_pages_do_and_columns_as_the_view_does(web: Web) -> None:
    fields = ["venue_name", "tags", "custom_fields.po_no", "deliver_starts_at"]
    insert(web.database, "required_fields", [{"field": field} for field in fields])
    insert_opportunities(web.database, {"opportunity_status": "Reserved", "charge_total": 1})
    lines = {"opportunity_id": 1, "seen_at": datetime.now(UTC), "changed_by": "Ann venue_x"}
    changed = [lines | {"field": field} for field in ("starts_at", "ends_at")]
    insert(web.database, "opportunity_changes", changed)
    says = "It lacks custom_fields.po_no, deliver_starts_at, tags, venue_name."
    assert says in get(web, "/today/checks.json").text
    text = visit(web, "/today/checks").text
    assert "It lacks po_no, deliver starts, tags, venue." in text
    assert "After the confirmation Ann venue_x changed hire ends, hire starts." in text


def test_a_day_with_more_than_a_page_holds_says_how_many(web: Web) -> None:
    insert_opportunities(
        web.database, *(job(SATURDAY + HOUR, SATURDAY + 2 * HOUR) for _ in range(103))
    )
    found = told(web, "2031-05-17")
    assert found["goes_out"]["count"] == 103
    assert len(found["goes_out"]["jobs"]) == 100
    assert "The first 100 of 103 are listed" in visit(web, "/today?day=2031-05-17").text


def test_more_decisions_and_late_jobs_than_are_listed_are_counted_and_lead_to_all(web: Web) -> None:
    query(
        web.database,
        "INSERT INTO opportunities (id, name, opportunity_status, starts_at, ends_at)"
        " SELECT i, 'Late', 'Active', now() - interval '9 days', now() - interval '2 days'"
        " FROM generate_series(1, 130) i",
    )
    query(
        web.database,
        "INSERT INTO opportunity_changes (opportunity_id, field, old_value, new_value, changed_at)"
        " SELECT 1000 + i, 'opportunity_status', 'Provisional',"
        " CASE WHEN i <= 120 THEN 'Lost' ELSE 'Reserved' END, now() - interval '1 minute'"
        " FROM generate_series(1, 240) i",
    )
    query(
        web.database,
        "INSERT INTO deleted_opportunities"
        " (id, name, opportunity_status, deleted_because, deleted_at)"
        " SELECT 5000 + i, 'Gone', 'Open', 'webhook', now() - interval '1 minute'"
        " FROM generate_series(1, 150) i",
    )
    found = told(web)
    assert (found["lost_count"], len(found["lost"])) == (270, 100)
    assert (found["confirmed_count"], len(found["confirmed"])) == (120, 100)
    # The same as is counted beside earlier days.
    figures = get(web, "/today/compared.json").json()["figures"]
    counted = {figure["id"]: figure["now"]["count"] for figure in figures}
    assert (counted["lost"], counted["confirmed"], counted["late_back"]) == (270, 120, 130)
    page = visit(web, "/today")
    assert "The newest 100 of 270 are listed." in page.text
    assert "The newest 100 of 120 are listed." in page.text
    assert "The first 100 of 130 are listed." in page.text
    (late,) = {link for link in page.links if "sort=back" in link}
    assert get(web, late.replace("/opportunities?", "/opportunities.json?")).json()["count"] == 130
    (decided,) = {link for link in page.links if "field=opportunity_status" in link}
    assert visit(web, decided).all("time")


@pytest.mark.parametrize(
    ("zone", "day", "first", "last"),
    [
        ("Europe/London", "2026-03-29", "2026-03-29T00:00Z", "2026-03-29T22:59:59Z"),
        ("Europe/London", "2026-10-25", "2026-10-24T23:00Z", "2026-10-25T23:59:59Z"),
        ("America/New_York", "2026-11-01", "2026-11-01T04:00Z", "2026-11-02T04:59:59Z"),
        ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00Z", "2026-04-24T20:59:59Z"),
        ("Pacific/Kiritimati", "2026-06-01", "2026-05-31T10:00Z", "2026-06-01T09:59:59Z"),
        ("Asia/Kolkata", "2026-06-01", "2026-05-31T18:30Z", "2026-06-01T18:29:59Z"),
        ("America/St_Johns", "2026-11-01", "2026-11-01T02:30Z", "2026-11-02T03:29:59Z"),
        # Midnight comes twice.
        ("America/Havana", "2026-11-01", "2026-11-01T04:00Z", "2026-11-02T04:59:59Z"),
    ],
)
def test_a_day_is_that_of_the_company_where_clocks_change_too(
    web: Web, monkeypatch: pytest.MonkeyPatch, zone: str, day: str, first: str, last: str
) -> None:
    moments = [datetime.fromisoformat(text) for text in (first, last)]
    second = timedelta(seconds=1)
    around = [moments[0] - second, *moments, moments[1] + second]
    insert_opportunities(web.database, *(job(at, at + 90 * DAY) for at in around))
    monkeypatch.setenv("RMS_TIME_ZONE", zone)
    with serving(web.database, web.sandbox, current=load_settings(_env_file=None)) as elsewhere:
        assert ids(told(elsewhere, day)["goes_out"]) == [2, 3]
        for asked in (f"out={day}", f"starts={day}", f"from={day}&to={day}"):
            listed = get(elsewhere, f"/opportunities.json?{asked}").json()["opportunities"]
            assert sorted(row["id"] for row in listed) == [2, 3], asked
        on_hire = get(elsewhere, f"/opportunities.json?onhire={day}").json()["opportunities"]
        assert sorted(row["id"] for row in on_hire) == sorted(
            ids(told(elsewhere, day)["on_hire"])
        ), "on hire"


def test_arrow_keys_and_links_lead_to_the_day_before_and_after(web: Web) -> None:
    page = visit(web, "/today?day=2028-03-01")
    keys = {a["data-key"]: a["href"] for a in page.all("a") if "data-key" in a}
    assert keys == {
        "ArrowLeft": "/today?day=2028-02-29",
        "ArrowRight": "/today?day=2028-03-02",
    }
    assert page.all("script", src=page.all("script")[-1]["src"])
    first, last = visit(web, "/today?day=1900-01-02"), visit(web, "/today?day=2199-12-30")
    assert [a["data-key"] for a in first.all("a") if "data-key" in a] == ["ArrowRight"]
    assert [a["data-key"] for a in last.all("a") if "data-key" in a] == ["ArrowLeft"]


@pytest.mark.parametrize(
    ("day", "says"),
    [
        ("soon", "day is not a date like"),
        ("2026-02-30", "day is not a date like"),
        ("0001-01-01", "day is not a day from 1900-01-02 to 2199-12-30"),
        ("9999-12-31", "day is not a day from"),
        ("2026-01-01T00:00", "day"),
    ],
)
def test_a_day_that_is_none_is_refused_in_words(web: Web, day: str, says: str) -> None:
    assert says in visit(web, f"/today?day={day}", 422).text
    answer = get(web, f"/today.json?day={day}", Accept="application/json")
    assert answer.status_code == 422
    assert says in answer.json()["error"]


def test_today_escapes_what_people_type(web: Web) -> None:
    evil: dict[str, Any] = {
        "name": EVIL,
        "number": EVIL,
        "organisation_name": EVIL,
        "venue_name": EVIL,
        "owner_name": EVIL,
        "opportunity_status": EVIL,
    }
    insert_opportunities(
        web.database,
        job(NOW, NOW, **evil),
        job(NOW, NOW, **{**evil, "opportunity_status": "Reserved"}, confirmed_at=NOW),
    )
    gone = {"deleted_at": NOW, "deleted_because": EVIL}
    insert(web.database, "deleted_opportunities", [{"id": 3, **evil, **gone}])
    lines = [
        change(1, EVIL, "Reserved", changed_by=EVIL, changed_at=NOW),
        change(1, "1", "2", field="charge_total", changed_by=EVIL, changed_at=NOW),
        change(2, EVIL, "2", field="charge_total", changed_by=EVIL, changed_at=NOW),
    ]
    insert(web.database, "opportunity_changes", lines)
    # `visit` refuses a script that is not ours.
    assert visit(web, "/today").text.count("alert(1)") >= 8


def test_today_needs_a_session_or_the_token(web: Web) -> None:
    import requests

    for path in ("/today", "/today.json"):
        assert requests.get(f"{web.url}{path}", timeout=30).status_code == 401


def test_of_many_opportunities_the_checks_are_made_once_a_minute(web: Web) -> None:
    def count() -> int:
        checks = get(web, "/today/checks.json").json()["checks"]
        return sum(check["count"] for check in checks if check["check"] == "ends_before_it_starts")

    def believe(rows: int) -> None:
        query(
            web.database,
            f"UPDATE pg_class SET reltuples = {rows} WHERE oid = 'opportunities'::regclass"
            " RETURNING relname",
        )

    insert_opportunities(web.database, job(NOW, NOW - DAY))
    try:
        believe(200_000)
        assert count() == 1
        insert_opportunities(web.database, job(NOW, NOW - DAY, id=2))
        assert count() == 1
    finally:
        believe(1)
    # Of few, whoever asks gets what is there now.
    assert count() == 2
