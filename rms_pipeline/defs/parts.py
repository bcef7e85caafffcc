"""The assets of a collection whose records are parts of another collection's records, such as items
of opportunities: API and opportunities → raw pages → table.

In each sync they run after the other collection's table, because its changes say which lists have
to be read.
"""

from datetime import timedelta
from typing import Any

import dagster as dg

from rms_pipeline.collections.base import Collection
from rms_pipeline.defs.config import PartsConfig, StorePartsConfig
from rms_pipeline.defs.metadata import proof_metadata, walk_metadata
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.recording import SYNC_TYPE_TAG
from rms_pipeline.defs.resources import CurrentRms, Mirror
from rms_pipeline.defs.steps import (
    declare_pages,
    declare_table,
    merge_again,
    reading,
    storing,
    told_of_pages,
    told_of_table,
    walk_to_store,
)
from rms_pipeline.mirror.sync_runs import INCREMENTAL
from rms_pipeline.sync.parts import CALLS, NIGHTLY_CALLS, land_parts, store_parts


def part_assets_of(
    collection: Collection, naming: Naming
) -> tuple[dg.AssetsDefinition, dg.AssetsDefinition]:
    """The asset of its pages as received, and the asset of its table."""
    parts = collection.parts
    assert parts is not None
    parents = parts.of.name

    def ahead(current_rms: CurrentRms, days: int | None) -> timedelta:
        return timedelta(days=current_rms.settings.items_days_ahead if days is None else days)

    @declare_pages(
        collection,
        naming,
        ["current_rms_api", parents],
        f"Pages of the Current RMS lists of {collection.in_words()}, one list for each of the "
        f"{parents}, stored exactly as received. Each sync asks for lists of {parents} that "
        "changed; a full one also for those that begin soon or are out (by default within 14 "
        "days) and are not lost or cancelled. The number of calls is limited, and these calls "
        "come last; the rest waits for the next sync.\n\nIn the metadata: *api_calls*, and "
        "*walk_notes*, which name the lists that could not be read.",
    )
    def raw_pages(
        context: dg.AssetExecutionContext,
        config: PartsConfig,
        mirror: Mirror,
        current_rms: CurrentRms,
    ) -> dg.MaterializeResult[Any]:
        database = mirror.database
        nightly = context.run.tags.get(SYNC_TYPE_TAG) != INCREMENTAL
        calls = NIGHTLY_CALLS if nightly else CALLS
        with (
            reading(context, database, f"lists of {collection.name}"),
            current_rms.client(database, collection) as client,
            current_rms.client(database, parts.of) as of_parents,
        ):
            walk = land_parts(
                database,
                client,
                context.run.run_id,
                nightly=nightly,
                calls=calls if config.most_calls is None else config.most_calls,
                ahead=ahead(current_rms, config.days_ahead),
                fresh_for=timedelta(minutes=config.resume_within_minutes),
                parents=of_parents,
            )
        return told_of_pages(
            naming, database, collection, context.run.run_id, walk.walk, walk_metadata(walk)
        )

    @declare_table(
        collection,
        naming,
        f"One row for each {collection.in_words(1)} of the {parents} whose lists were read. "
        f"Rows that the whole list of their {parts.of.single} no longer shows move to "
        f"{collection.deleted}, and so do those whose {parts.of.single} is gone.\n\nIn the "
        "metadata: rows *created*, *updated*, *unchanged*, *restored* after a deletion; records "
        "that *failed* (see the table sync_faults). *certificate* says for how many "
        f"{parents} the rows are what Current RMS lists, and which are left out. Rows were "
        "*deleted*, or kept because too many would have been deleted (*deletions_held_back*).",
    )
    def table(
        context: dg.AssetExecutionContext,
        config: StorePartsConfig,
        mirror: Mirror,
        current_rms: CurrentRms,
    ) -> dg.MaterializeResult[Any]:
        database, run = mirror.database, context.run.run_id
        with database.session() as connection:
            walk = walk_to_store(connection, collection, context.run, naming)
        told: dict[str, Any] = {}
        with storing(context, database):
            if walk.settled_at is not None:
                merged = merge_again(database, collection, walk, run)
            else:
                with current_rms.client(database, collection) as client:
                    stored = store_parts(
                        database,
                        client,
                        walk,
                        run,
                        ahead=ahead(current_rms, config.days_ahead),
                        confirm_deletions=config.confirm_deletions,
                    )
                merged = stored.merged
                told = {"deleted": stored.deleted, "deletions_held_back": stored.held_back}
                if stored.proof is not None:
                    told = proof_metadata(stored.proof) | told
        return told_of_table(naming, database, collection, run, walk, merged, told)

    return raw_pages, table
