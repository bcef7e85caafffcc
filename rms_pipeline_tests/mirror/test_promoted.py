"""Custom fields of the account that get a typed column, and keep it."""

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest

from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.records import Fault, Record
from rms_pipeline.defs import asset_checks
from rms_pipeline.mirror import promoted
from rms_pipeline.mirror.custom_fields import known_keys, note_keys
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.deletions import move_to_deleted
from rms_pipeline.mirror.merge import lock_versions
from rms_pipeline.mirror.promoted import Promoted, Promotion, PromotionError
from rms_pipeline.mirror.redecode import redecode
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.mirror.views import make_views, stale_views
from rms_pipeline_tests.mirror.test_any_history import Killed, cursor_that_dies
from rms_pipeline_tests.mirror.test_merge import T0, merge_at, record
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import query

HOSTILE = 'it\'s 100% "own"; DROP TABLE opportunities; -- {0} %(x)s \\ \n\u202e:🎪'


@pytest.fixture
def mirror(emptied: Database) -> Iterator[Database]:
    yield emptied
    for (column,) in query(
        emptied,
        "SELECT attname FROM pg_attribute WHERE attrelid = 'opportunity_fields'::regclass"
        " AND attnum > 1 AND NOT attisdropped",
    ):
        query(emptied, f"ALTER TABLE opportunity_fields DROP COLUMN {column} CASCADE")
    query(emptied, "DELETE FROM mirror_state WHERE name = 'time_zone'")
    with emptied.session() as connection:
        make_views(connection)


def promote(database: Database, key: str, kind: str, column: str | None = None) -> Promotion:
    with database.session() as connection:
        done, _ = promoted.promote(connection, OPPORTUNITIES, Promoted(key, column or key, kind))
    return done


def demote(database: Database, key: str) -> None:
    with database.session() as connection:
        promoted.demote(connection, OPPORTUNITIES, key)


def held(database: Database, column: str) -> dict[int, Any]:
    return dict(
        query(database, f"SELECT opportunity_id, {column} FROM opportunity_fields ORDER BY 1")
    )


def faults(database: Database) -> list[tuple[Any, ...]]:
    return query(
        database, "SELECT opportunity_id, field, problem, raw_value FROM sync_faults ORDER BY 1, 2"
    )


