"""The words by which records are found: normalised, and stored beside each row.

This module decides which words a text has, how they are normalised, and stores them when rows are
written. Searching is in `insight.find`, which record replaces which in `merge`.

PostgreSQL's full text search finds the words and needs no extension. It never parses a text. Case,
accents and ligatures are removed here, so that a record is found in any spelling. A word is letters
and digits. In scripts without spaces, a word begins at each letter. A number counts without the
zeros with which Current RMS pads it. A whole number or id is one more word, marked with `=`, which
finds exactly that record first.

The newest matches come first, and the newest record has the highest id. So ids are cut into blocks,
and each word of a record has the number of its block. A search asks the newest block, then the one
before, and stops when it has enough, however many older records match.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache, lru_cache
from itertools import chain, islice
from types import MappingProxyType

import msgspec

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.records import Row
from rms_pipeline.mirror.promoted import Promoted
from rms_pipeline.mirror.proofs import WriterHangs, content_number, number_if_nobody_writes
from rms_pipeline.mirror.statements import Connection, Cursor, array_of

# From this many letters on, the beginning of a word is enough.
SHORTEST_BEGINNING = 3
# Limits for one record. A longer text is a pasted e-mail, and a longer word is not a word.
_MOST_LETTERS, _MOST_WORDS, _LONGEST_WORD = 2_000, 1_000, 60
_MOST_REMEMBERED = 200
# Ids in one block are equal except for their last so many bits.
BLOCK_BITS = 15
# How often it is tried to delete unused names, and for how many seconds a writer is waited for.
_TRIES, _PATIENCE = 3, 5.0
# Thai, Lao, Burmese, Khmer, kana and Chinese characters.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED += "\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_ASCII_WORD = re.compile("[a-z0-9]+")
_JOINT = re.compile(r"['.&/_-]")
# A word with the words that are joined to it.
_JOINED = re.compile(rf"[^\W_]+(?:{_JOINT.pattern}[^\W_]+)*")
_ASCII_JOINED = re.compile(r"[a-z0-9]+(?:['.&/_-][a-z0-9]+)*")
# ASCII characters outside words become spaces. That is much faster than searching for words.
_JOINT_OR_SPACE = bytes(
    code if chr(code).isalnum() or _JOINT.match(chr(code)) else 32 for code in range(128)
).ljust(256)
# Letters that Unicode does not split, and characters that people type for an apostrophe.
_LIKE = {
    "\u2019": "'",
    "\u02bc": "'",
    "\u00e6": "ae",
    "\u0153": "oe",
    "\u00f8": "o",
    "\u0142": "l",
    "\u0111": "d",
    "\u00f0": "d",
    "\u00fe": "th",
    "\u0131": "i",
    "\u0127": "h",
    "\u0167": "t",
    "\u014b": "n",
    "\u0640": "",
}


class _Folding(dict[int, str]):
    """What each letter becomes. It is computed when the letter first occurs."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        if unicodedata.combining(letter):
            letter = ""
        elif letter.isdecimal():
            letter = str(unicodedata.decimal(letter))
        elif not letter.isalnum() and not _IS_UNSPACED.match(letter):
            # Any such character ends a word. ASCII is faster to search.
            letter = _LIKE.get(letter, " ")
        self[code] = _LIKE.get(letter, letter)
        return self[code]


_FOLDING = _Folding()


def folded(text: str) -> str:
    """Return `text` without case, accents and ligatures.

    "Fête No. 5" and "FETE NO. 5" become equal. Digits of all scripts become ASCII digits.
    """
    # ASCII text only loses its case. Nothing beside it can change that.
    plain = text if text.isascii() else _NOT_ASCII.sub(_plain, text)
    return plain.lower() if plain.isascii() else _taken_apart(text)


def _plain(letters: re.Match[str]) -> str:
    return _few(letters[0])


def _taken_apart(text: str) -> str:
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return _NOT_ASCII.sub(lambda letters: letters[0].translate(_FOLDING), apart)


# Most texts that have accents or dashes have the same few.
_few = lru_cache(maxsize=1_024)(_taken_apart)


