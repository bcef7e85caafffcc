"""What records were: every version, the table as of a moment, and who changed what."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.differences import way_back
from rms_pipeline.mirror import record_history
from rms_pipeline.mirror.changes import changes_after
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import move_to_deleted
from rms_pipeline.mirror.merge import lock_versions
from rms_pipeline.mirror.record_history import forget
from rms_pipeline.mirror.redecode import _decode_past, redecode
from rms_pipeline.mirror.schema import HEAD, migrate
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.mirror.releases import ANALYST, RELEASES, load_release
from rms_pipeline_tests.mirror.test_merge import T0, merge_at, record
from rms_pipeline_tests.rows import insert, query

CLOCK = "SELECT clock_timestamp()"
# All that the history knows. When a row was asked for, and told of, is none of it, and signatures
# of links are those of other readings.
COLUMNS = ", ".join(
    c.name for c in OPPORTUNITIES.table if c.name not in ("data", "synced_at", "last_webhook_at")
)
COLUMNS += ", regexp_replace(data::text, '[?]sig=[0-9]+', '')"


def moment(database: Database) -> datetime:
    """Now, by the database's clock."""
    ((now,),) = query(database, CLOCK)
    assert isinstance(now, datetime)
    return now


def delete_at(database: Database, at: float, *ids: int) -> None:
    gone = dict.fromkeys(ids, (T0 + timedelta(seconds=at),) * 2)
    with database.session() as connection:
        move_to_deleted(connection, OPPORTUNITIES, gone, "a test", "run", confirmed=True)


def table_now(database: Database) -> list[tuple[Any, ...]]:
    return query(database, f"SELECT {COLUMNS} FROM opportunities ORDER BY id")


def table_as_of(database: Database, at: datetime) -> list[tuple[Any, ...]]:
    return query(database, f"SELECT {COLUMNS} FROM opportunities_as_of(%s) ORDER BY id", at)


def versions(database: Database, id_: int = 1, column: str = "subject") -> list[tuple[Any, ...]]:
    """What each version says, oldest first, and whether it says that the record is gone."""
    return query(
        database,
        f"SELECT {column}, deleted FROM opportunity_history WHERE opportunity_id = %s"
        " ORDER BY valid_from",
        id_,
    )


def demand_a_whole_chain(database: Database) -> None:
    """Raises unless versions of each record follow each other, and the last one is open."""
    torn = query(
        database,
        "SELECT * FROM (SELECT opportunity_id, valid_from, valid_to, lead(valid_from) OVER w AS"
        " next FROM opportunity_history WINDOW w AS (PARTITION BY opportunity_id"
        " ORDER BY valid_from, valid_to)) v WHERE valid_to IS DISTINCT FROM next"
        " OR valid_to <= valid_from",
    )
    assert torn == []


# The way back from one record to the one before it


def stepped_back(database: Database, newer: Any, older: Any) -> tuple[Any, str | None]:
    found = way_back(
        None if newer is None else json.dumps(newer).encode(),
        None if older is None else json.dumps(older).encode(),
        (),
    )
    steps = "[]" if found is None else found.json
    texts = (None if value is None else json.dumps(value) for value in (older, newer))
    ((same, text),) = query(
        database,
        "SELECT r IS NOT DISTINCT FROM n.older, r::text FROM"
        " (SELECT %s::jsonb, %s::jsonb, %s::jsonb) AS n (older, newer, steps),"
        " rms_stepped_back(n.newer, n.steps) AS r",
        *texts,
        steps,
    )
    return same, text


_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, 1e300]), _TEXTS
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(["a", "b", "", "0", "-1"]), _TEXTS), inner,
                        max_size=4),
    ),
    max_leaves=12,
)  # fmt: skip
_RECORDS = st.dictionaries(st.sampled_from("abcde"), _VALUES, max_size=5)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(newer=_RECORDS, older=_RECORDS)
def test_postgresql_goes_back_to_any_record_from_any_other(
    migrated: Database, newer: Any, older: Any
) -> None:
    same, text = stepped_back(migrated, newer, older)
    assert same, text


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ({"a": True}, {"a": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {}),
        ({}, {"a": None}),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}),
        ({"a": [1, 2, 3]}, {"a": [1, 3]}),
        ({"a": {"b": 1}}, {"a": ["b", 1]}),
        ({"": {"": 1}}, {"": {"": 2}}),
        ({"a": 10**40}, {"a": 10**40 + 1}),
        (None, {"a": 1}),
        ({"a": 1}, None),
        ([1], {"a": 1}),
    ],
)
def test_postgresql_goes_back_to_odd_records_too(
    migrated: Database, newer: Any, older: Any
) -> None:
    same, text = stepped_back(migrated, newer, older)
    assert same, text


def test_every_digit_of_an_earlier_number_is_kept() -> None:
    found = way_back(b'{"a": 0.1}', b'{"a": 0.1000000000000000000001}', ())
    assert found is not None
    assert found.json == '[[["a"],0.1000000000000000000001]]'
    assert way_back(b'{"a": 1.50}', b'{"a": 1.5}', ()) is None


def test_the_way_back_is_short_and_links_leave_no_trace() -> None:
    big = {f"field_{n}": "text" * 10 for n in range(100)} | {"icon": {"url": "https://x/a?sig=1"}}
    edited = {**big, "field_7": "other", "icon": {"url": "https://x/a?sig=2"}}
    found = way_back(json.dumps(edited).encode(), json.dumps(big).encode(), ("field_8",))
    assert found is not None
    assert found.json == json.dumps([[["field_7"], "text" * 10]], separators=(",", ":"))
    moved = {**big, "field_8": "volatile", "icon": {"url": "https://x/a?sig=3"}}
    assert way_back(json.dumps(moved).encode(), json.dumps(big).encode(), ("field_8",)) is None