@pytest.mark.parametrize(
    ("kind", "values", "read", "refused"),
    [
        ("numeric", ["4.50", " 7 ", 8, "-0.1", "1e3", ".5", ""],
         [Decimal("4.50"), 7, 8, Decimal("-0.1"), 1000, Decimal("0.5"), None],
         ["four", "1,250.50", "NaN", "Infinity", "1e9999", "0x10", True, [1], {"a": 1}, "9" * 300]),
        ("bigint", ["12", 101, "5.0", "-3"], [12, 101, 5, -3], ["5.5", 2**63, "1e30", "x"]),
        ("boolean", ["Yes", "no", True, False, "1", 0, "FALSE"],
         [True, False, True, False, True, False, False], ["maybe", 2, "on"]),
        ("date", ["2026-06-01", "2026-06-01T23:30:00.000Z", "2024-02-29"],
         [date(2026, 6, 1), date(2026, 6, 1), date(2024, 2, 29)],
         ["today", "infinity", "2026-02-30", "01/06/2026", "2026-13-01", 20260601]),
        ("timestamptz", ["2026-06-01T10:00:00.000Z", "2026-06-01T12:00:00+02:00",
                         "2026-06-01 10:00", "2026-06-01"],
         [*[datetime(2026, 6, 1, 10, tzinfo=UTC)] * 3, datetime(2026, 6, 1, tzinfo=UTC)],
         ["now", "2026-06-01T25:00:00Z", "10:00", "2026-06-01T10:00:00 Europe/London"]),
        ("time", ["09:30", "9:30:15"], [time(9, 30), time(9, 30, 15)], ["25:00", "now", "9.30"]),
        ("text", ["a", " b ", 7, True, "x" * 9_000, "", "  ", None],
         ["a", " b ", "7", "true", "x" * 9_000, None, None, None], [[1], {"a": 1}]),
        ("bigint[]", [[101, 102], 7, ["8"], []], [[101, 102], [7], [8], None], [["a"], "a", [[1]]]),
        ("text[]", [["a", "b"], "c", [1]], [["a", "b"], ["c"], ["1"]], [[{"a": 1}], {"a": 1}]),
    ],
)  # fmt: skip
def test_a_column_holds_what_can_be_read_as_its_kind_and_names_the_rest(
    mirror: Database, kind: str, values: list[Any], read: list[Any], refused: list[Any]
) -> None:
    before, after = values[::2] + refused[::2], values[1::2] + refused[1::2]
    merge_at(mirror, 1, 2, *(record(id=n, custom_fields={"f": v}) for n, v in enumerate(before)))
    done = promote(mirror, "f", kind)
    # Filled from what is stored, and kept by the merge: the same.
    merge_at(
        mirror, 3, 4, *(record(id=100 + n, custom_fields={"f": v}) for n, v in enumerate(after))
    )
    wanted = dict(enumerate(read[::2] + [None] * len(refused[::2])))
    wanted |= {100 + n: v for n, v in enumerate(read[1::2] + [None] * len(refused[1::2]))}
    assert held(mirror, "f") == wanted
    # By what was stored the caller notes them; the merge does it itself.
    assert done.failed == len(refused[::2])
    told = faults(mirror)
    assert [(f[1], f[2]) for f in told] == [("custom_fields.f", f"cannot be read as {kind}")] * len(
        refused[1::2]
    )
    assert query(mirror, "SELECT count(*) FROM opportunities") == [(len(before) + len(after),)]


# What was written at 23:30, or half an hour after midnight, in the time zone of the company.
@pytest.mark.parametrize(
    ("zone", "days"),
    [
        ("UTC", [1, 1, 1, 1, 1]),
        ("Europe/London", [2, 1, 1, 1, 1]),
        ("Pacific/Kiritimati", [2, 2, 1, 1, 1]),
        ("America/St_Johns", [1, 1, 1, 0, 1]),
        ("Etc/GMT+12", [1, 0, 1, 0, 1]),
        ("Asia/Kathmandu", [2, 1, 1, 1, 1]),
    ],
)
def test_a_date_from_a_time_is_the_day_of_the_company(
    mirror: Database, zone: str, days: list[int]
) -> None:
    written = (
        "2026-06-01T23:30:00.000Z",
        "2026-06-01T12:00:00+02:00",
        # Dates that were written as times.
        "2026-06-01T00:00:00.000Z",
        "2026-06-01 00:30",
        "2026-06-01",
    )
    wanted = [date(2026, 5, 31) + timedelta(days=n) for n in days]

    def records(first: int) -> list[Record | Fault]:
        return [record(id=n, custom_fields={"f": text}) for n, text in enumerate(written, first)]

    merge_at(mirror, 1, 2, *records(0))
    promote(mirror, "f", "date")
    # By the zone of that time, UTC; those that a sync brings are read by the new one.
    refresh_status_counts(mirror, zone)
    merge_at(mirror, 3, 4, *records(len(written)))
    assert [*held(mirror, "f").values()] == wanted * 2


def test_dates_follow_the_time_zone_and_are_read_again_only_when_it_changes(
    mirror: Database,
) -> None:
    merge_at(mirror, 1, 2, record(id=1, custom_fields={"f": "2026-06-01T23:30:00.000Z"}))
    promote(mirror, "f", "date")
    for zone, day in (("Europe/London", 2), ("UTC", 1), ("Asia/Tokyo", 2)):
        refresh_status_counts(mirror, zone)
        assert held(mirror, "f") == {1: date(2026, 6, day)}
    query(mirror, "UPDATE opportunity_fields SET f = '2020-01-01' RETURNING 1")
    refresh_status_counts(mirror, "Asia/Tokyo")
    assert held(mirror, "f") == {1: date(2020, 1, 1)}
    demote(mirror, "f")
    refresh_status_counts(mirror, "UTC")


