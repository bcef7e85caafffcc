"""The calendar's pages and their twin, on hires whose days are known."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.insight.calendar import MOST_BARS
from rms_pipeline.settings import load_settings
from rms_pipeline_tests.rows import insert_opportunities, query
from rms_pipeline_tests.web.conftest import Web, serving
from rms_pipeline_tests.web.page import EVIL, Page, get, visit

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# A Saturday.
SATURDAY = datetime(2031, 5, 17, tzinfo=UTC)
VIEWS = ("month", "week", "agenda")


def job(starts: datetime | None, ends: datetime | None, **fields: Any) -> dict[str, Any]:
    return {"starts_at": starts, "ends_at": ends, "opportunity_status": "Reserved", **fields}


def told(web: Web, parameters: str) -> list[dict[str, Any]]:
    answer = get(web, f"/calendar.json?{parameters}")
    assert answer.status_code == 200, answer.text
    bars: list[dict[str, Any]] = answer.json()["bars"]
    return bars


def ids(bars: list[dict[str, Any]]) -> list[int]:
    return [each["id"] for each in bars]


def test_a_week_has_whatever_is_out_on_one_of_its_days_and_a_month_its_whole_weeks(
    web: Web,
) -> None:
    monday = SATURDAY - 5 * DAY
    insert_opportunities(
        web.database,
        job(monday - 9 * DAY, monday + HOUR),
        job(monday - 9 * DAY, monday - HOUR),
        job(monday + 7 * DAY - HOUR, monday + 30 * DAY),
        job(monday + 7 * DAY, monday + 30 * DAY),
        job(SATURDAY, None, open_ended_rental=True),
        job(SATURDAY, SATURDAY + HOUR, opportunity_status="Provisional"),
        job(SATURDAY, SATURDAY + HOUR, opportunity_status="Lost"),
        job(datetime(2031, 4, 28, 9, tzinfo=UTC), datetime(2031, 4, 28, 10, tzinfo=UTC)),
        job(datetime(2031, 4, 27, 9, tzinfo=UTC), datetime(2031, 4, 27, 10, tzinfo=UTC)),
    )
    assert ids(told(web, "view=week&day=2031-05-17")) == [1, 5, 6, 3]
    assert ids(told(web, "view=week&day=2031-05-17&status=Lost")) == [7]
    assert ids(told(web, "day=2031-05-17")) == [8, 1, 2, 5, 6, 3, 4]
    assert ids(told(web, "view=agenda&day=2031-05-19")) == [5, 3, 4]
    answer = get(web, "/calendar.json?day=2031-05-17").json()
    assert (answer["first"], answer["last"]) == ("2031-04-28", "2031-06-01")
    assert answer["isComplete"]


def test_what_has_one_date_or_an_end_before_its_start_is_shown_on_its_day(web: Web) -> None:
    insert_opportunities(
        web.database,
        job(SATURDAY, None),
        job(None, SATURDAY + HOUR),
        job(SATURDAY + 2 * HOUR, SATURDAY - DAY),
        job(None, None),
    )
    for view in VIEWS:
        assert ids(told(web, f"view={view}&day=2031-05-17")) == [1, 2, 3]
        for id_ in (1, 2, 3):
            page = visit(web, f"/calendar?view={view}&day=2031-05-17")
            assert f"/opportunities/{id_}" in page.links


@pytest.mark.parametrize(
    "address",
    [
        "/today?day=2031-05-17",
        *(f"/calendar?view={view}&day=2031-05-17" for view in VIEWS),
        "/opportunities?sort=-updated",
        "/print/opportunities",
        "/opportunities/1",
    ],
)
def test_statuses_have_the_colours_that_the_company_chose(web: Web, address: str) -> None:
    insert_opportunities(
        web.database,
        job(SATURDAY + HOUR, SATURDAY + 2 * HOUR, name="Marquee", opportunity_status="Waitlisted"),
        job(SATURDAY + HOUR, SATURDAY + 3 * HOUR, name="Marquee two"),
    )
    query(
        web.database,
        "INSERT INTO statuses (name, phase, colour) VALUES ('Waitlisted', 'confirmed', '#123456')"
        " RETURNING name",
    )
    try:
        page = visit(web, address)
    finally:
        query(web.database, "DELETE FROM statuses WHERE name = 'Waitlisted' RETURNING name")
    fills = {found["fill"] for _, found in page.tags if "fill" in found}
    assert "#123456" in fills
    # The other ones keep theirs.
    assert fills <= {"#123456", "#9538c9"}


def test_a_stage_with_one_time_and_one_of_a_hire_with_one_date_are_shown(web: Web) -> None:
    insert_opportunities(
        web.database,
        job(None, None, deliver_starts_at=SATURDAY + 8 * HOUR),
        job(None, None, collect_ends_at=SATURDAY + 9 * HOUR),
        job(SATURDAY, SATURDAY - DAY, show_starts_at=SATURDAY + 10 * HOUR),
        job(SATURDAY, SATURDAY + DAY, takedown_ends_at=SATURDAY + 11 * HOUR),
        job(None, None, deliver_starts_at=SATURDAY + 90 * DAY),
    )
    found = told(web, "by=stages&view=week&day=2031-05-17")
    assert [(bar["id"], bar["stage"]) for bar in found] == [
        *((1, "deliver"), (2, "collect"), (3, "show"), (4, "takedown"))
    ]
    assert {bar["startsAt"] == bar["endsAt"] for bar in found} == {True}


def test_stages_are_bars_of_their_own(web: Web) -> None:
    insert_opportunities(
        web.database,
        job(
            SATURDAY + 9 * HOUR,
            SATURDAY + 20 * HOUR,
            prep_starts_at=SATURDAY - 2 * DAY,
            prep_ends_at=SATURDAY - DAY,
            show_starts_at=SATURDAY + 10 * HOUR,
            show_ends_at=SATURDAY + 12 * HOUR,
            collect_starts_at=SATURDAY + 20 * HOUR,
            deprep_starts_at=SATURDAY + 9 * DAY,
            deprep_ends_at=SATURDAY + 8 * DAY,
        ),
    )
    found = told(web, "by=stages&day=2031-05-17")
    assert [(each["stage"], each["startsAt"][:13]) for each in found] == [
        ("prep", "2031-05-15T00"),
        ("show", "2031-05-17T10"),
        ("collect", "2031-05-17T20"),
        ("deprep", "2031-05-26T00"),
    ]
    assert found[3]["endsAt"] == found[3]["startsAt"]
    assert "take down" not in visit(web, "/calendar?by=stages&day=2031-05-17").text
    assert "put back" in visit(web, "/calendar?by=stages&day=2031-05-17").text


def test_days_are_those_of_the_company(web: Web) -> None:
    # Ten in the evening of that Saturday in London is Sunday in Auckland.
    insert_opportunities(web.database, job(SATURDAY + 22 * HOUR, SATURDAY + 23 * HOUR))
    current = load_settings(_env_file=None, RMS_TIME_ZONE="Pacific/Auckland")
    with serving(web.database, web.sandbox, current=current) as there:
        assert ids(told(there, "view=agenda&day=2031-05-18")) == [1]
        assert ids(told(there, "view=agenda&day=2031-05-19")) == []
        assert "10:00" in visit(there, "/calendar?view=agenda&day=2031-05-18").text


@pytest.mark.parametrize(
    "filters",
    [
        "owner=Ada",
        "customer=harb",
        "status=Open",
        "tag=vip",
        "q=wanted",
        "least=100",
        "state=Order",
    ],
)
def test_the_filters_of_the_list_hold_here_too(web: Web, filters: str) -> None:
    insert_opportunities(
        web.database,
        job(
            SATURDAY, SATURDAY + HOUR, owner_name="Ada", organisation_name="Harbour", tags=["vip"],
            opportunity_status="Open", name="Wanted", total_value=100, state_name="Order",
        ),
        job(SATURDAY, SATURDAY + HOUR, owner_name="Sam", total_value=8),
    )  # fmt: skip
    assert ids(told(web, f"{filters}&view=week&day=2031-05-17")) == [1]
    page = visit(web, f"/calendar?{filters}&view=week&day=2031-05-17")
    assert f"/calendar?{filters}&view=agenda&day=2031-05-17" in page.links
    assert "/calendar?view=week&day=2031-05-17" in page.links, "the chip takes it away"
    [listed] = [link for link in page.links if link.startswith("/opportunities?")]
    of_list = visit(web, listed).links
    assert "/opportunities/1" in of_list
    assert "/opportunities/2" not in of_list


def test_a_day_with_more_than_fits_says_how_many_more_and_leads_to_them(web: Web) -> None:
    insert_opportunities(
        web.database, *(job(SATURDAY + HOUR, SATURDAY + 2 * HOUR) for _ in range(130))
    )
    page = visit(web, "/calendar?day=2031-05-17")
    assert "124 more" in page.text
    assert "/calendar?view=agenda&day=2031-05-17" in page.links
    agenda = visit(web, "/calendar?view=agenda&day=2031-05-17")
    assert "Not all are listed" in agenda.text
    assert "/opportunities?status=is%3Aopen&onhire=2031-05-17" in agenda.links


def test_on_paper_what_does_not_fit_is_listed_below_its_week(web: Web) -> None:
    insert_opportunities(
        web.database,
        *(job(SATURDAY + HOUR, SATURDAY + 2 * HOUR, name=f"Gala {n}.") for n in range(60)),
        *(job(SATURDAY + 7 * DAY, SATURDAY + 8 * DAY, name=f"Fair {n}.") for n in range(300)),
    )
    page = visit(web, "/calendar?day=2031-05-17")
    assert all(f"Gala {n}." in page.text for n in range(60))
    assert "48 more are not printed" in page.text
    assert page.text.count("are not printed") == 1
    assert "not printed" not in visit(web, "/calendar?day=2031-04-17").text


def test_too_many_hires_are_said_to_be_too_many(web: Web) -> None:
    query(
        web.database,
        "INSERT INTO opportunities (id, name, opportunity_status, starts_at, ends_at)"
        " SELECT n, 'Job ' || n, 'Reserved', %s, %s"
        f" FROM generate_series(1, {MOST_BARS + 1}) n",
        SATURDAY,
        SATURDAY + HOUR,
    )
    assert not get(web, "/calendar.json?day=2031-05-17").json()["isComplete"]
    for view in VIEWS:
        answer = get(web, f"/calendar?view={view}&day=2031-05-17")
        assert "Choose a filter" in answer.text
        assert len(answer.content) < 100_000, view


@pytest.mark.parametrize("view", VIEWS)
def test_the_next_view_and_the_one_before_are_one_link_away(web: Web, view: str) -> None:
    page = visit(web, f"/calendar?view={view}&day=2031-05-17")
    steps = {found["data-key"]: found["href"] for found in page.all("a") if "data-key" in found}
    expected = {
        "month": ("2031-04-01", "2031-06-01"),
        "week": ("2031-05-10", "2031-05-24"),
        "agenda": ("2031-05-03", "2031-05-31"),
    }[view]
    for key, day in zip(("ArrowLeft", "ArrowRight"), expected, strict=True):
        assert steps[key].endswith(f"day={day}")
        visit(web, steps[key])


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ("view=year", "month, week, agenda"),
        ("by=colour", "hire, stages"),
        ("day=tomorrow", "2026-05-31"),
        ("day=1899-01-01", "is not a day"),
        ("day=2199-12-30", "is not a day"),
        ("onhire=never", "is not a period"),
    ],
)
def test_a_mistake_in_the_address_is_named(web: Web, parameters: str, word: str) -> None:
    for path in ("/calendar", "/calendar.json"):
        answer = get(web, f"{path}?{parameters}")
        assert answer.status_code == 422
        assert word in answer.text


def test_the_last_days_there_are_lead_no_further(web: Web) -> None:
    for view in VIEWS:
        for day in ("1900-04-12", "2199-09-21"):
            assert get(web, f"/calendar?view={view}&day={day}").status_code == 200, (view, day)


def test_what_people_typed_stays_text(web: Web) -> None:
    evil = {"name": EVIL, "organisation_name": EVIL, "venue_name": EVIL, "owner_name": EVIL}
    insert_opportunities(web.database, job(SATURDAY, SATURDAY + HOUR, **evil))
    for view in VIEWS:
        assert "alert(1)" in visit(web, f"/calendar?view={view}&day=2031-05-17").text


@pytest.mark.parametrize(
    ("language", "week", "month"),
    [
        ("en-GB", ("2031-05-12", "2031-05-18"), ("2031-04-28", "2031-06-01")),
        ("de-AT", ("2031-05-12", "2031-05-18"), ("2031-04-28", "2031-06-01")),
        ("", ("2031-05-12", "2031-05-18"), ("2031-04-28", "2031-06-01")),
        ("en-US", ("2031-05-11", "2031-05-17"), ("2031-04-27", "2031-05-31")),
        ("he", ("2031-05-11", "2031-05-17"), ("2031-04-27", "2031-05-31")),
        ("ar", ("2031-05-17", "2031-05-23"), ("2031-04-26", "2031-06-06")),
    ],
)
def test_a_week_begins_on_the_day_on_which_it_begins_for_the_reader(
    web: Web, language: str, week: tuple[str, str], month: tuple[str, str]
) -> None:
    sunday = SATURDAY + DAY + 9 * HOUR
    insert_opportunities(web.database, job(sunday, sunday + HOUR))
    for view, (first, last) in (("week", week), ("month", month)):
        address = f"view={view}&day=2031-05-17"
        told = get(web, f"/calendar.json?{address}", **{"Accept-Language": language}).json()
        assert (told["first"], told["last"]) == (first, last)
        answer = get(web, f"/calendar?{address}", **{"Accept-Language": language})
        page = Page(answer.text)
        # The page shows the days of its twin, and the hire of that Sunday in the column of Sunday.
        days = {link.rpartition("day=")[2] for link in page.links if "view=agenda&day=" in link}
        assert (min(days), max(days)) == (first, last)
        column = 1 + (date(2031, 5, 18) - date.fromisoformat(first)).days % 7
        bars = [each["class"] for each in page.all("li") if each.get("class", "")[:4] == "bar "]
        is_shown = first <= "2031-05-18" <= last
        assert [re.sub(r".*\bcol-(\d).*", r"\1", bar) for bar in bars] == (
            [str(column)] if is_shown else []
        )


def test_the_colours_of_a_calendar_are_named_and_each_leads_to_its_hires(web: Web) -> None:
    names = ["Reserved", "Reserved", "Active", None, *(f"Status {n:02}" for n in range(11))]
    insert_opportunities(
        web.database,
        *(job(SATURDAY, SATURDAY + HOUR, opportunity_status=name) for name in names),
    )
    for view in ("month", "week"):
        page = visit(web, f"/calendar?view={view}&day=2031-05-17")
        assert len(page.all("li", **{"class": "item"})) == 12
        assert "2 more statuses" in page.text
        only = [link for link in page.links if link.startswith("/calendar?status=")]
        assert only[0].startswith("/calendar?status=Reserved&")
        assert len(visit(web, only[0]).all("li", **{"class": "item"})) == 1
    assert not visit(web, "/calendar?view=agenda&day=2031-05-17").all("ul", **{"class": "legend"})
    assert not visit(web, "/calendar?day=2033-05-17").all("ul", **{"class": "legend"})
