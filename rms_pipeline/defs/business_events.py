"""Passes status changes to the functions in `rms_pipeline.actions`. The sensor is off until a
person switches it on."""

import dagster as dg
from pydantic import Field

from rms_pipeline.actions import act
from rms_pipeline.defs.config import LaunchpadConfig
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.resources import Mirror
from rms_pipeline.mirror.changes import await_writers, changes_after

HANDED_OVER_TAG = "rms/handed_over_until"


class ChangesConfig(LaunchpadConfig):
    """Which changes to pass on, by their ids in opportunity_changes."""

    after: int = Field(description="Changes with a higher id than this,")
    until: int = Field(description="up to and including this one.")


def act_on_changes(context: dg.OpExecutionContext, config: ChangesConfig, mirror: Mirror) -> None:
    # Where an attempt, or the run that this one repeats, came to: what it handed over stays so.
    run, handed_over = context.run, [config.after]
    for id_ in filter(None, (run.run_id, run.parent_run_id)):
        earlier = context.instance.get_run_by_id(id_)
        handed_over.append(int(earlier.tags.get(HANDED_OVER_TAG, 0)) if earlier else 0)
    after = max(handed_over)
    with mirror.database.session() as connection:
        changes = changes_after(connection, after, config.until - after)
    for change in changes:
        if change.id <= config.until:
            called = act(change)
            context.log.info(
                f"{change.opportunity_id}: {change.field} from {change.old_value} to "
                f"{change.new_value} by {change.changed_by or 'somebody'}: "
                f"{', '.join(called) or 'no function of actions.py handles it'}"
            )
            context.instance.add_run_tags(run.run_id, {HANDED_OVER_TAG: str(change.id)})


def business_events_of(naming: Naming) -> tuple[dg.JobDefinition, dg.SensorDefinition]:
    """The job and the sensor `business_events`."""
    name, op_name = naming.name("business_events"), naming.name("act_on_changes")
    step = dg.op(
        name=op_name,
        description="Calls the functions of rms_pipeline/actions.py for each change.",
        # Twenty minutes in all, for a chat server that restarts.
        retry_policy=dg.RetryPolicy(max_retries=7, delay=5, backoff=dg.Backoff.EXPONENTIAL),
    )(naming.bind(act_on_changes))

    @dg.job(
        name=name,
        executor_def=dg.in_process_executor,
        description="Acts on changes of status and state; see rms_pipeline/actions.py.",
    )
    def business_events() -> None:
        step()

    @dg.sensor(
        name=name,
        job=business_events,
        minimum_interval_seconds=5,
        description="Hands new rows of opportunity_changes to the functions of "
        "rms_pipeline/actions.py. It is off until you switch it on. It begins with "
        "the changes after that.",
    )
    @naming.bind
    def sensor(
        context: dg.SensorEvaluationContext, mirror: Mirror
    ) -> dg.SensorResult | dg.SkipReason:
        with mirror.database.session() as connection:
            await_writers(connection)
            if context.cursor is None:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT coalesce(max(id), 0) FROM opportunity_changes")
                    row = cursor.fetchone()
                return dg.SensorResult(skip_reason="Begins here.", cursor=str(row[0] if row else 0))
            last = int(context.cursor)
            changes = changes_after(connection, last)
        if not changes:
            return dg.SkipReason("No status has changed.")
        until = changes[-1].id
        config = dg.RunConfig(ops={op_name: ChangesConfig(after=last, until=until)})
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"{last}-{until}", run_config=config)],
            cursor=str(until),
        )

    return business_events, sensor
