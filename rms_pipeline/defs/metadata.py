"""Metadata of assets: numbers and texts that Dagster's UI shows and plots.

`sync_metadata` reads the numbers and texts, but not the pictures and tables.
"""

import base64
import re
import string
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
from tabulate import tabulate

from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.mirror.summary import StatusCount
from rms_pipeline.mirror.webhook_audit import Audit
from rms_pipeline.status_chart import Bar, bar_chart, status_colour
from rms_pipeline.sync.landing import LandedWalk
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.sync.settling import Settled


def instant(at: datetime) -> str:
    """`2026-11-24 12:03:44+00:00`: readable for people and for `datetime.fromisoformat`."""
    return at.isoformat(sep=" ", timespec="seconds")


def walk_metadata(walk: LandedWalk) -> dict[str, Any]:
    """What one walk fetched, and how many calls it made."""
    metadata: dict[str, Any] = {
        "pages": walk.pages,
        "records": walk.distinct_records,
        "bytes": walk.bytes,
        "api_calls": walk.api_calls,
        "throttled_calls": walk.throttled_calls,
        "retried_calls": walk.retried_calls,
        "walk_seconds": round(walk.seconds, 3),
        "walk_notes": "; ".join(walk.notes) or "none",
    }
    if walk.unreadable:
        metadata["unreadable"] = len(walk.unreadable)
        metadata["unreadable_records"] = named(walk.unreadable)
    if walk.listed_twice:
        metadata["listed_twice"] = len(walk.listed_twice)
    if not walk.counts_believed:
        metadata["counts_believed"] = False
    if walk.window is not None:
        metadata["window_start"] = instant(walk.window.start)
        metadata["window_end"] = instant(walk.window.end)
        metadata["pages_kept_from_unfinished_sync"] = walk.pages_kept
    if walk.since is not None:
        metadata["changed_since"] = instant(walk.since)
    if walk.clock_skew is not None:
        metadata["api_clock_ahead_seconds"] = round(walk.clock_skew, 1)
    return metadata


def named(unreadable: Mapping[int, str], most: int = 10) -> str:
    """ "37 (each list that would hold it: status 500), 41 (...) and 3 more"."""
    some = [f"{i} ({reason})" for i, reason in sorted(unreadable.items())[:most]]
    more = f" and {len(unreadable) - most} more" if len(unreadable) > most else ""
    return ", ".join(some) + more


def settled_metadata(settled: Settled) -> dict[str, Any]:
    """The certificate, and what the proof deleted or requested again."""
    return {
        **proof_metadata(settled.certificate),
        "deleted": settled.deleted,
        "deletions_held_back": settled.held_back,
        "left_window": settled.left_window,
        "reverified_outside_window": settled.reverified,
        "verification_calls": settled.calls,
    }


def proof_metadata(proof: Proof) -> dict[str, Any]:
    """The counts, and whether they proved the mirror to be complete."""
    return {
        "certificate": proof.sentence,
        "complete": bool(proof.shown),
        "counted_by_api": proof.counted,
        "mirrored": proof.mirrored,
        "repaired": proof.repaired,
        "proof_calls": proof.calls,
    }


def audit_metadata(audit: Audit) -> dict[str, Any]:
    """How many of the changes had been announced by webhooks."""
    metadata: dict[str, Any] = {
        "changed_in_current_rms": audit.changed,
        "came_by_webhook": audit.by_webhook,
    }
    if audit.share is not None:
        metadata["webhook_share"] = round(audit.share, 3)
    if audit.lag_seconds is not None:
        metadata["webhook_lag_seconds"] = round(audit.lag_seconds, 1)
    return metadata


def refresh_metadata(done: WorkedOff, row_count: int) -> dict[str, Any]:
    """The metadata of the table after refreshes by id."""
    result = done.refreshed.result
    return {
        "dagster/row_count": row_count,
        "webhook_events": done.settled,
        "events_that_wait": done.waiting,
        "refreshed": done.records,
        "created": result.created,
        "updated": result.updated,
        "unchanged": result.unchanged,
        "deleted": done.refreshed.deleted,
        "api_calls": done.refreshed.calls,
    }


def in_markdown(text: str) -> str:
    """`text`, which a person typed, as Markdown that shows only that text: no link, no picture from
    another host, no HTML, no end of a table cell."""
    # Dagster's UI makes links of bare addresses, after it has read what is escaped. A blank of no
    # width keeps them apart.
    apart = re.sub(r"(?i)(?<=:/)(?=/)|(?<=www)(?=\.)|(?<=@)", "\u200b", " ".join(text.split()))
    return "".join(f"&#{ord(c)};" if c in string.punctuation else c for c in apart)


def status_metadata(
    counts: Sequence[StatusCount], colours: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The metadata of `refresh_status_counts`: a table with its chart, totals, and a number for
    each status. `colours` are those of the table `statuses`."""
    return {
        "counts": dg.MetadataValue.md(f"{_picture(counts, colours)}\n\n{_table(counts)}"),
        "dagster/row_count": len(counts),
        "opportunities": sum(c.opportunities for c in counts),
        "total_value": float(sum(c.total_value for c in counts)),
        **{f"count/{c.opportunity_status}": c.opportunities for c in counts},
    }


def _picture(counts: Sequence[StatusCount], colours: Mapping[str, str] | None) -> str:
    total = sum(c.opportunities for c in counts) or 1
    bars = [
        Bar(
            c.opportunity_status,
            c.opportunities,
            f"{c.opportunities:,} ({c.opportunities / total:.0%})",
            status_colour(c.opportunity_status, colours),
        )
        for c in counts
    ]
    drawing = bar_chart("Opportunities by status", bars)
    encoded = base64.b64encode(drawing.encode()).decode()
    return f"![Opportunities by status](data:image/svg+xml;base64,{encoded})"


def _table(counts: Sequence[StatusCount]) -> str:
    headings = ["Status", "Opportunities", "Charge total", "Total value"]
    rows = [
        [
            in_markdown(c.opportunity_status),
            f"{c.opportunities:,}",
            f"{c.charge_total:,.2f}",
            f"{c.total_value:,.2f}",
        ]
        for c in counts
    ]
    right = ("left", "right", "right", "right")
    return tabulate(rows, headings, tablefmt="pipe", disable_numparse=True, colalign=right)