def words_in(text: str) -> list[str]:
    """Return the words of `text` as people type them, in order. Numbers lose leading zeros."""
    found = (word[:_LONGEST_WORD] for word in _split(folded(text)))
    return [_number(word) if word.isdecimal() else word for word in found]


def is_beginning(word: str) -> bool:
    """Return whether words that begin with `word` are found too."""
    return len(word) >= SHORTEST_BEGINNING or bool(_IS_UNSPACED.search(word))


def exactly(number: str) -> str:
    """Return the word that finds exactly the record of that number or id."""
    return f"={_number(number)}"


def words_of(texts: Iterable[str]) -> set[str]:
    """Return the words by which a record with these texts is found. The first texts take
    precedence.
    """
    found: set[str] = set()
    for text in texts:
        more = _words_of_text(text[:_MOST_LETTERS])
        if len(found) + len(more) <= _MOST_WORDS:
            found |= more
        else:
            found.update(islice(more, _MOST_WORDS - len(found)))
    return found


def _words_of_text(text: str) -> Set[str]:
    whole = folded(text)
    if whole.isascii():
        return _words_of_ascii(whole)
    compounds = [each for each in set(_JOINED.findall(whole)) if not each.isalnum()]
    # In scripts without spaces, joined letters contain words.
    words = set(_WORD.findall(whole))
    # O'Brien is found as obrien, PO-9136 as po9136.
    found = {_JOINT.sub("", compound)[:_LONGEST_WORD] for compound in compounds}
    for word in words:
        found.add(word[:_LONGEST_WORD])
        if word.isascii():
            if word.isdecimal():
                found.add(_number(word))
        elif len(word) > 1 and _IS_UNSPACED.match(word):
            starts = range(1, min(len(word), _LONGEST_WORD))
            found.update(word[start : start + _LONGEST_WORD] for start in starts)
    return set(islice(found, _MOST_WORDS))


def _words_of_ascii(whole: str) -> Set[str]:
    """Return the same for a normalised text that is all ASCII, as nearly all are."""
    found = set(whole.encode().translate(_JOINT_OR_SPACE).decode().split())
    if joined := [each for each in found if not each.isalnum()]:
        found.difference_update(joined)
        rest = " ".join(joined)
        compounds = [each for each in _ASCII_JOINED.findall(rest) if not each.isalnum()]
        found.update(_ASCII_WORD.findall(rest))
    if "0" in whole:
        # All others have no leading zeros.
        found |= {_number(word) for word in found if word[0] == "0" and word.isdecimal()}
    if joined:
        found.update([_JOINT.sub("", compound) for compound in compounds])
    if found and max(map(len, found)) > _LONGEST_WORD:
        found = {word[:_LONGEST_WORD] for word in found}
    return found if len(found) <= _MOST_WORDS else set(islice(found, _MOST_WORDS))


def _split(whole: str) -> list[str]:
    return (_ASCII_WORD if whole.isascii() else _WORD).findall(whole)


def _number(digits: str) -> str:
    return digits.lstrip("0")[:_LONGEST_WORD] or "0"


# Storing the words of rows


def note_words(
    cursor: Cursor,
    collection: Collection,
    rows: Sequence[Row],
    promoted: Sequence[Promoted],
    altered: Mapping[int, frozenset[str]] = MappingProxyType({}),
) -> None:
    """Store the words of rows just written, and the names in them.

    Call it with their versions locked. `promoted` are the account's own fields that have a column.
    `altered` are the changed fields of a record, if known.
    """
    if not collection.searched or not rows:
        return
    own = _OwnFields(cursor, collection, promoted)
    words = [_words_of_row(collection, row, own) for row in rows]
    cursor.execute(
        f"INSERT INTO {collection.words} AS w (id, words)"
        " SELECT * FROM unnest(%s::bigint[], %s::tsvector[])"
        " ON CONFLICT (id) DO UPDATE SET words = excluded.words WHERE w.words <> excluded.words",
        (array_of(row.id for row in rows), array_of(words)),
    )
    named = _named_by(collection)
    _note_names(cursor, collection, [r for r in rows if altered.get(r.id, named) & named])


