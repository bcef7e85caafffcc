"""Where the API ignores `filtermode` or the window's dates, syncs say so, delete nothing that is
there, and certify nothing that is not so."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.doctor import accounts
from rms_pipeline.doctor.finding import Examination, Level
from rms_pipeline.mirror.api_terms import StoredTerms
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN, Store, Switches
from rms_pipeline.settings import settings
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]
SMALL = Switches(max_per_page=10)
CLOSED = frozenset({40, 50, 60, 70})
DATES = ("q[ends_at_gteq]", "q[starts_at_lteq]")
ONE_OR_BOTH = {"+".join(dates): (dates,) for dates in (DATES, DATES[:1], DATES[1:])}


def closed(mirror: Mirror) -> set[int]:
    return {
        i for i in ids_in(mirror.store, mirror.window) if mirror.store.value(i, "status") in CLOSED
    }


def reopen(mirror: Mirror) -> None:
    """Nothing in the account is completed, cancelled, lost or dead any more."""
    for id_ in mirror.store.ids():
        if mirror.store.value(id_, "status") in CLOSED:
            mirror.store.edit(id_, {"status": 5, "status_name": "Reserved"})


def outside(mirror: Mirror) -> set[int]:
    return set(mirror.store.ids()) - set(ids_in(mirror.store, mirror.window))


def said(notes: list[str], name: str) -> bool:
    return any(f"filter {name} ignored as of" in note for note in notes)


def doctors_line(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("CURRENT_RMS_SUBDOMAIN", raising=False)
    monkeypatch.delenv("CURRENT_RMS_API_KEY", raising=False)
    settings.cache_clear()
    (found,) = accounts.check_terms(Examination(settings(), mirror.database, tables_ready=True))
    settings.cache_clear()
    assert found.level == Level.WARNING
    return found.found


@pytest.fixture
def stored(mirror_of: MakeMirror) -> Callable[..., Mirror]:
    """Mirrors whose terms are kept in PostgreSQL, as those of the assets are."""

    def make(store: Store, **options: object) -> Mirror:
        mirror = mirror_of(store, **options)
        mirror.terms = StoredTerms(mirror.database, SANDBOX_SUBDOMAIN, OPPORTUNITIES)
        return mirror

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "ignored", some_in_drills(ONE_OR_BOTH.values(), (DATES[1:],).__ne__, ONE_OR_BOTH)
)
def test_ignored_dates_are_reported_and_leave_the_mirror_right(
    stored: MakeMirror, ignored: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = stored(Store(120), switches=replace(SMALL, ignored=ignored))
    for shift in (-900, 900):
        day = (datetime.now(UTC) + timedelta(days=shift)).isoformat(timespec="milliseconds")
        mirror.store.create({"starts_at": day, "ends_at": day})
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert not mirror.rows().keys() & outside(mirror)
    for name in DATES:
        assert said(done.landed.notes, name) == (name in ignored)
    assert not done.settled.certificate.shown
    assert f"filter {ignored[0]} ignored" in done.settled.certificate.reason
    assert f"filter {ignored[0]} ignored" in doctors_line(mirror, monkeypatch)
    gone, edited = ids_in(mirror.store, mirror.window)[:2]
    mirror.store.delete(gone)
    mirror.store.edit(edited, {"subject": "Edited"})
    proof = mirror.proved_sync()
    assert proof is not None
    assert not proof.shown
    mirror.full_sync()
    assert mirror.deleted() == {gone}
    assert mirror.differences() == {}


@pytest.mark.slow
def test_dates_that_are_ignored_from_one_day_to_the_next_certify_nothing_and_bring_no_strangers(
    stored: MakeMirror,
) -> None:
    mirror = stored(Store(120), switches=SMALL)
    assert mirror.full_sync().settled.certificate.shown
    mirror.sandbox.switches = replace(SMALL, ignored=DATES)
    rows = mirror.rows().keys()
    assert outside(mirror)
    for _ in range(3):
        proof = mirror.proved_sync()
        assert proof is not None
        assert not proof.shown
        assert proof.reason
    assert mirror.deleted() == set()
    assert mirror.rows().keys() == rows
    mirror.sandbox.switches = SMALL
    done = mirror.full_sync()
    assert done.settled.certificate.shown
    assert mirror.terms.refusals == ()


def test_dates_that_are_obeyed_again_are_believed_again(stored: MakeMirror) -> None:
    mirror = stored(Store(120), switches=replace(SMALL, ignored=DATES))
    mirror.full_sync()
    mirror.sandbox.switches = SMALL
    done = mirror.full_sync()
    assert mirror.terms.refusals == ()
    assert done.settled.certificate.shown
    assert not any("ignored" in note for note in done.landed.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "refused", some_in_drills(ONE_OR_BOTH.values(), (DATES[:1],).__ne__, ONE_OR_BOTH)
)
def test_where_the_dates_are_refused_the_whole_account_is_read_and_the_sync_says_so(
    stored: MakeMirror, refused: tuple[str, ...]
) -> None:
    mirror = stored(Store(120), switches=replace(SMALL, refused=refused))
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert not mirror.rows().keys() & outside(mirror)
    assert any(f"filter {refused[0]} refused with 422" in note for note in done.landed.notes)
    assert not done.settled.certificate.shown
    mirror.sandbox.switches = SMALL
    assert mirror.full_sync().settled.certificate.shown
    assert mirror.terms.refusals == ()


def test_an_ignored_filtermode_is_reported_and_nothing_is_certified(
    stored: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = stored(Store(120), switches=replace(SMALL, honours_filtermode=False))
    missing = closed(mirror)
    assert missing
    mirror.sandbox.requests.clear()
    done = mirror.full_sync()
    assert set(mirror.differences()) == missing
    assert said(done.landed.notes, "filtermode")
    assert any("lost and dead opportunities are only mirrored" in n for n in done.landed.notes)
    assert not done.settled.certificate.shown
    assert "filtermode ignored" in done.settled.certificate.reason
    assert "filter filtermode ignored" in doctors_line(mirror, monkeypatch)
    # Asked for by its id, one that no list shows is mirrored, and stays.
    known = min(missing)
    refresh(mirror.database, mirror.client(), [known], "refresh")
    mirror.full_sync()
    proof = mirror.proved_sync()
    assert proof is not None
    assert not proof.shown
    assert known in mirror.rows()
    assert mirror.deleted() == set()


@pytest.mark.slow
def test_a_filtermode_that_is_ignored_from_one_day_to_the_next_deletes_and_certifies_nothing(
    stored: MakeMirror,
) -> None:
    mirror = stored(Store(120), switches=SMALL)
    assert mirror.full_sync().settled.certificate.shown
    mirror.sandbox.switches = replace(SMALL, honours_filtermode=False)
    for _ in range(2):
        proof = mirror.proved_sync()
        assert proof is not None
        assert not proof.shown
    done = mirror.full_sync()
    assert not done.settled.certificate.shown
    assert done.settled.held_back == 0
    assert mirror.deleted() == set()
    assert mirror.differences() == {}
    # One that really goes is no less gone.
    gone = min(closed(mirror))
    mirror.store.delete(gone)
    mirror.full_sync()
    assert mirror.deleted() == {gone}
    mirror.sandbox.switches = SMALL
    done = mirror.full_sync()
    assert done.settled.certificate.shown
    assert mirror.terms.refusals == ()


def test_an_ignored_filtermode_has_no_effect_where_every_record_arrives(
    stored: MakeMirror,
) -> None:
    switches = replace(SMALL, honours_filtermode=False, filtermode_default="all")
    mirror = stored(Store(120), switches=switches)
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert done.settled.certificate.shown
    assert mirror.terms.refusals == ()


def test_an_account_in_which_nothing_is_closed_costs_one_call_more_and_no_word(
    stored: MakeMirror,
) -> None:
    mirror = stored(Store(60), switches=SMALL)
    reopen(mirror)
    mirror.sandbox.requests.clear()
    done = mirror.full_sync()
    assert done.settled.certificate.shown
    assert mirror.terms.refusals == ()
    assert sum("filtermode=inactive" in path for _, path, _ in mirror.sandbox.requests) == 1
    # What is closed afterwards is noticed, and where that is certified, it is mirrored.
    mirror.sandbox.requests.clear()
    id_ = ids_in(mirror.store, mirror.window)[0]
    mirror.store.edit(id_, {"status": 60, "status_name": "Lost"})
    mirror.full_sync()
    assert not any("filtermode=inactive" in path for _, path, _ in mirror.sandbox.requests)
    assert mirror.differences() == {}


def test_where_nothing_is_closed_yet_an_ignored_filtermode_is_noticed_all_the_same(
    stored: MakeMirror,
) -> None:
    mirror = stored(Store(60), switches=replace(SMALL, honours_filtermode=False))
    reopen(mirror)
    done = mirror.full_sync()
    assert said(done.landed.notes, "filtermode")
    assert not done.settled.certificate.shown


def test_an_empty_account_says_nothing_about_filters(stored: MakeMirror) -> None:
    mirror = stored(Store(0), switches=replace(SMALL, honours_filtermode=False, ignored=DATES))
    done = mirror.full_sync()
    assert mirror.terms.refusals == ()
    assert done.settled.certificate.shown
    assert query(mirror.database, "SELECT count(*) FROM opportunities") == [(0,)]