def test_a_column_follows_every_way_in_which_a_row_changes(mirror: Database) -> None:
    for n in (1, 2, 3):
        merge_at(mirror, 1, 2, record(id=n, custom_fields={"risk": n}))
    assert promote(mirror, "risk", "numeric") == Promotion(
        Promoted("risk", "risk", "numeric"), rows=3, filled=3, failed=0
    )
    merge_at(mirror, 3, 4, record(id=1, custom_fields={"risk": 10}), record(id=4))
    merge_at(mirror, 3, 4, record(id=2, custom_fields={"other": 1}))
    assert held(mirror, "risk") == {1: 10, 2: None, 3: 3, 4: None}
    with mirror.session() as connection:
        move_to_deleted(
            connection,
            OPPORTUNITIES,
            {3: (T0 + timedelta(seconds=5), T0 + timedelta(seconds=6))},
            "gone",
            "run",
            confirmed=True,
        )
    assert held(mirror, "risk") == {1: 10, 2: None, 4: None}
    merge_at(mirror, 7, 8, record(id=3, custom_fields={"risk": 33}))
    assert held(mirror, "risk")[3] == 33
    # By hand, or by a restore that left the side table out.
    query(mirror, "UPDATE opportunity_fields SET risk = 7; DELETE FROM opportunity_fields"
                  " WHERE opportunity_id = 1")  # fmt: skip
    redecode(mirror, OPPORTUNITIES, "rebuild")
    assert held(mirror, "risk") == {1: 10, 2: None, 3: 33, 4: None}


def test_a_demoted_field_loses_its_column_and_can_be_promoted_again(mirror: Database) -> None:
    merge_at(mirror, 1, 2, record(id=1, custom_fields={"risk": "4", "po": "a"}))
    promote(mirror, "risk", "numeric")
    promote(mirror, "po", "text")
    demote(mirror, "risk")
    assert query(mirror, "SELECT * FROM opportunity_fields") == [(1, "a")]
    merge_at(mirror, 3, 4, record(id=1, custom_fields={"risk": "5", "po": "b"}))
    promote(mirror, "risk", "text")
    assert query(mirror, "SELECT * FROM opportunity_fields") == [(1, "b", "5")]
    demote(mirror, "po")
    demote(mirror, "risk")
    assert query(mirror, "SELECT * FROM opportunity_fields") == []
    merge_at(mirror, 5, 6, record(id=1, custom_fields={"risk": "6"}))
    assert query(mirror, "SELECT count(*) FROM opportunities") == [(1,)]


def test_a_field_with_a_hostile_name_is_read_like_any_other(mirror: Database) -> None:
    merge_at(mirror, 1, 2, record(id=1, custom_fields={HOSTILE: "4"}))
    with pytest.raises(PromotionError, match="would need quotes in every query"):
        promote(mirror, HOSTILE, "numeric")
    promote(mirror, HOSTILE, "numeric", "hostile")
    merge_at(mirror, 3, 4, record(id=1, custom_fields={HOSTILE: "x"}), record(id=2))
    assert held(mirror, "hostile") == {1: None, 2: None}
    assert [f[1] for f in faults(mirror)] == [f"custom_fields.{HOSTILE}"]
    demote(mirror, HOSTILE)
    assert query(mirror, "SELECT count(*) FROM opportunities") == [(2,)]


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ("Risk", "would need quotes"),
        ("risk score", "would need quotes"),
        ("1st", "would need quotes"),
        ("prüfung", "would need quotes"),
        ("", "would need quotes"),
        ("select", "is a reserved word of SQL"),
        ("user", "is a reserved word of SQL"),
        ("between", "is a reserved word of SQL"),
        ("a" * 64, "is longer than 63 characters"),
        ("opportunity_id", "is the name of a column already"),
        ("ctid", "is the name of a column already"),
        ("taken", "is the name of a column of other"),
    ],
)
def test_a_column_is_called_so_that_no_query_needs_quotes(
    mirror: Database, column: str, why: str
) -> None:
    promote(mirror, "other", "text", "taken")
    with pytest.raises(PromotionError, match=why) as error:
        promote(mirror, "risk", "numeric", column or " ")
    suggested = str(error.value).partition("--as ")[2]
    promote(mirror, "risk", "numeric", suggested)
    assert suggested in query(mirror, "SELECT column_name FROM promoted_fields"
                                      " WHERE key = 'risk'")[0]  # fmt: skip


