"""A large account in one process each: time, memory, calls, and what takes room on the disk.

    python benchmarks/million.py [--rows 1000000] [--server embedded|15] [--postgres-url URL]

A first `initial_sync`, one over unchanged data, and an incremental sync after five edits, without a
limit of calls. Then which tables take how much, and what that makes at a million and at ten, by
proportion: time and disk grow with the rows, memory does not (`growth.py`). The API server keeps
all records in memory: have 8 GB to spare for a million.
"""

import argparse

import ground
import growth

from rms_pipeline.mirror.sizes import measure

SHOWN = 8
# What an account answers at most, and how many records it gives at a time.
PER_MINUTE, PER_PAGE = 120, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--server", choices=["embedded", "15"], default="embedded")
    parser.add_argument("--postgres-url", help="a server to make databases on")
    options = parser.parse_args()
    rows: int = options.rows
    with (
        ground.a_server(options.postgres_url or options.server) as server,
        ground.api_of(rows) as api,
        ground.new_database(server) as url,
    ):
        ground.headline(f"{rows:,} opportunities", server)
        ground.prepare(url, api)
        first = ground.sync("initial", api, url)
        second = ground.sync("initial", api, url)
        incremental, _ = growth.incremental_sync(api, url, rows)
        with ground.database_at(url).session() as connection:
            sizes = measure(connection)
    ground.table(
        ["sync", "seconds", "ms a record", "peak MB", "calls"],
        [
            [name, f"{s.seconds:.0f}", f"{1000 * s.seconds / rows:.3f}", f"{s.memory:.0f}", s.calls]
            for name, s in (("first", first), ("second, nothing changed", second))
        ],
    )
    ground.table(
        ["records", "incremental: API calls", "rows written", "seconds", "without the API"],
        [incremental],
    )
    ground.table(
        ["table", "MB", "bytes a record"],
        [
            [name, f"{size / 1e6:,.0f}", f"{size / rows:,.0f}"]
            for name, size in [*list(sizes.tables.items())[:SHOWN], ("all", sizes.database)]
        ],
    )
    ground.table(
        ["records", "seconds, by proportion", "GB, by proportion", "hours at the limit of calls"],
        [
            [
                f"{many:,}",
                f"{first.seconds * many / rows:,.0f}",
                f"{sizes.database * many / rows / 1e9:.0f}",
                f"{many / PER_PAGE / (0.9 * PER_MINUTE) / 60:.0f}",
            ]
            for many in (1_000_000, 10_000_000)
        ],
    )


if __name__ == "__main__":
    main()
