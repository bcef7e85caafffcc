"""Rebuilds the tables from stored pages. This is not a sync: it makes no API call."""

from dataclasses import asdict

import dagster as dg

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.defs.failures import explained
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.resources import Mirror
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.sync.rebuilding import rebuild as rebuild_rows


def decode_what_is_stored(context: dg.OpExecutionContext, mirror: Mirror) -> None:
    with explained("rebuild"):
        done = rebuild_rows(mirror.database, OPPORTUNITIES, context.run.run_id)
        for collection in COLLECTIONS[1:]:
            done += rebuild_rows(mirror.database, collection, context.run.run_id)
        refresh_status_counts(mirror.database, mirror.settings.time_zone)
    context.add_output_metadata(
        {
            "walks": done.walks,
            "pages": done.pages,
            **{
                f"pages/{name}": count
                for name, count in asdict(done.merged).items()
                # What a merge leaves for others to ask for is no count.
                if isinstance(count, int)
            },
            **{f"rows/{name}": count for name, count in asdict(done.redecoded).items()},
        }
    )


def rebuild_job(naming: Naming) -> dg.JobDefinition:
    """The job `rebuild`."""
    step = dg.op(
        name=naming.name("decode_what_is_stored"),
        out=dg.Out(dg.Nothing),
        description="Merges the stored pages again and decodes every row again from its own "
        "record. Nothing older replaces anything newer.",
    )(naming.bind(decode_what_is_stored))

    @dg.job(
        name=naming.name("rebuild"),
        executor_def=dg.in_process_executor,
        description="Rebuilds the columns of every row from the stored API answers, without any "
        "API call. Use it after the mapping was corrected or rows were damaged. Safe "
        "to run at any time.",
    )
    def rebuild() -> None:
        step()

    return rebuild
