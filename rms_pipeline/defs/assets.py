"""The lineage: Current RMS API → raw_rms_pages → opportunities → status_counts."""

from datetime import timedelta
from typing import Any

import dagster as dg

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.window import Window
from rms_pipeline.defs.columns import STATUS_COLUMNS
from rms_pipeline.defs.config import StoreConfig, WalkConfig
from rms_pipeline.defs.data_versions import version_of_counts
from rms_pipeline.defs.metadata import (
    audit_metadata,
    instant,
    proof_metadata,
    settled_metadata,
    status_metadata,
    walk_metadata,
)
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.recording import SYNC_TYPE_TAG
from rms_pipeline.defs.resources import CurrentRms, Mirror
from rms_pipeline.defs.steps import (
    declare,
    declare_pages,
    declare_table,
    merge_again,
    reading,
    runs_of,
    storing,
    told_of_pages,
    told_of_table,
    walk_to_store,
)
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.custom_fields import known_keys, note_keys
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.mirrored_windows import read_reach
from rms_pipeline.mirror.proofs import proof_begun
from rms_pipeline.mirror.statuses import read_colours
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.mirror.sync_runs import INCREMENTAL, INITIAL
from rms_pipeline.mirror.walks import has_full_sync, watermarks
from rms_pipeline.mirror.webhook_audit import audit_webhooks
from rms_pipeline.sync.doubts import merge_walk
from rms_pipeline.sync.landing import LandedWalk, land_changes, land_window
from rms_pipeline.sync.prove import begin_proof, finish_proof
from rms_pipeline.sync.settling import settle_full_walk


def account_of(naming: Naming) -> dg.AssetSpec:
    """The API, from which all other assets are made."""
    return dg.AssetSpec(
        naming.key("current_rms_api"),
        group_name=naming.group,
        description="The company's Current RMS account, read through its web API. All other "
        "assets are made from its records.",
        kinds={"api"},
        owners=naming.owners,
    )


def _reach(collection: Collection) -> str:
    if not collection.has_window:
        return "all of them"
    return (
        "those that overlap the window (by default 30 days back to a year ahead) and those "
        "without dates"
    )


def assets_of(
    collection: Collection, naming: Naming
) -> tuple[dg.AssetsDefinition, dg.AssetsDefinition]:
    """The asset of its pages as received, and the asset of its table."""
    return _pages_of(collection, naming), _table_of(collection, naming)


def _pages_of(collection: Collection, naming: Naming) -> dg.AssetsDefinition:
    @declare_pages(
        collection,
        naming,
        ["current_rms_api"],
        f"Pages of the Current RMS list of {collection.name}, stored exactly as received. A full "
        f"sync fetches {_reach(collection)}; an incremental sync fetches all that changed since "
        "the last sync, inside and outside the window.\n\nIn the metadata: *api_calls*, with "
        "those that were repeated because the account's limit was reached (*throttled_calls*) or "
        "the answer was not usable (*retried_calls*). Pages that an unfinished sync fetched a "
        "short time ago are not fetched again (*pages_kept_from_unfinished_sync*).",
    )
    def raw_pages(
        context: dg.AssetExecutionContext,
        config: WalkConfig,
        mirror: Mirror,
        current_rms: CurrentRms,
    ) -> dg.MaterializeResult[Any]:
        database = mirror.database
        is_incremental = context.run.tags.get(SYNC_TYPE_TAG) == INCREMENTAL
        with database.session() as connection:
            was_read = has_full_sync(connection, collection)
        if current_rms.is_sandbox:
            context.log.warning(
                f"No account is configured. These are invented {collection.name} of the sandbox, "
                "not yours. Set CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY to mirror your "
                "account."
            )
        with (
            reading(context, database),
            current_rms.client(database, collection) as client,
        ):
            if is_incremental:
                # Before the changes are read: those are then the end of the proof.
                begin_proof(database, client, context.run.run_id, every=current_rms.proof_every)
                walk = _land_changes(
                    current_rms, database, client, context.run.run_id, config, naming
                )
            else:
                walk = _land_window(current_rms, database, client, context.run.run_id, config)
        metadata = walk_metadata(walk)
        if is_incremental and not was_read:
            metadata["read_whole"] = (
                f"All {collection.name} were read, not only what changed, because no full sync had "
                "read them before."
            )
            context.log.info(metadata["read_whole"])
        return told_of_pages(naming, database, collection, context.run.run_id, walk.walk, metadata)

    return raw_pages


