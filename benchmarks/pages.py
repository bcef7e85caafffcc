"""What pages cost when there are many opportunities: `python benchmarks/pages.py
[--rows 8000 1000000] [--times 9] [--only PART] [--keep FOLDER]`.

Rows are invented inside PostgreSQL, with as many values of each kind as an account of that size
has: the more opportunities, the more customers and venues, and as many a day whatever the size.
Each address is asked for over HTTP from `rms-pipeline web`: Today, the calendar, finding, and lists
by each filter and order, of which the page in the middle, too. Both sizes are there at once, and
take turns, so that whatever else the machine does meanwhile slows both. What stands above the fold
is the page itself. What a page asks for when it is there (the whole count, the choices, the sense
checks, the figures of earlier) is shown apart, and so are pages that add up all opportunities. No
ratio is asked of them. "First view" counts the page and the files that it names, compressed.

Milliseconds by the clock are what a person waits, and tell little while other work waits for the
same processors. So those of processors are beside them: of the web service and of PostgreSQL, from
the kernel. With `--keep`, the databases stay in that folder, and the next time are not made again.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from operator import sub
from pathlib import Path

import ground
import psycopg2
from dashboard import Session, web

from rms_pipeline.mirror.browse import ORDERS, Place
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.mirror.words import BLOCK_BITS
from rms_pipeline.web.list_address import page_behind

_ROWS = """
    INSERT INTO opportunities (id, name, subject, starts_at, ends_at, opportunity_status,
        created_at_rms, updated_at_rms, venue_id, venue_name, organisation_id, organisation_name,
        owner_id, owner_name, charge_total, total_value, number, state_name, tags,
        deliver_starts_at, collect_ends_at, confirmed_at, ordered_at, data)
    SELECT i, name, name, starts, starts + hours * interval '1 hour',
        (ARRAY['Open', 'Provisional', 'Reserved', 'Active', 'Completed', 'Completed', 'Completed',
            'Cancelled', 'Lost', 'Dead'])[1 + hash %% 10],
        starts - interval '40 days', starts - hash %% 40 * interval '1 day' - i * interval '1 s',
        hash %% (10 + {rows} / 500), 'Venue ' || hash %% (10 + {rows} / 500),
        customer, 'Customer ' || customer,
        hash %% 20, 'Colleague ' || hash %% 20, value, value * 1.2, lpad(i::text, 8, '0'),
        CASE WHEN hash %% 10 BETWEEN 3 AND 7 THEN 'Order'
            ELSE (ARRAY['Enquiry', 'Quotation', 'Quotation', 'Order', 'Order'])[1 + hash %% 5] END,
        CASE hash %% 50 WHEN 0 THEN ARRAY['vip'] WHEN 1 THEN ARRAY['festival', 'dry hire'] END,
        CASE WHEN hash %% 3 > 0 THEN starts - interval '5 hours' END,
        CASE WHEN hash %% 3 > 0 THEN starts + (hours + 8) * interval '1 hour' END,
        CASE WHEN hash %% 5 > 2 THEN starts - interval '9 days' END,
        CASE WHEN hash %% 10 BETWEEN 3 AND 7 OR hash %% 5 > 2 THEN starts - interval '20 days' END,
        jsonb_build_object('number', lpad(i::text, 8, '0'), 'description', repeat(md5(i::text), 90))
    FROM (SELECT i, abs(hashint4(i)) AS hash,
        -- One in twenty is of the same customer.
        CASE WHEN i %% 20 = 7 THEN 1 ELSE abs(hashint4(i)) %% (10 + {rows} / 50) END AS customer,
        (ARRAY['Concert', 'Festival', 'Conference', 'Wedding', 'Gala', 'Tour', 'Launch', 'Awards',
            'Summit', 'Theatre', 'Congress', 'Marquee'])[1 + i %% 12] || ' ' || md5(i::text)
            AS name,
        -- As many a day whatever the size: an account of a million has had them for longer.
        date_trunc('hour', now()) + (i - {rows} * 0.95) * interval '1 day' / 20
            + abs(hashint4(i + 1)) %% 24 * interval '1 hour' AS starts,
        6 + abs(hashint4(i + 2)) %% 60 AS hours,
        CASE WHEN abs(hashint4(i + 3)) %% 4 = 0 THEN 0 ELSE abs(hashint4(i + 4)) %% 2000000 / 100.0
        END AS value
        FROM generate_series(1, {rows}) AS i) invented