def with_words(
    cursor: Cursor, collection: Collection, altered: Mapping[int, frozenset[str]]
) -> set[int]:
    """Return those of `altered` whose words and names need no change.

    None of their changed fields is used in the search.
    """
    if not collection.searched or not altered:
        return set()
    found_by = _found_by(collection)
    ids = [id_ for id_, fields in altered.items() if not fields & found_by]
    if not ids:
        return set()
    cursor.execute(f"SELECT id FROM {collection.words} WHERE id = ANY(%s)", (array_of(ids),))
    return {row[0] for row in cursor.fetchall()}


@cache
def _found_by(collection: Collection) -> frozenset[str]:
    columns = (*collection.searched, *collection.numbers, *chain(*collection.names.values()))
    own = ("custom_fields",) if collection.promotes else ()
    return collection.fields_of(*columns, *own)


@cache
def _named_by(collection: Collection) -> frozenset[str]:
    return collection.fields_of(*chain(*collection.names.values()))


def what_is_searched(cursor: Cursor, collection: Collection) -> str:
    """Return a text for which of the account's own fields are searched, and what their values mean.

    Words that were stored under another text have to be made again.
    """
    cursor.execute(
        'SELECT md5(concat((SELECT string_agg(key, chr(10) ORDER BY key COLLATE "C")'
        " FROM promoted_fields WHERE collection = %(collection)s), chr(10), chr(10),"
        " (SELECT string_agg(concat_ws(chr(10), key, value, label), chr(10)"
        ' ORDER BY key COLLATE "C", value COLLATE "C") FROM custom_field_labels'
        " JOIN promoted_fields USING (collection, key) WHERE collection = %(collection)s)))",
        {"collection": collection.name},
    )
    return str((cursor.fetchone() or ("",))[0])


class _OwnFields:
    """The account's own fields that are searched: those that have a column, with their labels."""

    def __init__(
        self, cursor: Cursor, collection: Collection, promoted: Sequence[Promoted]
    ) -> None:
        self._keys = [field.key for field in promoted]
        self._labels: dict[tuple[str, str], str] = {}
        if self._keys:
            cursor.execute(
                "SELECT key, value, label FROM custom_field_labels"
                " WHERE collection = %s AND key = ANY(%s)",
                (collection.name, self._keys),
            )
            self._labels = {(key, value): label for key, value, label in cursor.fetchall()}

    def texts(self, row: Row) -> list[str]:
        """Return the values of these fields in `row`, and their labels."""
        if not self._keys:
            return []
        try:
            held = msgspec.json.decode(row.custom_fields or b"null")
        except (ValueError, RecursionError):
            return []
        if not isinstance(held, dict):
            return []
        values = [
            (key, str(each))
            for key in self._keys
            for value in [held.get(key)]
            for each in (value if isinstance(value, list) else [value])
            # A checkbox is not useful in a search.
            if isinstance(each, str | int | float) and not isinstance(each, bool)
        ]
        return [text for each in values for text in (each[1], self._labels.get(each, ""))]


def forget_words(cursor: Cursor, collection: Collection, ids: Sequence[int]) -> None:
    """Delete the words of rows that were deleted. Call it with their versions locked."""
    if collection.searched and ids:
        cursor.execute(f"DELETE FROM {collection.words} WHERE id = ANY(%s)", (list(ids),))


def forget_names(connection: Connection, collection: Collection) -> int:
    """Delete names that no row has any more. Returns how many. Commits.

    Each writer of a row adds its names only if they are not known. So a name is not deleted while
    rows are written: one of them may have it. Then nothing is deleted this time.
    """
    if not collection.names:
        return 0
    for _ in range(_TRIES):
        try:
            before = content_number(connection, collection, patience=_PATIENCE)
        except WriterHangs:
            return 0
        with connection.cursor() as cursor:
            gone = _unused_names(cursor, collection)
            connection.commit()
            if not gone:
                return 0
            if number_if_nobody_writes(cursor, collection) == before:
                cursor.execute(
                    "DELETE FROM known_names k"
                    " USING unnest(%s::text[], %s::text[], %s::bigint[]) AS n (kind, name, id)"
                    " WHERE k.collection = %s AND k.kind = n.kind AND md5(k.name) = md5(n.name)"
                    " AND coalesce(k.record_id, 0) = coalesce(n.id, 0)",
                    (*(list(column) for column in zip(*gone, strict=True)), collection.name),
                )
                deleted = cursor.rowcount
                connection.commit()
                return deleted
            connection.rollback()
    return 0


