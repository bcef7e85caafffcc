"""The words that records are found by: how they are folded, and that every way of writing a row
keeps them."""

from functools import partial
from typing import Any

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.find import find, find_names
from rms_pipeline.mirror import merge, words
from rms_pipeline.mirror.custom_fields import set_labels
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.promoted import Promoted, demote, promote
from rms_pipeline.mirror.redecode import redecode, reword
from rms_pipeline.mirror.words import forget_names, words_in, words_of
from rms_pipeline_tests.mirror.test_merge import merge_at, record
from rms_pipeline_tests.mirror.test_record_history import delete_at
from rms_pipeline_tests.rows import query


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Fête de la Musique", ["fete", "de", "la", "musique"]),
        # Composed and decomposed.
        ("Cafe\u0301 Zürich", ["cafe", "zurich"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("Łódź Ærø Þing İstanbul ısı", ["lodz", "aero", "thing", "istanbul", "isi"]),
        ("ﬁne ½ Ⅷ", ["fine", "1", "2", "viii"]),
        ("#00002641", ["2641"]),
        ("0000", ["0"]),
        ("٠٠٤٢", ["42"]),
        ("O'Brien", ["o", "brien"]),
        ("a_b", ["a", "b"]),
        ("🎪 !? \x00\ud800", []),
        ("שָׁלוֹם", ["שלום"]),
        ("محمّد", ["محمد"]),
        ("東京2026", ["東京", "2026"]),
        ("ＦＵＬＬ", ["full"]),
        ("x" * 100, ["x" * 60]),
        ("NAÏVE\u2014ſoul", ["naive", "soul"]),
        # A mark that belongs to the letter before it, which is ASCII.
        ("A\u0327\u0301B e\u0301E", ["ab", "ee"]),
        ("Σίσυφος ΟΔΟΣ", ["σισυφοσ", "οδοσ"]),
        ("\u13a0\uab70", ["\u13a0\u13a0"]),
        ("A--B c..D _e_", ["a", "b", "c", "d", "e"]),
    ],
)
def test_a_word_is_the_same_in_any_spelling(text: str, words: list[str]) -> None:
    assert words_in(text) == words


def test_a_number_counts_with_and_without_zeros_and_a_name_with_and_without_apostrophe() -> None:
    assert words_of(["00002641"]) == {"00002641", "2641"}
    assert words_of(["O'Brien"]) == {"o", "brien", "obrien"}
    assert words_of(["O\u2019Brien"]) == words_of(["O\u02bcBrien"]) == words_of(["O'Brien"])
    assert words_of(["PO-9136 – £5"]) == {"po", "9136", "po9136", "5"}
    assert words_of(["R&D/東京-7"]) == {"r", "d", "東京", "京", "7", "rd東京7"}
    assert words_of(["東京駅"]) == {"東京駅", "京駅", "駅"}
    # Only what is joined by one sign is also one word, and of that no zeros are left out.
    assert words_of(["A--B c..D-E"]) == {"a", "b", "c", "d", "e", "de"}
    assert words_of(["re-0042 00-7 000"]) == {
        *("re", "0042", "42", "re0042", "00", "0", "7", "007", "000"),
    }
    assert words_of(["-.'&/_", "", " \t\n", "\x00\x1f\x7f"]) == set()


def test_a_record_of_any_length_has_so_many_words() -> None:
    pasted = [" ".join(f"{letter}{n}" for n in range(100_000)) for letter in "abcdefgh"]
    found = words_of(["Name", *pasted])
    assert len(found) == 1_000
    assert {"name", "a0"} <= found
    assert max(map(len, words_of(["x" * 1_000_000, "東" * 10_000]))) == 60


def found(database: Database, text: str) -> list[int]:
    with database.session() as connection:
        return [match.id for match in find(connection, text).opportunities]


def names(database: Database, text: str) -> list[tuple[str, str, int | None]]:
    with database.session() as connection:
        return [(n.kind, n.name, n.id) for n in find_names(connection, text)]


