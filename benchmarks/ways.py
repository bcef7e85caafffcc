"""Ways to bring the account into PostgreSQL, for `peers.py`: `ways.py WAY API_URL POSTGRES_URL`.

Each is written as plainly as it can be while doing its best, on purpose without any code of
`rms_pipeline`: they are what it is measured against. Prints a line of JSON: when (seconds since
1970) the last commit was, and how many rows came.
"""

import hashlib
import io
import json
import re
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import psycopg2
import requests
from isal import isal_zlib
from msgspec import Raw

HEADERS = {"X-SUBDOMAIN": "sandbox", "X-AUTH-TOKEN": "sandbox-key"}
QUERY = "per_page=100&filtermode=all&include[]=member&include[]=owner&include[]=venue"
# What initial_sync asks for since its table has these columns.
WHOLE_QUERY = (
    f"{QUERY}&include[]=destination&include[]=billing_address&include[]=opportunity_surcharges"
)
COLUMNS = (
    "id, name, subject, description, starts_at, ends_at, opportunity_status, created_at_rms,"
    " updated_at_rms, venue_name, organisation_id, organisation_name, owner_id, owner_name,"
    " charge_total, total_value, data, synced_at"
)
# The other columns of the table that are read from the record. Each has the name of its field.
OTHERS = (
    *("number", "reference", "state_name", "store_id", "project_id", "venue_id", "ordered_at"),
    *("quote_invalid_at", "invoiced", "charge_excluding_tax_total", "charge_including_tax_total"),
    *("tax_total", "provisional_cost_total", "predicted_cost_total", "actual_cost_total"),
    *("weight_total", "revenue", "rating", "open_ended_rental"),
    *("prep_starts_at", "prep_ends_at", "load_starts_at", "load_ends_at", "deliver_starts_at"),
    *("deliver_ends_at", "setup_starts_at", "setup_ends_at", "show_starts_at", "show_ends_at"),
    *("takedown_starts_at", "takedown_ends_at", "collect_starts_at", "collect_ends_at"),
    *("unload_starts_at", "unload_ends_at", "deprep_starts_at", "deprep_ends_at"),
)
ALL_COLUMNS = f"{COLUMNS}, {', '.join(OTHERS)}, tags, custom_fields"
ALL_NAMES = ALL_COLUMNS.split(", ")
# What a full sync stores in other tables.
PAGE_COLUMNS = (
    "collection, run, walk, page, segment, request, asked_at, fetched_at, api_date, record_count,"
    " record_ids, size_bytes, digest"
)
NAMED = [
    (kind, ALL_NAMES.index(f"{of}_name"), ALL_NAMES.index(f"{of}_id"))
    for kind, of in (("customer", "organisation"), ("venue", "venue"), ("owner", "owner"))
]
SEARCHED = [
    ALL_NAMES.index(column)
    for column in (
        *("number", "name", "subject", "organisation_name", "venue_name", "owner_name"),
        *("reference", "tags", "description"),
    )
]
NUMBER, UPDATED_AT = ALL_NAMES.index("number"), ALL_NAMES.index("updated_at_rms")
FOREIGN = re.compile(r"[^\x00-\x7f]+")
JOINT = re.compile(r"['.&/_-]")
SPACES = {code: " " for code in range(128) if not (chr(code).isalnum() or JOINT.match(chr(code)))}
JOINED = re.compile(r"[^\W_]+(?:['.&/_-][^\W_]+)*")
IN_FLIGHT = 8


class Named(msgspec.Struct):
    name: str | None = None


class Record(msgspec.Struct):
    """The mapped fields; everything else is skipped over."""

    id: int
    number: str | None = None
    subject: str | None = None
    description: str | None = None
    starts_at: str | None = None
    ends_at: str | None = None
    status_name: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    venue: Named | None = None
    member_id: int | None = None
    member: Named | None = None
    owned_by: int | None = None
    owner: Named | None = None
    charge_total: str | None = None
    charge_including_tax_total: str | None = None


_READ_ALREADY = set(Record.__struct_fields__)
Whole: Any = msgspec.defstruct(
    "Whole",
    [
        *((n, str | int | float | bool | None, None) for n in OTHERS if n not in _READ_ALREADY),
        ("tag_list", list[str] | None, None),
        ("custom_fields", Raw, Raw(b"null")),
    ],
    bases=(Record,),
)


