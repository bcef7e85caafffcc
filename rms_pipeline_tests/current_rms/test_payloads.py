"""From bytes to opportunities: which field becomes which column, and what can be wrong."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms import pages
from rms_pipeline.current_rms.lenient import storable_json
from rms_pipeline.current_rms.pages import decode_page
from rms_pipeline.current_rms.records import Fault, Row, decode_record


def decode(**fields: Any) -> Row:
    found = decode_record(msgspec.Raw(json.dumps({"id": 7, **fields}).encode()), OPPORTUNITIES)
    assert isinstance(found, Row)
    return found


def test_a_status_that_nobody_has_heard_of_is_stored_under_its_own_name() -> None:
    found = decode(state=9, state_name="Dream", status=77, status_name="Half forgotten")
    assert (found.opportunity_status, found.faults) == ("Half forgotten", ())


def test_custom_fields_of_every_kind_stay_as_they_come() -> None:
    fields = {"text": "", "ticked": "Yes", "pick": 1_000_123, "picks": [4, 5], "none": None}
    found = decode(custom_fields=fields, tag_list=["a"], collect_starts_at="")
    assert json.loads(found.data)["custom_fields"] == fields
    assert found.faults == ()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"subject": "Gala", "number": "0007"}, "Gala"),
        ({"subject": "", "number": "0007"}, "0007"),
        ({"subject": None}, "Opportunity 7"),
    ],
)
def test_the_name_is_the_subject_else_the_number_else_the_id(
    fields: dict[str, Any], name: str
) -> None:
    assert decode(**fields).name == name


def test_second_choices_of_the_mapping_are_used_when_the_first_are_absent() -> None:
    found = decode(
        state_name="Quotation",
        venue_name="Hall",
        organisation_id=3,
        organisation_name="Acme",
        owner_id=4,
        owner_name="Kim",
        total_value="12.50",
    )
    assert found.opportunity_status == "Quotation"
    assert (found.venue_name, found.organisation_name, found.owner_name) == ("Hall", "Acme", "Kim")
    assert (found.organisation_id, found.owner_id) == (3, 4)
    assert found.total_value == Decimal("12.50")


@pytest.mark.parametrize("value", ["1e999", "9" * 5_000, "[" * 600 + "]" * 600, '{"a": 1e999}'])
@pytest.mark.parametrize(
    "field", ["subject", "number", "starts_at", "status_name", "member_id", "member", "owner"]
)
def test_a_value_that_is_json_and_that_nothing_can_hold_costs_its_own_field_only(
    field: str, value: str
) -> None:
    for raw in (value, f'{{"name": {value}}}'):
        record = f'{{"id": 7, "{field}": {raw}, "charge_total": "12.50"}}'
        found = decode_record(msgspec.Raw(record.encode()), OPPORTUNITIES)
        assert isinstance(found, Row)
        assert (found.id, found.charge_total) == (7, Decimal("12.50"))


def test_a_number_beyond_all_numbers_is_a_fault() -> None:
    found = decode_record(
        msgspec.Raw(b'{"id": 7, "subject": 1e999, "ends_at": 1e999}'), OPPORTUNITIES
    )
    assert isinstance(found, Row)
    assert (found.name, found.ends_at) == ("Opportunity 7", None)
    assert [(f.field, f.raw_value) for f in found.faults] == [
        ("subject", "1e999"),
        ("ends_at", "1e999"),
    ]


@pytest.mark.parametrize("absent", [None, ""])
def test_an_absent_date_or_number_is_null_and_no_fault(absent: str | None) -> None:
    found = decode(starts_at=absent, charge_total=absent, member_id=absent, member=absent)
    assert (found.starts_at, found.charge_total, found.organisation_id) == (None, None, None)
    assert found.faults == ()


def test_times_are_utc_with_or_without_an_offset() -> None:
    for text in ("2026-05-01T19:00:00.000Z", "2026-05-01T21:00:00+02:00", "2026-05-01T19:00:00"):
        assert decode(starts_at=text).starts_at == datetime(2026, 5, 1, 19, tzinfo=UTC)


def test_money_keeps_every_digit_whether_text_or_number() -> None:
    assert decode(charge_total="1250.10").charge_total == Decimal("1250.10")
    record = msgspec.Raw(b'{"id": 7, "charge_total": 12345678901234567890.123456789}')
    found = decode_record(record, OPPORTUNITIES)
    assert isinstance(found, Row)
    assert found.charge_total == Decimal("12345678901234567890.123456789")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("starts_at", "next Tuesday"),
        ("updated_at", 5),
        ("charge_total", "1,250.00"),
        ("charge_total", "1_250.00"),
        ("charge_total", "NaN"),
        ("charge_total", "1e99999"),
        ("charge_total", {"amount": 1}),
        ("member_id", "x"),
        ("member_id", 2**70),
        ("owned_by", True),
        ("member", "Acme"),
        ("status_name", ["Open"]),
        ("status_name", "x" * 3_000),
        ("description", {"text": "x"}),
    ],
)
def test_one_bad_field_becomes_null_and_one_fault_and_the_rest_stays(
    field: str, value: object
) -> None:
    found = decode(**{"subject": "Gala", field: value})
    assert found.name == "Gala"
    assert len(found.faults) == 1
    assert found.faults[0].record == 7
    assert found.faults[0].problem.startswith("is ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        # More digits behind the point than PostgreSQL keeps.
        ("charge_total", "0." + "9" * 17_000),
        ("charge_total", "9" * 17_000),
        ("charge_total", "0e999999999999"),
        # A float of this size may stand for the number beside it.
        ("member_id", 2.0**53),
        ("member_id", 1e18),
    ],
)
def test_a_number_that_cannot_be_stored_exactly_is_null_and_one_fault(
    field: str, value: object
) -> None:
    test_one_bad_field_becomes_null_and_one_fault_and_the_rest_stays(field, value)


def test_an_id_with_a_decimal_point_is_an_id_only_as_long_as_it_is_exact() -> None:
    assert decode(member_id=2.0**53 - 1).organisation_id == 2**53 - 1
    for id_ in (b"9007199254740993.0", b"1e16", b"-9007199254740994.0"):
        found = decode_record(msgspec.Raw(b'{"id": %b}' % id_), OPPORTUNITIES)
        assert isinstance(found, Fault), id_


@pytest.mark.parametrize("tags", [["x" * 601], ["van", "y" * 100_000]])
def test_a_tag_too_long_for_its_index_is_a_fault_of_the_tags(tags: list[str]) -> None:
    found = decode(subject="Gala", tag_list=tags)
    assert (found.name, found.tags) == ("Gala", None)
    assert [(f.field, f.problem) for f in found.faults] == [
        ("tag_list", "holds a text of more than 600 characters")
    ]
    assert decode(tag_list=["é" * 600]).tags == ["é" * 600]


@pytest.mark.parametrize(
    ("number", "text"),
    [("12", "12"), ("1.50", "1.50"), ("-0", "0"), ("-0.0", "0.0"), ("1e2", "100"),
     ("1.50e1", "15.0"), ("5E-3", "0.005"), ("1e307", "1" + "0" * 307)],
)  # fmt: skip
def test_a_number_in_the_place_of_a_text_is_written_as_a_rebuild_will_read_it(
    number: str, text: str
) -> None:
    found = decode_record(msgspec.Raw(b'{"id": 7, "subject": %b}' % number.encode()), OPPORTUNITIES)
    assert isinstance(found, Row)
    assert (found.subject, found.faults) == (text, ())


@pytest.mark.parametrize("raw", [b"5", b"null", b"[]", b"{}", b'{"id": null}', b'{"id": "x"}'])
def test_a_record_that_cannot_be_keyed_is_a_fault(raw: bytes) -> None:
    assert isinstance(decode_record(msgspec.Raw(raw), OPPORTUNITIES), Fault)


def test_what_postgresql_cannot_hold_becomes_the_replacement_character() -> None:
    body = rb'"\u0000 \ud83d \ude00 \ud83d\ude00 \\u0000 \\\u0000"' + b"\xff"
    assert storable_json(body) == (
        rb'"\ufffd \ufffd \ufffd \ud83d\ude00 \\u0000 \\\ufffd"' + "\ufffd".encode()
    )


@pytest.mark.slow
@settings(deadline=None)
@given(st.text())
def test_whatever_is_typed_stays_but_for_nul(text: str) -> None:
    body = json.dumps({"id": 7, "description": text}).encode()
    found = decode_record(msgspec.Raw(storable_json(body)), OPPORTUNITIES)
    assert isinstance(found, Row)
    assert found.description == (text.replace("\x00", "\ufffd") or None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b'{"opportunities": [{"id": 1}',
        b'{"opportunities": {}, "meta": {"total_row_count": 0}}',
        b'{"opportunities": []}',
        b'{"errors": ["x"]}',
        b"[]",
    ],
)
def test_a_body_that_is_not_the_promised_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_page(body, OPPORTUNITIES)


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda c: c.name)
def test_an_answer_as_it_should_be_is_read_without_mending(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mending(_: bytes) -> None:
        raise AssertionError("it is read byte by byte, which takes forty times as long")

    monkeypatch.setattr(pages, "members_of", mending)
    body = json.dumps({collection.name: [{"id": 7}], "meta": {"total_row_count": 1}}).encode()
    assert pages.decode_page(body, collection).records == [msgspec.Raw(b'{"id": 7}')]
    alone = json.dumps({collection.single: {"id": 7}}).encode()
    assert pages.decode_single(alone, collection).records == [msgspec.Raw(b'{"id": 7}')]
