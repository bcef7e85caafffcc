"""Reading a record in one go says what reading it field by field does, or leaves it to that."""

import dataclasses
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection, Column
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.records import Record, Row, mapping_of, read_record
from rms_pipeline.current_rms.usual_records import reader_of
from rms_pipeline.sandbox import Store
from rms_pipeline.sandbox.records import LISTED


def both(record: bytes, collection: Collection = OPPORTUNITIES) -> tuple[Row, Row, bool]:
    """The row as it is read, the row field by field, and whether it was read in one go."""
    found = read_record(msgspec.Raw(record), collection)
    assert isinstance(found, Record)
    mapping = mapping_of(collection)
    assert mapping.read_usual is not None
    apart = msgspec.structs.replace(found, mapping=dataclasses.replace(mapping, read_usual=None))
    return found.decode(), apart.decode(), mapping.read_usual(found.data) is not None


def test_the_records_of_an_account_are_read_in_one_go() -> None:
    store = Store(200)
    for id_ in store.ids():
        one, other, was_usual = both(store.body(id_, LISTED) or b"")
        assert one == other
        assert was_usual


_FIELDS = sorted(
    {s.partition(".")[0] for c in OPPORTUNITIES.columns for s in c.sources} | {"number", "owned_by"}
)
_odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**66), 2**66),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(
        ["", " ", "null", "4.50", " 7 ", "1_000", "1e1001", "1e999", "NaN", "Infinity", "-0", "5.0",
         "2026-06-01T10:00:00.000Z", "2026-06-01T10:00:00+02:00", "2026-06-01", "2026-06-01 10:00",
         "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00", "24:00", "Yes", "x" * 501],
    ),
    st.lists(st.one_of(st.text(max_size=3), st.integers()), max_size=2),
    st.dictionaries(st.sampled_from(["name", "id"]), st.one_of(st.none(), st.text(max_size=3),
                    st.integers(), st.lists(st.none(), max_size=1)), max_size=2),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(_FIELDS), _odd, max_size=6))
@hypothesis_settings(max_examples=400, deadline=None)
def test_whatever_a_record_holds_it_reads_the_same_either_way(fields: dict[str, Any]) -> None:
    fields.pop("id", None)
    one, other, _ = both(json.dumps({"id": 7} | fields).encode())
    assert one == other
    assert one.faults == other.faults


@pytest.mark.parametrize("collection", COLLECTIONS, ids=repr)
def test_every_collection_can_be_read_in_one_go(collection: Collection) -> None:
    one, other, was_usual = both(b'{"id": 7, "name": "a", "updated_at": null}', collection)
    assert one == other
    assert was_usual or one.faults or collection is OPPORTUNITIES


@pytest.mark.parametrize(
    ("field", "value"),
    [("charge_total", "12"), ("starts_at", '"2026-06-01"'), ("subject", "7"),
     ("member", '{"name": 7}'), ("rating", '"3"'), ("invoiced", '"Yes"'), ("tag_list", '""'),
     ("status_name", f'"{"x" * 501}"'), ("tag_list", f'["{"x" * 601}"]'),
     ("charge_total", f'"0.{"9" * 17_000}"')],
)  # fmt: skip
def test_one_value_that_is_otherwise_has_its_record_read_field_by_field(
    field: str, value: str
) -> None:
    one, other, was_usual = both(f'{{"id": 7, "subject": "a", "{field}": {value}}}'.encode())
    assert not was_usual
    assert one == other


def test_a_column_that_no_record_is_read_for_in_one_go_is_read_all_the_same() -> None:
    # Two kinds of one field, or a field that is read whole and by its member.
    for sources in (("a", "a"), ("a", "a.name")):
        text, number = (Column(s, "text", "", source=s) for s in sources)
        number = dataclasses.replace(number, kind="bigint")
        assert reader_of((text, number)) is None
