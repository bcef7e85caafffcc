"""The two roles: each signs in and tries everything that there is."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn
from typer.testing import CliRunner

from rms_pipeline.cli.main import app
from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.collections.opportunity_items import OPPORTUNITY_ITEMS
from rms_pipeline.insight.readers import WITH_MONEY, WITHOUT_MONEY, statements
from rms_pipeline.mirror import views as made
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.promoted import Promoted, promote
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.settings import settings
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.insight.test_questions import questions
from rms_pipeline_tests.rows import insert, insert_opportunities, query

ROLES = ("rms_test_with_money", "rms_test 'without' money")
# In no id, date or count.
AMOUNT = "918273.64"
NOW = datetime.now(UTC)
# What the views of a table have besides its columns, and which of its texts may hold amounts.
MADE = {
    OPPORTUNITIES: {"phase"},
    MEMBERS: set[str](),
    INVOICES: {"invoice_type_name", "status_name"},
    OPPORTUNITY_ITEMS: {"product_name"},
}
TYPED = {
    OPPORTUNITIES: {"name", "subject", "description", "reference", "invoiced"},
    MEMBERS: {"title", "department", "description"},
    INVOICES: {"subject"},
    OPPORTUNITY_ITEMS: {"name", "description"},
}
# The columns of type numeric that are no amounts.
NUMBERS = {"weight_total", "weight", "quantity", "chargeable_days"}
# The latter of a view that nobody can write to.
REFUSED = (
    psycopg2.errors.InsufficientPrivilege,
    psycopg2.errors.ObjectNotInPrerequisiteState,
)


@pytest.fixture
def granted(ready_url: str) -> Iterator[Database]:
    """A mirror with the roles; each amount in it, and each text that people type, is AMOUNT. A
    field with an amount got its column after the roles were made, and an upgrade followed."""
    database = database_at(ready_url)
    fill(database)
    make_roles(database)
    with database.session() as connection:
        promote(connection, OPPORTUNITIES, Promoted("po", "po", "numeric"))
    migrate(database)
    yield database
    for role in ROLES:
        query(database, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def make_roles(database: Database) -> str:
    """What PostgreSQL said besides."""
    connection = psycopg2.connect(database.url.get_secret_value())
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statements("public", *ROLES))
    told = "".join(connection.notices)
    connection.close()
    return told


def fill(database: Database) -> None:
    money = {
        c.name: AMOUNT
        for c in OPPORTUNITIES.columns
        if c.kind == "numeric" and c.is_mapped and c.name not in NUMBERS
    }
    typed = dict.fromkeys(("name", "subject", "description", "reference"), f"for {AMOUNT}")
    own: dict[str, Any] = {"custom_fields": {"po": AMOUNT}, "data": {"charge_total": AMOUNT}}
    row = money | typed | own | {"tags": [AMOUNT], "venue_id": 1, "opportunity_status": "Active"}
    row |= {"starts_at": NOW - timedelta(days=2), "ends_at": NOW + timedelta(days=2)}
    row |= {"confirmed_at": NOW - timedelta(days=5), "number": "N-1", "owner_name": "Ann"}
    insert_opportunities(
        database,
        row,
        row | {"charge_total": 1},
        row | {"charge_total": 0, "ends_at": NOW - timedelta(days=1)},
    )
    insert(database, "required_fields", [{"field": "custom_fields.none"}])
    deleted = row | {"id": 9, "deleted_at": NOW, "deleted_because": AMOUNT}
    insert(database, "deleted_opportunities", [deleted])
    fill_others(database)
    insert(database, "opportunity_changes", changed())
    counted = {"day": NOW.date(), "opportunity_status": "Active", "phase": "confirmed"}
    counted |= {"opportunities": 3, "charge_total": AMOUNT, "total_value": AMOUNT}
    insert(database, "daily_status_counts", [counted])


def changed() -> list[dict[str, Any]]:
    """A change of each column of opportunities and of a custom field: of those that are times or
    texts nobody types at will the values are other ones than AMOUNT."""
    shown = {"opportunity_status", "number", "state_name", "owner_name", "venue_name"}
    shown |= {"organisation_name", "rating", "open_ended_rental", *NUMBERS}
    change = {"opportunity_id": 1, "seen_at": NOW}
    columns = [c for c in OPPORTUNITIES.columns if c.is_mapped and c.kind != "jsonb"]
    plain = [c.name for c in columns if c.kind == "timestamptz" or c.name in shown]
    plain += [c.name for c in columns if c.name.endswith("_id")]
    others = [c.name for c in columns if c.name not in plain] + ["custom_fields.po"]
    return [
        *(change | {"field": f, "old_value": "a", "new_value": "b"} for f in plain),
        *(change | {"field": f, "old_value": AMOUNT, "new_value": AMOUNT} for f in others),
    ]


def fill_others(database: Database) -> None:
    """A member, an invoice and an item, of which each amount and each text is AMOUNT but those that
    name them, their kind and their place."""
    named = {
        **dict.fromkeys(("id", "opportunity_id"), 1),
        **dict.fromkeys(("number", "membership_type", "status_name", "path", "item_type"), "N-1"),
        **dict.fromkeys(("street", "postcode", "city", "county", "country_name"), "Leeds"),
        **dict.fromkeys(NUMBERS, 2),
    }
    of_kind = {"text": f"for {AMOUNT}", "text[]": [AMOUNT], "jsonb": {"of": AMOUNT}}
    of_kind["numeric"] = AMOUNT
    for collection in COLLECTIONS[1:]:
        row: dict[str, Any] = {
            c.name: named.get(c.name, of_kind.get(c.kind))
            for c in collection.table
            if c.kind in of_kind or c.name in named
        }
        if collection is MEMBERS:
            row["name"] = "Harbour Events"
        row["data"] = {"charge_total": AMOUNT, "item": {"name": "LED wall tile"}}
        insert(database, collection.name, [row])


def as_role(database: Database, role: str) -> psycopg2.extensions.connection:
    """Signed in, not set to: a role that is set to could be left again."""
    told = parse_dsn(database.url.get_secret_value()) | {"user": role}
    connection: psycopg2.extensions.connection = psycopg2.connect(**told)
    connection.autocommit = True
    return connection


def tried(connection: psycopg2.extensions.connection, statement: str) -> str | None:
    """What was found, as text; None where it was not allowed."""
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement)
        except REFUSED:
            return None
        return str(cursor.fetchall() if cursor.description else [])


def relations(database: Database) -> list[str]:
    return [
        name
        for (name,) in query(
            database,
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'v', 'm', 'S', 'p', 'f') ORDER BY 1",
        )
    ]


@pytest.mark.parametrize("role", ROLES)
def test_each_role_reads_its_views_and_nothing_else_and_writes_nothing(
    granted: Database, role: str
) -> None:
    mine = WITH_MONEY if role == ROLES[0] else WITHOUT_MONEY
    connection = as_role(granted, role)
    there = relations(granted)
    assert {*mine} < {*there}
    seen = {name: tried(connection, f"SELECT * FROM {name}") for name in there}
    assert {name for name, found in seen.items() if found is not None} == {*mine}
    for name in there:
        assert tried(connection, f"DELETE FROM {name}") is None, name
        # A column alone, and a count.
        assert (tried(connection, f"SELECT count(*) FROM {name}") is not None) == (name in mine)
    for statement in (
        "CREATE TABLE mine (n int)",
        "SELECT * FROM opportunities_as_of(now())",
        "SELECT * FROM opportunity_as_of(1, now())",
        "SELECT * FROM status_counts_as_of(now())",
        "SET ROLE postgres",
        "ALTER VIEW hire_days RENAME TO mine",
        "CREATE OR REPLACE VIEW hire_days AS SELECT 1",
        "SELECT * FROM dagster.runs",
        "SELECT pg_read_file('/etc/passwd')",
    ):
        found = tried(connection, statement)
        allowed = role == ROLES[0] and "_as_of" in statement and found is not None
        assert found is None or allowed, statement
    connection.close()


def test_the_reader_without_money_sees_no_amount_wherever_it_was_typed(
    granted: Database,
) -> None:
    whole, plain = (as_role(granted, role) for role in ROLES)
    seen = {name: tried(whole, f"SELECT * FROM {name}") or "" for name in WITH_MONEY}
    assert AMOUNT in seen["opportunities_with_money"]
    shown = {name: tried(plain, f"SELECT * FROM {name}") or "" for name in WITHOUT_MONEY}
    for name, found in shown.items():
        assert found != "[]", f"nothing was there to be seen in {name}"
        assert AMOUNT not in found, name
        assert "918273" not in found, name
    assert AMOUNT in seen["opportunity_fields_with_money"]
    for name in ("members", "invoices", "opportunity_items"):
        assert AMOUNT in seen[f"{name}_with_money"], name
    assert "LED wall tile" in shown["opportunity_items_without_money"]
    assert "Harbour Events" in shown["members_without_money"]
    # That there is no charge is something of money, too.
    assert "confirmed_at_zero" in seen["sense_checks"]
    assert "confirmed_at_zero" not in shown["sense_checks_without_money"]
    assert "costs_above_charge" not in shown["sense_checks_without_money"]
    assert "late_back" in shown["sense_checks_without_money"]
    # What PostgreSQL itself knows of the values.
    assert tried(plain, "SELECT * FROM pg_stats WHERE schemaname = 'public'") == "[]"
    whole.close()
    plain.close()


def test_the_reader_without_money_sees_changes_and_days_without_amounts(granted: Database) -> None:
    whole, plain = (as_role(granted, role) for role in ROLES)
    seen = "SELECT field, old_value, new_value FROM opportunity_changes_{}_money ORDER BY 1, 2"
    every = sorted((c["field"], c["old_value"], c["new_value"]) for c in changed())
    assert tried(whole, seen.format("with")) == str(every)
    shown = [c for c in every if c[0] not in ("updated_at_rms",) and AMOUNT not in c]
    assert tried(plain, seen.format("without")) == str(shown)
    assert {("starts_at", "a", "b"), ("opportunity_status", "a", "b")} < {*shown}
    days = "SELECT opportunity_status, phase, opportunities{} FROM daily_status_counts_{}_money"
    assert tried(plain, days.format("", "without")) == "[('Active', 'confirmed', 3)]"
    assert AMOUNT in (tried(whole, days.format(", charge_total", "with")) or "")
    for name in ("opportunity_history", "member_history", "opportunity_item_history"):
        assert tried(whole, f"SELECT * FROM {name}") not in (None, "[]"), name
    # The function itself answers, and not the rights.
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="holds none of these yet"):
        tried(whole, "SELECT * FROM members_as_of(now())")
    for connection in (whole, plain):
        connection.close()


# What readers of views write in place of tables.
INSTEAD = {
    r"\bopportunities( o|\s+WHERE)": r"opportunities_with_money\1",
    r"\bopportunity_changes\b": "opportunity_changes_with_money",
    r"\bstatuses\b": "status_phases",
}


def test_the_reader_with_money_can_ask_the_nine_questions_of_views(granted: Database) -> None:
    query(
        granted,
        "UPDATE mirror_state SET value = '2020-01-01 00:00:00+00' WHERE name = 'history_began';"
        "INSERT INTO mirror_state (name, value) VALUES ('history_began', '2020-01-01 00:00:00+00')"
        " ON CONFLICT DO NOTHING",
    )
    whole = as_role(granted, ROLES[0])
    asked = [text for texts in questions().values() for text in texts]
    answered = 0
    for question in asked:
        text = question
        for table, view in INSTEAD.items():
            text = re.sub(table, view, text)
        if "custom_field_keys" not in text:
            assert tried(whole, text) is not None, text
            answered += 1
    assert answered == len(asked) - 1 >= 9
    whole.close()


def test_a_function_of_ones_own_is_shown_no_row_that_is_left_out(granted: Database) -> None:
    plain = as_role(granted, ROLES[1])
    tried(
        plain,
        "CREATE FUNCTION pg_temp.spy(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001"
        " AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$",
    )
    tried(plain, "SELECT * FROM sense_checks_without_money WHERE pg_temp.spy(says)")
    told = "".join(plain.notices)
    assert "its hire has ended" in told
    assert "charges nothing" not in told
    plain.close()


def test_the_rights_outlive_a_migration_that_makes_every_view_anew(granted: Database) -> None:
    def rights() -> list[tuple[Any, ...]]:
        return query(
            granted,
            "SELECT c.relname, r.rolname FROM pg_class c, aclexplode(c.relacl) a"
            " JOIN pg_roles r ON r.oid = a.grantee WHERE r.rolname = ANY(%s) ORDER BY 1, 2",
            list(ROLES),
        )

    before = rights()
    assert len(before) == len(WITH_MONEY) + len(WITHOUT_MONEY)
    for view in made.views():
        # As a version would that has to change the type of a column.
        query(granted, f"ALTER VIEW {view.name} RENAME COLUMN"
                       f" {first_column(granted, view.name)} TO other")  # fmt: skip
    migrate(granted)
    assert rights() == before


def first_column(database: Database, view: str) -> str:
    return str(
        query(
            database,
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum = 1",
            view,
        )[0][0]
    )


def test_the_sql_may_be_run_again_and_leaves_and_names_what_was_granted_besides(
    granted: Database,
) -> None:
    assert make_roles(granted) == ""
    query(
        granted,
        "CREATE VIEW of_our_own AS SELECT 1 AS n; CREATE TABLE \"Our 'notes'\" (n int);"
        f'GRANT SELECT ON of_our_own TO "{ROLES[0]}";'
        f'GRANT INSERT ON "Our \'notes\'" TO "{ROLES[0]}";'
        "GRANT SELECT (name) ON members TO PUBLIC;"
        f'GRANT SELECT ON opportunities TO "{ROLES[1]}"',
    )
    told = make_roles(granted)
    query(granted, "REVOKE SELECT (name) ON members FROM PUBLIC")
    assert [line for line in told.splitlines() if line.startswith("WARNING")] == [
        f"WARNING:  The role {role} can also read or write: {names}."
        for role, names in (
            (ROLES[0], "\"Our 'notes'\", members, of_our_own"),
            (ROLES[1], "members, opportunities"),
        )
    ]
    assert "REVOKE" in told
    whole, plain = (as_role(granted, role) for role in ROLES)
    assert tried(whole, "SELECT * FROM of_our_own") == "[(1,)]"
    assert tried(whole, "INSERT INTO \"Our 'notes'\" VALUES (1)") == "[]"
    assert tried(plain, "SELECT id FROM opportunities") is not None
    assert tried(plain, "SELECT * FROM hire_days") is not None
    for connection in (whole, plain):
        connection.close()


def test_every_view_is_for_one_of_the_readers() -> None:
    assert {view.name for view in made.views()} <= {*WITH_MONEY}
    assert len({*WITH_MONEY}) == len(WITH_MONEY)


def test_the_reader_of_views_finds_every_column_of_the_table(migrated: Database) -> None:
    def columns(name: str) -> set[str]:
        return {
            column
            for (column,) in query(
                migrated,
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0",
                name,
            )
        }

    for collection, more in MADE.items():
        table = {c.name for c in collection.table}
        whole, plain = (
            columns(f"{collection.name}_{with_}_money") for with_ in ("with", "without")
        )
        assert whole == table | more
        assert plain <= whole
        left_out = {c.name for c in collection.table if c.kind in ("numeric", "jsonb", "text[]")}
        left_out -= NUMBERS
        assert whole - plain == left_out | TYPED[collection]


def test_the_command_prints_the_sql_and_needs_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMS_SCHEMA", "acme")
    settings.cache_clear()
    done = CliRunner().invoke(app, ["roles"])
    assert done.exit_code == 0
    assert done.stdout == statements("acme", "acme_reader_with_money", "acme_reader_without_money")
    for wrong in (["--with-money", "a", "--without-money", "a"], ["--with-money", "a" * 64]):
        assert CliRunner().invoke(app, ["roles", *wrong]).exit_code == 2
    settings.cache_clear()