def test_a_record_that_is_nested_too_deep_to_be_read_is_kept_whole(migrated: Database) -> None:
    deep = b'{"a":' + b"[" * 3_000 + b"]" * 3_000 + b"}"
    for newer, older in ((b'{"a":1}', deep), (deep, b'{"a":1}'), (deep, deep)):
        found = way_back(newer, older, ())
        assert found is not None
        assert found.fields is None
        ((same,),) = query(
            migrated,
            "SELECT rms_stepped_back(%s::jsonb, %s::jsonb) = %s::jsonb",
            newer.decode(),
            found.json,
            older.decode(),
        )
        assert same


# Versions


def test_each_edit_ends_a_version_and_the_live_row_is_the_open_one(emptied: Database) -> None:
    for n, subject in enumerate(("first", "second", "third")):
        merge_at(emptied, n, n + 0.5, record(id=1, subject=subject), record(id=2, subject="same"))
    assert versions(emptied) == [("first", False), ("second", False), ("third", False)]
    assert versions(emptied, 2) == [("same", False)]
    assert query(emptied, "SELECT count(*) FROM opportunity_past") == [(2,)]
    demand_a_whole_chain(emptied)


def test_a_deletion_is_a_version_that_lasts_until_the_record_returns(emptied: Database) -> None:
    merge_at(emptied, 1, 2, record(id=1, subject="here"))
    delete_at(emptied, 3, 1)
    gone_at = moment(emptied)
    delete_at(emptied, 4, 1)
    assert versions(emptied) == [("here", False), ("here", True)]
    merge_at(emptied, 5, 6, record(id=1, subject="back"))
    assert versions(emptied) == [("here", False), ("here", True), ("back", False)]
    assert table_as_of(emptied, gone_at) == []
    assert versions(emptied, column="data ->> 'subject'") == versions(emptied)
    demand_a_whole_chain(emptied)


def test_an_id_that_was_gone_before_it_was_ever_here_begins_when_it_comes(
    emptied: Database,
) -> None:
    delete_at(emptied, 1, 1)
    before = moment(emptied)
    merge_at(emptied, 3, 4, record(id=1, subject="new"))
    assert versions(emptied) == [("new", False)]
    assert table_as_of(emptied, before) == []
    assert len(table_as_of(emptied, moment(emptied))) == 1


def test_what_says_the_same_again_or_comes_too_late_makes_no_version(emptied: Database) -> None:
    merge_at(emptied, 5, 6, record(id=1, subject="x", rating=1, charge_total="1.50"))
    merge_at(emptied, 7, 8, record(rating=1.0, charge_total="1.50", subject="x", id=1))
    merge_at(emptied, 1, 2, record(id=1, subject="late"))
    assert versions(emptied) == [("x", False)]


def test_fields_and_links_that_differ_at_each_read_make_no_version(emptied: Database) -> None:
    def picture(sign: int) -> dict[str, Any]:
        return {"id": 5, "name": "Ann", "icon": {"url": f"https://cdn.example/5.png?sig={sign}"}}

    merge_at(emptied, 1, 2, record(id=1, subject="x", rating="odd", member=picture(1)))
    merge_at(emptied, 3, 4, record(id=1, subject="x", rating="odd", member=picture(2)))
    assert versions(emptied) == [("x", False)]
    merge_at(emptied, 5, 6, record(id=1, subject="y", rating="odd", member=picture(3)))
    assert query(emptied, "SELECT difference FROM opportunity_past") == [([[["subject"], "x"]],)]


def signed(n: int, name: str = "a") -> str:
    return f"https://cdn.example/{name}.png?X-Amz-Date={n}&X-Amz-Signature=secret{n}&v={n}"