class Meta(msgspec.Struct):
    total_row_count: int


class Page(msgspec.Struct):
    opportunities: list[Raw]
    meta: Meta


page_decoder = msgspec.json.Decoder(Page)
record_decoder = msgspec.json.Decoder(Record)
whole_decoder: Any = msgspec.json.Decoder(Whole)


def fetch_pages(api: str, query: str = QUERY) -> Iterator[bytes]:
    """Every page, in order, eight requests in flight."""
    with requests.Session() as session, ThreadPoolExecutor(IN_FLIGHT) as pool:
        session.headers.update(HEADERS)
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=IN_FLIGHT)
        session.mount("http://", adapter)

        def get(number: int) -> bytes:
            answer = session.get(f"{api}/opportunities?page={number}&{query}", timeout=60)
            answer.raise_for_status()
            return answer.content

        first = get(1)
        yield first
        count = -(-page_decoder.decode(first).meta.total_row_count // 100)
        waiting: deque[Future[bytes]] = deque()
        for number in range(2, count + 1):
            waiting.append(pool.submit(get, number))
            if len(waiting) > 2 * IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


Value = str | int | float | None
Values = Callable[[Raw, str], tuple[Value, ...]]


def values(raw: Raw, now: str) -> tuple[Value, ...]:
    """Those of `COLUMNS`."""
    return of_record(record_decoder.decode(raw), raw, now)


def all_values(raw: Raw, now: str) -> tuple[Value, ...]:
    """Those of `ALL_COLUMNS`."""
    r = whole_decoder.decode(raw)
    others = (value if value != "" else None for value in map(r.__getattribute__, OTHERS))
    custom = bytes(r.custom_fields).decode()
    return (
        *of_record(r, raw, now),
        *others,
        None if r.tag_list is None else array(r.tag_list),
        None if custom == "null" else custom,
    )


def array(texts: list[str]) -> str:
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def of_record(r: Record, raw: Raw, now: str) -> tuple[Value, ...]:
    return (
        r.id,
        r.subject or r.number or f"Opportunity {r.id}",
        r.subject or None,
        r.description or None,
        r.starts_at or None,
        r.ends_at or None,
        r.status_name,
        r.created_at,
        r.updated_at,
        r.venue.name if r.venue else None,
        r.member_id,
        r.member.name if r.member else None,
        r.owned_by,
        r.owner.name if r.owner else None,
        r.charge_total,
        r.charge_including_tax_total,
        bytes(raw).decode(),
        now,
    )


def escape(value: Value) -> str:
    if value is None:
        return "\\N"
    text = str(value)
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "\n" in text or "\t" in text or "\r" in text:
        text = text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return text


class Shared:
    """Pages for several who each take the next one."""

    def __init__(self, pages: Iterator[bytes]) -> None:
        self._pages, self._turn = pages, threading.Lock()

    def __iter__(self) -> "Shared":
        return self

    def __next__(self) -> bytes:
        with self._turn:
            return next(self._pages)


class CopyStream(io.RawIOBase):
    """Pages as one COPY: PostgreSQL works on what has come while the next page is decoded."""

    def __init__(
        self, pages: Iterator[bytes], values: Values, beside: "Beside | None" = None
    ) -> None:
        self.rows = 0
        self._pages, self._values, self._beside = pages, values, beside
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            page = next(self._pages, None)
            if page is None:
                return b""
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            records = page_decoder.decode(page).opportunities
            self.rows += len(records)
            rows = [self._values(record, now) for record in records]
            if self._beside is not None:
                self._beside.add(page, records, rows, now)
            lines = "".join("\t".join(map(escape, row)) + "\n" for row in rows)
            self._rest = memoryview(lines.encode())
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)