"""
# As the merge keeps them (`mirror.words`).
_WORDS = """
    INSERT INTO opportunity_words (id, words)
    SELECT id, (format('%L ', '=' || id) || (
        SELECT string_agg(format('%L', (id >> {bits}) || ':' || word), ' ') FROM unnest(
            ARRAY[id::text, number, 'venue', venue_id::text, 'customer', organisation_id::text,
                'colleague', owner_id::text]
            || string_to_array(lower(name || ' ' || coalesce(array_to_string(tags, ' '), '')), ' ')
        ) AS word WHERE word <> ''))::tsvector
    FROM opportunities
"""
_NAMES = """
    INSERT INTO known_names (collection, kind, name, record_id, words)
    SELECT 'opportunities', kind, name, id, array_to_tsvector(string_to_array(lower(name), ' '))
    FROM (SELECT DISTINCT 'customer' AS kind, organisation_name AS name, organisation_id AS id
        FROM opportunities
        UNION ALL SELECT DISTINCT 'venue', venue_name, venue_id FROM opportunities
        UNION ALL SELECT DISTINCT 'owner', owner_name, owner_id FROM opportunities) names
"""
_CHANGES = """
    INSERT INTO opportunity_changes (opportunity_id, field, old_value, new_value, changed_at)
    SELECT i, CASE i %% 3 WHEN 0 THEN 'charge_total' ELSE 'opportunity_status' END,
        (ARRAY['900.00', 'Open', 'Provisional'])[1 + i %% 3],
        (ARRAY['1200.50', 'Reserved', 'Lost'])[1 + i %% 3],
        now() - ({rows} - i) * interval '1 day' / 20
    FROM generate_series(1, {rows}) AS i