def _unused_names(cursor: Cursor, collection: Collection) -> list[tuple[str, str, int | None]]:
    """Return the kind, name and id of each name that no row has."""
    found: list[tuple[str, str, int | None]] = []
    for kind, (column, id_) in collection.names.items():
        cursor.execute(
            "SELECT kind, name, record_id FROM known_names k WHERE collection = %s AND kind = %s"
            f" AND NOT EXISTS (SELECT FROM {collection.name} o WHERE o.{column} = k.name"
            f" AND coalesce(o.{id_}, 0) = coalesce(k.record_id, 0))",
            (collection.name, kind),
        )
        found += cursor.fetchall()
    return found


def _words_of_row(collection: Collection, row: Row, own: "_OwnFields") -> str:
    """Return the words of a row as PostgreSQL writes a tsvector."""
    texts: list[str] = []
    for column in collection.searched:
        value = getattr(row, column)
        texts += value if isinstance(value, list) else [value] if value else []
    texts += own.texts(row)
    # In the form that `in_block` writes.
    before = f"{row.id >> BLOCK_BITS}:"
    parts, count = [], 0
    # The subject is also the name.
    for text in dict.fromkeys(texts):
        short = len(text) <= _MOST_REMEMBERED
        many, part = _remembered(text, before) if short else _part(text, before)
        count += many
        parts.append(part)
    if count > _MOST_WORDS:
        parts = [_as_tsvector(words_of(texts), before)]
    numbers = [str(row.id), *(getattr(row, column) or "" for column in collection.numbers)]
    parts += {f"'{exactly(folded(n))}'" for n in numbers if n.isdecimal()}
    return " ".join(parts)


def _part(text: str, before: str) -> tuple[int, str]:
    """Return how many words a text has, and the words as PostgreSQL writes a tsvector."""
    words = _words_of_text(text[:_MOST_LETTERS])
    return len(words), _as_tsvector(words, before)


# The same customers, venues, owners and tags occur again and again.
_remembered = lru_cache(maxsize=8_192)(_part)


def in_block(block: int | str, word: str) -> str:
    """Return `word` of a record whose id is in that block."""
    return f"{block}:{word}"


def _as_tsvector(words: Set[str], before: str = "") -> str:
    # The words contain no quotes and no backslashes.
    return f"'{before}" + f"' '{before}".join(words) + "'" if words else ""


def _note_names(cursor: Cursor, collection: Collection, rows: Sequence[Row]) -> None:
    names = {
        (kind, name, getattr(row, id_))
        for kind, (column, id_) in collection.names.items()
        for row in rows
        if (name := getattr(row, column))
    }
    if not names:
        return
    # In the same order in all transactions, so that no two wait for each other.
    kinds, texts, ids = zip(
        *sorted(names, key=lambda n: (n[0], n[1], -1 if n[2] is None else n[2])), strict=True
    )
    cursor.execute(
        "SELECT n.kind, n.name, n.id FROM unnest(%s::text[], %s::text[], %s::bigint[])"
        " WITH ORDINALITY AS n (kind, name, id, place)"
        " WHERE NOT EXISTS (SELECT FROM known_names k WHERE k.collection = %s"
        " AND k.kind = n.kind AND md5(k.name) = md5(n.name)"
        " AND coalesce(k.record_id, 0) = coalesce(n.id, 0)) ORDER BY n.place",
        (array_of(kinds), array_of(texts), array_of(ids), collection.name),
    )
    if new := cursor.fetchall():
        cursor.execute(
            "INSERT INTO known_names (collection, kind, name, record_id, words)"
            " SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::tsvector[])"
            " ON CONFLICT DO NOTHING",
            (
                collection.name,
                *(array_of(column) for column in zip(*new, strict=True)),
                array_of(_as_tsvector(words_of([name])) for _, name, _ in new),
            ),
        )
