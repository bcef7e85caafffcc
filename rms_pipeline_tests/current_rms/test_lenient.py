"""Values that are no JSON cost their field, and no other record of the page."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.lenient import elements_of, members_of, mend_record
from rms_pipeline.current_rms.pages import decode_answer, decode_page, decode_single
from rms_pipeline.current_rms.records import Fault, Row, decode_record, record_id
from rms_pipeline_tests.cases import some_in_drills

GOOD = b'{"id":36,"subject":"Awards \\u00e9 night","charge_total":"12.50"}'


def page(*records: bytes) -> bytes:
    meta = b'{"total_row_count":%d,"per_page":25}' % len(records)
    return b'{"opportunities":[%b],"meta":%b}' % (b",".join(records), meta)


def read(*records: bytes) -> list[Row | Fault]:
    return [
        decode_record(raw, OPPORTUNITIES)
        for raw in decode_page(page(*records), OPPORTUNITIES).records
    ]


# A value that no strict parser takes, what becomes of it, and a word of what is said.
ODD_VALUES: list[tuple[bytes, Any, str]] = [
    (b"NaN", None, "NaN"),
    (b"-NaN", None, "NaN"),
    (b"Infinity", None, "Infinity"),
    (b"-Infinity", None, "Infinity"),
    (b"undefined", None, "undefined"),
    (b"None", None, "None"),
    (b"True", None, "True"),
    (b"nil", None, "nil"),
    (b"007", None, "007"),
    (b"+5", None, "+5"),
    (b".5", None, ".5"),
    (b"5.", None, "5."),
    (b"0x1F", None, "0x1F"),
    (b"", None, "cannot be|can be read"),
    (b"1 2", None, "can be read"),
    (b'"a" "b"', None, "can be read"),
    (b"{1:2}", None, "can be read"),
    (b"'single'", None, "single"),
    (b"<b>5</b>", None, "<b>"),
    (b"[1,]", [1], "comma"),
    (b'{"a":1,}', {"a": 1}, "comma"),
    (b"[NaN,1]", [None, 1], "NaN"),
    (b'{"po":NaN,"ref":"x"}', {"po": None, "ref": "x"}, "NaN"),
    (b'{"a":{"b":[{"c":Infinity}]}}', {"a": {"b": [{"c": None}]}}, "Infinity"),
    (b'"line one\nline two"', "line one\nline two", "control"),
    (b'"tab\there"', "tab\there", "control"),
    (b'"bell\x07 and \x1f"', "bell\x07 and \x1f", "control"),
    (b'"nul\x00raw"', "nul\ufffdraw", "control"),
    (b'"caf\xe9"', "caf\ufffd", "UTF-8"),
    (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd", "UTF-8"),
    (b'"\xf5\x80"', "\ufffd\ufffd", "UTF-8"),
    (b'"cut \xf0\x9f\x98"', "cut \ufffd", "UTF-8"),
    (b'"it\\\'s"', "it's", "escapes"),
    (b'"C:\\xampp\\q"', "C:\\xampp\\q", "escapes"),
    (b'"\\u12"', "\\u12", "escapes"),
    (b'"half \\ud83d"', "half \ufffd", "PostgreSQL"),
    (b'"\\ude00 half"', "\ufffd half", "PostgreSQL"),
    (b'"nul \\u0000"', "nul \ufffd", "PostgreSQL"),
    (b"[" * 1_000 + b"]" * 1_000, None, "nested"),
    (b'{"a":' * 1_000 + b"1" + b"}" * 1_000, None, "nested"),
    (b"[" * 20_000 + b"]" * 20_000, None, "nested"),
]
IDS = [repr(value[:20]) for value, _, _ in ODD_VALUES]


@pytest.mark.parametrize(("value", "kept", "said"), ODD_VALUES, ids=IDS)
@pytest.mark.parametrize("place", ["first", "last", "alone", "beside another"])
def test_an_odd_value_is_a_fault_of_its_field_and_touches_nothing_else(
    value: bytes, kept: Any, said: str, place: str
) -> None:
    odd = b'{"id":37,"subject":"Odd one","oddity":%b,"charge_total":"9.5"}' % value
    records = {
        "first": [odd, GOOD],
        "last": [GOOD, odd],
        "alone": [odd],
        "beside another": [GOOD, odd, odd.replace(b"37", b"38"), GOOD],
    }[place]
    for found, sent in zip(read(*records), records, strict=True):
        assert isinstance(found, Row)
        if sent is GOOD:
            assert found == decode_record(msgspec.Raw(GOOD), OPPORTUNITIES)
            assert found.data == GOOD
            continue
        assert (found.id, found.name, str(found.charge_total)) == (found.id, "Odd one", "9.5")
        assert json.loads(found.data)["oddity"] == kept
        (fault,) = found.faults
        assert (fault.record, fault.field) == (found.id, "oddity")
        assert any(word in fault.problem for word in said.split("|"))


@pytest.mark.parametrize(("value", "kept", "said"), ODD_VALUES, ids=IDS)
@pytest.mark.parametrize("field", ["subject", "starts_at", "charge_total", "member", "member_id"])
def test_an_odd_value_of_a_mapped_field_is_read_as_far_as_it_goes(
    field: str, value: bytes, kept: Any, said: str
) -> None:
    found, other = read(b'{"id":37,"number":"7","%b":%b}' % (field.encode(), value), GOOD)
    assert isinstance(found, Row)
    assert isinstance(other, Row)
    assert found.faults[0].field == field
    assert found.name == (kept if field == "subject" and isinstance(kept, str) else "7")
    assert other.faults == ()


@pytest.mark.parametrize(("value", "kept", "said"), ODD_VALUES, ids=IDS)
def test_an_odd_single_record_is_read_alike(value: bytes, kept: Any, said: str) -> None:
    body = b'\n{"opportunity":{"id":37,"oddity":%b}}' % value
    (raw,) = decode_single(body, OPPORTUNITIES).records
    found = decode_record(raw, OPPORTUNITIES)
    assert isinstance(found, Row)
    assert json.loads(found.data) == {"id": 37, "oddity": kept}
    assert record_id(raw) == 37


def test_an_odd_name_of_a_field_is_mended_and_told() -> None:
    (found,) = read(b'{"id":37,"a\nb":1,"caf\xe9":2,"\\u0000":3}')
    assert isinstance(found, Row)
    assert json.loads(found.data) == {"id": 37, "a\nb": 1, "caf\ufffd": 2, "\ufffd": 3}
    assert [f.problem[:10] for f in found.faults] == ["has a name"] * 3


@pytest.mark.parametrize(
    "record", [b'{"id":37,"a":[}', b'{"id":37,"a":"open}', b'{"id":37,"a":1', b'"id":37}']
)
def test_a_record_that_breaks_the_page_is_not_guessed_at(record: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_page(page(record, GOOD), OPPORTUNITIES)


@pytest.mark.parametrize("record", [b"NaN", b"[1]", b'"x"', b"nonsense", b"{NaN}", b"{}"])
def test_what_is_no_record_is_a_fault_and_the_others_are_read(record: bytes) -> None:
    found = read(GOOD, record, GOOD)
    assert [isinstance(f, Fault) for f in found] == [False, True, False]


def test_a_key_that_comes_twice_counts_once_and_last_in_every_reading() -> None:
    twice = b'{"id":1,"id":37,"subject":"old","subject":"new"%b}'
    for end in (b"", b',"x":NaN'):
        (found,) = read(twice % end)
        assert isinstance(found, Row)
        assert (found.id, found.subject) == (37, "new")
        assert json.loads(found.data)["subject"] == "new"
    body = page(b'{"id":1,"x":NaN}')[:-1] + b',"opportunities":[%b]}' % GOOD
    assert [record_id(r) for r in decode_page(body, OPPORTUNITIES).records] == [36]


@pytest.mark.parametrize("cut", [1, 5, 30, 60, 90])
def test_a_page_that_breaks_off_is_refused_also_where_it_holds_odd_values(cut: int) -> None:
    body = page(GOOD, b'{"id":37,"x":NaN}', GOOD)
    with pytest.raises(ValueError, match=r".+"):
        decode_page(body[: len(body) * cut // 100], OPPORTUNITIES)


@pytest.mark.parametrize(
    "body",
    [
        b'{"opportunities":[{"id":1,"x":NaN}]}',
        b'{"opportunities":{"id":NaN},"meta":{"total_row_count":1}}',
        b'{"opportunities":[NaN],"meta":{"total_row_count":NaN}}',
        b'{"opportunities":[NaN],"meta":[]}',
        b'{"errors":[NaN]}',
        b'{"opportunities":[NaN],"meta":{"total_row_count":1}} and more',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"' * 99,
    ],
)
def test_what_is_no_page_is_no_page_however_leniently_it_is_read(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_page(body, OPPORTUNITIES)


def test_a_mark_before_the_page_is_passed_over() -> None:
    for record in (GOOD, b'{"id":36,"x":NaN}'):
        (raw,) = decode_page(b"\xef\xbb\xbf" + page(record), OPPORTUNITIES).records
        assert record_id(raw) == 36


def test_a_record_of_megabytes_is_mended_in_no_time() -> None:
    mail = b'\\\\ \\n quoted \\" mail\t ' * 200_000
    found, _ = read(b'{"id":37,"description":"%b","x":NaN}' % mail, GOOD)
    assert isinstance(found, Row)
    assert len(found.description or "") > 3_000_000
    assert [f.field for f in found.faults] == ["description", "x"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.slow
@pytest.mark.parametrize("values", some_in_drills((30, 100), lambda few: few == 30))
def test_what_is_good_json_is_split_as_the_strict_parser_splits_it_and_is_not_mended(
    values: int,
) -> None:
    @settings(max_examples=values, deadline=None)
    @given(st.dictionaries(st.text(), JSON))
    def try_it(value: dict[str, Any]) -> None:
        body = json.dumps(value, ensure_ascii=False).encode(errors="replace")
        strict = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        split = {json.loads(b'"%b"' % k): v for k, v in members_of(body).items()}
        assert split == {k: bytes(v) for k, v in strict.items()}
        array = b"[%b]" % b", ".join(split.values())
        assert elements_of(array) == list(split.values())
        clean = json.loads(json.dumps(value).replace("\\u0000", "").replace("\\ud", "\\u0d"))
        mended, mends = mend_record(json.dumps(clean).encode())
        assert json.loads(mended) == clean
        assert mends == []

    try_it()


@settings(deadline=None)
@given(st.binary())
def test_no_bytes_whatever_raise_anything_but_a_refusal(noise: bytes) -> None:
    for body in (noise, page(GOOD, noise), page(b'{"id":3,"x":%b}' % noise)):
        try:
            records = decode_answer("/opportunities?page=1", body, OPPORTUNITIES).records
        except ValueError:
            continue
        for raw in records:
            found = decode_record(raw, OPPORTUNITIES)
            record_id(raw)
            if isinstance(found, Row):
                json.loads(found.data)


@pytest.mark.parametrize("opens", [b"[", b'{"a":'])
@pytest.mark.parametrize("nested", [499, 500, 501, 900, 985, 995])
def test_a_record_is_read_alike_however_deep_the_stack_of_its_reader_is(
    opens: bytes, nested: int
) -> None:
    def at_depth(frames: int) -> Row | Fault:
        return at_depth(frames - 1) if frames else decode_record(msgspec.Raw(told), OPPORTUNITIES)

    closes = b"]" if opens == b"[" else b"}"
    value = opens * (nested - 1) + opens[:1] + closes * nested
    told = b'{"id":1,"subject":"x","tree":' + value + b"}"
    rows = [at_depth(frames) for frames in (0, 15, 300)]
    assert all(row == rows[0] for row in rows)
    assert isinstance(rows[0], Row)
    assert [f.field for f in rows[0].faults] == (["tree"] if nested > 500 else [])
    assert rows[0].subject == "x"
