"""What a full sync would cost, before it starts. One call, and no record is stored."""

from dataclasses import dataclass
from datetime import datetime

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import Unprocessable
from rms_pipeline.current_rms.pacing import SHARES, Lane
from rms_pipeline.current_rms.records import Record
from rms_pipeline.current_rms.window import (
    ENDS_AFTER,
    EVERYTHING,
    STARTS_BEFORE,
    Window,
)
from rms_pipeline.mirror.completeness import SegmentRows
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.sync.storing import read_records

# A full sync makes these calls beside its pages: lists of records without dates, changes meanwhile,
# and the proof.
_BESIDE_PAGES = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a full sync over `window`.

    It reads `records` in `calls` calls. `mirrored` of them are mirrored already. `calls_spent` were
    needed to find this out. `minutes` is None if there is no limit. Without `exact`, Current RMS
    did not count by dates, and the numbers are upper limits. `counted_at` is UTC.
    """

    window: Window
    records: int
    mirrored: int
    calls: int
    minutes: float | None
    exact: bool
    counted_at: datetime
    calls_spent: int

    @property
    def more(self) -> int:
        """How many records are not mirrored yet."""
        return max(self.records - self.mirrored, 0)


def count_cost(
    connection: Connection,
    client: CurrentRmsClient,
    window: Window,
    per_minute: int,
    *,
    lane: Lane = Lane.LIVE,
) -> Cost:
    """Ask Current RMS how many records `window` has.

    `per_minute` is the account's limit, or 0 for none. Raises a CurrentRmsError.
    """
    before = client.counts.calls
    is_ignored = any(client.terms.refusal("filter", n) for n in (ENDS_AFTER, STARTS_BEFORE))
    counted = None if is_ignored else _count(client, window, lane)
    exact = counted is not None
    if counted is None:
        counted = client.count(EVERYTHING.params, lane=lane)
    bounds = (window.start, window.end)
    undated = SegmentRows(client.collection, "undated", bounds).count(connection)
    mirrored = SegmentRows(client.collection, "dated", bounds).count(connection) + undated
    records = counted + (undated if exact else 0)
    calls = -(-records // client.page_size) + _BESIDE_PAGES
    return Cost(
        window=window,
        records=records,
        mirrored=mirrored,
        calls=calls,
        minutes=calls / (per_minute * SHARES[Lane.WALK]) if per_minute else None,
        exact=exact,
        counted_at=client.now(),
        calls_spent=client.counts.calls - before,
    )


def _count(client: CurrentRmsClient, window: Window, lane: Lane) -> int | None:
    """Return the count. None if the API refuses the dates, or if its answer shows that it ignores
    them.
    """
    try:
        answer = client.list_records(window.segments()[0].params, per_page=1, lane=lane)
    except Unprocessable:
        return None
    for record in read_records(client.collection, answer):
        if isinstance(record, Record) and not window.contains(*record.dates()):
            return None
    return answer.page.meta.total_row_count