@pytest.mark.parametrize("every", [1, 3, record_history.WHOLE_EVERY])
def test_signed_links_leave_no_trace_wherever_they_are_and_however_records_change(
    emptied: Database, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    # Nor do they where versions hold their records whole.
    monkeypatch.setattr(record_history, "WHOLE_EVERY", every)

    def at(n: int, **fields: Any) -> Any:
        told = {"id": 1, "subject": "x", "icon": {"url": signed(n), "thumb_url": signed(n)}}
        told |= {"member": {"id": 5, "name": "Ann", "image": signed(n)}, "note": signed(n)}
        told |= {"files": [{"link": signed(n, str(i))} for i in range(3)]}
        told |= {"stored": f"https://x.example/active_storage/secret{n}/a.png"}
        return record(**told | fields)

    steps: list[dict[str, Any]] = [
        {},
        {"subject": "y"},
        # Whatever holds them is another thing, is gone, and is there again.
        {"icon": None, "files": [signed(2)], "note": {"of": signed(2)}},
        {"files": []},
        {"icon": {"url": signed(4, "other")}, "rating": "odd"},
        {"rating": "odd", "icon": {"url": signed(5, "other")}},
        {},
    ]
    for n, fields in enumerate(steps):
        merge_at(emptied, 4 * n, 4 * n + 1, at(n, **fields))
    delete_at(emptied, 40, 1)
    merge_at(emptied, 42, 43, at(8))
    delete_at(emptied, 44, 1)
    merge_at(emptied, 46, 47, at(9, subject="z"))
    redecode(emptied, OPPORTUNITIES, "again")
    demand_a_whole_chain(emptied)
    for kept in ("opportunity_past", "opportunity_changes", "sync_faults"):
        rows = query(emptied, f"SELECT k::text FROM {kept} k WHERE k::text LIKE '%%secret%%'")
        assert rows == [], kept
    # Records of before have the links of now, where they have any.
    found = query(emptied, "SELECT data::text FROM opportunity_history ORDER BY valid_from DESC")
    assert {n for (text,) in found for n in re.findall("secret([0-9]+)", text)} == {"9"}
    assert query(emptied, "SELECT DISTINCT field FROM opportunity_changes ORDER BY 1") == [
        ("name",), ("subject",)
    ]  # fmt: skip


# Few rows are rewritten one at a time, and many by way of a table.
FEW, MANY = 2, 12


@pytest.mark.parametrize("others", [FEW, MANY])
def test_a_row_that_a_trigger_keeps_as_it_was_goes_on_as_the_version_it_is(
    database: Database, others: int
) -> None:
    ids = range(2, others + 1)
    merge_at(database, 1, 2, *(record(id=i, subject="old") for i in (1, *ids)))
    since = query(database, "SELECT valid_from FROM opportunity_versions WHERE id = 1")
    query(
        database,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.id = 1 THEN RETURN NULL; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER keep BEFORE UPDATE ON opportunities FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    result = merge_at(database, 3, 4, *(record(id=i, subject="new") for i in (1, *ids)))
    assert (result.updated, result.failed) == (len(ids), 1)
    assert versions(database, 1) == [("old", False)]
    for id_ in ids:
        assert versions(database, id_) == [("old", False), ("new", False)]
    assert query(database, "SELECT valid_from FROM opportunity_versions WHERE id = 1") == since
    # It did not change, whatever Current RMS says of it.
    assert query(database, "SELECT * FROM opportunity_changes WHERE opportunity_id = 1") == []


ODD = {
    "subject": "a\\tab\\, \\N and a\ttab\nof 50 %s {d}",
    "description": "",
    "charge_total": "0012.50",
    "member": {"name": 'O\'Brien "&" sons'},
    "tag_list": ['"', "\\", "", "NULL", "a,b", "{}"],
    "custom_fields": {"": None, "%s": ["x'y", 1.0, True], "\u00e9": "\\"},
    "starts_at": "2026-05-01T08:00:00.123Z",
    "invoiced": True,
    "rating": 3,
}


@pytest.mark.parametrize(("before", "after"), [({}, ODD), (ODD, {}), (ODD, ODD | {"rating": 4})])
def test_a_few_rows_are_rewritten_as_many_are(
    emptied: Database, before: dict[str, Any], after: dict[str, Any]
) -> None:
    merge_at(emptied, 1, 2, *(record(id=i, **before) for i in range(1, FEW + MANY + 1)))
    for ids in (range(1, FEW + 1), range(FEW + 1, FEW + MANY + 1)):
        merge_at(emptied, 3, 4, *(record(id=i, **after) for i in ids))
    # Besides what bears the id.
    same = ", ".join(
        c.name for c in OPPORTUNITIES.table
        if c.name not in {"id", "name", "data", "number"}
    )  # fmt: skip
    rows = query(emptied, f"SELECT {same}, data - 'id' - 'number' FROM opportunities")
    assert all(row == rows[0] for row in rows)
    assert rows[0][-1].items() >= after.items()
    changes = "SELECT field, old_value, new_value FROM opportunity_changes WHERE field <> 'name'"
    lines = [
        sorted(query(emptied, f"{changes} AND opportunity_id = %s", id_), key=str)
        for id_ in range(1, FEW + MANY + 1)
    ]
    assert lines[0]
    assert all(line == lines[0] for line in lines)


def test_versions_of_a_record_rise_though_the_clock_was_set_back(emptied: Database) -> None:
    merge_at(emptied, 1, 2, record(id=1, subject="a"))
    query(emptied, "UPDATE opportunity_versions SET valid_from = now() + interval '1 hour'")
    merge_at(emptied, 3, 4, record(id=1, subject="b"))
    delete_at(emptied, 5, 1)
    merge_at(emptied, 7, 8, record(id=1, subject="c"))
    assert versions(emptied) == [("a", False), ("b", False), ("b", True), ("c", False)]
    demand_a_whole_chain(emptied)


def test_a_record_is_had_whole_as_of_any_moment(emptied: Database) -> None:
    first = {"id": 1, "subject": "a", "custom_fields": {"x": "1", "y": [1, 2]}, "tag_list": ["t"]}
    second = {"id": 1, "subject": "b", "custom_fields": {"x": "1"}, "tag_list": ["t", "u"]}
    merge_at(emptied, 1, 2, record(**first))
    then = moment(emptied)
    merge_at(emptied, 3, 4, record(**second))
    assert query(emptied, "SELECT data, tags FROM opportunity_as_of(1, %s)", then) == [
        (first, ["t"])
    ]
    assert query(emptied, "SELECT data FROM opportunity_as_of(1, now())") == [(second,)]
    assert query(emptied, "SELECT data FROM opportunity_as_of(2, now())") == []


def steps_back(database: Database, statement: str) -> tuple[int, list[tuple[Any, ...]]]:
    """How many differences PostgreSQL goes back to answer, and its answer."""
    with database.session() as connection, connection.cursor() as cursor:

        def calls() -> int:
            cursor.execute(
                "SELECT coalesce(sum(calls), 0)::integer FROM pg_stat_xact_user_functions"
                " WHERE funcname = 'rms_stepped_back'"
            )
            ((count,),) = cursor.fetchall()
            assert isinstance(count, int)
            return count

        cursor.execute("SET track_functions = 'pl'")
        # Those of the transaction before may not be reported yet.
        before = calls()
        cursor.execute(statement)
        found = cursor.fetchall()
        return calls() - before, found


def test_each_of_many_versions_is_a_few_differences_away(
    emptied: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_history, "WHOLE_EVERY", 4)
    for n in range(30):
        if n == 20:
            # Its record returns unchanged, and with a version of its being gone.
            delete_at(emptied, 3 * n, 1)
            merge_at(emptied, 3 * n + 1, 3 * n + 1.5, record(id=1, subject="s19"))
        merge_at(emptied, 3 * n + 2, 3 * n + 2.5, record(id=1, subject=f"s{n}"))
    calls, found = steps_back(
        emptied,
        "SELECT data ->> 'subject', subject FROM opportunity_history ORDER BY valid_from",
    )
    subjects = [f"s{n}" for n in (*range(20), 19, 19, *range(20, 30))]
    assert found == [(subject, subject) for subject in subjects]
    # Between two whole ones lie three others, which take one, two and three. The versions around
    # the deletion and after the last whole one take no more.
    assert calls <= 30 * 2
    first = query(emptied, "SELECT min(valid_from) FROM opportunity_history")[0][0]
    calls, found = steps_back(
        emptied, f"SELECT data ->> 'subject' FROM opportunity_as_of(1, '{first}')"
    )
    assert found == [("s0",)]
    assert calls <= 3
    assert query(emptied, "SELECT count(record) FROM opportunity_past") == [(7,)]
    # Every other column is found without going back at all.
    assert steps_back(emptied, "SELECT count(subject) FROM opportunity_history") == (0, [(32,)])


def test_versions_from_before_records_were_held_whole_are_reached_and_the_next_one_is_whole(
    emptied: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(8):
        merge_at(emptied, 2 * n, 2 * n + 1, record(id=1, subject=f"s{n}"))
    assert query(emptied, "SELECT count(record) FROM opportunity_past") == [(0,)]
    monkeypatch.setattr(record_history, "WHOLE_EVERY", 3)
    merge_at(emptied, 20, 21, record(id=1, subject="s8"))
    assert query(emptied, "SELECT subject FROM opportunity_past WHERE record IS NOT NULL") == [
        ("s7",)
    ]
    found = query(emptied, "SELECT data ->> 'subject' FROM opportunity_history ORDER BY valid_from")
    assert found == [(f"s{n}",) for n in range(9)]


def test_a_moment_that_is_worked_out_is_so_once_and_not_for_each_row(emptied: Database) -> None:
    moment = "now() AT TIME ZONE rms_time_zone() AT TIME ZONE rms_time_zone()"
    merge_at(emptied, 1, 2, record(id=1))
    for asked in ("opportunities_as_of", "status_counts_as_of"):
        plan = query(emptied, f"EXPLAIN SELECT opportunity_status FROM {asked}({moment})")
        compared = [line for (line,) in plan if "v.valid_from" in line]
        assert compared
        assert not [line for line in compared if "rms_time_zone" in line]


@pytest.mark.parametrize(
    "question",
    ["opportunities_as_of({})", "opportunity_as_of(1, {})", "status_counts_as_of({})"],
)
def test_what_was_before_the_history_began_is_refused_in_a_sentence(
    emptied: Database, question: str
) -> None:
    asked = f"SELECT * FROM {question}".format("'2020-01-01Z'")
    with pytest.raises(psycopg2.Error, match=r"history of this mirror begins on 20.* unknown"):
        query(emptied, asked)
    assert query(emptied, f"SELECT * FROM {question}".format("NULL")) == []


def test_the_counts_of_then_are_those_that_were_counted_then(emptied: Database) -> None:
    merge_at(
        emptied,
        1,
        2,
        record(id=1, status_name="Open", charge_total="10", charge_including_tax_total="12"),
        record(id=2, status_name="Open", charge_total="5"),
        record(id=3),
    )
    refresh_status_counts(emptied, "UTC")
    counted = query(
        emptied,
        "SELECT opportunity_status, opportunities, charge_total, total_value FROM status_counts"
        " ORDER BY 1",
    )
    then = moment(emptied)
    merge_at(emptied, 3, 4, record(id=1, status_name="Lost"))
    delete_at(emptied, 5, 2, 3)
    assert query(
        emptied,
        "SELECT opportunity_status, opportunities, charge_total, total_value"
        " FROM status_counts_as_of(%s) ORDER BY 1",
        then,
    ) == counted == [("(none)", 1, 0, 0), ("Open", 2, 15, 12)]  # fmt: skip


def test_a_new_mapping_corrects_versions_and_makes_none(emptied: Database) -> None:
    for n, rating in enumerate((1, 2, 3)):
        merge_at(emptied, n, n + 0.5, record(id=1, subject=f"s{n}", rating=rating))
    delete_at(emptied, 5, 1)
    merge_at(emptied, 6, 7, record(id=1, subject="back", rating=4))
    before = query(emptied, "SELECT * FROM opportunity_history ORDER BY valid_from")
    changes = query(emptied, "SELECT count(*) FROM opportunity_changes")
    query(emptied, "UPDATE opportunity_past SET subject = 'wrong', rating = NULL, tags = '{x}'")
    query(emptied, "UPDATE opportunities SET subject = 'wrong'")
    redecode(emptied, OPPORTUNITIES, "again")
    assert query(emptied, "SELECT * FROM opportunity_history ORDER BY valid_from") == before
    assert query(emptied, "SELECT count(*) FROM opportunity_changes") == changes
    corrected = replace(OPPORTUNITIES, corrections=OPPORTUNITIES.corrections + 1)
    assert corrected.version > OPPORTUNITIES.version


def test_many_versions_of_one_record_are_decoded_again_in_one_reading(emptied: Database) -> None:
    # Of a record that had no data for a while, too.
    merge_at(emptied, 1, 2, record(id=1, subject="s0", custom_fields={"n": 0}))
    query(emptied, "UPDATE opportunities SET data = NULL")
    for n in range(1, 8):
        merge_at(emptied, n + 2, n + 2.5, record(id=1, subject=f"s{n}", custom_fields={"n": n}))
    before = query(emptied, "SELECT * FROM opportunity_history ORDER BY valid_from")
    assert [data for *_, data in query(
        emptied, "SELECT valid_from, data ->> 'subject' FROM opportunity_history ORDER BY 1"
    )] == [None, "s1", "s2", "s3", "s4", "s5", "s6", "s7"]  # fmt: skip
    # Of the first it is not known what it was decoded from.
    query(emptied, "UPDATE opportunity_past SET subject = 'wrong' WHERE subject <> 's0'")
    with emptied.session() as connection, connection.cursor() as cursor:
        cursor.execute("SET track_functions = 'pl'")
        lock_versions(cursor, OPPORTUNITIES, [1])
        _decode_past(cursor, OPPORTUNITIES, [1])
        cursor.execute(
            "SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'rms_stepped_back'"
        )
        # One for each version that ended; from the newest to each it would be 28.
        assert cursor.fetchall() == [(7,)]
    assert query(emptied, "SELECT * FROM opportunity_history ORDER BY valid_from") == before


def test_versions_that_ended_long_ago_are_forgotten_when_asked_and_the_history_says_so(
    database: Database,
) -> None:
    merge_at(database, 1, 2, record(id=1, subject="a"))
    merge_at(database, 3, 4, record(id=1, subject="b"))
    query(
        database,
        "UPDATE opportunity_past SET valid_from = valid_from - interval '50 days',"
        " valid_to = valid_to - interval '50 days'",
    )
    query(
        database,
        "UPDATE mirror_state SET value = (value::timestamptz - interval '60 days')::text"
        " WHERE name = 'history_began'",
    )
    then = moment(database) - timedelta(days=45)
    assert query(database, "SELECT * FROM opportunities_as_of(%s)", then) == []
    with database.session() as connection:
        assert forget(connection, OPPORTUNITIES, 60) == 0
        assert forget(connection, OPPORTUNITIES, 30) == 1
    assert versions(database) == [("b", False)]
    with pytest.raises(psycopg2.Error, match="history of this mirror begins"):
        query(database, "SELECT * FROM opportunities_as_of(%s)", then)


# First confirmed


def confirmed(database: Database) -> dict[int, datetime | None]:
    return dict(query(database, "SELECT id, confirmed_at FROM opportunities ORDER BY id"))


def test_confirmed_at_is_the_first_version_that_is_confirmed(emptied: Database) -> None:
    old = "2020-01-01T00:00:00Z"
    new = (moment(emptied) + timedelta(hours=1)).isoformat()
    merge_at(
        emptied,
        1,
        2,
        record(id=1, status_name="Open", created_at=old),
        record(id=2, status_name="Reserved", created_at=old),
        record(id=3, status_name="Reserved", created_at=new),
        record(id=4, status_name="Reserved"),
    )
    assert {i for i, at in confirmed(emptied).items() if at} == {3}
    merge_at(emptied, 3, 4, record(id=1, status_name="Reserved", created_at=old))
    first = confirmed(emptied)
    assert first[1] == query(
        emptied,
        "SELECT valid_from FROM opportunity_history WHERE opportunity_id = 1"
        " AND opportunity_status = 'Reserved'",
    )[0][0]  # fmt: skip
    for n, status in enumerate(("Lost", "Active", "Completed")):
        merge_at(emptied, 5 + n, 5.5 + n,
                 *(record(id=i, status_name=status, created_at=old) for i in (1, 2)))  # fmt: skip
    assert confirmed(emptied) == first
    delete_at(emptied, 20, 1, 2)
    assert dict(query(emptied, "SELECT id, confirmed_at FROM deleted_opportunities")) == {
        i: first[i] for i in (1, 2)
    }
    merge_at(emptied, 30, 31, *(record(id=i, status_name="Open") for i in (1, 2)))
    assert confirmed(emptied) == first


def test_another_phase_of_a_status_is_another_moment_of_confirmation(database: Database) -> None:
    for n, status in enumerate(("Open", "Provisional", "Reserved")):
        merge_at(database, n, n + 0.5, record(id=1, status_name=status))
    at = dict(query(database, "SELECT opportunity_status, valid_from FROM opportunity_history"))
    assert confirmed(database) == {1: at["Reserved"]}
    content = query(database, "SELECT last_value FROM content_of_opportunities")
    query(database, "UPDATE statuses SET phase = 'confirmed' WHERE name = 'Provisional'")
    refresh_status_counts(database, "UTC")
    assert confirmed(database) == {1: at["Provisional"]}
    query(database, "UPDATE statuses SET phase = 'lost'")
    refresh_status_counts(database, "UTC")
    assert confirmed(database) == {1: None}
    # A proof of what Current RMS holds does not begin again for that.
    assert query(database, "SELECT last_value FROM content_of_opportunities") == content


# Who changed what


def events(database: Database, *told: tuple[str | None, str | None], **more: Any) -> None:
    """Webhooks about the first opportunity, each an action and who did it."""
    insert(
        database,
        "webhook_events",
        [{"subject_type": "Opportunity", "opportunity_id": 1, "action_type": action,
          "member_name": who, **more} for action, who in told],
    )  # fmt: skip


@pytest.fixture
def quoted(emptied: Database) -> Database:
    """One opportunity, as a fetch of long ago left it."""
    merge_at(emptied, 1, 2, record(id=1, subject="Gala", status_name="Open", charge_total="10"))
    return emptied


@pytest.mark.parametrize(
    ("told", "who"),
    [
        ((("update", "Ann"),), {"subject": "Ann", "opportunity_status": "Ann",
                                "charge_total": "Ann"}),
        ((), {"subject": None, "opportunity_status": None, "charge_total": None}),
        ((("update", "Ann"), ("update", "Ben")),
         {"subject": None, "opportunity_status": None, "charge_total": None}),
        ((("update", "Ann"), ("update", "Ann")),
         {"subject": "Ann", "opportunity_status": "Ann", "charge_total": "Ann"}),
        ((("update", "Ann"), ("mark_as_reserved", "Ben")),
         {"subject": "Ann", "opportunity_status": "Ben", "charge_total": "Ann"}),
        ((("mark_as_provisional", "Ann"), ("mark_as_reserved", "Ben")),
         {"subject": None, "opportunity_status": None, "charge_total": None}),
        ((("update", "Ann"), ("update_item", "Ben")),
         {"subject": "Ann", "opportunity_status": "Ann", "charge_total": None}),
        ((("update_item", "Ben"),),
         {"subject": None, "opportunity_status": None, "charge_total": "Ben"}),
        ((("discuss", "Ann"), ("update", "Ben")),
         {"subject": "Ben", "opportunity_status": "Ben", "charge_total": "Ben"}),
        ((("something_new", "Ann"),),
         {"subject": "Ann", "opportunity_status": "Ann", "charge_total": "Ann"}),
        (((None, "Ann"), ("update", None)),
         {"subject": None, "opportunity_status": None, "charge_total": None}),
        ((("update", " "), ("discuss", "Ben")),
         {"subject": None, "opportunity_status": None, "charge_total": None}),
        ((("Update", "Ann"), ("DISCUSS", "Ben")),
         {"subject": "Ann", "opportunity_status": "Ann", "charge_total": "Ann"}),
    ],
)  # fmt: skip
def test_a_field_was_changed_by_the_one_person_who_can_have_changed_it(
    quoted: Database, told: tuple[tuple[str | None, str | None], ...], who: dict[str, str | None]
) -> None:
    events(quoted, *told)
    merge_at(quoted, 3, 4, record(id=1, subject="Ball", status_name="Reserved", charge_total="12"))
    found = query(
        quoted, "SELECT field, old_value, new_value, changed_by, seen_by FROM opportunity_changes"
    )
    assert sorted(found) == sorted(
        [
            ("name", "Gala", "Ball", who["subject"], "run"),
            ("subject", "Gala", "Ball", who["subject"], "run"),
            ("opportunity_status", "Open", "Reserved", who["opportunity_status"], "run"),
            ("charge_total", "10", "12", who["charge_total"], "run"),
        ]
    )


def test_what_is_done_to_an_item_changes_totals_and_nothing_else(quoted: Database) -> None:
    events(quoted, ("update", "Ben"), subject_type="OpportunityItem")
    events(quoted, ("update", "Ann"))
    merge_at(quoted, 3, 4, record(id=1, subject="Ball", status_name="Open", charge_total="12"))
    assert dict(query(quoted, "SELECT field, changed_by FROM opportunity_changes")) == {
        "name": "Ann", "subject": "Ann", "charge_total": None
    }  # fmt: skip


def test_a_person_who_acted_before_the_last_fetch_did_not_make_the_new_change(
    quoted: Database,
) -> None:
    events(quoted, ("update", "Ann"), received_at=T0)
    events(quoted, ("update", "Ben"))
    merge_at(quoted, 3, 4, record(id=1, subject="Ball", status_name="Open", charge_total="10"))
    assert {who for (who,) in query(quoted, "SELECT changed_by FROM opportunity_changes")} == {
        "Ben"
    }


def test_each_custom_field_and_each_kind_of_value_is_a_line_of_its_own(emptied: Database) -> None:
    merge_at(
        emptied,
        1,
        2,
        record(id=1, subject="x", starts_at="2026-05-01T08:00:00Z", tag_list=["a"], rating=1,
               invoiced=False, custom_fields={"po": "", "size": 3, "kept": [1], "gone": "x"},
               updated_at="2026-04-01T00:00:00Z"),
    )  # fmt: skip
    merge_at(
        emptied,
        3,
        4,
        record(id=1, subject="x", starts_at="", tag_list=["a", "b"], rating="2",
               invoiced="Yes", custom_fields={"po": "Yes", "size": 4, "kept": [1]},
               updated_at="2026-04-02T00:00:00Z"),
    )  # fmt: skip
    found = query(emptied, "SELECT field, old_value, new_value FROM opportunity_changes ORDER BY 1")
    assert found == [
        ("custom_fields.gone", "x", None),
        ("custom_fields.po", "", "Yes"),
        ("custom_fields.size", "3", "4"),
        ("invoiced", "false", "true"),
        ("rating", "1", "2"),
        ("starts_at", "2026-05-01 08:00:00+00", None),
        ("tags", "{a}", "{a,b}"),
    ]
    assert query(emptied, "SELECT DISTINCT changed_at FROM opportunity_changes") == [
        (datetime(2026, 4, 2, tzinfo=UTC),)
    ]


BEFORE, LATER = "2026-04-01T00:00:00Z", "2026-04-02T00:00:00Z"


@pytest.mark.parametrize(
    ("older", "newer", "changed_at"),
    [
        (BEFORE, LATER, LATER),
        (None, LATER, LATER),
        # Of items, for example: Current RMS changes the total, and not updated_at.
        (BEFORE, BEFORE, None),
        (LATER, BEFORE, None),
        (BEFORE, None, None),
        (None, None, None),
    ],
)
def test_a_change_that_moved_no_time_has_none_and_not_that_of_the_edit_before_it(
    emptied: Database, older: str | None, newer: str | None, changed_at: str | None
) -> None:
    merge_at(emptied, 1, 2, record(id=1, subject="x", charge_total="10", updated_at=older))
    merge_at(emptied, 3, 4, record(id=1, subject="x", charge_total="12", updated_at=newer))
    expected = None if changed_at is None else datetime.fromisoformat(changed_at)
    assert query(emptied, "SELECT field, changed_at FROM opportunity_changes") == [
        ("charge_total", expected)
    ]


@pytest.mark.parametrize(
    ("told", "who"),
    [
        ((), None),
        ((("destroy", "Ann"),), None),
        ((("destroy", "Ann"), ("update", "Ben")), "Ben"),
        ((("update", "Ann"), ("update", "Ben")), None),
        ((("update", "  "),), None),
    ],
)
def test_what_differs_when_a_record_returns_is_a_change_too(
    quoted: Database, told: tuple[tuple[str | None, str | None], ...], who: str | None
) -> None:
    events(quoted, *told)
    delete_at(quoted, 3, 1)
    lost = record(id=1, subject="Gala", status_name="Lost", charge_total="10")
    merge_at(quoted, 5, 6, lost, record(id=2, subject="Never gone"))
    with quoted.session() as connection:
        found = [(c.field, c.old_value, c.new_value, c.changed_by)
                 for c in changes_after(connection, 0)]  # fmt: skip
    assert found == [("opportunity_status", "Open", "Lost", who)]
    delete_at(quoted, 7, 1)
    merge_at(quoted, 9, 10, lost)
    assert query(quoted, "SELECT count(*) FROM opportunity_changes") == [(1,)]


def test_those_who_wait_for_business_events_are_told_of_status_and_state_only(
    quoted: Database,
) -> None:
    merge_at(quoted, 3, 4, record(id=1, subject="Ball", status_name="Reserved", state_name="Order"))
    with quoted.session() as connection:
        assert [c.field for c in changes_after(connection, 0)] == [
            "opportunity_status", "state_name"
        ]  # fmt: skip


# Days


def daily(database: Database) -> dict[tuple[str, str], tuple[int, Decimal]]:
    found = query(
        database,
        "SELECT day::text, opportunity_status, opportunities, total_value FROM daily_status_counts",
    )
    return {(day, status): (count, value) for day, status, count, value in found}


def moved_back(database: Database, days: int) -> None:
    """Has all that was remembered so far have been so many days earlier."""
    by = f"interval '{days} days'"
    query(
        database,
        f"UPDATE opportunity_versions SET valid_from = valid_from - {by};"
        f"UPDATE opportunity_past SET valid_from = valid_from - {by}, valid_to = valid_to - {by};"
        f"UPDATE daily_status_counts SET day = day - {days};"
        f"UPDATE mirror_state SET value = (value::timestamptz - {by})::text"
        " WHERE name = 'history_began'",
    )


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_the_counts_of_each_day_are_those_at_its_end(database: Database, zone: str) -> None:
    def opportunity(id_: int, status: str, value: int) -> Any:
        return record(id=id_, status_name=status, charge_including_tax_total=str(value))

    merge_at(database, 1, 2, opportunity(1, "Open", 10), opportunity(2, "Open", 5))
    refresh_status_counts(database, zone)
    moved_back(database, 2)
    merge_at(database, 3, 4, opportunity(1, "Reserved", 11), opportunity(3, "Lost", 7))
    merge_at(database, 5, 6, opportunity(1, "Lost", 12))
    delete_at(database, 7, 2)
    moved_back(database, 3)
    merge_at(database, 8, 9, opportunity(2, "Open", 1))
    refresh_status_counts(database, zone)
    ((today,),) = query(database, "SELECT (now() AT TIME ZONE %s)::date", zone)

    def day(ago: int) -> str:
        return str(today - timedelta(days=ago))

    earlier = {(day(n), "Open"): (2, Decimal(15)) for n in (5, 4)}
    later = {(day(n), "Lost"): (2, Decimal(19)) for n in (3, 2, 1, 0)}
    assert daily(database) == earlier | later | {(day(0), "Open"): (1, Decimal(1))}
    for ago in (5, 4, 3, 2, 1):
        end = "(%s::date + 1)::timestamp AT TIME ZONE %s - interval '1 microsecond'"
        then = query(
            database,
            "SELECT opportunity_status, opportunities, total_value"
            f" FROM status_counts_as_of({end})",
            day(ago),
            zone,
        )
        assert {(day(ago), s): (n, v) for s, n, v in then} == {
            key: value for key, value in daily(database).items() if key[0] == day(ago)
        }


# At each hour, the date is another one in one of these than in UTC.
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_days_are_counted_anew_when_the_time_zone_or_a_phase_is_another(
    database: Database, zone: str
) -> None:
    merge_at(database, 1, 2, record(id=1, status_name="Open"))
    refresh_status_counts(database, "UTC")
    moved_back(database, 3)
    refresh_status_counts(database, "UTC")
    assert query(database, "SELECT DISTINCT phase FROM daily_status_counts") == [("open",)]
    assert query(database, "SELECT rms_time_zone()") == [("UTC",)]
    query(database, "UPDATE statuses SET phase = 'confirmed' WHERE name = 'Open'")
    refresh_status_counts(database, "UTC")
    assert query(database, "SELECT phase, count(*) FROM daily_status_counts GROUP BY 1") == [
        ("confirmed", 4)
    ]
    query(database, "UPDATE daily_status_counts SET opportunities = 99")
    refresh_status_counts(database, "UTC")
    assert (99,) in query(database, "SELECT opportunities FROM daily_status_counts")
    refresh_status_counts(database, zone)
    assert query(database, "SELECT DISTINCT opportunities FROM daily_status_counts") == [(1,)]
    assert query(database, "SELECT rms_time_zone()") == [(zone,)]


def forgotten_but_for(database: Database, days: int) -> None:
    with database.session() as connection:
        forget(connection, OPPORTUNITIES, days)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_days_that_the_history_has_forgotten_stay_when_the_others_are_counted_anew(
    database: Database, zone: str
) -> None:
    merge_at(database, 1, 2, record(id=1, status_name="Open"), record(id=2, status_name="Odd"))
    refresh_status_counts(database, "UTC")
    moved_back(database, 10)
    refresh_status_counts(database, "UTC")
    query(database, "UPDATE daily_status_counts SET opportunities = 7")
    forgotten_but_for(database, 3)
    query(database, "UPDATE statuses SET phase = 'lost' WHERE name = 'Open'")
    refresh_status_counts(database, zone)
    ((began, today),) = query(
        database,
        f"SELECT (value::timestamptz AT TIME ZONE '{zone}')::date, (now() AT TIME ZONE '{zone}')"
        "::date FROM mirror_state WHERE name = 'history_began'",
    )
    found = query(
        database, "SELECT day, opportunity_status, phase, opportunities FROM daily_status_counts"
    )
    days = {(day, status): (phase, count) for day, status, phase, count in found}
    assert {phase for (_, status), (phase, _) in days.items() if status == "Open"} == {"lost"}
    assert {phase for (_, status), (phase, _) in days.items() if status == "Odd"} == {"open"}
    counted = {day: count for (day, status), (_, count) in days.items() if status == "Open"}
    # UTC is what they were counted by: nothing of them is to be counted anew but today.
    assert {n for day, n in counted.items() if day < began} == {7}
    assert {n for day, n in counted.items() if began <= day < today} == {7 if zone == "UTC" else 1}
    assert counted[today] == 1
    assert max(counted) == today
    assert len(counted) >= 10


def test_a_day_that_only_a_wrong_clock_has_seen_is_taken_away(database: Database) -> None:
    merge_at(database, 1, 2, record(id=1, status_name="Open"))
    refresh_status_counts(database, "UTC")
    right = daily(database)
    query(database, "UPDATE daily_status_counts SET day = day + 2")
    refresh_status_counts(database, "UTC")
    assert daily(database) == right


def test_what_was_confirmed_before_all_that_is_remembered_stays_confirmed_then(
    database: Database,
) -> None:
    old = "2020-01-01T00:00:00Z"
    for n, status in enumerate(("Open", "Reserved")):
        each = (record(id=i, status_name=status, created_at=old) for i in (1, 2, 3))
        merge_at(database, n, n + 0.5, *each)
    moved_back(database, 10)
    query(database, "UPDATE opportunities SET confirmed_at = confirmed_at - interval '10 days'")
    known = confirmed(database)
    assert None not in known.values()
    forgotten_but_for(database, 3)
    merge_at(database, 3, 4, record(id=1, status_name="Active", created_at=old))
    delete_at(database, 5, 2)
    merge_at(database, 7, 8, record(id=2, status_name="Completed", created_at=old))
    assert confirmed(database) == known
    # Whatever else is said of statuses.
    query(database, "INSERT INTO statuses (name, phase) VALUES ('On hold', 'open')")
    refresh_status_counts(database, "UTC")
    assert confirmed(database) == known


# Upgrades


@pytest.mark.slow
def test_an_upgrade_begins_the_history_of_rows_that_are_there(empty_url: str) -> None:
    # The newest that had no history of its own.
    load_release(empty_url, max(release for release in RELEASES if release < "0023"))
    database = database_at(empty_url)
    migrate(database)
    began = query(
        database, "SELECT value::timestamptz FROM mirror_state WHERE name = 'history_began'"
    )
    assert query(database, "SELECT DISTINCT valid_from FROM opportunity_history") == began
    assert table_as_of(database, began[0][0]) == table_now(database)
    assert query(database, "SELECT count(*) FROM opportunity_history WHERE deleted") == query(
        database, "SELECT count(*) FROM deleted_opportunities"
    )
    demand_a_whole_chain(database)
    assert query(database, "SELECT count(*) FROM opportunity_past") == [(0,)]


def test_rights_and_views_on_the_history_outlive_another_column(database: Database) -> None:
    query(
        database,
        f"DO $$ BEGIN CREATE ROLE {ANALYST}; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        f"GRANT SELECT ON opportunity_history TO {ANALYST};"
        f"REVOKE EXECUTE ON FUNCTION opportunities_as_of(timestamptz) FROM PUBLIC;"
        f"GRANT EXECUTE ON FUNCTION opportunities_as_of(timestamptz) TO {ANALYST};"
        "CREATE VIEW mine AS SELECT id, name FROM opportunities_as_of(now())",
    )
    from rms_pipeline.collections.base import Column
    from rms_pipeline.mirror.record_history import is_history_made, make_history

    # In the midst of the others, as somebody may declare it.
    first, *others = OPPORTUNITIES.columns
    wider = replace(
        OPPORTUNITIES,
        columns=(first, Column("state_of_a_test", "bigint", "By number.", source="state"), *others),
    )
    for table in (wider.name, wider.deleted, wider.past):
        query(database, f"ALTER TABLE {table} ADD COLUMN state_of_a_test bigint")
    with database.session() as connection:
        assert not is_history_made(connection, wider)
        make_history(connection, wider)
        assert is_history_made(connection, wider)
        # One that is older leaves it alone.
        assert is_history_made(connection, OPPORTUNITIES)
    merge_at(database, 1, 2, record(id=1, subject="x"))
    assert query(
        database,
        f"SET ROLE {ANALYST}; SELECT name, state_of_a_test FROM opportunities_as_of(now())",
    ) == [("x", None)]
    assert query(database, "SELECT name FROM mine") == [("x",)]


@pytest.mark.parametrize(
    "damage",
    [
        "DROP VIEW opportunity_history",
        "DROP FUNCTION opportunity_as_of(bigint, timestamptz)",
        "DROP TYPE opportunity_then CASCADE",
    ],
)
def test_what_somebody_dropped_of_it_is_made_again(database: Database, damage: str) -> None:
    merge_at(database, 1, 2, record(id=1, subject="x"))
    query(database, damage)
    migrate(database)
    assert query(database, "SELECT subject FROM opportunity_as_of(1, now())") == [("x",)]
    assert HEAD >= "0023"
