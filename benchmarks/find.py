"""How long it takes to find something, however many opportunities there are.

    python benchmarks/find.py [--rows 1000000] [--times 9] [--server embedded|15] [--postgres-url U]

`rows` opportunities with some thirty words each, of which a fifth hold a word that begins with
"con", a fifth another, and the older quarter one that no newer one holds. Then what people type,
and what is hardest to answer: milliseconds until the first twenty are there, medians; while typing,
when a search may stop before it looked through all, and without a limit.
"""

import argparse
import io
import time
from collections.abc import Iterator

import ground
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.insight.find import find
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.mirror.words import BLOCK_BITS, exactly, in_block, words_of
from rms_pipeline.web.find import WHILE_TYPING

MOST_MILLISECONDS = 50.0
KINDS = ("concert", "conference", "congress", "convention", "contest", "concours")
CITIES = ("Berlin", "Łódź", "Zürich", "London", "Paris", "Wien", "Oslo", "Roma", "Praha", "Kyiv")
# What is typed, and what it is.
TYPED = (
    ("con", "a beginning that a fifth hold"),
    ("festival", "a word that all hold"),
    ("festival con", "one that all hold and one that a fifth hold"),
    ("oldtown", "a word that only the older quarter holds"),
    ("rarity", "a word that one in 5,000 holds"),
    ("lodz con cust12", "three beginnings, one of them rare"),
    ("00123", "the beginning of a number, with zeros"),
    ("#123456", "a whole number"),
    ("zzzz", "what nobody holds"),
    ("festival zzzz", "what all hold, and what nobody does"),
    ("av", "two letters"),
    ("con marquee", "two that a fifth hold each, and nobody both"),
)


def opportunities(rows: int) -> Iterator[tuple[int, list[str]]]:
    """Ids, and the texts that each is found by."""
    for n in range(1, rows + 1):
        kind = KINDS[n // 5 % len(KINDS)] if n % 5 == 0 else f"party {n % 50}"
        marquee = "marquee" if n % 5 == 1 else f"stage {n % 300}"
        age = "Oldtown" if n <= rows // 4 else "Newtown"
        rare = "rarity" if n % 5_000 == 0 else f"hall {n % 300}"
        yield (
            n,
            [
                f"{n:08}",
                f"Festival {kind} {marquee}",
                f"Customer{n % 20_000} cust{n % 977} & Sons",
                f"{age} {rare} {CITIES[n % len(CITIES)]}",
                f"Owner{n % 30}",
                f"PO-{n * 7 % 1_000_003}",
                f"tag{n % 40} night",
                f"Parking for {n % 7} artics on level {n % 13}, power {n % 977} A,"
                f" ask for {n * 13 % 9_999}",
            ],
        )


def fill(connection: Connection, rows: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP INDEX opportunity_words_words_idx")
        cursor.execute("ALTER TABLE opportunities DISABLE TRIGGER USER")
        plain, words = io.StringIO(), io.StringIO()

        def flush() -> None:
            for file, table in ((plain, "opportunities (id, number, name)"),
                                (words, "opportunity_words")):  # fmt: skip
                file.seek(0)
                cursor.copy_expert(f"COPY {table} FROM STDIN", file)
                file.seek(0)
                file.truncate()

        for id_, texts in opportunities(rows):
            plain.write(f"{id_}\t{texts[0]}\t{texts[1]}\n")
            found = {in_block(id_ >> BLOCK_BITS, word) for word in words_of(texts)}
            quoted = " ".join(f"'{word}'" for word in {*found, exactly(texts[0])})
            words.write(f"{id_}\t{quoted}\n")
            if id_ % 20_000 == 0:
                flush()
        flush()
        cursor.execute("SET maintenance_work_mem = '512MB'")
        cursor.execute(
            "CREATE INDEX opportunity_words_words_idx ON opportunity_words USING gin (words)"
            " WITH (gin_pending_list_limit = 64)"
        )
    connection.commit()
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE opportunities, opportunity_words")
    connection.autocommit = False


def measure(connection: Connection, times: int) -> None:
    rows: list[tuple[str, ...]] = []
    asked: list[ground.Asked] = []
    for typed, what in TYPED:
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            found = find(connection, typed, patience=WHILE_TYPING)
            taken.append(1_000 * (time.perf_counter() - start))
        median = ground.median(taken)
        taken.clear()
        for _ in range(times):
            start = time.perf_counter()
            find(connection, typed)
            taken.append(1_000 * (time.perf_counter() - start))
        stops = ", stopped" if found.stopped else ""
        numbers = (f"{median:.1f}{stops}", f"{ground.median(taken):.1f}")
        rows.append((typed, what, str(len(found.opportunities)), *numbers))
        asked.append(ground.Asked(f"“{typed}”, ms", median, most=MOST_MILLISECONDS))
    ground.table(
        ("typed", "what it is", "found", "while typing, ms", "looking through all, ms"), rows
    )
    ground.judge(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--server", choices=["embedded", "15"])
    parser.add_argument("--postgres-url", help="a server to make databases on")
    options = parser.parse_args()
    for server in ground.servers(options.postgres_url or options.server):
        with ground.a_server(server) as url, ground.new_database(url) as empty:
            ground.headline(f"Finding something among {options.rows:,} opportunities", url)
            database = ground.database_at(empty)
            migrate(database)
            with database.session() as connection:
                fill(connection, options.rows)
                measure(connection, options.times)


if __name__ == "__main__":
    main()
