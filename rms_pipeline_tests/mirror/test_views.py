"""Views of files: made, replaced in place where that can be, and never somebody else's."""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest

from rms_pipeline.mirror import views as made
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.schema import migrate
from rms_pipeline_tests.rows import query

# Of each view: its version, and what stands for its text.
TEXTS = {
    "conversions": (3, "d72592c77a4e1187"),
    "customer_names": (2, "121c2b6d1cae8bdc"),
    "customer_value": (5, "5f2bcc76debd27e2"),
    "daily_status_counts_with_money": (1, "18e034c58e711cad"),
    "daily_status_counts_without_money": (1, "324e81f09f66cde2"),
    "decisions": (3, "89b16e8971c74729"),
    "funnel": (2, "102cddb7d0bbbc1a"),
    "hire_days": (3, "cb256af9b56fbbc7"),
    "invoices_with_money": (2, "d23a18014f54e8bc"),
    "invoices_without_money": (3, "8dc8239f6866e170"),
    "members_with_money": (2, "587a93881b4353f2"),
    "members_without_money": (3, "3de81ff1600071c4"),
    "month_value": (4, "4012d78017733c7a"),
    "opportunities_with_money": (2, "86eecff88d19951d"),
    "opportunities_without_money": (3, "84c6210809fa41d1"),
    "opportunity_changes_with_money": (2, "6890835501c84013"),
    "opportunity_changes_without_money": (2, "69c267ee02dd0650"),
    "opportunity_fields_with_money": (1, "90c37ef40eaf182d"),
    "opportunity_items_with_money": (2, "f1ed54dea6bd9e2a"),
    "opportunity_items_without_money": (3, "a26701ef63b04c67"),
    "owner_names": (2, "335ce8b0e5a23a2b"),
    "sense_checks": (3, "40595f03ef011a23"),
    "sense_checks_without_money": (2, "605eb803e0bc0840"),
    "status_phases": (1, "de092b726bdf2c1c"),
    "venue_names": (2, "4e36e477f958d081"),
    "venue_overlaps": (2, "8fe7a615832acc40"),
}
BELOW = "-- version {}.\nCREATE OR REPLACE VIEW rms_below AS SELECT {} FROM statuses;\n"
ABOVE = "-- version 1.\nCREATE OR REPLACE VIEW rms_above AS SELECT name FROM rms_below;\n"
READERS = ("rms_test_reader", "rms_test_other")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the views are for this test: one, and another that is built on it."""
    monkeypatch.setattr(made, "FOLDER", tmp_path)
    write(tmp_path, BELOW.format(1, "name, phase"))
    (tmp_path / "rms_above.sql").write_text(ABOVE)
    made.views.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    made.views.cache_clear()


@pytest.fixture
def readers(database: Database) -> Iterator[None]:
    for role in READERS:
        query(database, f"CREATE ROLE {role}")
    yield
    for role in READERS:
        query(database, f"DROP OWNED BY {role}; DROP ROLE {role}")


def write(folder: Path, text: str) -> None:
    (folder / "rms_below.sql").write_text(text)
    made.views.cache_clear()


def columns(database: Database, view: str = "rms_below") -> list[str]:
    return [
        name
        for (name,) in query(
            database,
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0"
            " ORDER BY attnum",
            view,
        )
    ]


def oid_of(database: Database, view: str) -> int:
    return int(query(database, "SELECT to_regclass(%s)::oid", view)[0][0])


def test_the_text_of_a_view_has_a_higher_version_whenever_it_changes() -> None:
    told = {
        view.name: (view.version, blake2b(view.text.encode(), digest_size=8).hexdigest())
        for view in made.views()
    }
    assert told == TEXTS, "raise the version in its first line, and note both here"


def test_a_view_comes_after_those_that_it_reads(folder: Path) -> None:
    assert [view.name for view in made.views()] == ["rms_below", "rms_above"]
    # What is only spoken of is not read.
    write(folder, "-- version 1.\n-- See rms_above.\n" + BELOW.format(1, "'rms_above' AS a, name"))
    assert [view.name for view in made.views()] == ["rms_below", "rms_above"]


def test_a_file_without_a_version_is_a_mistake(folder: Path) -> None:
    write(folder, "CREATE VIEW rms_below AS SELECT 1;")
    with pytest.raises(ValueError, match=r"rms_below\.sql does not begin with its version"):
        made.views()


def test_a_view_that_is_as_it_should_be_is_left_alone(database: Database, folder: Path) -> None:
    migrate(database)
    seen = query(database, "SELECT xmin::text FROM pg_class WHERE relname = 'rms_below'")
    migrate(database)
    assert seen == query(database, "SELECT xmin::text FROM pg_class WHERE relname = 'rms_below'")


def test_a_view_that_gains_a_column_keeps_its_rights_and_what_is_built_on_it(
    database: Database, folder: Path, readers: None
) -> None:
    migrate(database)
    query(database, "GRANT SELECT ON rms_below TO rms_test_reader")
    query(database, "CREATE VIEW peoples AS SELECT phase FROM rms_below")
    write(folder, BELOW.format(2, "name, phase, sort"))
    oid = oid_of(database, "rms_below")
    migrate(database)
    assert oid_of(database, "rms_below") == oid
    assert columns(database) == ["name", "phase", "sort"]
    assert columns(database, "peoples") == ["phase"]


def test_a_view_that_is_made_anew_has_the_rights_of_before_and_so_has_what_reads_it(
    database: Database, folder: Path, readers: None
) -> None:
    migrate(database)
    query(
        database,
        "GRANT SELECT ON rms_below TO rms_test_reader;"
        "GRANT SELECT (phase, name) ON rms_below TO rms_test_other;"
        "GRANT SELECT ON rms_above TO rms_test_other WITH GRANT OPTION",
    )
    query(database, "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO rms_test_other")
    write(folder, BELOW.format(2, "sort AS name, phase"))
    migrate(database)
    rights = (
        "SELECT has_table_privilege(%(role)s, 'rms_below', 'SELECT'),"
        " has_column_privilege(%(role)s, 'rms_below', 'phase', 'SELECT'),"
        " has_table_privilege(%(role)s, 'rms_above', 'SELECT'),"
        " has_table_privilege(%(role)s, 'rms_above', 'SELECT WITH GRANT OPTION')"
    )

    def of(role: str) -> list[tuple[object, ...]]:
        return query(database, rights.replace("%(role)s", f"'{role}'"))

    assert of("rms_test_reader") == [(True, True, False, False)]
    assert of("rms_test_other") == [(False, True, True, True)]
    assert query(database, "SELECT max(name) FROM rms_above") == [(90,)]


def test_whatever_people_built_on_a_view_that_must_be_made_anew_is_named_and_stays(
    database: Database, folder: Path
) -> None:
    migrate(database)
    query(database, "CREATE VIEW peoples AS SELECT name FROM rms_above")
    write(folder, BELOW.format(2, "sort AS name, phase"))
    with pytest.raises(DatabaseError) as error:
        migrate(database)
    assert "view peoples depends on view rms_above" in str(error.value)
    assert "run `rms-pipeline migrate`, and create them again" in str(error.value)
    assert columns(database, "peoples") == ["name"]
    assert columns(database) == ["name", "phase"]
    query(database, "DROP VIEW peoples")
    migrate(database)
    assert query(database, "SELECT max(name) FROM rms_above") == [(90,)]


def test_a_view_that_somebody_changed_or_dropped_comes_back(
    database: Database, folder: Path
) -> None:
    migrate(database)
    query(database, "CREATE OR REPLACE VIEW rms_below AS SELECT phase AS name, name AS phase"
                    " FROM statuses")  # fmt: skip
    query(database, "DROP VIEW rms_above")
    migrate(database)
    assert query(database, "SELECT name FROM rms_above WHERE name = 'Lost'") == [("Lost",)]


def test_what_a_newer_version_made_stays(database: Database, folder: Path) -> None:
    write(folder, BELOW.format(3, "name, phase, sort"))
    migrate(database)
    write(folder, BELOW.format(2, "name, phase"))
    migrate(database)
    assert columns(database) == ["name", "phase", "sort"]


@pytest.mark.parametrize(
    ("theirs", "kind"),
    [
        ("CREATE VIEW rms_below AS SELECT 7 AS seven", "v"),
        ("CREATE TABLE rms_below AS SELECT 7 AS seven", "r"),
        ("CREATE MATERIALIZED VIEW rms_below AS SELECT 7 AS seven", "m"),
    ],
)
def test_what_others_called_so_before_is_set_aside_whole(
    database: Database, folder: Path, theirs: str, kind: str
) -> None:
    query(database, theirs)
    query(database, "CREATE VIEW peoples AS SELECT seven FROM rms_below")
    query(database, "CREATE TABLE rms_below_before_rms_pipeline (taken text)")
    migrate(database)
    assert columns(database) == ["name", "phase"]
    assert query(database, "SELECT seven FROM rms_below_before_rms_pipeline2") == [(7,)]
    assert query(database, "SELECT seven FROM peoples") == [(7,)]
    assert query(
        database, "SELECT relkind FROM pg_class WHERE relname = 'rms_below_before_rms_pipeline2'"
    ) == [(kind,)]


def test_what_is_called_so_and_can_be_no_view_is_named(database: Database, folder: Path) -> None:
    query(database, "CREATE SEQUENCE rms_below")
    with pytest.raises(DatabaseError, match="neither a table nor a view has the name rms_below"):
        migrate(database)
