"""The metrics for Prometheus at /metrics."""

import math
from collections.abc import Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.budget import read_budget
from rms_pipeline.mirror.collection_states import CollectionState, RowCounts, read_collection_states
from rms_pipeline.mirror.database import clock_of
from rms_pipeline.mirror.queue import queue_state
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.webhook_audit import last_audit

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class _OfEachCollection:
    """The gauges that each collection has, labelled with its name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def each(name: str, text: str) -> Gauge:
            return Gauge(f"rms_collection_{name}", text, ("collection",), registry=registry)

        self.rows = each("rows", "Rows of the collection's table.")
        self.sync_age = each(
            "last_sync_age_seconds",
            "Seconds since a sync last stored everything that it read of the collection. NaN "
            "before the first one. Alert above 3600.",
        )
        self.complete = each(
            "complete",
            "1 if a valid proof shows that the collection is complete, 0 if there is none "
            "or it has expired. Alert if 0 for an hour.",
        )
        self.proof_age = each(
            "proof_age_seconds",
            "Seconds since its last proof of completeness. NaN before the first one. Alert above "
            "86400, when a proof expires.",
        )
        self.counted = each("proof_counted", "Records that Current RMS counted in that proof.")
        self.mirrored = each("proof_mirrored", "How many of them the mirror held in that proof.")
        self.faults = each(
            "faults",
            "Values of the last day that could not be stored as received; see the table "
            "sync_faults.",
        )
        self.unreadable = each(
            "unreadable",
            "Records that Current RMS lists but cannot deliver; see the table unreadable_records.",
        )
        self.held_back = each(
            "deletions_held_back",
            "Rows whose deletion waits until a person confirms it. Alert if above 0.",
        )
        self.share = each(
            "webhook_share",
            "Share (0 to 1) of the changes of the last incremental sync that a webhook had "
            "announced. Alert if it falls to 0 although people work.",
        )
        self.lag = each(
            "webhook_lag_seconds", "Median seconds from an edit to its webhook, for these changes."
        )


class Metrics:
    """Counters since the start of this process, and gauges that are read for each request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"rms_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"rms_{name}", text, labels, registry=self.registry)

        self.received = counter(
            "webhooks_received", "Requests to the webhook's address, accepted or not."
        )
        self.stored = counter("webhooks_stored", "Webhook events stored in the queue.")
        self.repeated = counter(
            "webhooks_repeated",
            "Webhook events that were received before. They are not stored again.",
        )
        self.refused = counter(
            "webhooks_refused",
            "Requests to the webhook's address that were refused, by HTTP status. Alert if "
            "one of 401, 429 and 503 rises.",
            ("status",),
        )
        self.refreshed = counter(
            "opportunities_refreshed", "Opportunities that the fast lane refreshed."
        )
        self.records_refreshed = counter(
            "records_refreshed",
            "Records that the fast lane refreshed, by collection.",
            ("collection",),
        )
        self.settled = counter(
            "webhooks_settled",
            "Webhook events that the fast lane finished: their record is up to date.",
        )
        self.failed = counter(
            "webhook_attempts_failed",
            "Webhook events that the fast lane put back into the queue after a failed refresh.",
        )
        self.acknowledged = Histogram(
            "rms_webhook_acknowledgement_seconds",
            "Seconds from the first byte of a webhook to its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.end_to_end = Histogram(
            "rms_webhook_to_row_seconds",
            "Seconds from the arrival of an event to its refreshed row.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._depth = gauge(
            "webhook_queue_depth",
            "Webhook events that wait for their refresh. Alert if it keeps growing.",
        )
        self._dead = gauge(
            "webhook_dead_letters",
            "Webhook events whose refresh failed too often. Alert if above 0: correct the "
            "cause, then replay them.",
        )
        self._oldest = gauge(
            "webhook_oldest_pending_seconds",
            "Seconds that the oldest waiting webhook event has waited, 0 if none waits. Alert "
            "above 300.",
        )
        self._calls = gauge(
            "api_calls_last_minute",
            "Calls to Current RMS in the last minute, by lane: live (webhooks and people), "
            "incremental, walk (full syncs and lists of items).",
            ("lane",),
        )
        self._share = gauge(
            "webhook_share",
            "Share (0 to 1) of the changes of the last incremental sync that a webhook had "
            "announced. Alert if it falls to 0 although people work.",
        )
        self._lag = gauge(
            "webhook_lag_seconds", "Median seconds from an edit to its webhook, for these changes."
        )
        self._left = gauge(
            "api_budget_left",
            "Calls to Current RMS that are left in this minute; +Inf without a limit. Near "
            "0 is normal during a full sync.",
        )
        self._complete = gauge(
            "mirror_complete",
            "1 if a valid proof shows that the mirror is complete, 0 if there is none or it "
            "has expired. Alert if 0 for an hour.",
        )
        self._proof_age = gauge(
            "proof_age_seconds",
            "Seconds since the last proof of completeness. Alert above 86400, when a proof "
            "expires.",
        )
        self._counted = gauge(
            "proof_counted", "Opportunities that Current RMS counted in that proof."
        )
        self._mirrored = gauge("proof_mirrored", "How many of them the mirror held in that proof.")
        self._limit = gauge(
            "api_limit_per_minute",
            "The limit of calls a minute that is in force; +Inf without a limit. It is "
            "below the setting while refusals have lowered it.",
        )

        self.of_each = _OfEachCollection(self.registry)
        self._count = RowCounts()
        # Not yet known is NaN. A 0 would be wrong, and would set off alerts.
        for unknown in (
            *(self._share, self._lag, self._left, self._limit),
            *(self._complete, self._proof_age, self._counted, self._mirrored),
        ):
            unknown.set(math.nan)

    def render(
        self, connection: Connection, account: str, on: Sequence[Collection] = (OPPORTUNITIES,)
    ) -> bytes:
        """The text format of Prometheus, with the queue, the budget and the collections that are
        `on` as they are now."""
        state = queue_state(connection)
        self._depth.set(state.depth)
        self._dead.set(state.dead)
        self._oldest.set(state.oldest_seconds)
        for collection in on:
            if collection.webhooks:
                self._tell_of_webhooks(connection, collection)
        # The database wrote the times, so its clock is read. That of this machine may differ.
        now = clock_of(connection)()
        for each in read_collection_states(connection, on, self._count):
            if each.is_on:
                self._tell(each, now)
        use = read_budget(connection, account)
        if use is not None:
            for lane, calls in use.calls_by_lane.items():
                self._calls.labels(lane.value).set(calls)
            limited = use.requests_per_minute > 0
            self._left.set(max(use.allowance - use.calls, 0) if limited else math.inf)
            self._limit.set(use.allowance if limited else math.inf)
        return generate_latest(self.registry)

    def _tell_of_webhooks(self, connection: Connection, collection: Collection) -> None:
        audit = last_audit(connection, collection)
        if audit is None or audit["share"] is None:
            return
        lag = math.nan if audit["lag_seconds"] is None else audit["lag_seconds"]
        self.of_each.share.labels(collection.name).set(audit["share"])
        self.of_each.lag.labels(collection.name).set(lag)
        if collection is OPPORTUNITIES:
            self._share.set(audit["share"])
            self._lag.set(lag)

    def _tell(self, state: CollectionState, now: datetime) -> None:
        """The figures of one collection at `now`. Those of opportunities also have their older
        names."""
        name = state.name
        is_first = name == OPPORTUNITIES.name
        self.of_each.rows.labels(name).set(state.rows)
        for gauge, count in (
            (self.of_each.faults, state.faults),
            (self.of_each.unreadable, state.unreadable),
            (self.of_each.held_back, state.held_back),
        ):
            gauge.labels(name).set(count)
        synced_at, proof = state.synced_at, state.certificate
        self.of_each.sync_age.labels(name).set(
            math.nan if synced_at is None else (now - synced_at).total_seconds()
        )
        told = (
            (self.of_each.complete, self._complete),
            (self.of_each.proof_age, self._proof_age),
            (self.of_each.counted, self._counted),
            (self.of_each.mirrored, self._mirrored),
        )
        # Without any proof an alert on 0 has to fire, too: `NaN == 0` would be silent.
        values = (0.0, math.nan, math.nan, math.nan)
        if proof is not None:
            age = (now - datetime.fromisoformat(proof["as_of"])).total_seconds()
            values = (proof["state"] == "green", age, proof["counted"], proof["mirrored"])
        for (labelled, older), value in zip(told, values, strict=True):
            labelled.labels(name).set(value)
            if is_first:
                older.set(value)
