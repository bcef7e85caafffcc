"""Each trap that live clients of Current RMS fell into, and that this one does not."""

import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.errors import ApiUnavailable
from rms_pipeline.current_rms.window import iso
from rms_pipeline.mirror.changes import changes_after
from rms_pipeline.mirror.merge import merge
from rms_pipeline.sandbox import Churn, Faults, Store, Switches
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline.sync.storing import merge_walks, read_records
from rms_pipeline_tests.cases import IN_DRILLS, some_in_drills
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]
NO_OVERLAP = timedelta(0)


def once(action: Callable[[], object], after: int = 0) -> Callable[[str], None]:
    """A hook that acts before one request, the one that comes after so many others."""
    count = itertools.count()

    def hook(_: str) -> None:
        if next(count) == after:
            action()

    return hook


@pytest.mark.slow
def test_an_edit_made_during_a_sync_is_fetched_by_the_next_one(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60), switches=Switches(max_per_page=5))
    mirror.full_sync()
    ids = ids_in(mirror.store, mirror.window)
    for id_ in ids:
        mirror.store.edit(id_, {"subject": "Before"})

    def edit_a_row_already_read() -> None:
        mirror.store.edit(ids[0], {"subject": "During"})
        # The API's clock shows whole seconds: let the sync end in a later one.
        time.sleep(1.1)

    mirror.sandbox.before_request = once(edit_a_row_already_read, after=2)
    mirror.incremental_sync(NO_OVERLAP)
    assert mirror.rows()[ids[0]]["name"] == "Before"
    mirror.incremental_sync(NO_OVERLAP)
    assert mirror.rows()[ids[0]]["name"] == "During"
    assert mirror.differences() == {}


def test_the_watermark_is_the_start_of_the_walk_by_the_clock_of_the_api(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60, ahead=timedelta(hours=-3)))
    before = mirror.store.now().replace(microsecond=0)
    done = mirror.full_sync(overlap=NO_OVERLAP)
    took = (mirror.store.now() - before).total_seconds()
    assert before <= done.landed.watermark <= before + timedelta(seconds=took)
    assert done.landed.clock_skew is not None
    assert abs(done.landed.clock_skew + 3 * 3600) <= took + 1
    mirror.store.edit(mirror.store.ids()[0], {"subject": "By a slow clock"})
    mirror.incremental_sync()
    assert mirror.rows()[mirror.store.ids()[0]]["name"] == "By a slow clock"


@pytest.mark.parametrize("hours", [-30, -3, 3, 30])
@pytest.mark.parametrize("dates_are_right", [True, False])
def test_an_incremental_sync_finds_edits_however_wrong_the_clock_of_the_api_is(
    mirror_of: MakeMirror, hours: int, dates_are_right: bool
) -> None:
    """Whether edits are stamped by the clock that the `Date` tells of, or by a right one."""
    mirror = mirror_of(Store(40, ahead=timedelta(hours=hours)))
    mirror.full_sync()
    for number in range(3):
        id_ = mirror.store.ids()[number]
        now = datetime.now(UTC) if dates_are_right else mirror.store.now()
        mirror.store.edit(id_, {"subject": "Edited", "updated_at": iso(now)})
        mirror.incremental_sync()
        assert mirror.rows()[id_]["name"] == "Edited"


def test_a_clock_of_the_api_that_is_put_right_hides_no_edit(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(40, ahead=timedelta(hours=3)))
    mirror.full_sync()
    for number, hours in enumerate((0, -3, 3, 0)):
        id_ = mirror.store.ids()[number]
        mirror.store.ahead = timedelta(hours=hours)
        mirror.store.edit(id_, {"subject": "Edited"})
        mirror.incremental_sync()
        assert mirror.rows()[id_]["name"] == "Edited"


def test_a_watermark_ahead_of_the_clock_of_the_api_gives_way_to_the_one_before(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(50))
    mirror.full_sync()
    mirror.watermarks.insert(0, mirror.store.now() + timedelta(hours=4))
    mirror.store.edit(mirror.store.ids()[0], {"subject": "Between"})
    landed, _ = mirror.incremental_sync()
    assert mirror.rows()[mirror.store.ids()[0]]["name"] == "Between"
    assert any("ahead of the API's clock" in note for note in landed.notes)