def _table_of(collection: Collection, naming: Naming) -> dg.AssetsDefinition:
    @declare_table(
        collection,
        naming,
        f"One row for each {collection.single}: the table that people query. In rows that did not "
        "change, only synced_at is updated. Rows that Current RMS no longer has move to "
        f"{collection.deleted}. Each sync ends with the proof that no row is missing or left "
        "over.\n\nIn the metadata: rows *created*, *updated*, *unchanged*, *restored* after a "
        "deletion; records that were *stale* (the table had a newer one) or *failed* (see the "
        "table sync_faults). An incremental sync starts at the *watermark* of the one before, "
        "and the first at that of the first full sync. *certificate* says whether the proof "
        "succeeded: the mirror holds exactly what Current RMS lists. The proof made "
        "*proof_calls* calls and fetched *repaired* records again. Rows were *deleted*, or kept "
        "because too many would have been deleted (*deletions_held_back*).",
    )
    def table(
        context: dg.AssetExecutionContext,
        config: StoreConfig,
        mirror: Mirror,
        current_rms: CurrentRms,
    ) -> dg.MaterializeResult[Any]:
        database, run = mirror.database, context.run.run_id
        with database.session() as connection:
            walk = walk_to_store(connection, collection, context.run, naming)
        proof, settled, audit = None, None, None
        with storing(context, database):
            if walk.settled_at is not None:
                merged = merge_again(database, collection, walk, run)
            elif walk.kind == walks.FULL:
                with current_rms.client(database, collection) as client:
                    merged = merge_walk(database, client, walk, run, lane=Lane.WALK)
                    settled = settle_full_walk(
                        database,
                        client,
                        walk,
                        run,
                        confirm_deletions=config.confirm_deletions,
                        reverify_calls=config.reverify_calls,
                        ranges=config.ranges,
                    )
                merged.result += settled.result
            else:
                with database.session() as connection:
                    begun = proof_begun(connection, collection, runs_of(context.run))
                with current_rms.client(database, collection) as client:
                    merged = merge_walk(database, client, walk, run, lane=Lane.INCREMENTAL)
                    if begun is not None and begun.as_of <= walk.started_at:
                        proof, further = finish_proof(
                            database, client, begun, walk, merged.result, run
                        )
                        merged.result += further
                with database.session() as connection:
                    if walk.since is not None and walk.watermark is not None:
                        # The watermark may lie further back than edits are stamped.
                        until = walk.watermark + walks.clock_ahead(connection, walk.id)
                        audit = audit_webhooks(connection, collection, walk.id, walk.since, until)
                    walks.settle_walk(connection, walk.id, audit=audit.as_json() if audit else None)
        with database.session() as connection:
            note_keys(
                connection,
                collection,
                changed_since=walk.since,
                asked_since=walk.started_at if walk.kind == walks.FULL else None,
            )
            keys = known_keys(connection, collection)
        more: dict[str, Any] = {"outside_window": merged.outside_window}
        if keys.count:
            more["custom_fields"] = keys.count
            more["custom_fields_new"] = ", ".join(keys.new) or "none"
            more["custom_fields_vanished"] = ", ".join(keys.vanished) or "none"
        if walk.watermark is not None:
            more["watermark"] = instant(walk.watermark)
        if settled is not None:
            more |= settled_metadata(settled)
        if proof is not None:
            more |= proof_metadata(proof) | {"deleted": proof.deleted}
        if audit is not None:
            more |= audit_metadata(audit)
        return told_of_table(naming, database, collection, run, walk, merged, more)

    return table


def _land_window(
    current_rms: CurrentRms,
    database: Database,
    client: CurrentRmsClient,
    run: str,
    config: WalkConfig,
) -> LandedWalk:
    window, set_to = None, current_rms.settings
    if client.collection.has_window:
        days_back = set_to.days_back if config.days_back is None else config.days_back
        if days_back == set_to.days_back:
            # Nobody chose another window for this run alone.
            with database.session() as connection:
                days_back = read_reach(connection, client.collection).days(days_back)
        window = Window.around(
            database.clock()(),
            days_back=days_back,
            days_ahead=set_to.days_ahead if config.days_ahead is None else config.days_ahead,
        )
    return land_window(
        database,
        client,
        window,
        run,
        fresh_for=timedelta(minutes=config.resume_within_minutes),
        overlap=timedelta(minutes=config.overlap_minutes),
    )


def _land_changes(
    current_rms: CurrentRms,
    database: Database,
    client: CurrentRmsClient,
    run: str,
    config: WalkConfig,
    naming: Naming,
) -> LandedWalk:
    with database.session() as connection:
        collection = client.collection
        is_full = has_full_sync(connection, collection)
        since = watermarks(connection, collection) if is_full else []
    if not since and collection is not COLLECTIONS[0]:
        # It was switched on since the others had their full sync.
        return _land_window(current_rms, database, client, run, config)
    if not since:
        raise RmsPipelineError(
            "No full sync has completed yet, and an incremental sync needs one. Run "
            f"`rms-pipeline sync initial`, or the job {naming.name(INITIAL)}, first."
        )
    return land_changes(
        database, client, since, run, overlap=timedelta(minutes=config.overlap_minutes)
    )


def status_counts_of(naming: Naming) -> dg.AssetsDefinition:
    """The numbers of opportunities by status."""

    @declare(
        naming,
        "status_counts",
        [OPPORTUNITIES.name],
        STATUS_COLUMNS,
        "The number and the value of opportunities in each status. The counts add up to the rows "
        "of opportunities. The metadata has a table and a chart under *counts*; Plots shows how "
        "each status developed.",
        kinds={"postgres"},
    )
    def status_counts(
        context: dg.AssetExecutionContext, mirror: Mirror
    ) -> dg.MaterializeResult[Any]:
        counts = refresh_status_counts(mirror.database, mirror.settings.time_zone)
        with mirror.database.session() as connection:
            colours = read_colours(connection)
        return dg.MaterializeResult(
            metadata=status_metadata(counts, colours), data_version=version_of_counts(counts)
        )

    return status_counts
