"""What it costs to keep the answers of the API: bytes after each full sync.

    python benchmarks/raw_pages.py [--rows 20000] [--server embedded|15] [--postgres-url URL]

Three full syncs of an account in which nothing changes, then one after each of 1 % and 10 % of the
records were edited, each the command `rms-pipeline sync initial` in a process of its own without a
limit. Bytes are those on disk, indexes and out-of-line values included.
"""

import argparse

import ground

KEPT = ("raw_rms_pages", "raw_page_bodies")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--server", choices=["embedded", "15"], default="embedded")
    parser.add_argument("--postgres-url", help="a server to make databases on")
    options = parser.parse_args()
    edits = (0, 0, 0, options.rows // 100, options.rows // 10)
    shown: list[list[str]] = []
    with (
        ground.a_server(options.postgres_url or options.server) as server,
        ground.api_of(options.rows) as api,
        ground.new_database(server) as url,
    ):
        ground.headline("Answers of the API, kept", server)
        ground.prepare(url, api)
        for number, edited in enumerate(edits, 1):
            if edited:
                api.edit(edited)
            ground.carry_out(url, "CHECKPOINT")
            before = ground.ask(url, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
            done = ground.sync("initial", api, url)
            written = ground.ask(url, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn") - before
            received, pages = (
                ground.ask(url, f"SELECT {each} FROM raw_rms_pages")
                for each in ("sum(size_bytes)", "count(*)")
            )
            kept = sum(
                ground.ask(url, f"SELECT coalesce(pg_total_relation_size(to_regclass('{t}')), 0)")
                for t in KEPT
            )
            shown.append(
                [
                    str(number),
                    f"{edited:,}",
                    f"{pages:,}",
                    f"{float(received) / 1e6:.0f}",
                    f"{kept / 1e6:.1f}",
                    f"{float(written) / 1e6:.0f}",
                    f"{done.seconds:.1f}",
                    f"{done.memory:.0f}",
                ]
            )
    ground.table(
        [
            "full sync",
            "edited before",
            "pages kept",
            "received, MB",
            "kept on disk, MB",
            "WAL of the sync, MB",
            "seconds",
            "peak MB",
        ],
        shown,
    )


if __name__ == "__main__":
    main()
