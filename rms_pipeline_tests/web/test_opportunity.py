"""One opportunity: everything that happened to it, and how it was on a past day."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.current_rms.records import Fault, Record
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings
from rms_pipeline_tests.mirror.test_merge import merge_at, record
from rms_pipeline_tests.mirror.test_record_history import delete_at, moment
from rms_pipeline_tests.rows import insert, insert_opportunities, query
from rms_pipeline_tests.web.conftest import Web, serving
from rms_pipeline_tests.web.page import EVIL, get, visit


def version(number: int, **fields: Any) -> Record | Fault:
    """How opportunity 1 was at its edit of that number."""
    at = datetime(2026, 1, 1, number, tzinfo=UTC).isoformat()
    return record(
        **{"id": 1, "created_at": "2025-12-24T10:00:00Z", "updated_at": at, "subject": "Ball"}
        | fields
    )


def happened(web: Web, id_: int = 1) -> list[dict[str, Any]]:
    answer = get(web, f"/opportunities/{id_}/timeline.json")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["moments"]
    return found


def kinds(web: Web) -> list[str]:
    return [moment["kind"] for moment in happened(web)]


def test_a_timeline_holds_what_changed_who_was_told_of_and_each_version(web: Web) -> None:
    merge_at(web.database, 1, 2, version(1, status_name="Open"))
    event = {"opportunity_id": 1, "action_type": "update", "member_id": 7, "member_name": "Ada"}
    insert(web.database, "webhook_events", [{**event, "received_at": datetime.now(UTC)}])
    merge_at(web.database, 3, 4, version(2, status_name="Lost", subject="Summer ball"))
    merge_at(web.database, 5, 6, version(3, status_name="Lost", subject="Summer ball", icon="x"))
    found = happened(web)
    assert {m["kind"] for m in found} == {"entered", "first_seen", "changed", "webhook"}
    changed = [m for m in found if m["kind"] == "changed"]
    # By Current RMS's own clock where a column changed; the other was only seen here.
    told = next(m for m in changed if m["lines"])
    assert {x["field"] for x in told["lines"]} == {"opportunity_status", "name", "subject"}
    assert told["by"] == "Ada"
    silent = next(m for m in changed if not m["lines"])
    assert silent["others"] == ["icon"]
    page = visit(web, "/opportunities/1")
    for words in ("Changed by Ada", "Summer ball", "In the record: icon", "Webhook: update by Ada"):
        assert words in page.text
    assert "First mirrored" in page.text
    assert "Entered in Current RMS" in page.text


def test_each_version_leads_to_the_opportunity_as_it_was_then(web: Web) -> None:
    merge_at(web.database, 1, 2, version(1, subject="First", venue={"name": "Old hall"}))
    merge_at(web.database, 3, 4, version(2, subject="Second"))
    merge_at(web.database, 5, 6, version(3, subject="Third"))
    page = visit(web, "/opportunities/1")
    then = [link for link in page.links if "as_of=" in link]
    texts = [visit(web, link).text for link in then if ".json" not in link]
    assert [name for text in texts for name in ("First", "Second", "Third") if f"{name} –" in text]
    titles = [text.strip().partition(" –")[0] for text in texts]
    assert sorted(titles) == ["First", "Second", "Third"]
    (first,) = [text for text in texts if text.strip().startswith("First")]
    assert "Old hall" in first
    assert "You see the state that the mirror held" in first
    assert "Old hall" not in page.text.partition("What happened")[0]


def test_a_record_that_is_gone_and_back_says_so(web: Web) -> None:
    merge_at(web.database, 1, 2, version(1))
    delete_at(web.database, 3, 1)
    assert kinds(web)[0] == "deleted"
    assert "Deleted in Current RMS" in visit(web, "/opportunities/1").text
    merge_at(web.database, 5, 6, version(1))
    assert [k for k in kinds(web) if k in ("deleted", "returned")] == ["returned", "deleted"]
    assert "There again in Current RMS" in visit(web, "/opportunities/1").text


def test_as_of_a_day_is_how_it_was_at_its_end(web: Web) -> None:
    merge_at(web.database, 1, 2, version(1, subject="Yesterday's"))
    merge_at(web.database, 3, 4, version(2, subject="Today's"))
    # As if the first version had ended at the last moment of the day before, or a little later.
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = str((today - timedelta(days=1)).date())
    query(web.database, "UPDATE mirror_state SET value = %s WHERE name = 'history_began'",
          str(today - timedelta(days=9)))  # fmt: skip
    for ended, expected in {
        today - timedelta(microseconds=2): "Today's",
        today + timedelta(microseconds=2): "Yesterday's",
    }.items():
        query(web.database, "UPDATE opportunity_past SET valid_from = %s, valid_to = %s",
              today - timedelta(days=3), ended)  # fmt: skip
        query(web.database, "UPDATE opportunity_versions SET valid_from = %s", ended)
        answer = get(web, f"/opportunities/1.json?as_of={yesterday}")
        assert answer.json()["subject"] == expected
        assert expected in visit(web, f"/opportunities/1?as_of={yesterday}").text
    before = str((today - timedelta(days=4)).date())
    assert "did not hold it" in visit(web, f"/opportunities/1?as_of={before}").text
    assert get(web, f"/opportunities/1.json?as_of={before}", Accept="*/*").status_code == 404
    unknown = str((today - timedelta(days=12)).date())
    page = visit(web, f"/opportunities/1?as_of={unknown}")
    assert "The history of this mirror begins on" in page.text
    assert "You see it as it is now" in page.text
    query(web.database, "UPDATE mirror_state SET value = now()::text WHERE name = 'history_began'")


def test_a_moment_that_is_to_come_is_now(web: Web) -> None:
    merge_at(web.database, 1, 2, version(1))
    at = moment(web.database)
    page = visit(web, "/opportunities/1?as_of=2190-01-01")
    assert f"{at:%a %d %b %Y}" in page.text
    assert get(web, "/opportunities/1.json?as_of=2190-01-01").json()["subject"] == "Ball"


@pytest.mark.parametrize(
    "as_of", ["soon", "2026-02-30", "0001-01-01", "9999-12-31", "9999-12-31T23:59:59-12:00", "\0"]
)
@pytest.mark.parametrize("suffix", ["", ".json"])
def test_a_moment_that_is_none_is_refused_in_words(web: Web, as_of: str, suffix: str) -> None:
    merge_at(web.database, 1, 2, version(1))
    answer = get(web, f"/opportunities/1{suffix}?as_of={as_of}", Accept="*/*")
    assert answer.status_code == 422
    assert "as_of is not a date like" in answer.json()["error"]


def test_a_long_timeline_shows_the_newest_first_and_the_rest_on_demand(web: Web) -> None:
    insert_opportunities(web.database, {})
    began = datetime(2026, 5, 1, tzinfo=UTC)
    insert(
        web.database,
        "opportunity_changes",
        [
            {"opportunity_id": 1, "field": "venue_name", "new_value": f"Hall {n}."}
            | {"seen_at": began + timedelta(hours=n)}
            for n in range(1, 61)
        ],
    )
    page = visit(web, "/opportunities/1")
    assert ("Hall 60." in page.text, "Hall 11." in page.text, "Hall 10." in page.text) == (
        (True, True, False)
    )
    assert "Show 10 older ones" in page.text
    (more,) = [link for link in page.links if "events=all" in link]
    whole = visit(web, f"/opportunities/1{more.partition('#')[0]}")
    assert "Hall 1." in whole.text
    assert not [link for link in whole.links if "events=all" in link]
    assert len(happened(web)) == 60
    # Of a past day the link leads to the same day.
    (more,) = [
        link
        for link in visit(web, "/opportunities/1?as_of=2026-05-02").links
        if "events=all" in link
    ]
    assert more.startswith("?as_of=2026-05-02T")


def test_what_is_not_in_the_mirror_has_no_timeline(web: Web) -> None:
    assert get(web, "/opportunities/5/timeline.json", Accept="*/*").status_code == 404
    assert get(web, f"/opportunities/{10**30}/timeline.json", Accept="*/*").status_code in (
        404,
        422,
    )


def test_a_person_reads_all_fields_without_the_record(web: Web) -> None:
    own = {"risk": "5", "doors": "", "crew": [1, 2], "vip": "Yes", "nothing": None}
    merge_at(
        web.database,
        1,
        2,
        version(
            1,
            custom_fields=own,
            member_id=5,
            member={"name": "Acme & Sons"},
            venue={"name": "Hall & Yard"},
            tag_list=["vip", "night"],
            deliver_starts_at="2026-05-01T08:00:00Z",
            deliver_ends_at="2026-05-01T10:00:00Z",
            charge_total="100.5",
            provisional_cost_total="40",
        ),
    )
    page = visit(web, "/opportunities/1")
    for words in ("risk", "1, 2", "vip, night", "Deliver", "01 May 2026, 08:00", "60.50"):
        assert words in page.text
    assert "doors" not in page.text.partition("The record as received")[0]
    assert "/customers/5" in page.links
    # Of a venue whose id is not known.
    assert "/opportunities?venue=Hall+%26+Yard" in page.links


def test_days_and_times_of_custom_fields_are_those_of_the_company_and_other_texts_stay(
    web: Web,
) -> None:
    own = {
        "visit": "2026-07-27T09:05:00.000Z",
        "due": "2026-11-27",
        "signed": "2026-11-28T00:00:00.000Z",
        "code": "2026-11-27-B",
        "wrong": "2026-02-31",
        "doors": "18:30",
    }
    merge_at(web.database, 1, 2, version(1, custom_fields={"visit": "2026-01-05T23:30:00Z"}))
    merge_at(web.database, 3, 4, version(2, custom_fields=own))
    current = load_settings(RMS_TIME_ZONE="Europe/Berlin", _env_file=None)
    with SandboxServer(Store(1)) as sandbox, serving(web.database, sandbox, current=current) as web:
        page = visit(web, "/opportunities/1")
        fields, _, happened = page.text.partition("The record as received")
        for shown in ("27 Jul 2026, 11:05", "27 Nov 2026", "28 Nov 2026", "2026-11-27-B"):
            assert shown in fields
        for shown in ("2026-02-31", "18:30"):
            assert shown in fields
        assert "2026-07-27T09" not in fields
        # What changed is written in the same way.
        assert "06 Jan 2026, 00:30" in happened
        assert "visit" in happened


def test_a_timeline_escapes_what_people_type(web: Web) -> None:
    fields = {"status_name": EVIL, "subject": EVIL, "venue": {"name": EVIL}, EVIL: EVIL}
    own = {"custom_fields": {EVIL: EVIL}}
    merge_at(web.database, 1, 2, version(1, subject="Ball", custom_fields={}))
    event = {"opportunity_id": 1, "action_type": EVIL, "member_name": EVIL, "error": EVIL}
    insert(web.database, "webhook_events", [event])
    merge_at(web.database, 3, 4, version(2, **fields, **own))
    assert visit(web, "/opportunities/1").text.count("alert(1)") > 8


def test_lines_of_before_the_history_are_told_too(web: Web) -> None:
    merge_at(web.database, 1, 2, version(1))
    long_ago = datetime(2024, 5, 1, 10, tzinfo=UTC)
    old = {"opportunity_id": 1, "field": "opportunity_status", "seen_at": long_ago}
    insert(
        web.database,
        "opportunity_changes",
        [{**old, "old_value": "Open", "new_value": "Reserved", "changed_by": "Sam"}],
    )
    changed = [m for m in happened(web) if m["kind"] == "changed"]
    assert [(m["by"], m["version"], m["at"]) for m in changed] == [
        ("Sam", None, "2024-05-01T10:00:00Z")
    ]


def test_items_stand_in_their_order_with_shortages_and_sub_hires(web: Web) -> None:
    merge_at(web.database, 1, 2, version(1))
    assert 'id="items-title"' not in visit(web, "/opportunities/1").html
    of: dict[str, Any] = {"opportunity_id": 1}
    rows: list[dict[str, Any]] = [
        {"id": 13, **of, "opportunity_item_type": 2, "name": EVIL, "path": "0001.0001.0001"},
        {"id": 11, **of, "opportunity_item_type": 0, "name": "Lights", "path": "0001"},
        {"id": 12, **of, "opportunity_item_type": 1, "name": "Moving head", "path": "0001.0001"},
        {"id": 14, **of, "opportunity_item_type": 1, "name": "Cable", "path": None},
        {"id": 15, "opportunity_id": 2, "name": "Another's", "path": "0001"},
    ]
    rows[2] |= {"has_shortage": True, "sub_rent": True, "quantity": "4.0", "charge_total": "120.5"}
    insert(web.database, "opportunity_items", rows)
    found = get(web, "/opportunities/1/items.json").json()
    assert (found["count"], found["shortages"], found["sub_hires"]) == (3, 1, 1)
    assert [(i["id"], i["kind"]) for i in found["items"]] == [
        (11, "group"),
        (12, "principal"),
        (13, "accessory"),
        (14, "principal"),
    ]
    page = visit(web, "/opportunities/1")
    for words in ("Moving head", "1 shortage", "1 sub-hire", "4×", "120.50"):
        assert words in page.text
    assert "Another's" not in page.text
    assert get(web, "/opportunities/5/items.json", Accept="*/*").status_code == 404


@pytest.mark.parametrize("year", [1, 1026, 1896, 2925, 9999])
def test_a_page_shows_whatever_year_was_typed(web: Web, year: int) -> None:
    """Nobody hires anything out then, but a slip of the finger is no reason to show no page."""
    then = datetime(year, 1 if year == 1 else 12, 1 if year == 1 else 31, tzinfo=UTC)
    columns = ("created_at_rms", "updated_at_rms", "starts_at", "ends_at", "confirmed_at")
    insert_opportunities(web.database, {"id": 7, "name": "Typed", **dict.fromkeys(columns, then)})
    for path in ("/opportunities/7", "/opportunities", "/changes", "/today", "/calendar"):
        visit(web, path)
    assert "Typed" in visit(web, "/opportunities/7").text
