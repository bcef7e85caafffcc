"""How many records a page holds is learned from what comes, remembered, and used everywhere."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.pages import decode_page
from rms_pipeline.current_rms.terms import PAGE_SIZE, Terms
from rms_pipeline.mirror.api_terms import StoredTerms, read_page_size
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.progress import Progress
from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline.sync.landing import land_window
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]


def learned(*answers: dict[str, Any], size: int | None = None) -> int:
    """The page size after pages of a list, each by default the first one asked for with 100."""
    terms = Terms(size)
    for answer in answers:
        terms.learn_page_size(**{"asked": 100, "number": 1, "claimed": None} | answer)
    return terms.page_size


def test_until_an_answer_shows_another_a_page_is_taken_to_hold_25() -> None:
    assert Terms().page_size == PAGE_SIZE == 25


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        pytest.param({"claimed": 25, "came": 25, "total": 90}, 25, id="clamped, and says so"),
        pytest.param({"claimed": 100, "came": 100, "total": 900}, 100, id="as many as asked for"),
        pytest.param({"claimed": 100, "came": 12, "total": 90}, 12, id="echoes what was asked"),
        pytest.param({"came": 12, "total": 90}, 12, id="says nothing"),
        pytest.param({"claimed": 25, "came": 40, "total": 90}, 40, id="sends more than it says"),
        pytest.param({"claimed": 50, "came": 3, "total": 3}, 50, id="says so of a short list"),
        pytest.param({"claimed": 100, "came": 3, "total": 3}, 25, id="an echo of a short list"),
        pytest.param({"claimed": 25, "came": 24, "total": 90}, 25, id="leaves one out"),
        pytest.param({"claimed": 0, "came": 0, "total": 0}, 25, id="nothing"),
        pytest.param({"claimed": -1, "came": 0, "total": 7}, 25, id="nonsense"),
        pytest.param({"asked": 1, "claimed": 1, "came": 1, "total": 90}, 25, id="a count"),
        pytest.param({"asked": 1, "claimed": 20, "came": 20, "total": 90}, 20, id="never as asked"),
        pytest.param({"number": 4, "claimed": None, "came": 5, "total": 95}, 25, id="a last page"),
    ],
)
def test_an_answer_teaches_what_a_page_holds(answer: dict[str, Any], size: int) -> None:
    assert learned(answer) == size


def test_a_page_size_goes_up_and_down_with_what_comes() -> None:
    fewer = {"claimed": 10, "came": 10, "total": 90}
    more = {"claimed": 50, "came": 50, "total": 90}
    assert learned(fewer) == 10
    assert learned(fewer, more) == 50
    assert learned(fewer, more, fewer) == 10
    # An echo is no proof that more would come.
    assert learned(fewer, {"claimed": 100, "came": 4, "total": 4}) == 10


@pytest.mark.parametrize("per_page", ['"25"', "25.0", "null", '"many"', "[]", "1e999"])
def test_a_per_page_that_cannot_be_read_costs_no_page(per_page: str) -> None:
    body = b'{"opportunities":[],"meta":{"total_row_count":0,"per_page":%b}}' % per_page.encode()
    try:
        claimed = decode_page(body, OPPORTUNITIES).meta.claimed_per_page
    except ValueError:
        assert per_page == "1e999"
    else:
        assert claimed == (25 if "25" in per_page else None)


@pytest.mark.slow
@pytest.mark.parametrize("per_page", [1, 7, 25, 100])
def test_full_sync_refresh_and_deletions_are_whole_at_any_page_size(
    mirror_of: MakeMirror, per_page: int
) -> None:
    mirror = mirror_of(Store(40), switches=Switches(max_per_page=per_page))
    mirror.full_sync()
    assert mirror.differences() == {}
    ids = ids_in(mirror.store, mirror.window)
    for id_ in ids[:30]:
        mirror.store.edit(id_, {"subject": f"Edited {id_}"})
    mirror.store.delete(ids[0])
    done = refresh(mirror.database, mirror.client(), ids[:31], "refresh")
    assert done.gone == {ids[0]}
    assert mirror.differences() == {}


def test_sixty_ids_cost_at_most_four_calls_at_25_a_page(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(200), switches=Switches(max_per_page=25))
    ids = ids_in(mirror.store, mirror.window)[:60]
    done = refresh(mirror.database, mirror.client(), ids, "refresh")
    assert done.result.created == 60
    assert len(mirror.sandbox.requests) <= 4


def test_ids_are_asked_for_again_when_a_page_was_shorter_than_it_was_taken_to_be(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(200), switches=Switches(max_per_page=20))
    ids = ids_in(mirror.store, mirror.window)[:60]
    client = mirror.client()
    client.terms = Terms(100)
    done = refresh(mirror.database, client, ids, "refresh")
    assert done.result.created == 60
    assert done.gone == set()
    lists = [path for _, path, _ in mirror.sandbox.requests if "q[id_in]" in unquote(path)]
    # And one record singly, which shows whether lists are behind.
    assert (len(lists), done.calls) == (3, 4)


@pytest.mark.slow
def test_a_full_sync_costs_its_pages_and_eight_calls(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(600), switches=Switches(max_per_page=25))
    done = mirror.full_sync()
    fewest = -(-done.landed.distinct_records // 25)
    assert done.landed.distinct_records > 300
    assert len(mirror.sandbox.requests) <= fewest + 8


def test_progress_counts_the_pages_that_there_will_be(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of(Store(300), switches=Switches(max_per_page=10))
    seen: list[Progress] = []
    landed = land_window(mirror.database, mirror.client(), mirror.window, "run", watch=seen.append)
    assert seen[-1].pages_expected >= seen[-1].pages == landed.pages
    # From the first page on, but for the lists that were not counted yet.
    assert seen[0].pages_expected >= 0.7 * landed.pages


def test_what_one_process_learned_the_next_one_knows(emptied: Database) -> None:
    terms = StoredTerms(emptied, "acme", OPPORTUNITIES)
    assert terms.page_size == PAGE_SIZE
    terms.learn_page_size(asked=100, claimed=40, came=40, total=90, number=1)
    assert StoredTerms(emptied, "acme", OPPORTUNITIES).page_size == 40
    assert StoredTerms(emptied, "other", OPPORTUNITIES).page_size == PAGE_SIZE
    assert (
        StoredTerms(emptied, "acme", replace(OPPORTUNITIES, name="members")).page_size == PAGE_SIZE
    )
    with emptied.session() as connection:
        assert read_page_size(connection, "acme", OPPORTUNITIES) == 40
        assert read_page_size(connection, "other", OPPORTUNITIES) is None
    other_process = StoredTerms(emptied, "acme", OPPORTUNITIES)
    terms.learn_page_size(asked=100, claimed=30, came=30, total=90, number=1)
    other_process.reload()
    assert other_process.page_size == 30


def test_a_size_that_is_known_is_not_written_again(emptied: Database) -> None:
    terms = StoredTerms(emptied, "acme", OPPORTUNITIES)
    answer = {"asked": 100, "claimed": 25, "came": 25, "total": 90, "number": 1}
    terms.learn_page_size(**answer)
    before = _learned_at(emptied)
    terms.learn_page_size(**answer)
    assert _learned_at(emptied) == before


def test_an_account_that_grants_more_after_all_is_asked_for_more(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(200), switches=Switches(max_per_page=25))
    client = mirror.client()
    client.list_records(())
    assert client.page_size == 25
    server: SandboxServer = mirror.sandbox
    server.switches = replace(server.switches, max_per_page=100)
    client.list_records(())
    assert client.page_size == 100


def _learned_at(database: Database) -> object:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT learned_at FROM api_page_sizes")
        return cursor.fetchall()
