"""Landing pages: several processes of one name at once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.raw_pages import RawPage, land_page


def test_two_processes_of_one_name_land_all_their_pages_each_with_a_number_of_its_own(
    database: Database,
) -> None:
    now = datetime.now(UTC)
    page = RawPage("by_id", "/opportunities", b"{}", now, now, None, [], 0, None, None)

    def land(_: int) -> None:
        with database.session() as connection:
            walk = walks.begin_walk(connection, OPPORTUNITIES, "fast lane", walks.REFRESH)
            for _ in range(50):
                land_page(connection, OPPORTUNITIES, "fast lane", walk.id, page)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(land, range(4)))
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT array_agg(page ORDER BY page) FROM raw_rms_pages")
        assert cursor.fetchone() == (list(range(1, 201)),)
