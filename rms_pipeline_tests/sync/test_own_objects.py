"""What people add to our tables: a sync goes on, and names what it had to leave out."""

from collections.abc import Callable, Iterator

import psycopg2
import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror import database as databases
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.deletions import GUARDED_COUNT, move_to_deleted
from rms_pipeline.mirror.housekeeping import purge
from rms_pipeline.mirror.postgres_errors import LockedError
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.redecode import redecode
from rms_pipeline.sandbox import Store
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import MakeClient, Mirror, mirrors_in
from rms_pipeline_tests.sync.test_queued import tell, work
from rms_pipeline_tests.test_sync import ids_in

pytestmark = pytest.mark.slow

MirrorOf = Callable[[Store], Mirror]


@pytest.fixture
def mirror_of(database: Database, client_for: MakeClient) -> Iterator[Callable[..., Mirror]]:
    """In a database of its own, which these tests change."""
    with mirrors_in(database, client_for) as make:
        yield make


REFUSE = """
CREATE FUNCTION people_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF new.id = {id} THEN {refusal}; END IF; RETURN new; END $$;
CREATE TRIGGER people_refuse BEFORE INSERT OR UPDATE ON opportunities
  FOR EACH ROW EXECUTE FUNCTION people_refuse()"""

# Fires when the transaction commits, after all that it wrote.
AT_COMMIT = """
CREATE FUNCTION people_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF coalesce(new.id, old.id) = {id} THEN {refusal}; END IF; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER people_refuse AFTER {events} ON opportunities
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION people_refuse()"""
LATE = "RAISE EXCEPTION 'not at the end of the day'"


ADDED = [
    "CREATE TABLE crew (id bigint PRIMARY KEY, opportunity_id bigint"
    " REFERENCES opportunities (id))",
    "ALTER TABLE opportunities ADD COLUMN depot text NOT NULL DEFAULT ''",
    "ALTER TABLE opportunities ADD COLUMN is_large boolean GENERATED ALWAYS AS"
    " (charge_total > 1000) STORED",
    "CREATE VIEW mine AS SELECT id, name FROM opportunities",
    "CREATE MATERIALIZED VIEW mine AS SELECT * FROM opportunities",
    "CREATE TABLE log (id bigint); CREATE RULE log AS ON UPDATE TO opportunities DO ALSO"
    " INSERT INTO log VALUES (new.id); CREATE RULE gone AS ON DELETE TO opportunities DO ALSO"
    " INSERT INTO log VALUES (old.id)",
    "ALTER TABLE opportunities ENABLE ROW LEVEL SECURITY",
    "CREATE INDEX ON opportunities (lower(name)); ALTER TABLE opportunities CLUSTER ON"
    " opportunities_pkey",
    "ALTER TABLE opportunities ADD CHECK (id > 0), ALTER COLUMN subject SET STORAGE EXTERNAL",
    "CREATE PUBLICATION all_of_it FOR ALL TABLES",
    "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM 1; RETURN"
    " NULL; END $$; CREATE TRIGGER shout AFTER INSERT OR UPDATE OR DELETE ON opportunities"
    " FOR EACH STATEMENT EXECUTE FUNCTION shout()",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    # A reference, a column, a rule, a policy and a trigger.
    some_in_drills(ADDED, [ADDED[n] for n in (0, 2, 5, 6, 10)].__contains__),
)
def test_what_is_only_added_costs_nothing(mirror_of: MirrorOf, statement: str) -> None:
    mirror = mirror_of(Store(20))
    query(mirror.database, statement)
    mirror.full_sync()
    ids = mirror.store.ids()
    mirror.store.edit(ids[1], {"subject": "Edited"})
    mirror.store.delete(ids[2])
    mirror.incremental_sync()
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert (done.merged.result.failed, mirror.deleted()) == (0, {ids[2]})
    assert query(mirror.database, "SELECT problem FROM sync_faults") == []