def test_what_cannot_be_promoted_or_demoted_is_told_why(mirror: Database) -> None:
    promote(mirror, "risk", "numeric")
    with pytest.raises(PromotionError, match=r"risk has a column already: risk \(numeric\)"):
        promote(mirror, "risk", "text", "risk2")
    with pytest.raises(PromotionError, match=r"money is not a kind of column. Use one of these"):
        promote(mirror, "po", "money")
    with pytest.raises(PromotionError, match=r"po has no column of its own.*: risk"):
        demote(mirror, "po")
    query(mirror, "CREATE VIEW peoples AS SELECT risk FROM opportunity_fields")
    with pytest.raises(
        PromotionError,
        match=r"depends on column risk of .*_fields\. Drop",
    ):
        demote(mirror, "risk")
    query(mirror, "DROP VIEW peoples")
    with (
        mirror.session() as connection,
        pytest.raises(PromotionError, match="Fields of members cannot have columns"),
    ):
        promoted.promote(connection, MEMBERS, Promoted("a", "a", "text"))


def shown(database: Database) -> list[tuple[Any, ...]]:
    return query(database, "SELECT * FROM opportunity_fields_with_money ORDER BY 1")


@pytest.fixture
def reader(mirror: Database) -> Iterator[str]:
    query(mirror, "CREATE ROLE rms_test_fields; GRANT SELECT ON opportunity_fields_with_money TO"
                  " rms_test_fields")  # fmt: skip
    yield "rms_test_fields"
    query(mirror, "DROP OWNED BY rms_test_fields; DROP ROLE rms_test_fields")


def test_readers_of_views_see_the_columns_there_are_and_keep_their_rights(
    mirror: Database, reader: str
) -> None:
    def rights() -> bool:
        ((may,),) = query(
            mirror,
            "SELECT has_table_privilege(%s, 'opportunity_fields_with_money', 'SELECT')",
            reader,
        )
        return bool(may)

    merge_at(mirror, 1, 2, record(id=1, custom_fields={"risk": "4", "po": "a", "size": "7"}))
    promote(mirror, "risk", "numeric")
    query(mirror, "CREATE VIEW peoples AS SELECT risk FROM opportunity_fields_with_money")
    promote(mirror, "po", "text")
    promote(mirror, "size", "bigint")
    assert shown(mirror) == [(1, 4, "a", 7)]
    assert rights()
    # It reads the one that is to go, and what it reads is made again.
    with pytest.raises(DatabaseError, match="view peoples depends on view opportunity_fields_with"):
        demote(mirror, "po")
    assert shown(mirror) == [(1, 4, "a", 7)]
    query(mirror, "DROP VIEW peoples")
    demote(mirror, "po")
    assert shown(mirror) == [(1, 4, 7)]
    assert rights()
    assert query(
        mirror,
        "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute WHERE attnum > 1"
        " AND attrelid = 'opportunity_fields_with_money'::regclass ORDER BY attnum",
    ) == [("risk", "The account's own field risk."), ("size", "The account's own field size.")]
    # An upgrade finds it as it wants it.
    with mirror.session() as connection:
        assert stale_views(connection) == []
    # Of a mirror in which somebody has dropped it, too.
    query(mirror, "DROP VIEW opportunity_fields_with_money")
    promote(mirror, "po", "text")
    assert shown(mirror) == [(1, 4, 7, "a")]


