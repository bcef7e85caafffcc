"""The merge against a real PostgreSQL: order, hostile content, two at once."""

import json
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.lenient import storable_json
from rms_pipeline.current_rms.records import Fault, Record, read_record
from rms_pipeline.mirror import deletions
from rms_pipeline.mirror import merge as merging
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import move_to_deleted
from rms_pipeline.mirror.merge import Brought, MergeResult, merge, merge_together
from rms_pipeline.mirror.queue import Claim, settle
from rms_pipeline.sandbox import Store
from rms_pipeline.sandbox.records import LISTED
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.processes import wait_until

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def record(**fields: Any) -> Record | Fault:
    return read_record(msgspec.Raw(storable_json(json.dumps(fields).encode())), OPPORTUNITIES)


def merge_at(
    database: Database, asked: float, answered: float, *records: Record | Fault
) -> MergeResult:
    with database.session() as connection:
        return merge(
            connection,
            OPPORTUNITIES,
            "run",
            records,
            asked_at=T0 + timedelta(seconds=asked),
            answered_at=T0 + timedelta(seconds=answered),
        )


def fetch_all(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def test_an_older_page_does_not_overwrite_what_was_asked_for_later(database: Database) -> None:
    merge_at(database, 5, 6, record(id=1, subject="new", updated_at="2026-01-01T00:00:00Z"))
    late = merge_at(database, 1, 2, record(id=1, subject="old", updated_at="2027-01-01T00:00:00Z"))
    assert late.stale == 1
    assert fetch_all(database, "SELECT subject, synced_at FROM opportunities") == [
        ("new", T0 + timedelta(seconds=5))
    ]


def test_of_overlapping_fetches_the_newer_updated_at_stays(database: Database) -> None:
    merge_at(database, 1, 4, record(id=1, subject="newer", updated_at="2026-01-02T00:00:00Z"))
    merge_at(database, 2, 5, record(id=1, subject="older", updated_at="2026-01-01T00:00:00Z"))
    assert fetch_all(database, "SELECT subject FROM opportunities") == [("newer",)]


def test_a_record_that_postgresql_refuses_costs_no_other_and_is_named(database: Database) -> None:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE opportunities ADD CHECK (id <> 2)")
    result = merge_at(
        database, 1, 2, *(record(id=i, subject="x") for i in (1, 2, 3, 4)), record(subject="")
    )
    assert (result.created, result.failed) == (3, 2)
    assert fetch_all(database, "SELECT id FROM opportunities ORDER BY 1") == [(1,), (3,), (4,)]
    faults = fetch_all(database, "SELECT opportunity_id, field, problem FROM sync_faults")
    assert sorted(f[0] or 0 for f in faults) == [0, 2]


def brought(asked: float, *records: Record | Fault, doubting: bool = False) -> Brought:
    """An answer that took a second."""
    at = T0 + timedelta(seconds=asked)
    return Brought(records, at, at + timedelta(seconds=1), doubting)


TIMES = (
    "SELECT id, o.xmin::text, synced_at, asked_at, answered_at FROM opportunities o"
    " JOIN opportunity_versions v USING (id) ORDER BY id"
)


@pytest.mark.parametrize("what", ["new", "the same", "changed", "few changed", "gone by hand"])
def test_answers_merged_together_are_one_transaction_and_each_row_has_the_times_of_its_own(
    database: Database, what: str
) -> None:
    first, second = range(1, 10, 2), range(2, 12, 2)
    if what != "new":
        merge_at(database, 1, 2, *(record(id=i, subject="as it was") for i in (*first, *second)))
    if what == "gone by hand":
        with database.session() as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM opportunities")
    subject = "changed" if "changed" in what else "as it was"
    if what == "few changed":
        first, second = range(1, 2), range(2, 3)
    with database.session() as connection:
        result = merge_together(
            connection,
            OPPORTUNITIES,
            "run",
            [
                brought(10, *(record(id=i, subject=subject) for i in first)),
                brought(20, *(record(id=i, subject=subject) for i in second)),
            ],
        )
    assert result.stored == len(first) + len(second)
    merged = {*first, *second}
    rows = [row for row in fetch_all(database, TIMES) if row[0] in merged]
    assert len({transaction for _, transaction, *_ in rows}) == 1
    assert {(id_, *times) for id_, _, *times in rows} == {
        (i, *(T0 + timedelta(seconds=second) for second in (asked, asked, asked + 1)))
        for ids, asked in ((first, 10), (second, 20))
        for i in ids
    }


def test_a_record_that_two_of_the_answers_bring_is_as_the_one_asked_for_later_says(
    database: Database,
) -> None:
    one, other = record(id=1, subject="later"), record(id=1, subject="earlier")
    with database.session() as connection:
        result = merge_together(
            connection,
            OPPORTUNITIES,
            "run",
            [brought(20, record(id=2), one), brought(10, other, record(id=3))],
        )
    assert (result.created, result.updated, result.stale) == (3, 0, 1)
    assert fetch_all(database, "SELECT id, subject FROM opportunities ORDER BY id") == [
        (1, "later"),
        (2, None),
        (3, None),
    ]


def test_of_answers_merged_together_only_those_of_lists_leave_older_states_in_doubt(
    database: Database,
) -> None:
    new, old = "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"
    merge_at(database, 1, 2, *(record(id=i, updated_at=new, subject="new") for i in (1, 2)))
    with database.session() as connection:
        result = merge_together(
            connection,
            OPPORTUNITIES,
            "run",
            [
                brought(10, record(id=1, updated_at=old, subject="old"), doubting=True),
                brought(10, record(id=2, updated_at=old, subject="old")),
            ],
        )
    assert [id_ for id_, _ in result.doubted] == [1]
    assert fetch_all(database, "SELECT id, subject FROM opportunities ORDER BY id") == [
        (1, "new"),
        (2, "old"),
    ]


def test_a_record_that_postgresql_refuses_costs_none_of_the_other_answers(
    database: Database,
) -> None:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE opportunities ADD CHECK (id <> 2)")
        connection.commit()
        result = merge_together(
            connection,
            OPPORTUNITIES,
            "run",
            [
                brought(10, record(id=1), record(id=2)),
                brought(20, record(id=3), record(subject="")),
            ],
        )
    assert (result.created, result.failed) == (2, 2)
    assert [(id_, asked) for id_, _, asked, *_ in fetch_all(database, TIMES)] == [
        (1, T0 + timedelta(seconds=10)),
        (3, T0 + timedelta(seconds=20)),
    ]


HUGE = ["1e200000", "-1e131072", "1e-16384", "0e999999999999", "1e" + "9" * 30, "9" * 140_000,
        "0." + "9" * 16_400]  # fmt: skip


@pytest.mark.parametrize("place", ["%b", '{"a":[1,%b,"%b 1e200000"],"b":2}'])
def test_a_number_that_jsonb_cannot_hold_costs_its_field_and_not_its_record(
    database: Database, place: str
) -> None:
    odd = [
        read_record(
            msgspec.Raw(
                b'{"id":%d,"subject":"1e200000","x\\u00e9":%b,"weight":4}'
                % (n, place.replace("%b", number, 1).replace("%b", "").encode())
            ),
            OPPORTUNITIES,
        )
        for n, number in enumerate(HUGE, 2)
    ]
    result = merge_at(database, 1, 2, record(id=1), *odd, record(id=99))
    assert (result.created, result.failed) == (2 + len(HUGE), 0)
    kept = None if place == "%b" else {"a": [1, None, " 1e200000"], "b": 2}
    rows = fetch_all(
        database, "SELECT subject, data -> 'x\u00e9', data -> 'weight' FROM opportunities"
        " WHERE id BETWEEN 2 AND 98"
    )  # fmt: skip
    assert rows == [("1e200000", kept, 4)] * len(HUGE)
    faults = fetch_all(database, "SELECT DISTINCT field, problem FROM sync_faults")
    assert [problem for _, problem in faults] == [
        "is or holds a number that PostgreSQL cannot store"
    ]
    again = merge_at(database, 3, 4, record(id=1), *odd, record(id=99))
    assert (again.updated, again.unchanged, again.failed) == (0, 2 + len(HUGE), 0)


def test_the_greatest_and_the_least_numbers_of_jsonb_are_kept(database: Database) -> None:
    numbers = b"[1e131071, -1e131071, 1e-16383, " + b"9" * 131_072 + b"]"
    odd = read_record(msgspec.Raw(b'{"id":2,"a":%b,"b":1e131072}' % numbers), OPPORTUNITIES)
    assert merge_at(database, 1, 2, odd).created == 1
    assert fetch_all(
        database, f"SELECT data -> 'a' = '{numbers.decode()}', data -> 'b' FROM opportunities"
    ) == [(True, None)]
    assert fetch_all(database, "SELECT field FROM sync_faults") == [("b",)]


def test_many_faults_cost_one_statement(
    database: Database,
) -> None:
    statements: list[str] = []

    class Counting(psycopg2.extensions.cursor):
        def execute(self, query: Any, variables: Any = None) -> None:
            statements.append(str(query))
            super().execute(query, variables)

    bad = [record(id=i, starts_at="soon", ends_at="late", charge_total="x") for i in range(1, 101)]
    with database.session() as connection:
        connection.cursor_factory = Counting
        merge(connection, OPPORTUNITIES, "run", bad, asked_at=T0, answered_at=T0)
    assert sum("INTO sync_faults" in s for s in statements) == 1
    faults = fetch_all(
        database, "SELECT field, count(*), min(raw_value), min(run) FROM sync_faults GROUP BY 1"
    )
    assert sorted(faults) == [
        ("charge_total", 100, '"x"', "run"),
        ("ends_at", 100, '"late"', "run"),
        ("starts_at", 100, '"soon"', "run"),
    ]


def test_bad_fields_are_null_and_noted_and_the_row_is_stored(database: Database) -> None:
    result = merge_at(database, 1, 2, record(id=1, starts_at="soon", charge_total="lots"))
    assert (result.created, result.failed) == (1, 0)
    assert fetch_all(database, "SELECT name, starts_at, charge_total FROM opportunities") == [
        ("Opportunity 1", None, None)
    ]
    assert fetch_all(database, "SELECT field, raw_value FROM sync_faults ORDER BY 1") == [
        ("charge_total", '"lots"'),
        ("starts_at", '"soon"'),
    ]


def test_a_record_with_faults_that_has_not_changed_is_noted_by_each_sync(
    database: Database,
) -> None:
    merge_at(database, 1, 2, record(id=1, starts_at="soon"), record(id=2, subject="good"))
    again = merge_at(database, 3, 4, record(id=1, starts_at="soon"), record(id=2, subject="good"))
    assert (again.updated, again.unchanged) == (0, 2)
    assert fetch_all(database, "SELECT opportunity_id, field FROM sync_faults") == [
        (1, "starts_at"),
        (1, "starts_at"),
    ]
    assert fetch_all(database, "SELECT DISTINCT synced_at FROM opportunities") == [
        (T0 + timedelta(seconds=3),)
    ]


def test_the_same_bytes_fetched_earlier_but_stored_later_change_nothing(
    database: Database,
) -> None:
    same = {"id": 1, "subject": "x", "updated_at": "2026-01-01T00:00:00Z"}
    merge_at(database, 5, 6, record(**same))
    assert merge_at(database, 1, 2, record(**same)).stale == 1
    assert fetch_all(database, "SELECT asked_at FROM opportunity_versions") == [
        (T0 + timedelta(seconds=5),)
    ]


def test_text_that_postgresql_cannot_hold_is_replaced_and_all_other_text_is_kept(
    database: Database,
) -> None:
    text = 'tab\t newline\n return\r backslash\\ \\N \\. quote" \x01 emoji 🎶 nul\x00 half\ud800'
    merge_at(database, 1, 2, record(id=1, subject=text))
    kept = text.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert fetch_all(database, "SELECT subject, data ->> 'subject' FROM opportunities") == [
        (kept, kept)
    ]


def test_each_letter_that_a_copy_takes_for_a_sign_is_kept_where_it_is_the_only_one(
    database: Database,
) -> None:
    texts = [
        "a\\b",
        "\\N",
        "\\.",
        "a\\",
        "a\tb",
        "a\nb",
        "a\rb",
        "a\x0bb\x7f",
        "a\u2028b\x85",
        "é 🎶",
    ]
    merge_at(database, 1, 2, *(record(id=n, subject=text) for n, text in enumerate(texts, 1)))
    rows = fetch_all(database, "SELECT subject FROM opportunities ORDER BY id")
    assert rows == [(text,) for text in texts]


def test_a_row_that_somebody_deleted_by_hand_comes_back(database: Database) -> None:
    merge_at(database, 1, 2, record(id=1, subject="x"))
    fetch_all(database, "DELETE FROM opportunities RETURNING id")
    assert merge_at(database, 3, 4, record(id=1, subject="x")).created == 1


def test_last_webhook_at_survives_a_sync(database: Database) -> None:
    merge_at(database, 1, 2, record(id=1, subject="x"))
    fetch_all(database, "UPDATE opportunities SET last_webhook_at = now() RETURNING id")
    merge_at(database, 3, 4, record(id=1, subject="y"))
    kept = fetch_all(database, "SELECT subject, last_webhook_at IS NOT NULL FROM opportunities")
    assert kept == [("y", True)]


def test_a_row_stays_on_its_page_when_it_is_found_the_same_so_that_no_index_is_written(
    emptied: Database,
) -> None:
    rows = [record(id=n, description="x" * 400) for n in range(1, 201)]
    pages = "SELECT id, (ctid::text::point)[0] FROM opportunities ORDER BY id"
    merge_at(emptied, 0, 1, *rows)
    before = fetch_all(emptied, pages)
    assert len({page for _, page in before}) > 5
    merge_at(emptied, 2, 3, *rows)
    assert fetch_all(emptied, pages) == before


def test_of_a_row_only_the_record_and_long_texts_are_stored_apart(database: Database) -> None:
    """Else each name that a list shows is read from another table."""
    store = Store(20)
    found = [
        read_record(msgspec.Raw(store.body(i, LISTED) or b""), OPPORTUNITIES) for i in store.ids()
    ]
    assert merge_at(database, 1, 2, *found).created == 20
    ((toasted,),) = fetch_all(
        database,
        "SELECT reltoastrelid::regclass FROM pg_class WHERE oid = 'opportunities'::regclass",
    )
    apart = "SELECT count(DISTINCT chunk_id) FROM {}"
    ((values,),) = fetch_all(database, apart.format(toasted))
    # The whole record, its custom fields and the description.
    assert values <= 3 * 20


def test_two_merges_of_the_same_rows_at_once_end_as_one_after_the_other(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = []

    def run(shift: int) -> None:
        try:
            for turn in range(10):
                asked = turn * 10 + shift
                rows = [record(id=i, subject=f"asked at {asked}") for i in range(60)]
                merge_at(database, asked, asked + 1, *(rows if shift else reversed(rows)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(shift,)) for shift in (0, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert "deadlock" not in caplog.text
    assert fetch_all(database, "SELECT DISTINCT subject FROM opportunities") == [("asked at 95",)]


@pytest.mark.slow
@pytest.mark.parametrize("turns", some_in_drills((16, 40), lambda few: few == 16))
def test_merges_that_share_new_and_known_ids_never_wait_for_one_another_in_a_circle(
    database: Database, caplog: pytest.LogCaptureFixture, turns: int
) -> None:
    """Deletions among them: whoever waited must see what the other one did to the row."""
    errors: list[BaseException] = []
    fetches = iter(range(1_000_000))

    def run(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for turn in range(turns):
                asked = next(fetches)
                ids = chance.sample(range(turn * 10, turn * 10 + 60), 40)
                rows = [record(id=i, subject=f"asked at {asked}") for i in ids]
                merge_at(database, asked, asked + 0.5, *rows)
                gone_at = T0 + timedelta(seconds=next(fetches))
                gone = dict.fromkeys(ids[:5], (gone_at, gone_at))
                with database.session() as connection:
                    move_to_deleted(
                        connection, OPPORTUNITIES, gone, "a test", "run", confirmed=True
                    )
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert "deadlock" not in caplog.text
    torn = (
        "SELECT v.id FROM opportunity_versions v LEFT JOIN opportunities o USING (id)"
        " WHERE v.deleted = (o.id IS NOT NULL)"
    )
    assert fetch_all(database, torn) == []
    both = "SELECT id FROM opportunities JOIN deleted_opportunities USING (id)"
    assert fetch_all(database, both) == []


def settle_both(connection: Connection) -> None:
    settle(connection, Claim(OPPORTUNITIES, "lane", ()), [1, 9])


def hold_both(connection: Connection) -> None:
    later = T0 + timedelta(hours=1)
    gone = dict.fromkeys([1, 9], (later, later))
    assert move_to_deleted(connection, OPPORTUNITIES, gone, "a test", "run").held == [1, 9]


@pytest.mark.parametrize("write", [settle_both, hold_both])
def test_a_writer_beside_a_merge_never_ends_in_a_deadlock(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    write: Callable[[Connection], None],
) -> None:
    """A merge writes the rows that changed before those that did not."""
    monkeypatch.setattr(deletions, "GUARDED_COUNT", 0)
    monkeypatch.setattr(deletions, "GUARDED_SHARE", 0)
    merge_at(database, 1, 2, *(record(id=i, subject="old") for i in range(1, 10)))
    errors: list[BaseException] = []

    def beside() -> None:
        try:
            with database.session() as connection:
                write(connection)
        except BaseException as error:
            errors.append(error)

    other = threading.Thread(target=beside)
    update = merging._update

    def update_and_wait(*arguments: Any) -> Any:
        updated = update(*arguments)
        other.start()
        waits = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        wait_until(lambda: fetch_all(database, f"{waits} AND wait_event_type = 'Lock'"))
        return updated

    monkeypatch.setattr(merging, "_update", update_and_wait)
    rows = [record(id=i, subject="new" if i == 9 else "old") for i in range(1, 10)]
    result = merge_at(database, 3, 4, *rows)
    other.join()
    assert errors == []
    assert "deadlock" not in caplog.text
    assert (result.updated, result.unchanged) == (1, 8)


def test_a_merge_that_postgresql_ends_in_a_deadlock_is_tried_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    merge_at(database, 1, 2, record(id=1, subject="old"))
    errors: list[BaseException] = []
    held, waits = threading.Event(), threading.Event()

    def people() -> None:
        """Statements of theirs that lock the name before the opportunity."""
        try:
            with database.session() as connection, connection.cursor() as cursor:
                # The merge finds the circle, and is ended.
                cursor.execute("SET deadlock_timeout = '1 min'")
                cursor.execute(
                    "INSERT INTO known_names (collection, kind, name, record_id, words)"
                    " VALUES ('opportunities', 'owner', 'Ann', 7, 'ann')"
                )
                held.set()
                assert waits.wait(30)
                cursor.execute("SELECT FROM opportunity_versions WHERE id = 1 FOR UPDATE")
        except BaseException as error:
            errors.append(error)

    def let_them_go_on() -> None:
        blocked = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
        wait_until(lambda: fetch_all(database, blocked))
        waits.set()

    threads = [threading.Thread(target=work) for work in (people, let_them_go_on)]
    threads[0].start()
    assert held.wait(30)
    threads[1].start()
    changed = record(id=1, subject="new", owned_by=7, owner={"id": 7, "name": "Ann"})
    result = merge_at(database, 3, 4, changed)
    for thread in threads:
        thread.join()
    assert errors == []
    assert "deadlock" in caplog.text
    assert result.updated == 1
    assert fetch_all(database, "SELECT subject, owner_name FROM opportunities") == [("new", "Ann")]


def test_a_merge_waits_for_the_disk_unless_a_crash_would_only_have_it_done_again(
    database: Database,
) -> None:
    """A trigger that fires as the merge commits notes whether that waits."""
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE waits (wait text); CREATE FUNCTION note_wait() RETURNS trigger"
            " LANGUAGE plpgsql AS $$ BEGIN INSERT INTO waits"
            " VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;"
            " CREATE CONSTRAINT TRIGGER note_wait AFTER INSERT OR UPDATE ON opportunities"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_wait()"
        )
        connection.commit()
        cursor.execute("SET synchronous_commit = local")
        connection.commit()

        def waits(second: int, redone: bool, **fields: Any) -> bool:
            at = T0 + timedelta(seconds=second)
            merge(
                connection,
                OPPORTUNITIES,
                "run",
                [record(id=second // 100, **fields)],
                asked_at=at,
                answered_at=at,
                redone_after_crash=redone,
            )
            cursor.execute("DELETE FROM waits RETURNING wait")
            found = {row[0] for row in cursor.fetchall()}
            connection.commit()
            assert len(found) == 1
            return found == {"local"}

        try:
            assert waits(100, False, subject="new")
            assert not waits(200, True, subject="new")
            assert waits(201, False, subject="new"), "it was the same"
            assert not waits(202, True, subject="new"), "it was the same"
            # Whoever follows the changes may have acted on one.
            assert waits(203, True, subject="changed")
            gone = {2: (T0 + timedelta(seconds=250), T0 + timedelta(seconds=251))}
            move_to_deleted(connection, OPPORTUNITIES, gone, "a test", "run")
            assert waits(299, True, subject="returned")
        finally:
            connection.rollback()
            cursor.execute("DROP TRIGGER note_wait ON opportunities; DROP TABLE waits")
            cursor.execute("DROP FUNCTION note_wait")
            connection.commit()
