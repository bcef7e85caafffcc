"""Finding anything from anywhere."""

from functools import partial
from typing import Any

import pytest

from rms_pipeline.insight.find import Matches, find
from rms_pipeline.mirror.words import BLOCK_BITS
from rms_pipeline_tests.mirror.test_merge import merge_at, record
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.web.conftest import Web
from rms_pipeline_tests.web.page import EVIL, Page, get, visit
from rms_pipeline_tests.web.test_opportunities import HOSTILE, quoted, statuses_of

FETE = {
    "id": 1,
    "subject": "Fête de la Musique, LED wall",
    "number": "00002641",
    "reference": "PO-9136",
    "member_id": 5,
    "member": {"name": "O'Brien & Søn"},
    "venue": {"name": "Kraków Arena"},
    "owned_by": 7,
    "owner": {"name": "Zoë Łęcka"},
    "tag_list": ["late night", "vip"],
    "description": "Parking for two artics.",
}


def told(web: Web, text: str, **more: Any) -> dict[str, Any]:
    rest = "".join(f"&{name}={value}" for name, value in more.items())
    answer = get(web, f"/find.json?q={quoted(text)}{rest}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(web: Web, text: str, **more: Any) -> list[int]:
    return [each["id"] for each in told(web, text, **more)["opportunities"]]


def test_names_of_venues_are_offered_while_one_is_typed(web: Web) -> None:
    names = ("Orchard Hall", "The Old Orchard", "Harbour")
    person = {"id": 5, "name": "Orchard Ltd"}
    merge_at(
        web.database,
        1,
        2,
        *(
            record(id=n, member_id=5, member=person, venue_id=n, venue={"id": n, "name": name})
            for n, name in enumerate(names, 1)
        ),
    )
    page = visit(web, "/fragments/venues?venue=orch")
    assert [each["value"] for each in page.all("option")] == ["Orchard Hall", "The Old Orchard"]
    assert visit(web, "/fragments/venues?venue=").all("option") == []
    for path in ("/opportunities", "/calendar"):
        [field] = visit(web, path).all("input", name="venue")
        assert (field["hx-get"], field["list"]) == ("/fragments/venues", "venues")


@pytest.mark.parametrize(
    "text",
    [
        *("2641", "#2641", "00002641", "#00002641", "0002641", "264"),
        *("fete", "FÊTE", "fete\u0302", "musi", "led wall", "wall led fete", "fet wal"),
        *("obrien", "o'brien", "O\u2019BRIEN", "son obri", "søn"),
        *("krakow", "Kraków are", "zoe lecka", "lec zoë", "po-9136", "po9136", "9136"),
        *("vip", "late", "artics", "fete krakow zoe 2641 vip"),
    ],
)
def test_a_record_is_found_by_any_words_of_it_in_any_order_and_spelling(
    web: Web, text: str
) -> None:
    merge_at(web.database, 1, 2, record(**FETE), record(id=2, subject="Something else"))
    assert ids(web, text) == [1]


@pytest.mark.parametrize("text", ["musique gala", "fetes", "264100", "usique", "rien krak else"])
def test_a_record_that_lacks_one_of_the_words_is_not_found(web: Web, text: str) -> None:
    merge_at(web.database, 1, 2, record(**FETE), record(id=2, subject="Something else"))
    assert ids(web, text) == []
    assert "Nothing matches" in visit(web, f"/find?q={quoted(text)}").text


def test_the_newest_come_first_and_what_was_meant_exactly_before_them(web: Web) -> None:
    rows = [record(id=n, number=f"{n:08}", subject="Gala") for n in (12, 120, 121, 1200, 1299)]
    merge_at(web.database, 1, 2, *rows)
    assert ids(web, "gala") == [1299, 1200, 121, 120, 12]
    assert ids(web, "120") == [120, 1200]
    assert ids(web, "#12") == [12]
    assert [m["is_exact"] for m in told(web, "120")["opportunities"]] == [True, False]


def test_pages_go_on_with_older_ones_across_blocks_of_ids(web: Web) -> None:
    numbers = [n * 20_000 for n in range(1, 60)] + [-5, 2**62]
    merge_at(web.database, 1, 2, *(record(id=n, subject="Gala") for n in sorted(numbers)))
    seen, where = [], "/find.json?q=gala"
    while where:
        answer = get(web, where).json()
        seen += [each["id"] for each in answer["opportunities"]]
        where = answer["next"]
    assert seen == sorted(numbers, reverse=True)
    (older,) = [a["href"] for a in visit(web, "/find?q=gala").all("a", rel="next")]
    assert "/opportunities/-5" in visit(web, older).links


def test_a_search_that_takes_too_long_says_how_far_it_came_and_goes_on(web: Web) -> None:
    """Blocks of ids hold one of the words each, and the oldest one both."""
    block = 2**BLOCK_BITS
    rows = [record(id=n * block + 1, subject=("Gala", "Marquee")[n % 2]) for n in range(1, 20)]
    merge_at(web.database, 1, 2, record(id=1, subject="Marquee gala"), *rows)
    seconds = iter(range(100))
    with web.database.session() as connection:
        hurried = partial(find, connection, patience=0, clock=lambda: float(next(seconds)))
        looked = 0
        found = hurried("gala marq")
        assert found.stopped
        assert found.opportunities == []
        while found.stopped:
            looked += 1
            assert found.next is not None
            found = hurried("gala marq", before=found.next)
        assert looked > 1
        assert [match.id for match in found.opportunities] == [1]
        assert found.next is None
        # Enough is found before anybody loses patience, and what few hold is looked for everywhere.
        assert not hurried("gala", most=2).stopped
        newest = [match.id >> BLOCK_BITS for match in hurried("gala", most=2).opportunities]
        assert newest == [18, 16]
        assert not find(connection, "gala marq").stopped


def test_a_search_that_stopped_early_says_so_and_links_to_the_older_ones(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_at(web.database, 1, 2, record(id=1, subject="Gala"))
    stopped = Matches([], [], [], 77, stopped=True)
    monkeypatch.setattr("rms_pipeline.web.find.find", lambda *_, **__: stopped)
    page = visit(web, "/find?q=gala+marquee")
    assert "the search stopped before the older ones" in page.text
    assert "Nothing matches" not in page.text
    assert "/find?q=gala+marquee&before=77" in page.links
    typed = Page(get(web, "/find?q=gala+marquee", **{"HX-Request": "true"}).text)
    assert "/find?q=gala+marquee" in typed.links
    assert "Not found among the newest" in typed.text
    answer = get(web, "/find.json?q=gala+marquee").json()
    assert (answer["stopped"], answer["next"]) == (True, "/find.json?q=gala+marquee&before=77")


def test_what_is_too_short_to_be_searched_says_so(web: Web) -> None:
    merge_at(web.database, 1, 2, record(id=1, subject="AV hire"), record(id=2, subject="Avenue"))
    # A whole word it may be.
    assert ids(web, "av") == [1]
    assert ids(web, "av hire") == [1]
    assert told(web, "ave")["too_short"] == []
    found = told(web, "hi")
    assert (found["opportunities"], found["too_short"]) == ([], ["hi"])
    assert "at least three letters" in visit(web, "/find?q=hi").text
    # While the next word is being typed, what was found stays.
    found = told(web, "avenue hi")
    assert [m["id"] for m in found["opportunities"]] == [2]
    assert found["left_out"] == ["hi"]
    assert "hi was left out" in visit(web, "/find?q=avenue+hi").text
    assert "Type at least three letters" in visit(web, "/find").text


def test_a_script_without_spaces_is_found_by_any_part(web: Web) -> None:
    merge_at(web.database, 1, 2, record(id=1, subject="東京ドームの夏祭り"))
    for text in ("東京", "ドーム", "夏", "夏祭り"):
        assert ids(web, text) == [1]
    assert ids(web, "大阪") == []


def test_customers_venues_owners_pages_and_commands_are_found_too(web: Web) -> None:
    merge_at(web.database, 1, 2, record(**FETE))
    names = {each["kind"]: each["address"] for each in told(web, "obri")["names"]}
    assert names == {"customer": "/customers/5"}
    # Of a venue whose id is not known, its opportunities.
    (venue,) = told(web, "krak")["names"]
    assert venue["address"] == "/opportunities?venue=Krak%C3%B3w+Arena"
    assert [each["address"] for each in told(web, "zoe")["names"]] == ["/owners/7"]
    assert {"address": "/today", "title": "Today"} in told(web, "tod")["pages"]
    assert {"address": "/today", "title": "Print the day sheet"} in told(web, "sheet")["pages"]
    page = visit(web, "/find?q=obri")
    assert {"/customers/5", "/opportunities/1"} <= {*page.links}


def test_while_somebody_types_a_list_of_options_comes(web: Web) -> None:
    merge_at(web.database, 1, 2, *(record(id=n, subject="Gala") for n in range(1, 12)))
    html = get(web, "/find?q=gala", **{"HX-Request": "true"}).text
    assert "<html" not in html
    part = Page(html)
    assert part.forbidden == []
    options = part.all("a", role="option")
    assert [option["href"] for option in options[:2]] == ["/opportunities/11", "/opportunities/10"]
    assert len(options) == 7
    assert options[6]["href"] == "/find?q=gala"
    assert len({*part.ids}) == len([*part.ids])
    # With nothing typed yet: where to go.
    nothing = Page(get(web, "/find?q=", **{"HX-Request": "true"}).text)
    assert "/today" in [option["href"] for option in nothing.all("a", role="option")]


def test_every_page_has_the_box_and_its_keys(web: Web) -> None:
    for path in ("/", "/today", "/changes", "/opportunities", "/find"):
        page = visit(web, path)
        (box,) = [found for found in page.all("input") if "data-finder" in found]
        assert (box["hx-get"], box["aria-controls"]) == ("/find", "finds")
        assert page.all("div", id="finds", role="listbox")
        assert [s for s in page.all("script") if s["src"].startswith("/static/find.js")]
        (form,) = page.all("form", role="search")
        assert form["action"] == "/find"


def test_a_row_that_was_deleted_by_hand_is_not_found(web: Web) -> None:
    merge_at(web.database, 1, 2, *(record(id=n, subject="Gala") for n in range(1, 4)))
    query(web.database, "DELETE FROM opportunities WHERE id = 3")
    assert ids(web, "gala") == [2, 1]


@pytest.mark.parametrize("page", ["/find", "/find.json"])
@pytest.mark.parametrize("field", ["q", "before"])
def test_nothing_that_is_typed_is_an_error_of_ours(web: Web, page: str, field: str) -> None:
    merge_at(web.database, 1, 2, record(**FETE))
    values = [*HOSTILE, "':*", "'&'", "a:*&b", "~:x", "a|b", "(", "!abc", "<->", "abc\\", "=2641"]
    paths = [f"{page}?{field}={quoted(value)}" for value in values]
    paths += [f"{page}?q=fete&{field}={quoted(value)}" for value in values]
    answered = statuses_of(web, paths)
    assert set(answered.values()) <= {200, 422}, answered
    assert 200 in answered.values()


def test_what_is_found_is_escaped(web: Web) -> None:
    fields = {"subject": EVIL, "number": EVIL, "member": {"name": EVIL}, "venue": {"name": EVIL}}
    merge_at(web.database, 1, 2, record(id=1, status_name=EVIL, **fields))
    assert visit(web, "/find?q=alert").text.count("alert(1)") >= 4
    part = Page(get(web, "/find?q=alert", **{"HX-Request": "true"}).text)
    assert part.forbidden == []
    assert visit(web, f"/find?q={quoted(EVIL)}x").forbidden == []