def test_a_promotion_gives_way_to_a_report_that_reads_the_view(
    mirror: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promoted, "_PATIENCE", "50ms")
    promote(mirror, "po", "text")
    with mirror.session() as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM opportunity_fields_with_money")
        for attempt in (lambda: promote(mirror, "risk", "text"), lambda: demote(mirror, "po")):
            with pytest.raises(PromotionError, match="is locked by another session"):
                attempt()


def test_a_table_that_has_had_all_columns_it_can_have_says_so(database: Database) -> None:
    others = ", ".join(f"c{n} int" for n in range(1_592))
    query(
        database,
        "DROP TABLE opportunity_fields CASCADE;"
        f"CREATE TABLE opportunity_fields (opportunity_id bigint PRIMARY KEY, {others})",
    )
    for n in range(7):
        promote(database, f"f{n}", "bigint")
    with pytest.raises(PromotionError, match="has had 1,600 columns"):
        promote(database, "f7", "bigint")
    assert query(database, "SELECT count(*) FROM promoted_fields") == [(7,)]


def test_as_many_fields_as_fit_into_a_row_and_no_more(
    mirror: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promoted, "MOST", 2)
    promote(mirror, "a", "text")
    promote(mirror, "b", "text")
    with pytest.raises(PromotionError, match="2 fields have columns"):
        promote(mirror, "c", "text")


def test_a_promotion_waits_for_the_batch_that_is_being_written_and_has_its_rows(
    mirror: Database,
) -> None:
    merge_at(mirror, 1, 2, record(id=1, custom_fields={"risk": 1}))
    done: list[Promotion] = []
    with mirror.session() as writer, writer.cursor() as cursor:
        lock_versions(cursor, OPPORTUNITIES, [1])
        thread = threading.Thread(target=lambda: done.append(promote(mirror, "risk", "numeric")))
        thread.start()
        wait_until(
            lambda: (
                query(mirror, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)") == [(True,)]
            ),
        )
        cursor.execute("UPDATE opportunities SET custom_fields = '{\"risk\": 2}' WHERE id = 1")
        # It does not see the field yet, and need not: the promotion comes after it.
        own = promoted.fields_of(cursor, OPPORTUNITIES)
        assert promoted.keep(cursor, OPPORTUNITIES, [1], own) == []
        writer.commit()
    thread.join(20)
    assert [d.filled for d in done] == [1]
    assert held(mirror, "risk") == {1: 2}


def test_a_promotion_gives_way_to_a_report_that_reads_the_table(
    mirror: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promoted, "_PATIENCE", "50ms")
    with mirror.session() as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM opportunity_fields")
        with pytest.raises(PromotionError, match="opportunity_fields is locked by another session"):
            promote(mirror, "risk", "numeric")
    promote(mirror, "risk", "numeric")


def test_a_filter_by_a_promoted_field_uses_an_index(mirror: Database) -> None:
    promote(mirror, "risk", "numeric")
    promote(mirror, "po", "text")
    for condition in ("risk > 3", "po = 'a'"):
        with mirror.session() as connection, connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN SELECT * FROM opportunity_fields WHERE {condition}")
            assert "Index" in str(cursor.fetchall()), condition


# Which keys there are


def note(database: Database, **since: Any) -> None:
    with database.session() as connection:
        note_keys(connection, OPPORTUNITIES, **since)


