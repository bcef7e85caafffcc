"""The way back from a record to the one before: numbers, and what only looks like one."""

import pytest

from rms_pipeline.current_rms.differences import way_back

NINES = "9" * 5_000


@pytest.mark.parametrize(
    ("newer", "older"),
    [("1", "1.0"), ("100", "1e2"), ("0", "-0.0"), ("1e999", "1e999"), (NINES, NINES),
     ("12345678901234567890123.0", "12345678901234567890123"), ("[1, {}]", "[1.0, {}]"),
     ('"a"', '"\\u0061"')],
)  # fmt: skip
def test_one_number_is_the_same_however_it_is_written(newer: str, older: str) -> None:
    assert way_back(f'{{"a": {newer}}}'.encode(), f'{{"a": {older}}}'.encode(), ()) is None


@pytest.mark.parametrize(
    ("newer", "older"),
    [("true", "1"),
     ("false", "0.0"), ("0", "null"), ('"1"', "1"), ("0.1", "0.10000000000000000001"),
     ("12345678901234567890123", "12345678901234567890124"), (NINES, "1"), ("[1]", "[true]"),
     ('"a"', '"b"'), ('""', "null"), ("{}", "[]")],
)  # fmt: skip
def test_what_differs_is_kept_to_the_last_digit(newer: str, older: str) -> None:
    found = way_back(f'{{"a": {newer}, "b": "x"}}'.encode(), f'{{"a": {older}, "b": "x"}}'.encode(),
                     ())  # fmt: skip
    assert found is not None
    assert found.json in (f'[[["a"],{older}]]', f'[[["a",0],{older[1:-1]}]]')


@pytest.mark.parametrize(
    ("newer", "older", "fields"),
    [
        ('{"a": 1, "b": {"c": [1, true]}}', '{"a": 2, "b": {"c": [1, 1]}}', {"a", "b"}),
        ('{"a": 1}', '{"a": 1, "gone": null}', {"gone"}),
        ('{"a": 1, "new": 1}', '{"a": 1}', {"new"}),
        # Any may differ where it is no longer the same kind of thing.
        ('{"a": 1}', "[]", None),
    ],
)
def test_it_tells_which_fields_differ(newer: str, older: str, fields: set[str] | None) -> None:
    found = way_back(newer.encode(), older.encode(), ())
    assert found is not None
    assert found.fields == fields
