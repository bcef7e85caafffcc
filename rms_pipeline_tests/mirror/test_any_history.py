"""Whatever happens to a collection, in whatever order: all of it is remembered.

A sequence of steps edits, deletes and restores records, brings answers late, kills writers, lets
two write at once, decodes all rows again, and forgets old versions. In between the table is copied.
Afterwards the history has no gap and no overlap, and knows each copy.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import msgspec
import psycopg2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.collections.opportunity_items import OPPORTUNITY_ITEMS
from rms_pipeline.current_rms.lenient import storable_json
from rms_pipeline.current_rms.records import read_record
from rms_pipeline.mirror import record_history
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import move_to_deleted
from rms_pipeline.mirror.merge import merge
from rms_pipeline.mirror.record_history import forget
from rms_pipeline.mirror.redecode import redecode
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline_tests.rows import query

T0 = datetime(2026, 1, 1, tzinfo=UTC)
REMEMBERED = (OPPORTUNITIES, MEMBERS, OPPORTUNITY_ITEMS)

# Fields of any collection: what one has no column for is in its record all the same.
_CONTENT = st.fixed_dictionaries(
    {
        "subject": st.sampled_from(["a", "b"]),
        "status_name": st.sampled_from(["Open", "Reserved", "Lost", None]),
        "custom_fields": st.sampled_from([{}, {"x": "1"}, {"x": "1", "y": [1, 2]}, []]),
        "member": st.sampled_from(
            [
                {"id": 1},
                {"id": 1, "url": "https://x.example/?sig=1"},
                {"id": 1, "url": "https://x.example/?sig=2"},
            ]
        ),
        "updated_at": st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", None]),
    },
    optional={
        "name": st.sampled_from(["a", "b", "", None]),
        "rating": st.integers(0, 2),
        "quantity": st.sampled_from(["1.0", "1", 2, "many"]),
        "charge_total": st.sampled_from(["10", "10.0", 12]),
        "starts_at": st.just("2026-05-01T08:00:00Z"),
        "opportunity_id": st.integers(1, 2),
        "primary_address": st.sampled_from([{"city": "Leeds"}, None, []]),
        "emails": st.sampled_from([[], [{"address": "a@x.example"}]]),
        "tag_list": st.sampled_from([["a"], ["a", "b"], []]),
    },
)
_IDS = st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True)
# How long before now it was asked for, and how long the answer took.
_TIMES = st.tuples(st.integers(0, 4), st.integers(0, 4))
# After how many statements the process ends.
_STATEMENTS = st.integers(0, 14)
_FETCH = (_IDS, _TIMES, _CONTENT)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fetch"), *_FETCH),
        st.tuples(st.just("fetch"), *_FETCH),
        st.tuples(st.just("killed"), *_FETCH, _STATEMENTS),
        st.tuples(st.just("two at once"), *_FETCH, _IDS, st.none() | _CONTENT),
        st.tuples(st.just("delete"), _IDS, _TIMES),
        st.tuples(st.just("delete, killed"), _IDS, _TIMES, _STATEMENTS),
        st.tuples(st.just("copy")),
        st.tuples(st.just("copy")),
        st.tuples(st.just("decode again")),
        st.tuples(st.just("another mapping")),
        st.tuples(st.just("count")),
        st.tuples(st.just("days pass"), st.integers(1, 3)),
        st.tuples(st.just("forget"), st.integers(1, 4)),
    ),
    max_size=16,
)


class Killed(BaseException):
    """The process ends here: nothing catches it."""


class Run:
    """One sequence of steps with a collection, and the copies of its table that were taken."""

    def __init__(self, database: Database, collection: Collection) -> None:
        self.database, self.collection = database, collection
        self.copies: list[tuple[datetime, list[list[Any]]]] = []
        c = collection
        # All that the history knows. When a row was asked for, and told of, is none of it, and
        # signatures of links are those of other readings.
        self.columns = ["id", *(column.name for column in c.columns)]
        self.asked = ", ".join(
            [*self.columns, "regexp_replace(data::text, '[?]sig=[0-9]+', '') AS data"]
        )
        tables = [c.name, c.deleted, c.versions, c.past, "opportunity_changes"]
        tables += ["daily_status_counts", "status_counts"]
        query(database, f"TRUNCATE {', '.join(tables)} CASCADE")
        query(
            database,
            "INSERT INTO mirror_state (name, value) VALUES (%s, clock_timestamp()::text)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            self.mark,
        )

    @property
    def mark(self) -> str:
        return f"{record_history.BEGAN}{self.collection.mark}"

    def moment(self) -> datetime:
        ((now,),) = query(self.database, "SELECT clock_timestamp()")
        assert isinstance(now, datetime)
        return now

    def rows(self, source: str, *values: Any) -> list[list[Any]]:
        found = query(self.database, f"SELECT {self.asked} FROM {source} ORDER BY id", *values)
        return [list(row) for row in found]

    def copy(self) -> None:
        self.copies.append((self.moment(), self.rows(self.collection.name)))

    def fetch(
        self, ids: Sequence[int], asked: float, took: float, content: Any, dies: int | None = None
    ) -> None:
        texts = (json.dumps({"id": i, **content}).encode() for i in ids)
        records = [read_record(msgspec.Raw(storable_json(t)), self.collection) for t in texts]
        with self.session(dies) as connection:
            merge(
                connection,
                self.collection,
                "run",
                records,
                asked_at=T0 + timedelta(seconds=asked),
                answered_at=T0 + timedelta(seconds=asked + took),
            )

    def delete(self, ids: Sequence[int], at: float, dies: int | None = None) -> None:
        gone = dict.fromkeys(ids, (T0 + timedelta(seconds=at),) * 2)
        with self.session(dies) as connection:
            move_to_deleted(connection, self.collection, gone, "a test", "run", confirmed=True)

    @contextmanager
    def session(self, dies: int | None) -> Iterator[Connection]:
        """A session that is killed before its statement number `dies`."""
        with self.database.session() as connection:
            if dies is not None:
                connection.cursor_factory = cursor_that_dies(dies)
            try:
                yield connection
            finally:
                connection.cursor_factory = Cursor

    def two_at_once(self, ids: Sequence[int], asked: float, took: float, content: Any,
                    others: Sequence[int], other: Any) -> None:  # fmt: skip
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(self.fetch, ids, asked, took, content)
            if other is None:
                second = pool.submit(self.delete, others, asked)
            else:
                second = pool.submit(self.fetch, others, asked, took, other)
            first.result()
            second.result()

    def map_otherwise(self) -> None:
        """As a program would whose mapping is wrong, and then the right one."""
        texts = [c.name for c in self.collection.columns if c.is_mapped and c.kind == "text"]
        for table in (self.collection.name, self.collection.past):
            changed = ", ".join(f"{name} = 'wrong'" for name in texts)
            query(self.database, f"UPDATE {table} SET {changed}")
        redecode(self.database, self.collection, "mapping")

    def days_pass(self, days: int) -> None:
        """Has all that was remembered so far have been so many days earlier."""
        c, by = self.collection, f"interval '{days} days'"
        query(
            self.database,
            f"UPDATE {c.versions} SET valid_from = valid_from - {by};"
            f"UPDATE {c.past} SET valid_from = valid_from - {by}, valid_to = valid_to - {by};"
            # By way of days that none has, because two rows of one status may not meet.
            "UPDATE daily_status_counts SET day = day - 9999;"
            f"UPDATE daily_status_counts SET day = day + {9999 - days};"
            f"UPDATE mirror_state SET value = (value::timestamptz - {by})::text"
            f" WHERE name = '{self.mark}'",
        )
        ago = timedelta(days=days)
        if c.has_phases:
            for table in (c.name, c.deleted, c.past):
                query(self.database, f"UPDATE {table} SET confirmed_at = confirmed_at - {by}")
            place = self.columns.index("confirmed_at")
            for _, rows in self.copies:
                for row in rows:
                    row[place] = row[place] and row[place] - ago
        self.copies = [(at - ago, rows) for at, rows in self.copies]

    def forget(self, days: int) -> None:
        with self.database.session() as connection:
            forget(connection, self.collection, days)

    def take(self, turn: int, step: tuple[Any, ...]) -> None:
        kind, *rest = step
        match kind:
            case "copy":
                self.copy()
            case "decode again":
                redecode(self.database, self.collection, f"turn {turn}")
            case "another mapping":
                self.map_otherwise()
            case "count":
                refresh_status_counts(self.database, "UTC")
            case "days pass":
                self.days_pass(*rest)
            case "forget":
                self.forget(*rest)
            case "delete" | "delete, killed":
                ids, (before, _), *dies = rest
                with suppress(Killed):
                    self.delete(ids, turn - before, *dies)
            case "two at once":
                ids, (before, took), content, others, other = rest
                self.two_at_once(ids, turn - before, took, content, others, other)
            case _:
                ids, (before, took), content, *dies = rest
                with suppress(Killed):
                    self.fetch(ids, turn - before, took, content, *dies)

    def demand_all(self) -> None:
        """Raises unless the history is whole, and knows each copy of the table."""
        self.copy()
        self.demand_a_whole_chain()
        if self.collection.noted:
            self.demand_that_changes_follow_each_other()
        ((began,),) = query(
            self.database, "SELECT value::timestamptz FROM mirror_state WHERE name = %s", self.mark
        )
        c = self.collection
        for at, copy in self.copies:
            try:
                found = self.rows(f"{c.name}_as_of(%s)", at)
            except psycopg2.errors.InvalidParameterValue:
                assert at < began
                continue
            assert at >= began
            assert found == copy
            for row in copy[:1]:
                assert self.rows(f"{c.single}_as_of(%s, %s)", row[0], at) == [row]
        if c.has_phases:
            self.demand_that_days_add_up()

    def demand_a_whole_chain(self) -> None:
        """Raises unless versions of each record follow each other, the last one is open, and says
        what the row does."""
        c = self.collection
        torn = query(
            self.database,
            f"SELECT * FROM (SELECT {c.key}, valid_from, valid_to, lead(valid_from) OVER w AS next"
            f" FROM {c.history} WINDOW w AS (PARTITION BY {c.key} ORDER BY valid_from, valid_to)) v"
            " WHERE valid_to IS DISTINCT FROM next OR valid_to <= valid_from",
        )
        assert torn == []
        open_ones = query(
            self.database,
            f"SELECT {c.key}, deleted FROM {c.history} WHERE valid_to IS NULL ORDER BY 1",
        )
        there = [(id_, False) for (id_,) in query(self.database, f"SELECT id FROM {c.name}")]
        there += [(id_, True) for (id_,) in query(self.database, f"SELECT id FROM {c.deleted}")]
        assert open_ones == sorted(there)

    def demand_that_changes_follow_each_other(self) -> None:
        """Raises unless each change of a field begins with what the one before it ended with, and
        the last ends with what the row holds. None is seen at a moment at which no version began,
        but for versions that are forgotten."""
        # 10.0 and 10 are one amount, and no change.
        amounts = [c.name for c in OPPORTUNITIES.columns if c.kind == "numeric"]
        same = "CASE WHEN field = ANY(%s) THEN trim_scale({0}::numeric)::text ELSE {0} END AS {0}"
        values = ", ".join(map(same.format, ("old_value", "new_value")))
        torn = query(
            self.database,
            "SELECT * FROM (SELECT opportunity_id, field, old_value, new_value,"
            " lead(old_value) OVER w AS next, lead(id) OVER w IS NULL AS is_last"
            f" FROM (SELECT id, opportunity_id, field, {values} FROM opportunity_changes) c"
            " WINDOW w AS (PARTITION BY opportunity_id, field ORDER BY id)"
            ") c WHERE old_value IS NOT DISTINCT FROM new_value"
            " OR NOT is_last AND new_value IS DISTINCT FROM next"
            " OR is_last AND field = 'opportunity_status' AND EXISTS (SELECT FROM opportunities o"
            " WHERE o.id = c.opportunity_id AND o.opportunity_status IS DISTINCT FROM new_value)",
            *(amounts, amounts),
        )
        assert torn == []

    def demand_that_days_add_up(self) -> None:
        """Raises unless each day since the one on which the history began has the counts of its
        end, and the last one those of now."""
        refresh_status_counts(self.database, "UTC")
        torn = query(self.database, _TORN_DAYS, self.mark)
        assert torn == []


_TORN_DAYS = """
    WITH days AS (
        SELECT generate_series(
            (SELECT (value::timestamptz AT TIME ZONE 'UTC')::date + 1 FROM mirror_state
             WHERE name = %s),
            (SELECT max(day) FROM daily_status_counts), interval '1 day'
        )::date AS day
    ), wanted AS (
        SELECT day, c.opportunity_status, c.opportunities, c.charge_total, c.total_value
        FROM days, status_counts_as_of(least(
            (day + 1)::timestamp AT TIME ZONE 'UTC' - interval '1 us', clock_timestamp()
        )) c
    )
    SELECT * FROM wanted FULL JOIN (
        SELECT day, opportunity_status, opportunities, charge_total, total_value
        FROM daily_status_counts WHERE day IN (SELECT day FROM days)
    ) found USING (day, opportunity_status, opportunities, charge_total, total_value)
    WHERE wanted IS NULL OR found IS NULL
"""


def cursor_that_dies(after: int) -> type[Cursor]:
    """Cursors that execute so many statements together, and raise Killed before the next."""
    left = after

    class Dying(Cursor):
        def execute(self, *values: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            super().execute(*values)

    return Dying


def demand_that_it_remembers(
    database: Database, collection: Collection, steps: Sequence[tuple[Any, ...]]
) -> None:
    """Raises unless all that the steps do to `collection` is remembered."""
    run = Run(database, collection)
    for turn, step in enumerate(steps):
        run.take(turn, step)
    run.demand_all()


@settings(
    max_examples=36, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    collection=st.sampled_from(REMEMBERED),
    steps=STEPS,
    every=st.sampled_from([2, record_history.WHOLE_EVERY]),
)
def test_any_sequence_is_remembered_without_a_gap(
    migrated: Database, collection: Collection, steps: Any, every: int
) -> None:
    with patch.object(record_history, "WHOLE_EVERY", every):
        demand_that_it_remembers(migrated, collection, steps)