class Beside:
    """What a full sync stores of pages and records in other tables, as lines for COPY.

    The pages as they came, the words that find a record, the names of customers, venues and owners,
    and what a row stands for.
    """

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.pages: list[str] = []
        self.words: list[str] = []
        self.versions: list[str] = []
        self.names: set[tuple[str, Value, Value]] = set()

    def add(self, page: bytes, records: list[Raw], rows: list[tuple[Value, ...]], now: str) -> None:
        digest = hashlib.sha256(page).hexdigest()
        ids = ",".join(str(row[0]) for row in rows)
        self.bodies.append(
            f"opportunities\t\\\\x{digest}\t\\\\x{isal_zlib.compress(page, 1).hex()}\n"
        )
        self.pages.append(
            f"opportunities\tfloor\t1\t{rows[0][0]}\tall\t/opportunities\t{now}\t{now}\t{now}"
            f"\t{len(rows)}\t{{{ids}}}\t{len(page)}\t\\\\x{digest}\n"
        )
        for record, row in zip(records, rows, strict=True):
            id_, updated_at = row[0], escape(row[UPDATED_AT])
            self.words.append(f"{id_}\t{words_of(row)}\n")
            fingerprint = hashlib.blake2b(record, digest_size=16).hexdigest()
            self.versions.append(f"{id_}\t{now}\t{now}\t{updated_at}\t\\\\x{fingerprint}\n")
            self.names.update((kind, row[name], row[of]) for kind, name, of in NAMED if row[name])

    def copy(self, cursor: Any) -> None:
        for table, lines in (
            ("raw_page_bodies (collection, digest, body)", self.bodies),
            (f"raw_rms_pages ({PAGE_COLUMNS})", self.pages),
            ("opportunity_words (id, words)", self.words),
            (
                "opportunity_versions (id, asked_at, answered_at, updated_at_rms, fingerprint)",
                self.versions,
            ),
        ):
            cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO("".join(lines)), 1 << 20)


def words_of(row: tuple[Value, ...]) -> str:
    """The words that find a record, as PostgreSQL writes a tsvector. Each has the block of its id.

    This knows letters of the Latin alphabet and no others.
    """
    block = f"{int(row[0] or 0) >> 15}:"
    texts = {str(text)[:2_000] for text in map(row.__getitem__, SEARCHED) if text is not None}
    exact = {f"'={n.lstrip('0') or '0'}'" for n in (str(row[0]), str(row[NUMBER])) if n.isdecimal()}
    return " ".join([*(vector(text, block) for text in texts), *exact])


@lru_cache(8_192)
def vector(text: str, block: str = "") -> str:
    return " ".join(f"'{block}{word}'" for word in words_in(text))


def words_in(text: str) -> set[str]:
    whole = FOREIGN.sub(lambda letters: plain(letters[0]), text).lower()
    found: set[str] = set()
    for piece in set(whole.translate(SPACES).split()):
        if piece.isalnum():
            found.add(piece)
            continue
        for compound in JOINED.findall(piece):
            words = JOINT.split(compound)
            found.update(words)
            found.add("".join(words))
    return found | {word.lstrip("0") or "0" for word in found if word.isdecimal()}


@lru_cache(1_024)
def plain(letters: str) -> str:
    apart = unicodedata.normalize("NFKD", letters.replace("\u2019", "'"))
    return "".join(c if c.isascii() else " " for c in apart if not unicodedata.combining(c))


def fetch(api: str, _: str) -> int:
    """Nothing but the pages."""
    return sum(len(page_decoder.decode(page).opportunities) for page in fetch_pages(api))


def floor(api: str, url: str) -> int:
    """Straight into the indexed, empty table: what no way that stores rows can do without."""
    return copy(fetch_pages(api), url)


def floor_of_two(api: str, url: str) -> int:
    """The same by two writers, of which PostgreSQL serves each on a core of its own."""
    pages = Shared(fetch_pages(api))
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda _: copy(pages, url), range(2)))


def whole_floor(api: str, url: str) -> int:
    """Two writers that fill every column which is read from the record, from the whole record.

    PostgreSQL computes two more from these. The words of the search, the names, the fingerprints
    and the raw pages are left out.
    """
    pages = Shared(fetch_pages(api, WHOLE_QUERY))
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda _: copy(pages, url, ALL_COLUMNS, all_values), range(2)))


