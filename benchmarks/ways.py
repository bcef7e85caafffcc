"""Ways to bring the account into PostgreSQL, for `peers.py`: `ways.py WAY API_URL POSTGRES_URL`.

Each is written as plainly as it can be while doing its best, on purpose without any code of
`rms_pipeline`: they are what it is measured against. Prints a line of JSON: when (seconds since
1970) the last commit was, and how many rows came.
"""

import io
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import psycopg2
import requests
from msgspec import Raw

HEADERS = {"X-SUBDOMAIN": "sandbox", "X-AUTH-TOKEN": "sandbox-key"}
QUERY = "per_page=100&filtermode=all&include[]=member&include[]=owner&include[]=venue"
COLUMNS = (
    "id, name, subject, description, starts_at, ends_at, opportunity_status, created_at_rms,"
    " updated_at_rms, venue_name, organisation_id, organisation_name, owner_id, owner_name,"
    " charge_total, total_value, data, synced_at"
)
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


class Meta(msgspec.Struct):
    total_row_count: int


class Page(msgspec.Struct):
    opportunities: list[Raw]
    meta: Meta


page_decoder = msgspec.json.Decoder(Page)
record_decoder = msgspec.json.Decoder(Record)


def fetch_pages(api: str) -> Iterator[bytes]:
    """Every page, in order, eight requests in flight."""
    with requests.Session() as session, ThreadPoolExecutor(IN_FLIGHT) as pool:
        session.headers.update(HEADERS)
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=IN_FLIGHT)
        session.mount("http://", adapter)

        def get(number: int) -> bytes:
            answer = session.get(f"{api}/opportunities?page={number}&{QUERY}", timeout=60)
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


def values(raw: Raw, now: str) -> tuple[str | int | None, ...]:
    r = record_decoder.decode(raw)
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


def escape(value: str | int | None) -> str:
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

    def __init__(self, pages: Iterator[bytes]) -> None:
        self.rows = 0
        self._pages = pages
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            page = next(self._pages, None)
            if page is None:
                return b""
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            records = page_decoder.decode(page).opportunities
            self.rows += len(records)
            lines = "".join("\t".join(map(escape, values(r, now))) + "\n" for r in records)
            self._rest = memoryview(lines.encode())
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)


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


def copy(pages: Iterator[bytes], url: str) -> int:
    stream = CopyStream(pages)
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY opportunities ({COLUMNS}) FROM STDIN", stream, 1 << 20)
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


WAYS = {"fetch": fetch, "floor": floor, "floor-of-two": floor_of_two, "upsert": upsert, "dlt": dlt}


if __name__ == "__main__":
    way, api_url, postgres_url = sys.argv[1:]
    came = WAYS[way](api_url, postgres_url)
    print(json.dumps({"committed_at": time.time(), "rows": came}))