def test_every_way_of_writing_a_row_keeps_its_words(emptied: Database) -> None:
    merge_at(emptied, 1, 2, record(id=1, subject="Summer gala"), record(id=2, subject="Wedding"))
    assert found(emptied, "summer") == [1]
    merge_at(emptied, 3, 4, record(id=1, subject="Winter ball"))
    assert (found(emptied, "summer"), found(emptied, "winter")) == ([], [1])
    # Nothing but a link differs.
    merge_at(emptied, 5, 6, record(id=1, subject="Winter ball", icon={"url": "/x?sig=1"}))
    assert found(emptied, "winter") == [1]
    delete_at(emptied, 7, 1)
    assert found(emptied, "winter") == []
    assert query(emptied, "SELECT id FROM opportunity_words ORDER BY id") == [(2,)]
    merge_at(emptied, 9, 10, record(id=1, subject="Winter ball"))
    assert found(emptied, "winter") == [1]


def test_rows_that_are_there_get_their_words_as_they_are_decoded_again(emptied: Database) -> None:
    many = [record(id=n, subject="Gala", member={"name": "Acme"}) for n in range(1, 450)]
    merge_at(emptied, 1, 2, *many)
    query(emptied, "TRUNCATE opportunity_words, known_names")
    assert found(emptied, "gala") == []
    redecode(emptied, OPPORTUNITIES, "run")
    assert found(emptied, "gala")[:2] == [449, 448]
    assert names(emptied, "acme") == [("customer", "Acme", None)]
    assert query(emptied, "SELECT count(*) FROM opportunity_words") == [(449,)]


def test_a_row_keeps_the_words_of_its_first_texts_where_all_are_too_many(
    emptied: Database,
) -> None:
    tags = [f"{letter}{n}" for letter in "abc" for n in range(500)]
    merge_at(emptied, 1, 2, record(id=7, subject="Summer gala", tag_list=tags, number="00000042"))
    # With the number and the id, each whole.
    assert query(emptied, "SELECT length(words) FROM opportunity_words") == [(1_000 + 2,)]
    assert found(emptied, "gala a499") == found(emptied, "42") == found(emptied, "7") == [7]
    assert found(emptied, "c499") == []
    # A record with a few texts that say the same.
    merge_at(emptied, 3, 4, record(id=7, subject="Gala", tag_list=["gala", "GALA"], number="7"))
    (((words,),),) = (query(emptied, "SELECT words::text FROM opportunity_words"),)
    assert words == "'0:7' '0:gala' '=7'"


def test_words_are_written_only_where_they_differ(emptied: Database) -> None:
    merge_at(emptied, 1, 2, record(id=1, subject="Gala", charge_total="5"))
    before = query(emptied, "SELECT xmin FROM opportunity_words")
    merge_at(emptied, 3, 4, record(id=1, subject="Gala", charge_total="6"))
    assert query(emptied, "SELECT xmin FROM opportunity_words") == before


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ({"subject": "Winter ball"}, "winter"),
        ({"number": "00000077"}, "77"),
        ({"member": {"name": "Acme Hire"}}, "acme"),
        ({"venue": {"name": "Old Mill"}}, "mill"),
        ({"owner": {"name": "Ann Lee"}}, "lee"),
        ({"tag_list": ["festival"]}, "festival"),
        ({"description": "A marquee"}, "marquee"),
        ({"reference": "PO-9136"}, "9136"),
    ],
)
def test_an_edit_of_any_field_that_is_searched_is_found(
    emptied: Database, edit: dict[str, object], text: str
) -> None:
    merge_at(emptied, 1, 2, record(id=1))
    assert found(emptied, text) == []
    merge_at(emptied, 3, 4, record(id=1, **edit))
    assert found(emptied, text) == [1]


def test_an_edit_of_another_field_leaves_words_alone_unless_there_are_none(
    emptied: Database,
) -> None:
    merge_at(emptied, 1, 2, record(id=1, subject="Summer gala"), record(id=2, subject="Wedding"))
    query(emptied, "UPDATE opportunity_words SET words = 'untouched' WHERE id = 1")
    query(emptied, "DELETE FROM opportunity_words WHERE id = 2")
    merge_at(emptied, 3, 4, record(id=1, subject="Summer gala", status_name="Lost"),
             record(id=2, subject="Wedding", status_name="Lost"))  # fmt: skip
    assert query(emptied, "SELECT words::text FROM opportunity_words WHERE id = 1") == [
        ("'untouched'",)
    ]
    assert found(emptied, "wedding") == [2]