def stored_floor(api: str, url: str) -> int:
    """The same two writers, which also store all that a full sync leaves in other tables."""
    pages = Shared(fetch_pages(api, WHOLE_QUERY))
    found = [Beside(), Beside()]
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO walks (id, collection, kind, runs)"
            " OVERRIDING SYSTEM VALUE"
            " VALUES (1, 'opportunities', 'full', '{floor}')"
        )
    with ThreadPoolExecutor(2) as pool:
        rows = sum(pool.map(lambda b: copy(pages, url, ALL_COLUMNS, all_values, b), found))
    names = found[0].names | found[1].names
    lines = "".join(
        f"opportunities\t{kind}\t{escape(name)}\t{escape(id_)}\t{vector(str(name))}\n"
        for kind, name, id_ in names
    )
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.copy_expert(
            "COPY known_names (collection, kind, name, record_id, words) FROM STDIN",
            io.StringIO(lines),
        )
    return rows


def copy(
    pages: Iterator[bytes],
    url: str,
    columns: str = COLUMNS,
    values: Values = values,
    beside: Beside | None = None,
) -> int:
    stream = CopyStream(pages, values, beside)
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY opportunities ({columns}) FROM STDIN", stream, 1 << 20)
        if beside is not None:
            beside.copy(cursor)
    return stream.rows


def upsert(api: str, url: str) -> int:
    """One INSERT ... ON CONFLICT a row, each committed by itself."""
    names = COLUMNS.split(", ")
    settings = ", ".join(f"{n} = excluded.{n}" for n in names if n != "id")
    statement = (
        f"INSERT INTO opportunities ({COLUMNS}) VALUES ({', '.join(['%s'] * len(names))})"
        f" ON CONFLICT (id) DO UPDATE SET {settings}"
    )
    connection = psycopg2.connect(url)
    connection.autocommit = True
    rows = 0
    with connection.cursor() as cursor:
        for page in fetch_pages(api):
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            for record in page_decoder.decode(page).opportunities:
                cursor.execute(statement, values(record, now))
                rows += 1
    return rows


def dlt(api: str, url: str) -> int:
    """dlt's `rest_api` source, merged by id; what is nested stays JSON, as in our `data`."""
    import tempfile

    import dlt as library
    from dlt.sources.rest_api import rest_api_source

    query = [pair.split("=") for pair in QUERY.split("&")]
    params: dict[str, Any] = {name: value for name, value in query if name != "include[]"}
    params["include[]"] = [value for name, value in query if name == "include[]"]
    source = rest_api_source(
        {
            "client": {"base_url": f"{api}/", "headers": HEADERS},
            "resources": [
                {
                    "name": "opportunities",
                    "primary_key": "id",
                    "write_disposition": "merge",
                    "max_table_nesting": 0,
                    "endpoint": {
                        "path": "opportunities",
                        "params": params,
                        "data_selector": "opportunities",
                        "paginator": {
                            "type": "page_number",
                            "base_page": 1,
                            "page_param": "page",
                            "total_path": None,
                            "stop_after_empty_page": True,
                        },
                    },
                }
            ],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        pipeline = library.pipeline(
            pipeline_name="benchmark",
            pipelines_dir=folder,
            destination=library.destinations.postgres(_whole(url)),
            dataset_name="by_dlt",
        )
        pipeline.run(source)
        with pipeline.sql_client() as client:
            counted = client.execute_sql("SELECT count(*) FROM opportunities")
        return int(counted[0][0]) if counted else 0


def _whole(url: str) -> str:
    """dlt insists on a host and a password; libpq takes the socket of the query all the same."""
    parts = urlsplit(url)
    who = f"{parts.username}:{parts.password or 'unused'}"
    return urlunsplit(
        parts._replace(netloc=f"{who}@{parts.hostname or 'localhost'}:{parts.port or 5432}")
    )


WAYS = {
    "fetch": fetch,
    "floor": floor,
    "floor-of-two": floor_of_two,
    "whole-floor": whole_floor,
    "stored-floor": stored_floor,
    "upsert": upsert,
    "dlt": dlt,
}


if __name__ == "__main__":
    way, api_url, postgres_url = sys.argv[1:]
    came = WAYS[way](api_url, postgres_url)
    print(json.dumps({"committed_at": time.time(), "rows": came}))
