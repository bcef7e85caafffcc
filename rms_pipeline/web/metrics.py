"""What Prometheus reads from /metrics."""

import math
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.audit import last_audit
from rms_pipeline.mirror.budget import read_budget
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.queue import queue_state

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters since this process started, and gauges that are read when asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"rms_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"rms_{name}", text, labels, registry=self.registry)

        self.received = counter("webhooks_received", "Webhook requests, whatever became of them.")
        self.stored = counter("webhooks_stored", "Events kept.")
        self.repeated = counter("webhooks_repeated", "Events that had been kept before.")
        self.refused = counter("webhooks_refused", "Requests refused, by status.", ("status",))
        self.refreshed = counter(
            "opportunities_refreshed", "Opportunities refreshed by the fast lane."
        )
        self.settled = counter("webhooks_settled", "Events settled by the fast lane.")
        self.failed = counter("webhook_attempts_failed", "Events given back to the queue.")
        self.acknowledged = Histogram(
            "rms_webhook_acknowledgement_seconds",
            "From the first byte of a webhook to its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.end_to_end = Histogram(
            "rms_webhook_to_row_seconds",
            "From an event's arrival to its opportunity refreshed in PostgreSQL.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._depth = gauge("webhook_queue_depth", "Events that wait.")
        self._dead = gauge("webhook_dead_letters", "Events that gave up; replay them.")
        self._oldest = gauge("webhook_oldest_pending_seconds", "Age of the oldest waiting event.")
        self._calls = gauge("api_calls_last_minute", "Calls to Current RMS, by lane.", ("lane",))
        self._share = gauge(
            "webhook_share",
            "Share of the last incremental sync's changes that webhooks had named.",
        )
        self._lag = gauge(
            "webhook_lag_seconds", "Median time from an edit to its webhook, for the same changes."
        )
        self._left = gauge(
            "api_budget_left", "Calls that may still be sent this minute; +Inf without a limit."
        )
        self._complete = gauge(
            "mirror_complete",
            "1 when the mirror is shown to be complete, 0 when it is not or that has expired.",
        )
        self._proof_age = gauge("proof_age_seconds", "Age of the last proof of completeness.")
        self._counted = gauge("proof_counted", "Opportunities that Current RMS counted then.")
        self._mirrored = gauge("proof_mirrored", "Of those, the ones mirrored then.")
        # Of what was never looked at, 0 would be a lie that wakes people up.
        for unknown in (
            *(self._share, self._lag, self._left),
            *(self._complete, self._proof_age, self._counted, self._mirrored),
        ):
            unknown.set(math.nan)

    def render(self, connection: Connection, account: str) -> bytes:
        """The text format of Prometheus, with the queue and the budget as they are now."""
        state = queue_state(connection)
        self._depth.set(state.depth)
        self._dead.set(state.dead)
        self._oldest.set(state.oldest_seconds)
        audit = last_audit(connection, OPPORTUNITIES)
        if audit is not None and audit["share"] is not None:
            self._share.set(audit["share"])
            self._lag.set(math.nan if audit["lag_seconds"] is None else audit["lag_seconds"])
        known = standing(connection, OPPORTUNITIES)
        if known.proof is not None:
            age = (datetime.now(UTC) - known.proof.as_of).total_seconds()
            self._complete.set(known.state == "green")
            self._proof_age.set(age)
            self._counted.set(known.proof.counted)
            self._mirrored.set(known.proof.mirrored)
        use = read_budget(connection, account)
        if use is not None:
            for lane, calls in use.calls_by_lane.items():
                self._calls.labels(lane.value).set(calls)
            limited = use.requests_per_minute > 0
            self._left.set(max(use.allowance - use.calls, 0) if limited else math.inf)
        return generate_latest(self.registry)
