"""Does Current RMS send its changes, and are the events processed?"""

from collections.abc import Iterator
from datetime import timedelta

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.errors import SWITCH_WEBHOOKS_ON, WebhooksOff
from rms_pipeline.current_rms.webhooks import Subscribed, events_of
from rms_pipeline.current_rms.webhooks import overview as subscriptions
from rms_pipeline.doctor.accounts import open_client
from rms_pipeline.doctor.finding import Examination, Finding, fine, warning
from rms_pipeline.mirror.intake import MOST_A_DAY, MOST_A_MINUTE, MOST_STRANGERS, brought
from rms_pipeline.mirror.queue import queue_state
from rms_pipeline.mirror.webhook_absences import absences_of_last_minute, most_a_minute
from rms_pipeline.mirror.webhook_audit import last_audit
from rms_pipeline.web.tokens import existing_webhook_token

_WAITS_TOO_LONG = timedelta(minutes=1)
_REGISTER = "`rms-pipeline webhooks register URL`, with the address of the web service"


def check_subscriptions(exam: Examination) -> Iterator[Finding]:
    """Whether Current RMS sends every event, and the result of the last deliveries. About two
    calls."""
    if exam.answer is None:
        yield warning("webhooks", "Not checked: the API does not answer.", "See credentials.")
        return
    token = existing_webhook_token(exam.settings)
    with open_client(exam.settings) as client:
        try:
            found = subscriptions(client, token, events_of(exam.settings.collections))
        except WebhooksOff as error:
            yield warning(
                "webhooks",
                f'Current RMS says "{error.said}": edits arrive with the next incremental sync.',
                f"To receive edits within a second: {SWITCH_WEBHOOKS_ON} Then {_REGISTER}.",
            )
            return
    if not any(event.count for event in found):
        yield warning(
            "webhooks",
            "No webhook is registered, so edits arrive with the next incremental sync.",
            f"To receive edits within a second: {_REGISTER}.",
        )
        return
    wrong = [event for event in found if not event.is_right]
    failing = [event for event in found if event.is_right and _failed(event)]
    if wrong:
        names = ", ".join(event.event for event in wrong[:3])
        names += f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        yield warning(
            "webhooks",
            f"{len(wrong)} of {len(found)} are missing, inactive, registered twice or sent to "
            f"another address: {names}.",
            f"Correct them all: {_REGISTER}.",
        )
    elif failing:
        delivery = failing[0].last_delivery
        code = delivery.response_code if delivery else None
        yield warning(
            "webhooks",
            f"{len(failing)} of {len(found)} were not accepted at the last delivery: "
            f"{failing[0].event} got {code or 'no answer'} from {failing[0].target}.",
            "Make sure that the web service runs and that Current RMS can reach it at that "
            "address. `rms-pipeline webhooks list` shows all.",
        )
    else:
        yield fine("webhooks", f"All {len(found)} events are sent to {found[0].target}.")


def check_queue(exam: Examination) -> Iterator[Finding]:
    """Whether webhook events are processed, and whether webhooks still arrive for edits."""
    with exam.reached.session() as connection:
        state = queue_state(connection)
        audits = {c: last_audit(connection, c) for c in exam.settings.collections if c.webhooks}
    stopped = [
        f"{audit['changed']:,} {collection}"
        for collection, audit in audits.items()
        if audit is not None and audit["seem_stopped"]
    ]
    if state.dead:
        yield warning(
            "queue",
            f"Dead letters: {state.dead:,} (webhook events whose refresh failed too often).",
            "The dashboard shows their errors; `rms-pipeline webhooks replay` tries them again.",
        )
    elif state.oldest_seconds > _WAITS_TOO_LONG.total_seconds():
        yield warning(
            "queue",
            f"Webhook events waiting: {state.depth:,}, the oldest for "
            f"{state.oldest_seconds / 60:,.0f} min.",
            "The web service and Dagster's sensor webhook_refresh process them. Start "
            "`rms-pipeline up`, or look into its logs.",
        )
    elif stopped:
        yield warning(
            "queue",
            f"Webhooks seem to have stopped: none arrived for the {' and the '.join(stopped)} "
            "that the last incremental sync found changed.",
            "`rms-pipeline webhooks list` shows how the last deliveries went.",
        )
    else:
        yield fine("queue", f"Webhook events waiting: {state.depth:,}. No dead letters.")


def check_intake(exam: Examination) -> Iterator[Finding]:
    """Whether more events arrive than people can cause, because anybody who knows the address can
    send events."""
    with exam.reached.session() as connection:
        found = brought(connection)
        in_vain = absences_of_last_minute(connection, OPPORTUNITIES)
    most_in_vain = most_a_minute(exam.settings.request_limit)
    told = (
        f"Webhook events of the last day: {found.day:,} (at most {MOST_A_DAY:,} are accepted), of "
        f"the last minute: {found.minute:,} ({MOST_A_MINUTE:,}). Opportunities asked for within "
        f"a minute that Current RMS does not have: {in_vain:,} ({most_in_vain:,}); waiting "
        f"events of unknown opportunities: {found.strangers:,} ({MOST_STRANGERS:,})."
    )
    is_flooded = (
        found.refusal is not None
        or found.day > MOST_A_DAY / 2
        or found.strangers >= MOST_STRANGERS
        or in_vain >= most_in_vain
    )
    if is_flooded:
        yield warning(
            "intake",
            told,
            "If your colleagues do not edit that much, somebody else knows the address of the "
            f"webhooks. Change RMS_WEBHOOK_TOKEN, then {_REGISTER}. `SELECT * FROM "
            "webhook_events` shows what was received.",
        )
    else:
        yield fine("intake", told)


def _failed(event: Subscribed) -> bool:
    delivery = event.last_delivery
    return delivery is not None and not 200 <= (delivery.response_code or 0) < 300