def test_a_name_is_known_until_no_row_has_it(emptied: Database) -> None:
    acme = {"member_id": 5, "member": {"name": "Acme Ltd"}, "owner": {"name": "Ada"}}
    merge_at(emptied, 1, 2, record(id=1, **acme), record(id=2, **acme))
    merge_at(emptied, 3, 4, record(id=3, member_id=6, member={"name": "Acme Ltd"}))
    assert names(emptied, "ltd acm") == [("customer", "Acme Ltd", 5), ("customer", "Acme Ltd", 6)]
    assert names(emptied, "ada") == [("owner", "Ada", None)]
    merge_at(emptied, 5, 6, record(id=3, member_id=6, member={"name": "New name"}))
    with emptied.session() as connection:
        assert forget_names(connection, OPPORTUNITIES) == 1
    assert names(emptied, "acme") == [("customer", "Acme Ltd", 5)]
    assert names(emptied, "new") == [("customer", "New name", 6)]


@pytest.mark.parametrize("moment", ["while it is looked for", "before that"])
def test_a_name_that_a_row_is_given_while_unused_ones_are_deleted_is_known(
    emptied: Database, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whoever writes the row finds the name known, and does not add it."""
    monkeypatch.setattr(words, "_PATIENCE", 0.0)
    acme = {"member_id": 5, "member": {"name": "Acme Ltd"}}
    merge_at(emptied, 1, 2, record(id=1, **acme))
    merge_at(emptied, 3, 4, record(id=1, member_id=6, member={"name": "Another"}))
    deleted: list[int] = []

    def forget() -> None:
        with emptied.session() as connection:
            deleted.append(forget_names(connection, OPPORTUNITIES))

    if moment == "while it is looked for":
        look = words._unused_names
        writes = iter([partial(merge_at, emptied, 5, 6, record(id=2, **acme))])

        def unused_names(*of: Any) -> Any:
            found = look(*of)
            for write in writes:
                write()
            return found

        monkeypatch.setattr(words, "_unused_names", unused_names)
        forget()
    else:
        note = words.note_words

        def note_words(*of: Any) -> None:
            note(*of)
            forget()

        monkeypatch.setattr(merge, "note_words", note_words)
        merge_at(emptied, 5, 6, record(id=2, **acme))
    assert names(emptied, "acme") == [("customer", "Acme Ltd", 5)]
    assert deleted == [0]
    # What no row has any more is deleted the next time.
    monkeypatch.undo()
    merge_at(emptied, 7, 8, record(id=2, member_id=6, member={"name": "Another"}))
    forget()
    assert deleted == [0, 1]
    assert names(emptied, "acme") == []


def test_a_name_of_any_length_is_kept(emptied: Database) -> None:
    long = "Ärger " * 5_000
    merge_at(emptied, 1, 2, record(id=1, venue={"name": long}, subject=long, description=long))
    assert found(emptied, "arger") == [1]
    assert names(emptied, "arger") == [("venue", long, None)]


def test_fields_that_have_a_column_are_searched_and_what_their_values_mean(
    emptied: Database,
) -> None:
    own = {
        "job_code": "J-77 Große",
        "risk": 4711,
        "crew": [101, "Ada"],
        "vip": True,
        "note": "loud",
    }
    merge_at(emptied, 1, 2, record(id=1, custom_fields=own), record(id=2, custom_fields="none"))
    assert found(emptied, "grosse") == []
    fields = [Promoted("job_code", "job_code", "text"), Promoted("crew", "crew", "text[]")]
    with emptied.session() as connection:
        for field in [*fields, Promoted("risk", "risk", "numeric")]:
            promote(connection, OPPORTUNITIES, field)
        set_labels(connection, OPPORTUNITIES, "crew", {"101": "Night crew"})
    assert reword(emptied, OPPORTUNITIES) == 2
    for text in ("grosse", "j77", "4711", "ada", "night crew", "101"):
        assert found(emptied, text) == [1], text
    assert found(emptied, "loud") == found(emptied, "true") == []
    # All is as it was made.
    assert reword(emptied, OPPORTUNITIES) == 0
    # The merge keeps them.
    merge_at(emptied, 3, 4, record(id=1, custom_fields={**own, "job_code": "Kleine"}))
    assert (found(emptied, "grosse"), found(emptied, "kleine")) == ([], [1])
    with emptied.session() as connection:
        demote(connection, OPPORTUNITIES, "job_code")
    reword(emptied, OPPORTUNITIES)
    assert found(emptied, "kleine") == []
    for key in ("crew", "risk"):
        with emptied.session() as connection:
            demote(connection, OPPORTUNITIES, key)
