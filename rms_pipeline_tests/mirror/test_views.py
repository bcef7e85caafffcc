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
    "conversions": (4, "111a7b78fa30f7b3"),
    "customer_names": (2, "18d741a6b6862831"),
    "customer_value": (6, "1813ecaccd5b6702"),
    "daily_status_counts_with_money": (2, "6655ee6ef6dfd16b"),
    "daily_status_counts_without_money": (2, "429f07758618b518"),
    "decisions": (4, "c1b5cf61ff7a58e4"),
    "funnel": (4, "160f231bc2ea92f6"),
    "hire_days": (4, "0af20df7ed4fb021"),
    "invoices_with_money": (4, "51a620fe0da07114"),
    "invoices_without_money": (5, "733032ce78f837fc"),
    "members_with_money": (4, "b4a46c73aad3eff0"),
    "members_without_money": (4, "3f78aaf396b4297f"),
    "month_value": (5, "eea3afbc55936403"),
    "opportunities_with_money": (4, "397c654a3cf30f23"),
    "opportunities_without_money": (4, "583b9597427c41ff"),
    "opportunity_changes_with_money": (2, "0b0f96e657991e42"),
    "opportunity_changes_without_money": (2, "1f9151093951f4db"),
    "opportunity_fields_with_money": (2, "81a9e35f640c9713"),
    "opportunity_items_with_money": (4, "fa7bacda0fe9db15"),
    "opportunity_items_without_money": (5, "36ab561261da2431"),
    "owner_names": (2, "3ca51da35b741958"),
    "sense_checks": (8, "5673fb9a86d592da"),
    "sense_checks_without_money": (4, "04f8fda169e8f1da"),
    "status_phases": (2, "70d579a77211da6c"),
    "venue_names": (2, "cc2a8ac496dc4706"),
    "venue_overlaps": (3, "83c39243ffc646ac"),
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
    assert "view peoples depends on view rms_above. Drop those" in str(error.value)
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