def test_without_a_date_from_the_api_the_overlap_is_wide(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(50), switches=Switches(tells_date=False))
    done = mirror.full_sync(overlap=NO_OVERLAP)
    assert done.landed.watermark < mirror.store.now() - timedelta(minutes=25)
    assert done.landed.clock_skew is None


@pytest.mark.slow
def test_an_incremental_sync_reads_every_page(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(100), switches=Switches(max_per_page=10))
    mirror.full_sync()
    edited = ids_in(mirror.store, mirror.window)[:45]
    for id_ in edited:
        mirror.store.edit(id_, {"subject": f"Renamed {id_}"})
    landed, merged = mirror.incremental_sync()
    assert merged.result.updated == len(edited)
    assert landed.api_calls <= 6
    assert mirror.differences() == {}


def test_a_refresh_does_not_move_the_watermark_past_other_edits(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(100))
    mirror.full_sync(overlap=NO_OVERLAP)
    early, late = ids_in(mirror.store, mirror.window)[:2]
    mirror.store.edit(early, {"subject": "Not fetched yet"})
    mirror.store.edit(late, {"subject": "Refreshed"})
    client = mirror.client()
    answer = client.get_record(late)
    assert answer is not None
    with mirror.database.session() as connection:
        merge(
            connection,
            OPPORTUNITIES,
            "refresh",
            read_records(OPPORTUNITIES, answer),
            asked_at=answer.asked_at,
            answered_at=answer.answered_at,
        )
    mirror.incremental_sync(NO_OVERLAP)
    assert mirror.differences() == {}


def test_a_record_without_updated_at_is_found_by_the_next_full_sync(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(100))
    mirror.full_sync()
    edited = ids_in(mirror.store, mirror.window)[3]
    mirror.store.edit(edited, {"subject": "Timeless", "updated_at": None})
    created = mirror.store.create({"subject": "Timeless too", "updated_at": None})
    mirror.incremental_sync()
    assert set(mirror.differences()) == {edited, created}
    mirror.full_sync()
    assert mirror.differences() == {}


def test_an_edit_that_leaves_updated_at_as_it_was_is_found_by_the_next_full_sync(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(40))
    edited = ids_in(mirror.store, mirror.window)[3]
    before = mirror.store.value(edited, "updated_at")
    mirror.full_sync()
    # As an edit to an item does.
    mirror.store.edit(edited, {"charge_total": "77.5", "updated_at": before})
    assert set(mirror.differences()) == {edited}
    mirror.full_sync()
    assert mirror.differences() == {}


def test_a_deleted_opportunity_moves_to_deleted_opportunities(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(150), switches=Switches(max_per_page=10))
    mirror.full_sync()
    gone = set(ids_in(mirror.store, mirror.window)[::18])
    for id_ in gone:
        mirror.store.delete(id_)
    done = mirror.full_sync()
    assert done.settled.deleted == len(gone)
    assert mirror.deleted() == gone
    assert mirror.differences() == {}
    # One call asked for them all, and each by itself; the other five are the proof: two
    # ranges and everything counted, those without dates listed, and what had changed meanwhile.
    # One of them shows that records are found by their ids at all.
    assert done.settled.calls == 1 + len(gone) + 1 + 5


@pytest.mark.slow
def test_a_walk_that_was_cut_short_deletes_nothing(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(150), switches=Switches(max_per_page=6))
    mirror.full_sync()
    mirror.store.delete(ids_in(mirror.store, mirror.window)[0])

    def break_down() -> None:
        mirror.sandbox.faults = Faults(probabilities={"error_502": 1.0})

    mirror.sandbox.before_request = once(break_down, after=12)
    with pytest.raises(ApiUnavailable):
        mirror.full_sync()
    assert mirror.deleted() == set()
    mirror.sandbox.faults = Faults()
    mirror.full_sync()
    assert mirror.differences() == {}


def test_a_row_that_left_the_window_stays_and_is_up_to_date(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(200))
    mirror.full_sync()
    moved = ids_in(mirror.store, mirror.window)[5]
    record = mirror.store.get(moved)
    assert record is not None
    far = {"starts_at": "2040-01-01T00:00:00.000Z", "ends_at": "2040-01-02T00:00:00.000Z"}
    mirror.store.edit(moved, {**far, "updated_at": record["updated_at"]})
    done = mirror.full_sync()
    assert done.settled.left_window == 1
    assert (done.settled.deleted, done.settled.certificate.shown) == (0, True)
    assert mirror.rows()[moved]["starts_at"].year == 2040


