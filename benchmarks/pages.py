"""What lists cost when there are many opportunities: `python benchmarks/pages.py
[--rows 8000 1000000] [--times 9]`.

Rows are invented inside PostgreSQL, with as many values of each kind as an account of that size
has: the more opportunities, the more customers and venues. Each address is asked for over HTTP from
`rms-pipeline web`; of each kind the page in the middle of the list, too. What stands above the fold
is the page itself; the choices beside the list come after it, and are shown apart.
"""

import argparse
import gc
import json

import ground
from dashboard import Session, web

from rms_pipeline.mirror.browse import ORDERS, Place
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.web.listing import page_behind

_ROWS = """
    INSERT INTO opportunities (id, name, subject, starts_at, ends_at, opportunity_status,
        created_at_rms, updated_at_rms, venue_id, venue_name, organisation_id, organisation_name,
        owner_id, owner_name, charge_total, total_value, number, state_name, tags,
        deliver_starts_at, collect_ends_at, confirmed_at, data)
    SELECT i, name, name, starts, starts + hours * interval '1 hour',
        (ARRAY['Open', 'Provisional', 'Reserved', 'Active', 'Completed', 'Completed', 'Completed',
            'Cancelled', 'Lost', 'Dead'])[1 + hash %% 10],
        starts - interval '40 days', starts - hash %% 40 * interval '1 day' - i * interval '1 s',
        hash %% (10 + {rows} / 500), 'Venue ' || hash %% (10 + {rows} / 500),
        hash %% (10 + {rows} / 50), 'Customer ' || hash %% (10 + {rows} / 50),
        hash %% 20, 'Colleague ' || hash %% 20, value, value * 1.2, lpad(i::text, 8, '0'),
        (ARRAY['Enquiry', 'Quotation', 'Quotation', 'Order', 'Order'])[1 + hash %% 5],
        CASE hash %% 50 WHEN 0 THEN ARRAY['vip'] WHEN 1 THEN ARRAY['festival', 'dry hire'] END,
        CASE WHEN hash %% 3 > 0 THEN starts - interval '5 hours' END,
        CASE WHEN hash %% 3 > 0 THEN starts + (hours + 8) * interval '1 hour' END,
        CASE WHEN hash %% 5 > 2 THEN starts - interval '9 days' END,
        jsonb_build_object('number', lpad(i::text, 8, '0'), 'description', repeat(md5(i::text), 90))
    FROM (SELECT i, abs(hashint4(i)) AS hash,
        'Event ' || md5(i::text) AS name,
        -- As many a day whatever the size: an account of a million has had them for longer.
        date_trunc('hour', now()) + (i - {rows} * 0.95) * interval '1 day' / 20
            + abs(hashint4(i + 1)) %% 24 * interval '1 hour' AS starts,
        6 + abs(hashint4(i + 2)) %% 60 AS hours,
        CASE WHEN abs(hashint4(i + 3)) %% 4 = 0 THEN 0 ELSE abs(hashint4(i + 4)) %% 2000000 / 100.0
        END AS value
        FROM generate_series(1, {rows}) AS i) invented
"""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=[8_000, 1_000_000])
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--server", choices=["embedded", "15"], default="embedded")
    options = parser.parse_args()
    found: list[dict[str, float]] = []
    with ground.api_of(50) as api, ground.a_server(options.server) as server:
        for rows in options.rows:
            with ground.new_database(server) as url:
                if not found:
                    ground.headline("What lists cost when there are many", url)
                ground.prepare(url, api)
                ground.sync("initial", api, url)
                ground.carry_out(url, "TRUNCATE opportunities")
                ground.carry_out(url, _ROWS.format(rows=rows).replace("%%", "%"))
                ground.carry_out(url, "VACUUM ANALYZE opportunities")
                refresh_status_counts(ground.database_at(url), "Europe/London")
                with web(url, api) as session:
                    found.append(measure(session, url, options.times))
                gc.collect()
    few, many = found
    small, large = (f"{rows:,} rows, ms" for rows in options.rows)
    lines = [
        [what, f"{few[what]:.1f}", f"{many[what]:.1f}", f"{many[what] / few[what]:.2f}"]
        for what in few
    ]
    ground.table(["list", small, large, "times"], lines)
    above = [what for what in few if not what.startswith("choices")]
    worst = max(above, key=lambda what: many[what] / few[what])
    ratio = many[worst] / few[worst]
    ground.judge([ground.Asked(f"{worst}, times of {options.rows[0]:,} rows", ratio, most=2)])


def measure(session: Session, url: str, times: int) -> dict[str, float]:
    """Median milliseconds of each look."""
    looks = {what: f"/opportunities?{query}" for what, query in _FILTERS.items()}
    for key in ORDERS:
        for sort in (key, f"-{key}"):
            looks[f"by {sort}"] = f"/opportunities?sort={sort}"
            looks[f"by {sort}, in the middle"] = middle(url, sort)
    looks["choices beside all"] = "/fragments/facets"
    looks["choices beside a status"] = "/fragments/facets?status=Reserved"
    found = {}
    for what, address in looks.items():
        session.look(address)
        seconds = sorted(session.look(address)[0] for _ in range(times))
        found[what] = 1000 * ground.median(seconds)
    return found


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