def test_a_key_that_is_new_or_vanished_is_noted_and_warned_of(mirror: Database) -> None:
    def told() -> tuple[list[str], list[str]]:
        with mirror.session() as connection:
            keys = known_keys(connection, OPPORTUNITIES)
        return keys.new, keys.vanished

    def check() -> str | None:
        result = asset_checks._own_fields(mirror)
        return None if result.passed else result.description

    since = {"changed_since": T0}
    merge_at(mirror, 1, 2, record(id=1, custom_fields={"po": 1, "risk": ""}),
             record(id=2, custom_fields=[]), record(id=3))  # fmt: skip
    # The first time all are met, whatever had changed.
    note(mirror, changed_since=datetime.now(UTC) + timedelta(days=1))
    assert told() == ([], [])
    assert check() is None
    merge_at(mirror, 3, 4, record(id=2, custom_fields={"colour": 1}, updated_at=T0.isoformat()))
    note(mirror, **since)
    assert told() == (["colour"], [])
    assert "New within 7 days: colour." in (check() or "")
    # An incremental sync does not know that others have it no more; a full one does.
    merge_at(mirror, 5, 6, record(id=1, custom_fields={"po": 1}))
    note(mirror, **since)
    assert told() == (["colour"], [])
    promote(mirror, "risk", "text")
    note(mirror, asked_since=T0 + timedelta(seconds=2))
    assert told() == (["colour"], ["risk"])
    assert "No record has these fields any more: risk." in (check() or "")
    assert "rms-pipeline fields demote" in (check() or "")
    # What was not asked for by the sync tells nothing; nor does a sync that brought nothing.
    note(mirror, asked_since=T0 + timedelta(days=9))
    assert told() == (["colour"], ["risk"])
    merge_at(mirror, 7, 8, record(id=1, custom_fields={"po": 1, "risk": 2}))
    note(mirror, asked_since=T0 + timedelta(seconds=2))
    assert told() == (["colour"], [])
    query(mirror, "UPDATE custom_field_keys SET first_seen_at = first_seen_at - interval '8 days'")
    assert check() is None


def test_a_row_whose_own_fields_are_no_object_breaks_nothing(mirror: Database) -> None:
    merge_at(mirror, 1, 2, *(record(id=n, custom_fields=v) for n, v in
                             enumerate([[], "text", 7, {"po": 1}, None, [{"po": 2}]])))  # fmt: skip
    note(mirror)
    promote(mirror, "po", "bigint")
    assert held(mirror, "po") == {0: None, 1: None, 2: None, 3: 1, 4: None, 5: None}


def test_a_promotion_that_is_killed_before_any_of_its_statements_can_be_made_again(
    mirror: Database,
) -> None:
    merge_at(mirror, 1, 2, record(id=1, custom_fields={"risk": 1, "po": "a"}))
    promote(mirror, "po", "text")

    def state() -> Any:
        columns = "SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
        return [
            query(mirror, "SELECT key FROM promoted_fields ORDER BY 1"),
            shown(mirror),
            *(
                query(mirror, f"{columns} AND attrelid = '{name}'::regclass ORDER BY attnum")
                for name in ("opportunity_fields", "opportunity_fields_with_money")
            ),
        ]

    def killed_at_each(change: Callable[[Connection], Any]) -> int:
        before = state()
        for statements in itertools.count():
            connection = mirror.connect()
            connection.cursor_factory = cursor_that_dies(statements)
            try:
                change(connection)
                connection.commit()
                return statements
            except Killed:
                pass
            finally:
                connection.close()
            assert state() == before
        raise AssertionError

    made = killed_at_each(
        lambda c: promoted.promote(c, OPPORTUNITIES, Promoted("risk", "risk", "bigint"))
    )
    assert shown(mirror) == [(1, "a", 1)]
    undone = killed_at_each(lambda c: promoted.demote(c, OPPORTUNITIES, "risk"))
    assert shown(mirror) == [(1, "a")]
    assert min(made, undone) > 5


def test_promotions_are_undone_with_the_transaction_that_fails(mirror: Database) -> None:
    connection = mirror.connect()
    promoted.promote(connection, OPPORTUNITIES, Promoted("risk", "risk", "text"))
    connection.close()
    assert query(mirror, "SELECT count(*) FROM promoted_fields") == [(0,)]
    promote(mirror, "risk", "text")