@pytest.mark.slow
@pytest.mark.parametrize("confirm", [False, True])
def test_when_too_many_rows_would_be_deleted_none_is_unless_confirmed(
    mirror_of: MakeMirror, confirm: bool
) -> None:
    mirror = mirror_of(Store(150))
    mirror.full_sync()
    before = set(mirror.rows())
    gone = set(ids_in(mirror.store, mirror.window)[:40])
    for id_ in gone:
        mirror.store.delete(id_)
    done = mirror.full_sync(confirm_deletions=confirm)
    if confirm:
        assert mirror.deleted() == gone
        assert done.settled.certificate.shown
    else:
        assert set(mirror.rows()) == before
        assert done.settled.held_back >= 21
        assert not done.settled.certificate.shown
        assert "confirmation" in done.settled.certificate.sentence


def test_a_list_by_id_that_is_not_obeyed_deletes_nobody_who_is_there(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(100), switches=Switches(max_per_page=10, honours_id_in=False))
    mirror.full_sync()
    ids = ids_in(mirror.store, mirror.window)
    # Seen last by the walk, and on the first page of the list that comes instead of the one asked
    # for: the witness is there although the filter was ignored.
    mirror.store.edit(ids[0], {"subject": "Witness"})
    mirror.store.delete(ids[-2])
    far = {"starts_at": "2040-01-01T00:00:00.000Z", "ends_at": "2040-01-02T00:00:00.000Z"}
    mirror.store.edit(ids[-1], {**far, "updated_at": None})
    done = mirror.full_sync()
    assert mirror.deleted() == {ids[-2]}
    assert done.settled.left_window == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(("q[s]",), marks=IN_DRILLS),
        pytest.param(("q[id_gt]", "q[id_lt]"), marks=IN_DRILLS),
        pytest.param(("q[id_gt]", "q[id_lt]", "q[created_at_"), marks=IN_DRILLS),
        pytest.param(("q[id_in]",)),
        pytest.param(("q[s]", "q[id_", "q[created_at_", "q[starts_at_null]", "q[ends_at_null]")),
    ],
)
def test_an_api_that_refuses_a_parameter_with_422_is_mirrored_all_the_same(
    mirror_of: MakeMirror, refused: tuple[str, ...]
) -> None:
    mirror = mirror_of(Store(150), switches=Switches(max_per_page=8, refused=refused))
    mirror.full_sync()
    assert mirror.differences() == {}
    edited, gone = list(mirror.rows())[:2]
    mirror.store.edit(edited, {"subject": "Edited"})
    mirror.store.delete(gone)
    refresh(mirror.database, mirror.client(), [edited, gone], "refresh")
    assert mirror.rows()[edited]["name"] == "Edited"
    assert mirror.deleted() == {gone}
    mirror.store.delete(edited)
    mirror.full_sync()
    assert mirror.deleted() == {gone, edited}
    assert mirror.differences() == {}


def test_a_record_that_reappears_comes_back(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(100))
    mirror.full_sync()
    id_ = ids_in(mirror.store, mirror.window)[0]
    record = mirror.store.get(id_, ())
    assert record is not None
    mirror.store.delete(id_)
    mirror.full_sync()
    assert mirror.deleted() == {id_}
    mirror.store.put(id_, record)
    done = mirror.full_sync()
    assert done.merged.result.restored == 1
    assert mirror.deleted() == set()
    assert mirror.differences() == {}


def test_nothing_fetched_before_a_deletion_brings_the_row_back(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(100))
    first = mirror.full_sync()
    id_ = ids_in(mirror.store, mirror.window)[0]
    mirror.store.delete(id_)
    mirror.full_sync()
    merge_walks(mirror.database, OPPORTUNITIES, [first.landed.walk], "late")
    assert id_ not in mirror.rows()
    assert mirror.deleted() == {id_}


