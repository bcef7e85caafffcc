"""What the account's own fields hold, and the command that lists them and gives them columns."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rms_pipeline.cli.main import app
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.fields import OwnField, as_promoted, own_fields
from rms_pipeline.mirror.custom_fields import set_labels
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.promoted import Promoted, PromotionError
from rms_pipeline.settings import settings
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.rows import insert_opportunities, query

HOSTILE = 'it\'s [red]100%[/] "own" {0} %(x)s \\ :🎪'


def listed(database: Database) -> dict[str, OwnField]:
    with database.session() as connection:
        return {field.key: field for field in own_fields(connection, OPPORTUNITIES)}


def fill(database: Database, *values: Any, key: str = "f") -> None:
    insert_opportunities(database, *({"custom_fields": {key: value}} for value in values))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("boolean", ["Yes", "", "No", None]),
        ("boolean", ["Yes", "1", "0"]),
        ("boolean", [True]),
        # A rating that nobody has given more than one yet.
        ("numeric", ["1", "", "0"]),
        ("bigint", [101, 102, None, ""]),
        ("numeric", ["4.50", "12", 7]),
        ("text", ["0123 456", "+44 20"]),
        ("text", ["0123", "0456"]),
        ("date", ["2026-06-01", "2026-06-02"]),
        ("timestamptz", ["2026-06-01T10:00:00.000Z", "2026-06-02"]),
        ("time", ["09:30", "10:00"]),
        ("bigint[]", [[1, 2], [], [3]]),
        ("text[]", [["a"], [1]]),
        ("text", ["4.50", "four"]),
        ("text", ["", None, "  ", []]),
        ("text", ["Yes", 3]),
    ],
)
def test_the_kind_of_a_field_is_what_all_its_values_can_be_read_as(
    emptied: Database, kind: str, values: list[Any]
) -> None:
    fill(emptied, *values)
    assert listed(emptied)["f"].kind == kind


def test_a_field_is_told_with_the_share_that_is_filled_and_its_most_frequent_values(
    emptied: Database,
) -> None:
    fill(emptied, 101, 101, 102, "", None, "x" * 100)
    query(emptied, "UPDATE opportunities SET custom_fields = '[1]' WHERE id = 5")
    with emptied.session() as connection:
        set_labels(connection, OPPORTUNITIES, "f", {"101": "Website", "103": "Phone"})
    found = listed(emptied)
    assert list(found) == ["f"]
    field = found["f"]
    assert (field.filled, field.share, field.distinct) == (4, 0.6667, 3)
    assert field.examples == ["101 (Website)", "x" * 60, "102"]
    assert (field.column, field.first_seen_at) == (None, None)
    with emptied.session() as connection:
        set_labels(connection, OPPORTUNITIES, "f", {"101": ""})
    assert listed(emptied)["f"].examples[0] == "101"


def test_an_account_without_fields_of_its_own_has_none(emptied: Database) -> None:
    assert listed(emptied) == {}
    insert_opportunities(emptied, {"custom_fields": {}}, {})
    assert listed(emptied) == {}


def test_key_and_kind_are_read_from_behind() -> None:
    assert as_promoted("a:b: c:numeric", "abc") == Promoted("a:b: c", "abc", "numeric")
    assert as_promoted("risk:Bigint[]", None) == Promoted("risk", "risk", "bigint[]")
    for text in ("risk", ":numeric", ""):
        with pytest.raises(PromotionError, match="does not say key and kind"):
            as_promoted(text, None)


@pytest.fixture
def mirror(ready_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("POSTGRES_URL", ready_url)
    monkeypatch.setenv("POSTGRES_URL_NON_POOLING", ready_url)
    settings.cache_clear()
    yield database_at(ready_url)
    settings.cache_clear()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["fields", *words])


def test_the_command_lists_promotes_labels_and_demotes(mirror: Database) -> None:
    assert "No opportunity has a custom field" in run().stdout
    insert_opportunities(
        mirror,
        {"custom_fields": {"risk_score": "4.5", HOSTILE: "[b]"}},
        {"custom_fields": {"risk_score": "high", HOSTILE: ""}},
    )
    done = run("promote", "risk_score:numeric")
    assert done.exit_code == 0
    said = " ".join(done.stdout.split())
    assert "opportunity_fields.risk_score (numeric) is filled in 1 of 2 rows." in said
    assert "1 values cannot be read as numeric: SELECT * FROM sync_faults" in said
    assert query(mirror, "SELECT field, problem, raw_value, run FROM sync_faults") == [
        ("custom_fields.risk_score", "cannot be read as numeric", "high",
         "promote risk_score:numeric")
    ]  # fmt: skip
    assert run("label", "risk_score", "4.5=Middle").exit_code == 0
    assert run("promote", f"{HOSTILE}:text", "--as", "hostile").exit_code == 0
    shown = json.loads(run("--json").stdout)["fields"]
    assert [
        (f["key"], f["kind"], f["share"], f["column"], f["column_kind"], f["examples"])
        for f in shown
    ] == [
        (HOSTILE, "text", 0.5, "hostile", "text", ["[b]"]),
        ("risk_score", "text", 1.0, "risk_score", "numeric", ["4.5 (Middle)", "high"]),
    ]
    assert "risk_score" in run().stdout
    for key in ("risk_score", HOSTILE):
        assert run("demote", key).exit_code == 0
    assert query(mirror, "SELECT count(*) FROM promoted_fields") == [(0,)]


def test_the_command_says_what_is_wrong_and_what_to_do(mirror: Database) -> None:
    insert_opportunities(mirror, {"custom_fields": {"risk_score": "4.5"}})
    for words, told in (
        (["promote", "risk_scor:numeric"], "Did you mean 'risk_score'"),
        (["promote", "zzz:numeric"], "No record has a custom field 'zzz'"),
        (["promote", "risk_score:text", "--as", "select"], "--as own_select"),
        (["demote", "risk_score"], "has no column"),
        (["label", "zzz", "1=One"], "No record has a custom field"),
    ):
        done = run(*words)
        # The command's own `main` turns these into a sentence and exit code 1.
        assert isinstance(done.exception, PromotionError), words
        assert told in str(done.exception), words
    for words, told in (
        (["promote", "risk_score:money"], "money is not a kind of column"),
        (["promote", "zzz:money"], "money is not a kind of column"),
        (["promote", "risk_score"], "does not say key and kind"),
        (["label", "risk_score", "One"], "is not of the form VALUE=LABEL"),
    ):
        done = run(*words)
        assert done.exit_code == 2, words
        assert told in " ".join(done.output.replace("│", " ").split()), words
    assert query(mirror, "SELECT count(*) FROM promoted_fields") == [(0,)]


ODD_KEYS: dict[str, Any] = {
    "it's": "1", 'say "hi"': 2, " lead": "3", "trail ": "4", "k" * 200: "5", "K" * 200: "6",
    "select": "7", "Risk": "8", "risk": "9", "prüfung": "10", "🎪": "11", "a:b": "12", "-x": "13",
    "%s": "14", "{0}": "15", "ctid": "16", "opportunity_id": "17", "tab\tkey": "18",
    "new\nline": "19", "x\\y": "20", "\x1b[2J": "21", "$1": "22",
}  # fmt: skip


def test_fields_with_any_names_get_and_lose_columns_without_changing_one_another(
    mirror: Database,
) -> None:
    nested = {"nested": {"a": {"b": 1}}, "list": ["a", 1], "none": None, "empty": ""}
    insert_opportunities(mirror, {"custom_fields": ODD_KEYS | nested}, {"custom_fields": nested})
    assert {*listed(mirror)} == {*ODD_KEYS, *nested}
    for n, key in enumerate(ODD_KEYS):
        done = run("promote", "--as", f"c{n}", "--", f"{key}:bigint")
        assert (done.exit_code, "\x1b" in done.output) == (0, False), (key, done.output)
    values = [int(value) for value in ODD_KEYS.values()]
    columns = ", ".join(f"c{n}" for n in range(len(values)))
    assert query(mirror, f"SELECT {columns} FROM opportunity_fields ORDER BY opportunity_id") == [
        tuple(values), (None,) * len(values)
    ]  # fmt: skip
    again = run("promote", "--", "risk:text")
    assert "risk has a column already: c8 (bigint)" in str(again.exception)
    first, *others = ODD_KEYS
    for key in others:
        assert run("demote", "--", key).exit_code == 0, key
    assert query(mirror, "SELECT * FROM opportunity_fields ORDER BY 1") == [(1, 1), (2, None)]
    assert listed(mirror)[first].column == "c0"
