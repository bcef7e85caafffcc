"""An API that compares whole days, in the account's time zone, wherever a time is asked for."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.terms import TIME_OF_DAY
from rms_pipeline.current_rms.window import iso
from rms_pipeline.mirror.api_terms import StoredTerms
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.mirror.walks import watermarks
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sandbox.account import InventedAccount
from rms_pipeline.sandbox.api import routes
from rms_pipeline.sandbox.api.answers import Answer, Request
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.core import full_sync, proved_sync
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import MakeClient, Mirror
from rms_pipeline_tests.sync.test_prove import dated, proved

TEN = Switches(max_per_page=10)
OLD = "2020-01-01T12:00:00.000Z"
_TIME = re.compile(r"q\[(?:starts_at|ends_at|updated_at|created_at)_(gteq|lteq)\]")
MakeMirror = Callable[..., Mirror]
Midnight = Callable[[date], datetime]


def in_zone(name: str) -> tuple[Midnight, Callable[[datetime], date]]:
    """When a day begins there (UTC), and which day it is there."""
    zone = ZoneInfo(name)
    return (
        lambda day: datetime.combine(day, time(), zone).astimezone(UTC),
        lambda moment: moment.astimezone(zone).date(),
    )


def compare_days(
    monkeypatch: pytest.MonkeyPatch, begins: Midnight, day_of: Callable[[datetime], date]
) -> None:
    truth = routes.answer

    def rounded(value: str, how: str) -> str:
        day = day_of(datetime.fromisoformat(value))
        if how == "gteq":
            return iso(begins(day))
        return iso(begins(day + timedelta(days=1)) - timedelta(milliseconds=1))

    def answer(account: InventedAccount, request: Request) -> Answer:
        asked = [
            (name, rounded(value, match[1]) if (match := _TIME.fullmatch(name)) else value)
            for name, value in request.query
        ]
        return truth(account, replace(request, query=asked))

    monkeypatch.setattr(routes, "answer", answer)


def at_the_edges(mirror: Mirror) -> None:
    """Makes records of long ago, some hours on either side of both ends of the window."""
    for hours in range(-50, 51, 10):
        last = mirror.window.start + timedelta(hours=hours, minutes=1)
        first = mirror.window.end + timedelta(hours=hours, minutes=1)
        day = timedelta(days=1)
        mirror.store.create({"starts_at": iso(last - day), "ends_at": iso(last), "updated_at": OLD})
        mirror.store.create({"starts_at": iso(first), "ends_at": iso(first + day),
                             "updated_at": OLD})  # fmt: skip


def demand_shown(mirror: Mirror, proof: Proof) -> None:
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}
    assert any("compares whole days" in note for note in proof.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zone", "literal"),
    some_in_drills(
        [(zone, literal) for zone in ("Pacific/Apia", "Pacific/Pago_Pago", "America/St_Johns",
                                      "Australia/Lord_Howe", "UTC") for literal in (False, True)],
        {("Pacific/Apia", False), ("Pacific/Pago_Pago", True)}.__contains__,
    ),
)  # fmt: skip
def test_where_whole_days_are_compared_nothing_is_lost_and_the_proof_says_so(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch, zone: str, literal: bool
) -> None:
    """`literal`: the date as it is written is taken for one of the zone."""
    mirror = mirror_of(Store(60), switches=TEN)
    at_the_edges(mirror)
    begins, day_of = in_zone(zone)
    compare_days(monkeypatch, begins, datetime.date if literal else day_of)
    demand_shown(mirror, mirror.full_sync().settled.certificate)
    for _ in range(2):
        gone, edited, *_ = dated(mirror)
        mirror.store.delete(gone)
        mirror.store.edit(edited, {"subject": f"Edited {gone}"})
        demand_shown(mirror, proved(mirror))
        assert gone in mirror.deleted()


def test_a_day_that_begins_after_an_edit_does_not_hide_it(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As west of Greenwich in the morning, where the date as written is one of the zone."""
    mirror = mirror_of(Store(40), switches=TEN)
    at_the_edges(mirror)
    now = datetime.now(UTC)
    late = timedelta(hours=now.hour + 2)
    compare_days(
        monkeypatch, lambda day: datetime.combine(day, time(), UTC) + late, datetime.date
    )  # fmt: skip
    mirror.full_sync()
    mirror.store.edit(dated(mirror)[5], {"subject": "Edited"})
    demand_shown(mirror, proved(mirror))


def test_a_collection_without_a_window_goes_by_what_the_opportunities_have_shown(
    mirror_of: MakeMirror, client_for: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of(Store(5), switches=TEN)
    database, members = mirror.database, mirror.store.members
    client = client_for(mirror.sandbox.url, collection=MEMBERS)
    client.now = database.clock()
    full_sync(database, client, None)
    now = datetime.now(UTC)
    late = timedelta(hours=now.hour + 2)
    compare_days(
        monkeypatch, lambda day: datetime.combine(day, time(), UTC) + late, datetime.date
    )  # fmt: skip

    def edited_and_synced(name: str) -> tuple[str, Proof | None]:
        id_ = members.all()[3]["id"]
        members.edit(id_, {"name": name})
        client.terms = StoredTerms(database, client.subdomain, MEMBERS)
        with database.session() as connection:
            since = watermarks(connection, MEMBERS)
        *_, proof = proved_sync(database, client, since)
        return query(database, "SELECT name FROM members WHERE id = %s", id_)[0][0], proof

    # Counting cannot see it, and the list of changes does not show it.
    assert edited_and_synced("Unseen")[0] != "Unseen"
    StoredTerms(database, client.subdomain, OPPORTUNITIES).note("filter", TIME_OF_DAY, None, now)
    name, proof = edited_and_synced("Seen")
    assert name == "Seen"
    assert proof is not None
    assert proof.shown, proof.sentence
    # It learns nothing of them, and others nothing of it.
    assert query(database, "SELECT collection FROM api_refusals WHERE name = %s", TIME_OF_DAY) == [
        ("opportunities",)
    ]
    assert StoredTerms(database, "another account", MEMBERS).refusals == ()


def test_a_row_at_the_edge_that_no_list_shows_is_not_red_for_ever(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of(Store(40), switches=TEN)
    edge = mirror.window.end - timedelta(minutes=5)
    mirror.store.create({"starts_at": iso(edge), "ends_at": iso(edge), "updated_at": OLD})
    mirror.full_sync()
    # The last day of the window ends a minute before it.
    next_day = datetime.combine(mirror.window.end.date() + timedelta(days=1), time(), UTC)
    begins = edge - timedelta(minutes=1) - next_day
    compare_days(
        monkeypatch, lambda day: datetime.combine(day, time(), UTC) + begins, datetime.date
    )  # fmt: skip
    proofs = [proved(mirror) for _ in range(2)]
    demand_shown(mirror, proofs[-1])


def test_where_times_are_compared_again_the_whole_window_is_counted_again(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(40), switches=TEN)
    at_the_edges(mirror)
    mirror.terms.note("filter", TIME_OF_DAY, None, datetime.now(UTC) - timedelta(days=8))
    proof = mirror.full_sync().settled.certificate
    assert proof.window == (mirror.window.start, mirror.window.end)
    assert not mirror.terms.compares_whole_days
    assert mirror.differences() == {}