def test_rows_outside_the_window_are_asked_for_again_oldest_first_and_go_when_gone(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(400))
    mirror.full_sync()
    inside = set(ids_in(mirror.store, mirror.window))
    outside = [i for i in mirror.store.ids() if i not in inside][:30]
    for id_ in outside:
        mirror.store.edit(id_, {"subject": "Long ago"})
    mirror.incremental_sync()
    assert set(outside) <= set(mirror.rows())
    mirror.store.delete(outside[0])
    done = mirror.full_sync(reverify_calls=5)
    assert done.settled.reverified == len(outside)
    assert mirror.deleted() == {outside[0]}


SHIFTING = [
    Switches(max_per_page=10),
    Switches(max_per_page=10, honours_sort=False),
    Switches(max_per_page=10, honours_id_predicates=False),
    Switches(max_per_page=10, honours_sort=False, honours_id_predicates=False),
]


@pytest.mark.slow
@pytest.mark.parametrize("switches", some_in_drills(SHIFTING, SHIFTING[:1].__contains__))
def test_rows_that_shift_between_pages_are_neither_missed_nor_counted_twice(
    mirror_of: MakeMirror, switches: Switches
) -> None:
    mirror = mirror_of(Store(240), switches=switches)
    ids = mirror.store.ids()
    victims = iter(ids[::4])

    def move(_: str) -> None:
        for victim in itertools.islice(victims, 2):
            mirror.store.delete(victim)
        mirror.store.create({"subject": "Born during the walk"})

    mirror.sandbox.before_request = move
    full = mirror.full_sync(confirm_deletions=True)
    mirror.sandbox.before_request = None
    rows = mirror.rows()
    lived_throughout = set(ids_in(mirror.store, mirror.window)) & set(ids)
    assert lived_throughout <= set(rows)
    assert full.settled.deleted == len(mirror.deleted())
    done = mirror.full_sync(confirm_deletions=True)
    assert mirror.differences() == {}
    assert done.settled.certificate.shown


@pytest.mark.slow
def test_an_api_that_obeys_neither_order_nor_ranges_is_read_until_it_rests(
    mirror_of: MakeMirror,
) -> None:
    switches = Switches(
        max_per_page=8, honours_sort=False, honours_id_predicates=False, honours_created_at=False
    )
    mirror = mirror_of(Store(130), switches=switches)
    ids = mirror.store.ids()
    late = iter([(ids[0], {"subject": "Replaced one on a page already read"})])

    def swap(_: str) -> None:
        for id_, fields in late:
            mirror.store.delete(id_)
            mirror.store.create(fields)

    mirror.sandbox.before_request = swap
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert done.settled.certificate.shown


def test_a_row_that_moves_to_a_list_already_read_is_found(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(130), switches=Switches(max_per_page=8))
    undated = mirror.store.create({"subject": "Dated at last"})
    today = mirror.store.today.strftime("%Y-%m-%dT00:00:00.000Z")

    # An iterator: two such requests may come at once, and one of them finds it.
    pending = iter([undated])

    def date_it(path: str) -> None:
        if "starts_at_null" in path:
            for id_ in pending:
                mirror.store.edit(id_, {"starts_at": today, "ends_at": today})

    mirror.sandbox.before_request = date_it
    mirror.full_sync()
    mirror.sandbox.before_request = None
    assert mirror.differences() == {}


def test_an_older_page_does_not_overwrite_a_refresh(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(100))
    first = mirror.full_sync()
    id_ = ids_in(mirror.store, mirror.window)[0]
    mirror.store.edit(id_, {"subject": "Newer"})
    mirror.incremental_sync()
    merge_walks(mirror.database, OPPORTUNITIES, [first.landed.walk], "late")
    assert mirror.rows()[id_]["name"] == "Newer"


@pytest.mark.slow
def test_a_living_account_is_mirrored_exactly_once_it_rests(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(200), switches=Switches(max_per_page=10))
    churn = Churn(mirror.store, seed=7)
    mirror.sandbox.before_request = churn.step
    mirror.full_sync()
    mirror.full_sync()
    mirror.sandbox.before_request = None
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert done.settled.certificate.shown


def test_a_nul_or_a_refused_record_costs_no_other_and_is_named_in_the_certificate(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(40))
    mirror.store.create({"subject": "Nul \u0000 inside", "description": "ok"})
    nameless = 9_000_001
    mirror.store.put_raw(nameless, b'{"subject":"no id at all"}')
    done = mirror.full_sync()
    stored = {row["name"] for row in mirror.rows().values()}
    assert "Nul \ufffd inside" in stored
    assert done.merged.result.failed == 1
    certificate = done.settled.certificate
    assert (certificate.shown, certificate.unstorable) == (True, 1)
    assert "1 that cannot be stored" in certificate.sentence
    assert certificate.counted == certificate.mirrored + 1


