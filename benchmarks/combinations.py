"""The slowest first pages of a list among many opportunities, of all filters in all orders.

    python benchmarks/combinations.py [--rows 1000000] [--pairs 0] [--server embedded|15]
        [--keep FOLDER]

Each filter alone in each order, and with `--pairs N` every N-th pair of two filters, too. The rows
are those of `pages.py`, and `--keep` is the same folder. A page is what the web service reads for
it from PostgreSQL, of whose process the time of a processor counts: other work on the machine
changes it little.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ground
from pages import a_database

from rms_pipeline.mirror.browse import ORDERS, list_counted
from rms_pipeline.mirror.statements import Connection, one_row
from rms_pipeline.web.list_address import asked_by, looked_up
from rms_pipeline.web.reading import Reader

MOST_MILLISECONDS = 1_000.0
SHOWN, PER_PAGE = 20, 51
FILTERS = (
    *("q=festival", "q=festival+marquee", "q=wedding+marquee", "q=dry+hire", "q=estiva"),
    *("q=colleague", "status=Reserved", "status=Lost", "status=is:undecided", "status=is:open"),
    *("status=is:closed", "state=Order", "state=Enquiry", "state=Draft", "customer=omer+77"),
    *("customer=cust", "customer_id=1", "customer_id=5", "owner=Colleague+7", "venue=Venue+5"),
    *("owner_id=7", "venue_id=5", "venue_id=1"),
    *("tag=vip", "tag=festival", "tag=festival&tag=vip", "onhire=weekend", "onhire=next-90"),
    *("onhire=2000-01-01..2020-12-31", "out=next-7", "out=2000-01-01..2015-01-01"),
    *("back=tomorrow", "back=1950-01-01..2000-01-01", "starts=next-30", "to=1960-01-01"),
    *("confirmed=last-30", "confirmed=1900-01-01..2100-01-01", "created=last-month"),
    *("created=1880-01-01..1895-01-01", "least=23900", "least=100", "greatest=50"),
)


def filters(every: int) -> Iterator[str]:
    yield from FILTERS
    pairs = [
        f"{one}&{other}"
        for one, other in itertools.combinations(FILTERS, 2)
        if one.partition("=")[0] != other.partition("=")[0]
    ]
    yield from pairs[::every] if every else ()


def measure(connection: Connection, every: int) -> list[tuple[float, str]]:
    """Milliseconds of each page, and its address."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (process,) = one_row(cursor)
    found = []
    for query in filters(every):
        before = ground.processors_of(process)
        wanted = looked_up(connection, asked_by(query, "Europe/London"))
        looking_up = ground.processors_of(process) - before
        for sort in (sign + key for key in ORDERS for sign in ("", "-")):
            before = ground.processors_of(process)
            list_counted(connection, replace(wanted.criteria, sort=sort), limit=PER_PAGE)
            taken = looking_up + ground.processors_of(process) - before
            found.append((taken, f"{query}&sort={sort}"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=0, help="every which pair; 0 is none")
    parser.add_argument("--server", choices=["embedded", "15"], default="embedded")
    parser.add_argument("--keep", type=Path, help="a folder whose databases are made once")
    options = parser.parse_args()
    with (
        ground.api_of(50) as api,
        ground.a_server(options.server, options.keep) as server,
        a_database(server, api, options.rows, keep=options.keep is not None) as url,
    ):
        ground.headline(f"Each filter in each order, of {options.rows:,} opportunities", server)
        reader = Reader(ground.database_at(url))
        with reader.session() as connection:
            found = sorted(measure(connection, options.pairs), reverse=True)
        reader.close()
    ground.table(["slowest lists", "ms"], [[query, f"{ms:.0f}"] for ms, query in found[:SHOWN]])
    times = [ms for ms, _ in found]
    ground.table(
        ["pages", "median, ms", "slowest, ms"],
        [[f"{len(times):,}", f"{ground.median(times):.0f}", f"{times[0]:.0f}"]],
    )
    ground.judge(
        [ground.Asked("the slowest list, ms of a processor", times[0], most=MOST_MILLISECONDS)]
    )


if __name__ == "__main__":
    main()