"""
_PAGES = {
    "Today": "/today",
    "Today, in ten days": "/today?day={in_ten_days}",
    "calendar, month": "/calendar",
    "calendar, week": "/calendar?view=week",
    "calendar, agenda": "/calendar?view=agenda",
    "calendar of a status": "/calendar?status=Reserved",
    "calendar of a word": "/calendar?q=festival",
    "Changes": "/changes",
    "dashboard": "/",
    "one customer": "/customers/5",
    "find: a word that one in 12 holds": "/find?q=festival",
    "find: beginnings of three words": "/find?q=fest+cust+venu",
    "find: one that nobody holds": "/find?q=zzzz",
    "find: two that seldom meet": "/find?q=festival+marquee",
    "list of a word that one in 12 holds": "/opportunities?q=festival",
    "list of it by value": "/opportunities?q=festival&sort=-value",
    "list of it, of a status": "/opportunities?q=festival&status=Reserved",
    "list of a number": "/opportunities?q=00001234",
    "list of two words that seldom meet": "/opportunities?q=festival+marquee",
    "list of two words that never meet": "/opportunities?q=wedding+marquee",
    "list of part of a word": "/opportunities?q=estiva",
    "list of what nobody holds": "/opportunities?q=zzzz",
    "list of part of a customer's name": "/opportunities?customer=omer+77",
    "list of all customers' names": "/opportunities?customer=cust",
}
_FILTERS = {
    "all, newest edits first": "",
    "a status": "status=Reserved",
    "what is undecided": "status=is:undecided",
    "a colleague": "owner=Colleague+7",
    "a state": "state=Order",
    "a customer": "customer_id=5",
    "a venue": "venue=Venue+5",
    "a tag": "tag=vip",
    "on hire this weekend": "onhire=weekend",
    "goes out in the next 7 days": "out=next-7&sort=out",
    "comes back tomorrow": "back=tomorrow",
    "confirmed in the last 30 days": "confirmed=last-30",
    "created last month, by value": "created=last-month&sort=-value",
    "of great value": "least=23,900",
}

_LATER = {
    "later: all of a status counted": "/fragments/count?status=Reserved",
    "later: all of a word and a status counted": "/fragments/count?q=festival&status=Reserved",
    "later: choices beside all": "/fragments/facets",
    "later: choices beside a status": "/fragments/facets?status=Reserved",
    "later: sense checks of Today": "/today/checks",
    "later: Today beside earlier": "/today/compared",
    "later: a customer beside earlier": "/customers/5/compared",
    "reads all: ranking of customers": "/customers",
    "reads all: won and lost": "/won-and-lost",
}


@dataclass(frozen=True, slots=True)
class Look:
    """Medians of one look: ms by the clock, and of processors in the web service and in PostgreSQL.
    kB on the wire of a first view."""

    clock: float
    web: float
    postgresql: float
    kilobytes: float

    @property
    def processors(self) -> float:
        return self.web + self.postgresql


Looks = dict[str, Look]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=[8_000, 1_000_000])
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--server", choices=["embedded", "15"], default="embedded")
    parser.add_argument("--only", default="", help="looks whose name has this part")
    parser.add_argument("--keep", type=Path, help="a folder whose databases are made once")
    options = parser.parse_args()
    with (
        ground.api_of(50) as api,
        ground.a_server(options.server, options.keep) as server,
        ExitStack() as opened,
    ):
        ground.headline("What pages cost when there are many", server)
        sessions = []
        for rows in options.rows:
            keep = options.keep is not None
            url = opened.enter_context(a_database(server, api, rows, keep=keep))
            sessions.append((opened.enter_context(web(url, api)), url))
        judge(measure(sessions, options.times, options.only), options.rows)


@contextmanager
def a_database(server: str, api: ground.Api, rows: int, *, keep: bool) -> Iterator[str]:
    """A synced mirror with so many opportunities. Yields its URL."""

    def make(url: str) -> None:
        ground.prepare(url, api)
        ground.sync("initial", api, url)
        fill(url, rows)

    if keep:
        like = "".join((_ROWS, _WORDS, _NAMES, _CHANGES))
        url = ground.kept_database(server, f"rows_{rows}", like, make)
        # It may be of an earlier schema.
        ground.prepare(url, api)
        yield url
    else:
        with ground.new_database(server) as url:
            make(url)
            yield url


def judge(found: list[Looks], sizes: list[int]) -> None:
    """Prints what the looks took at both sizes, and what is asked of them."""
    few, many = found
    columns = [f"{what}, {rows:,} rows" for what in ("ms", "processors") for rows in sizes]
    lines = [
        [
            *(what, f"{few[what].clock:.1f}", f"{many[what].clock:.1f}"),
            *(f"{look.web:.1f} + {look.postgresql:.1f}" for look in (few[what], many[what])),
            *(f"{times(few[what], many[what]):.2f}" for times in (_of_clock, _of_processors)),
            f"{many[what].kilobytes:.1f}",
        ]
        for what in few
    ]
    headings = ["page", *columns, "times, by the clock", "times, of processors"]
    ground.table([*headings, "first view, kB"], lines)
    above = [what for what in few if what not in _LATER]
    asked = []
    for kind, times in (("the clock", _of_clock), ("processors", _of_processors)):
        found_times, worst = max((times(few[what], many[what]), what) for what in above)
        title = f"{worst}, times of {sizes[0]:,} rows, by {kind}"
        asked.append(ground.Asked(title, found_times, most=2))
    heaviest = max(few, key=lambda what: many[what].kilobytes)
    size = many[heaviest].kilobytes
    ground.judge([*asked, ground.Asked(f"first view of {heaviest}, kB", size, most=100)])


def _of_clock(few: Look, many: Look) -> float:
    return many.clock / few.clock


def _of_processors(few: Look, many: Look) -> float:
    return many.processors / few.processors


def fill(url: str, rows: int) -> None:
    """So many opportunities, with their words, names and changes, in place of those there are."""
    filled = ("opportunities", "opportunity_words", "known_names", "opportunity_changes")
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(filled)}")
        # One after the other indexes are made much sooner than row by row.
        cursor.execute("SET maintenance_work_mem = '512MB'")
        cursor.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE indrelid = ANY(%s::text[]::regclass[]) AND NOT indisunique",
            (list(filled),),
        )
        indexes = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name}")
        # Words are invented here, too.
        cursor.execute("ALTER TABLE opportunities DISABLE TRIGGER USER")
        for statement in (_ROWS, _WORDS, _NAMES, _CHANGES):
            cursor.execute(statement.format(rows=rows, bits=BLOCK_BITS).replace("%%", "%"))
        cursor.execute("ALTER TABLE opportunities ENABLE TRIGGER USER")
        for _, definition in indexes:
            cursor.execute(definition)
        cursor.execute("VACUUM ANALYZE")
    connection.close()
    refresh_status_counts(ground.database_at(url), "Europe/London")


def measure(sessions: Sequence[tuple[Session, str]], times: int, only: str = "") -> list[Looks]:
    """What each look takes in each of the sessions, which take turns; (session, its database)."""
    found: list[Looks] = [{} for _ in sessions]
    files: list[dict[str, int]] = [{} for _ in sessions]
    several = [looks_at(url, only) for _, url in sessions]
    for what in several[0]:
        taken: list[list[tuple[float, float, float]]] = [[] for _ in sessions]
        sizes = [0 for _ in sessions]
        for turn in range(times + 1):
            for n, (session, url) in enumerate(sessions):
                before = _processors(session, url)
                seconds, sizes[n] = session.look(several[n][what])
                web_, postgresql = map(sub, _processors(session, url), before)
                # The first one fills caches.
                taken[n] += [(1000 * seconds, web_, postgresql)] if turn else []
        for n, (session, _) in enumerate(sessions):
            page = several[n][what].partition("?")[0]
            if page not in files[n]:
                files[n][page] = session.files(page)
            clock, web_, postgresql = map(ground.median, zip(*taken[n], strict=True))
            kilobytes = (sizes[n] + files[n][page]) / 1000
            found[n][what] = Look(clock, web_, postgresql, kilobytes)
    return found


def _processors(session: Session, url: str) -> tuple[float, float]:
    return ground.processors_of(session.process), ground.processors_of_database(url)


def looks_at(url: str, only: str = "") -> dict[str, str]:
    """The addresses of all looks whose name has this part, by what they are."""
    # The smaller account ends in twenty days, and a page looks a week ahead.
    in_ten_days = date.today() + timedelta(days=10)
    looks = {what: path.format(in_ten_days=in_ten_days) for what, path in _PAGES.items()}
    looks |= {what: f"/opportunities?{query}" for what, query in _FILTERS.items()}
    for key in ORDERS:
        for sort in (key, f"-{key}"):
            looks[f"by {sort}"] = f"/opportunities?sort={sort}"
            # Looked for below.
            looks[f"by {sort}, in the middle"] = sort
    looks |= _LATER
    return {
        what: address if address.startswith("/") else middle(url, address)
        for what, address in looks.items()
        if only in what
    }


def middle(url: str, sort: str) -> str:
    """The address of the page in the middle of the list, as following Next would lead there."""
    column = ORDERS[sort.removeprefix("-")].expression
    half = f"count(*) / 2 FROM opportunities WHERE {column} IS NOT NULL"
    row = (
        f"SELECT json_build_array(({column})::text, id)::text FROM opportunities"
        f" WHERE {column} IS NOT NULL ORDER BY {column}, id OFFSET (SELECT {half}) LIMIT 1"
    )
    value, id_ = json.loads(ground.ask(url, row))
    return f"/opportunities?sort={sort}&page={page_behind(1_000, Place(value, id_))}"


if __name__ == "__main__":
    main()