def test_empty_text_for_a_number_or_a_date_is_absent_and_no_fault(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(20))
    id_ = mirror.store.create({"starts_at": "", "ends_at": "", "charge_total": "", "member_id": ""})
    done = mirror.full_sync()
    row = mirror.rows()[id_]
    assert (row["starts_at"], row["charge_total"], row["organisation_id"]) == (None, None, None)
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sync_faults")
        assert cursor.fetchone() == (0,)
    assert done.settled.certificate.shown


def test_a_change_of_status_is_kept_with_what_from_to_who_and_when(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(30))
    id_ = mirror.store.create({"subject": "Quoted", "status": 0, "status_name": "Open",
                               "state": 2, "state_name": "Quotation"})  # fmt: skip
    mirror.full_sync()
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO webhook_events (action_id, subject_type, opportunity_id, member_name)"
            " VALUES (1, 'Opportunity', %s, 'Somebody')",
            (id_,),
        )
    mirror.store.edit(id_, {"status": 5, "state": 3})
    mirror.incremental_sync()
    mirror.store.edit(id_, {"subject": "No change of status"})
    mirror.incremental_sync()
    with mirror.database.session() as connection:
        changes = changes_after(connection, 0)
    assert [(c.opportunity_id, c.field, c.old_value, c.new_value) for c in changes] == [
        (id_, "opportunity_status", "Open", "Reserved"),
        (id_, "state_name", "Quotation", "Order"),
    ]
    assert changes[0].changed_by == "Somebody"
    assert changes[0].changed_at is not None


def test_who_edits_a_record_did_not_rename_its_owner_but_gave_it_another_one(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(30))
    id_ = mirror.store.create({"owned_by": 20, "reference": "A"})
    mirror.full_sync()

    def changes_of(reference: str, owner: int) -> dict[str, str | None]:
        with mirror.database.session() as connection, connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM opportunity_changes; INSERT INTO webhook_events (action_id,"
                " subject_type, opportunity_id, member_name) VALUES (%s, 'Opportunity', %s, 'Ada')",
                (owner, id_),
            )
        mirror.store.edit(id_, {"reference": reference, "owned_by": owner})
        mirror.incremental_sync()
        with mirror.database.session() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT field, changed_by FROM opportunity_changes")
            return dict(cursor.fetchall())

    mirror.store.members.edit(20, {"name": "Renamed"})
    assert changes_of("B", 20) == {"reference": "Ada", "owner_name": None}
    given = changes_of("C", 21)
    assert given == {"reference": "Ada", "owner_name": "Ada", "owner_id": "Ada"}


def test_filters_on_absent_dates_that_are_ignored_are_noticed_when_no_record_has_dates(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(0), switches=Switches(null_predicates="ignored"))
    mirror.store.create({"subject": "Neither", "starts_at": None, "ends_at": None})
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert done.settled.certificate.shown


def test_no_transaction_is_open_while_the_api_is_waited_for(mirror_of: MakeMirror) -> None:
    """It may take minutes at the limit: servers end such sessions, and migrations wait for them."""
    mirror = mirror_of(Store(40))
    mirror.full_sync()
    edited, gone, surplus = ids_in(mirror.store, mirror.window)[:3]
    open_ones: list[tuple[str, ...]] = []

    def look(path: str) -> None:
        time.sleep(0.3)
        with mirror.database.session() as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT %s, query FROM pg_stat_activity WHERE datname = current_database()"
                " AND state LIKE 'idle in transaction%%'"
                " AND state_change < clock_timestamp() - interval '0.2 s'",
                (path.partition("&q")[2],),
            )
            open_ones.extend(cursor.fetchall())

    mirror.sandbox.before_request = look
    mirror.store.edit(edited, {"subject": "Edited"})
    mirror.incremental_sync()
    mirror.store.delete(gone)
    refresh(mirror.database, mirror.client(), [edited, gone], "refresh")
    mirror.store.delete(surplus)
    mirror.full_sync(reverify_calls=1)
    assert open_ones == []
    assert mirror.deleted() == {gone, surplus}
