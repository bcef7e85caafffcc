"""What an incremental sync costs, and that it costs the same however big the mirror is."""

from collections.abc import Callable

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import Store
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def connections() -> None:
    """New ones each time: the server counts what a session did when that ends."""


def rows_touched(database: Database) -> int:
    """Rows of the mirror's tables written since the statistics were last reset."""
    # A session that ends counts what it did last of all, a moment after its client has left.
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    wait_until(lambda: query(database, others) == [(0,)])
    counted = query(
        database,
        "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables"
        " WHERE relname IN ('opportunities', 'opportunity_versions', 'raw_rms_pages')",
    )
    return int(counted[0][0])


@pytest.mark.parametrize("rows", some_in_drills([1_000, 10_000], (10_000).__gt__))
def test_five_changes_among_thousands_cost_one_call_and_the_work_of_five(
    mirror_of: Callable[..., Mirror], rows: int
) -> None:
    mirror = mirror_of(Store(rows))
    mirror.full_sync()
    for id_ in ids_in(mirror.store, mirror.window)[:5]:
        mirror.store.edit(id_, {"subject": "Changed"})
    before = rows_touched(mirror.database)
    mirror.sandbox.requests.clear()
    _, merged = mirror.incremental_sync()
    assert len(mirror.sandbox.requests) == 1
    assert merged.result.updated == 5
    # Five rows, five versions (twice when a page repeats them), one page.
    assert rows_touched(mirror.database) - before <= 11


def test_a_full_sync_over_few_pages_spends_no_more_than_eight_calls_besides(
    mirror_of: Callable[..., Mirror],
) -> None:
    """Those are: what changed meanwhile, and the proof (two ranges and everything counted, those
    without dates listed, and what had changed by then)."""
    mirror = mirror_of(Store(1_000))
    mirror.full_sync()
    mirror.sandbox.requests.clear()
    done = mirror.full_sync()
    assert done.settled.certificate.shown
    assert len(mirror.sandbox.requests) == done.landed.pages + 5


@pytest.mark.parametrize("rows", some_in_drills([1_500, 6_000], (6_000).__gt__))
def test_a_difference_of_one_in_thousands_is_found_with_few_calls(
    mirror_of: Callable[..., Mirror], rows: int
) -> None:
    mirror = mirror_of(Store(rows))
    ids = ids_in(mirror.store, mirror.window)
    late: list[int] = []

    def create_behind_the_walk(path: str) -> None:
        """After the last page, moved into the window without a trace in updated_at."""
        if "per_page=1&" in path and not late:
            record = mirror.store.get(ids[1_000], ())
            assert record is not None
            outside = next(i for i in mirror.store.ids() if i not in set(ids))
            stamp = (mirror.store.get(outside, ()) or {}).get("updated_at")
            dates = {k: record[k] for k in ("starts_at", "ends_at")}
            mirror.store.edit(outside, {**dates, "updated_at": stamp})
            late.append(outside)

    mirror.sandbox.before_request = create_behind_the_walk
    done = mirror.full_sync()
    mirror.sandbox.before_request = None
    assert late
    assert done.settled.certificate.shown
    assert 1 <= done.settled.certificate.repaired <= 100
    assert done.settled.certificate.calls <= 20
    assert mirror.differences() == {}