REFUSED = [
    (REFUSE.format(id="{id}", refusal="RAISE EXCEPTION 'not on a Friday'"), "not on a Friday"),
    (
        REFUSE.format(id="{id}", refusal="RAISE EXCEPTION 'mine' USING ERRCODE = 'MY001'"),
        "mine",
    ),
    (
        REFUSE.format(id="{id}", refusal="RAISE 'not here' USING ERRCODE = '0A000'"),
        "not here",
    ),
    (REFUSE.format(id="{id}", refusal="PERFORM currval('walks_id_seq')"), "not yet defined"),
    (REFUSE.format(id="{id}", refusal="PERFORM no_such_function()"), "no_such_function"),
    (REFUSE.format(id="{id}", refusal="PERFORM 1/0"), "division by zero"),
    (REFUSE.format(id="{id}", refusal="RETURN NULL"), "discarded the row"),
    ("ALTER TABLE opportunities ADD CHECK (id <> {id})", "violates check constraint"),
    (
        "ALTER TABLE opportunities ADD COLUMN key bigint GENERATED ALWAYS AS"
        " (nullif(id, {id})) STORED NOT NULL",
        "null value in column",
    ),
    (
        "CREATE UNIQUE INDEX ON opportunities ((CASE WHEN id IN ({id}, {other}) THEN 1 END))",
        "duplicate key value",
    ),
    (
        "ALTER TABLE opportunities ADD EXCLUDE USING btree"
        " ((CASE WHEN id IN ({id}, {other}) THEN 1 END) WITH =)",
        "conflicting key value",
    ),
    (
        "CREATE TABLE allowed (id bigint PRIMARY KEY); INSERT INTO allowed SELECT"
        " generate_series(1, 100000) EXCEPT SELECT {id}; ALTER TABLE opportunities ADD FOREIGN"
        " KEY (id) REFERENCES allowed DEFERRABLE INITIALLY DEFERRED",
        "violates foreign key constraint",
    ),
    (
        "ALTER TABLE opportunities ADD COLUMN one bigint GENERATED ALWAYS AS (CASE WHEN id IN"
        " ({id}, {other}) THEN 1 ELSE -id END) STORED;"
        " ALTER TABLE opportunities ADD UNIQUE (one) DEFERRABLE INITIALLY DEFERRED",
        "duplicate key value",
    ),
    (AT_COMMIT.format(id="{id}", refusal=LATE, events="INSERT"), "at the end of the day"),
    (
        AT_COMMIT.format(id="{id}", refusal="PERFORM no_such_function()", events="INSERT"),
        "no_such_function",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refusal", "told"),
    # By a trigger in two ways, and by constraints, each at once and at the end.
    some_in_drills(REFUSED, [REFUSED[n] for n in (0, 6, 7, 9, 12, 13)].__contains__),
)
def test_a_row_that_the_database_refuses_costs_only_itself_and_is_named(
    mirror_of: MirrorOf, refusal: str, told: str
) -> None:
    mirror = mirror_of(Store(20))
    other, refused = ids_in(mirror.store, mirror.window)[3:5]
    query(mirror.database, refusal.replace("{id}", str(refused)).replace("{other}", str(other)))
    done = mirror.full_sync()
    there = set(mirror.rows())
    missing = set(mirror.store.ids()) & {refused, other} - there
    assert len(missing) == 1
    assert done.merged.result.failed >= 1
    assert set(mirror.differences()) == missing
    faults = query(mirror.database, "SELECT opportunity_id, problem FROM sync_faults")
    assert {id_ for id_, _ in faults} == missing
    assert all(told in problem for _, problem in faults)


@pytest.mark.parametrize(
    ("when", "refusal"),
    [
        (REFUSE, "RAISE EXCEPTION 'locked by the office'"),
        (REFUSE, "RETURN NULL"),
        (AT_COMMIT, LATE),
    ],
)
def test_an_edit_that_a_trigger_refuses_is_named_and_tried_again(
    mirror_of: MirrorOf, when: str, refusal: str
) -> None:
    mirror = mirror_of(Store(20))
    mirror.full_sync()
    first, second, third = ids_in(mirror.store, mirror.window)[:3]
    query(mirror.database, when.format(id=second, refusal=refusal, events="UPDATE"))
    for id_ in (first, second, third):
        mirror.store.edit(id_, {"subject": f"Edited {id_}"})
    _, merged = mirror.incremental_sync()
    assert (merged.result.updated, merged.result.failed) == (2, 1)
    assert set(mirror.differences()) == {second}
    named = "SELECT DISTINCT opportunity_id FROM sync_faults"
    assert query(mirror.database, named) == [(second,)]
    query(mirror.database, "DROP TRIGGER people_refuse ON opportunities")
    mirror.full_sync()
    assert mirror.differences() == {}


KEPT = [
    (
        "CREATE TABLE crew (opportunity_id bigint REFERENCES opportunities (id));"
        " INSERT INTO crew VALUES ({id})",
        'still referenced from table "crew"',
    ),
    (
        "CREATE TABLE crew (opportunity_id bigint REFERENCES opportunities (id) DEFERRABLE"
        " INITIALLY DEFERRED); INSERT INTO crew VALUES ({id})",
        'still referenced from table "crew"',
    ),
    (
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF old.id = {id}"
        " THEN RAISE EXCEPTION 'invoiced'; END IF; RETURN old; END $$; CREATE TRIGGER keep"
        " BEFORE DELETE ON opportunities FOR EACH ROW EXECUTE FUNCTION keep()",
        "invoiced",
    ),
    (
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF old.id = {id}"
        " THEN RETURN NULL; END IF; RETURN old; END $$; CREATE TRIGGER keep"
        " BEFORE DELETE ON opportunities FOR EACH ROW EXECUTE FUNCTION keep()",
        "a trigger that somebody added to the table prevents it",
    ),
    (AT_COMMIT.format(id="{id}", refusal=LATE, events="DELETE"), "at the end of the day"),
]


@pytest.mark.parametrize(
    ("statement", "told"),
    # By a reference and by triggers, at once and at the end.
    some_in_drills(KEPT, [KEPT[n] for n in (1, 3, 4)].__contains__),
)
def test_a_deletion_that_the_database_refuses_is_held_back_alone_and_said(
    mirror_of: MirrorOf, statement: str, told: str
) -> None:
    mirror = mirror_of(Store(20))
    mirror.full_sync()
    gone = ids_in(mirror.store, mirror.window)[:3]
    query(mirror.database, statement.replace("{id}", str(gone[1])))
    for id_ in gone:
        mirror.store.delete(id_)
    mirror.full_sync()
    assert mirror.deleted() == {gone[0], gone[2]}
    assert set(mirror.differences()) == {gone[1]}
    faults = query(mirror.database, "SELECT DISTINCT opportunity_id, problem FROM sync_faults")
    assert [id_ for id_, _ in faults] == [gone[1]]
    assert faults[0][1].startswith(
        "no longer exists in Current RMS, but its row cannot be deleted: "
    )
    assert told in faults[0][1]


def test_a_certificate_is_shown_beside_an_edit_that_a_constraint_refuses_and_names_it(
    mirror_of: MirrorOf,
) -> None:
    mirror = mirror_of(Store(20))
    mirror.full_sync()
    refused = ids_in(mirror.store, mirror.window)[4]
    query(
        mirror.database,
        f"ALTER TABLE opportunities ADD CHECK (id <> {refused} OR subject <> 'Edited') NOT VALID",
    )
    mirror.store.edit(refused, {"subject": "Edited"})
    for _ in range(2):
        assert mirror.proved_sync() is not None
        with mirror.database.session() as connection:
            told = standing(connection, OPPORTUNITIES)
        assert (told.state, "1 that cannot be stored" in told.sentence) == ("green", True)


TOLD_BY_WEBHOOK = """
CREATE FUNCTION people_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF new.id = {id} AND new.last_webhook_at IS DISTINCT FROM old.last_webhook_at THEN
    RAISE EXCEPTION 'not by webhook'; END IF; RETURN new; END $$;
CREATE {trigger} UPDATE ON opportunities {when}
  FOR EACH ROW EXECUTE FUNCTION people_refuse()"""


@pytest.mark.parametrize(
    ("trigger", "when"),
    [
        ("TRIGGER people_refuse BEFORE", ""),
        ("CONSTRAINT TRIGGER people_refuse AFTER", "DEFERRABLE INITIALLY DEFERRED"),
    ],
)
def test_a_row_that_takes_no_mark_of_its_webhook_costs_no_other_its_own(
    mirror_of: MirrorOf, trigger: str, when: str
) -> None:
    mirror = mirror_of(Store(20))
    mirror.full_sync()
    ids = ids_in(mirror.store, mirror.window)[:4]
    query(mirror.database, TOLD_BY_WEBHOOK.format(id=ids[1], trigger=trigger, when=when))
    for id_ in ids:
        mirror.store.edit(id_, {"subject": f"Edited {id_}"})
    tell(mirror, *ids)
    done = work(mirror)
    assert (done.settled, done.failed) == (4, 0)
    assert mirror.differences() == {}
    marked = "SELECT id FROM opportunities WHERE last_webhook_at IS NOT NULL ORDER BY id"
    assert query(mirror.database, marked) == [(i,) for i in ids if i != ids[1]]


@pytest.mark.slow
def test_a_row_that_cannot_be_held_back_does_not_let_the_others_of_a_multitude_go(
    mirror_of: MirrorOf,
) -> None:
    mirror = mirror_of(Store(80))
    mirror.full_sync()
    gone = [i for i in mirror.store.ids() if i in mirror.rows()][: GUARDED_COUNT + 8]
    query(mirror.database, REFUSE.format(id=gone[3], refusal="RAISE EXCEPTION 'locked'"))
    now = mirror.database.clock()()
    with mirror.database.session() as connection:
        removal = move_to_deleted(
            connection, OPPORTUNITIES, dict.fromkeys(gone, (now, now)), "gone", "run"
        )
    assert removal.gone == []
    assert sorted(removal.held + removal.kept) == gone
    assert mirror.deleted() == set()


def test_a_page_that_the_table_does_not_take_ends_the_sync_before_anything_is_missed(
    mirror_of: MirrorOf,
) -> None:
    mirror = mirror_of(Store(20))
    mirror.full_sync()
    query(mirror.database, "CREATE RULE none AS ON INSERT TO raw_rms_pages DO INSTEAD NOTHING")
    mirror.store.edit(ids_in(mirror.store, mirror.window)[1], {"subject": "Edited"})
    with pytest.raises(DatabaseError, match="raw_rms_pages did not store a page"):
        mirror.incremental_sync()


@pytest.mark.parametrize("when", [REFUSE, AT_COMMIT])
def test_rows_are_made_again_around_one_that_a_trigger_refuses(
    mirror_of: MirrorOf, when: str
) -> None:
    mirror = mirror_of(Store(20))
    mirror.full_sync()
    refused = ids_in(mirror.store, mirror.window)[4]
    query(mirror.database, "UPDATE opportunities SET name = 'damaged'")
    late = when.format(id=refused, refusal="RAISE EXCEPTION 'locked'", events="UPDATE")
    query(mirror.database, late)
    done = redecode(mirror.database, OPPORTUNITIES, "run")
    assert (done.rows, done.failed) == (len(mirror.rows()), 1)
    assert set(mirror.differences()) == {refused}


def test_pages_to_which_other_tables_refer_stay_and_no_sync_fails(mirror_of: MirrorOf) -> None:
    mirror = mirror_of(Store(20))
    first = mirror.full_sync().landed.walk
    query(
        mirror.database,
        "CREATE TABLE seen (page bigint REFERENCES raw_rms_pages (id) DEFERRABLE INITIALLY"
        " DEFERRED); INSERT INTO seen SELECT min(id) FROM raw_rms_pages",
    )
    second = mirror.full_sync().landed.walk
    for _ in range(4):
        mirror.full_sync()
    left = "SELECT DISTINCT walk FROM raw_rms_pages ORDER BY 1"
    there = [row[0] for row in query(mirror.database, left)]
    assert first in there
    assert second not in there
    assert mirror.differences() == {}


def test_old_rows_to_which_other_tables_refer_stay_alone_and_are_counted(
    mirror_of: MirrorOf, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = mirror_of(Store(20))
    mirror.full_sync()
    tell(mirror, *ids_in(mirror.store, mirror.window)[:4])
    work(mirror)
    query(
        mirror.database,
        "UPDATE webhook_events SET received_at = now() - interval '300 days';"
        " CREATE TABLE answered (event bigint REFERENCES webhook_events (id));"
        " INSERT INTO answered SELECT min(id) FROM webhook_events;"
        " INSERT INTO sync_faults (field, problem, run, seen_at) VALUES"
        " ('id', 'old', 'r', now() - interval '300 days')",
    )
    with mirror.database.session() as connection:
        gone = purge(connection, faults_days=90, webhook_events_days=90, walks_days=90)
    assert (gone["webhook_events"], gone["webhook_events_kept"], gone["sync_faults"]) == (3, 1, 1)
    assert "webhook_events stay" in caplog.text
    assert 'still referenced from table "answered"' in caplog.text
    left = "SELECT id = (SELECT event FROM answered) FROM webhook_events"
    assert query(mirror.database, left) == [(True,)]


def test_a_policy_that_hides_rows_is_refused_in_a_sentence(mirror_of: MirrorOf) -> None:
    mirror = mirror_of(Store(5))
    mirror.full_sync()
    role = "rms_hidden_from"
    query(
        mirror.database,
        f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN;"
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};"
        "ALTER TABLE opportunities ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY few ON opportunities TO {role} USING (id < 0)",
    )
    try:
        url = mirror.database.url.get_secret_value().replace("//postgres:@", f"//{role}:@")
        other = database_at(url)
        with pytest.raises(DatabaseError, match=r"row-level security hides rows.*BYPASSRLS"):
            query(other, "SELECT * FROM opportunities")
    finally:
        query(mirror.database, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_sync_waits_for_somebodys_lock_within_bounds_and_goes_on_from_its_pages(
    mirror_of: MirrorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of(Store(20))
    monkeypatch.setattr(databases, "LOCK_WAIT", "300ms")
    holder = psycopg2.connect(mirror.database.url.get_secret_value(), application_name="office")
    with holder.cursor() as cursor:
        cursor.execute("LOCK opportunities IN EXCLUSIVE MODE")
    told = rf"process {holder.info.backend_pid} \(user postgres, office"
    with pytest.raises(LockedError, match=told):
        mirror.full_sync()
    holder.close()
    assert query(mirror.database, "SELECT count(*) > 0 FROM raw_rms_pages") == [(True,)]
    mirror.full_sync()
    assert mirror.differences() == {}
