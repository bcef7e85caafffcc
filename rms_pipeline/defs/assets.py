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
from rms_pipeline.defs.columns import RAW_PAGE_COLUMNS, STATUS_COLUMNS, columns_of
from rms_pipeline.defs.config import StoreConfig, WalkConfig
from rms_pipeline.defs.failures import Explained, explained
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
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.audit import audit_webhooks
from rms_pipeline.mirror.custom_fields import known_keys, note_keys
from rms_pipeline.mirror.database import Database, advisory_lock
from rms_pipeline.mirror.history import has_full_sync, watermarks
from rms_pipeline.mirror.proofs import proof_begun
from rms_pipeline.mirror.raw_pages import count_stored
from rms_pipeline.mirror.reach import read_reach
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.summary import count_rows, refresh_status_counts
from rms_pipeline.mirror.sync_runs import INCREMENTAL, note_figures, note_metadata
from rms_pipeline.sync.doubts import merge_walk
from rms_pipeline.sync.landing import LandedWalk, land_changes, land_window
from rms_pipeline.sync.prove import begin_proof, finish_proof
from rms_pipeline.sync.settling import settle_full_walk
from rms_pipeline.sync.storing import MergedWalk, merge_walks

WALK_LOCK, SETTLING_LOCK = "walk", "settling"

# Incremental syncs come every 15 minutes: two in a row are missing, or a morning's worth. (Dagster
# would show 45 minutes as "an hour".)
KEPT_FRESH = dg.FreshnessPolicy.time_window(
    warn_window=timedelta(minutes=40), fail_window=timedelta(hours=3)
)


def account_of(naming: Naming) -> dg.AssetSpec:
    """What all else is a copy of."""
    return dg.AssetSpec(
        naming.key("current_rms_api"),
        group_name=naming.group,
        description="The company's Current RMS account, behind its web API. Everything else here "
        "is a copy of what is in it.",
        kinds={"api"},
        owners=naming.owners,
    )


def raw_pages_of(collection: Collection) -> str:
    """The name of the asset of its pages; all of them are in the table raw_rms_pages."""
    return "raw_rms_pages" if collection is OPPORTUNITIES else f"raw_{collection.name}"


def _reach(collection: Collection) -> str:
    if not collection.has_window:
        return "all there are"
    return (
        "what overlaps the window (by default 30 days back to a year ahead) and what has no dates"
    )


def assets_of(
    collection: Collection, naming: Naming
) -> tuple[dg.AssetsDefinition, dg.AssetsDefinition]:
    """Its pages as received, and its table."""

    @dg.asset(
        key=naming.key(raw_pages_of(collection)),
        deps=[naming.key("current_rms_api")],
        group_name=naming.group,
        kinds={"python", "postgres"},
        owners=naming.owners,
        description=f"Pages of the Current RMS list of {collection.name}, stored exactly as "
        f"received. A full sync fetches {_reach(collection)}; an incremental one whatever changed "
        "since the last, whatever its dates.\n\n"
        "In the metadata: *api_calls*, of which some had to be asked again because the account's "
        "limit was reached (*throttled_calls*) or the answer was no good (*retried_calls*). What "
        "an unfinished sync had just fetched is not fetched again "
        "(*pages_kept_from_unfinished_sync*).",
        metadata={"dagster/column_schema": RAW_PAGE_COLUMNS},
        freshness_policy=KEPT_FRESH,
        code_version="1",
    )
    @naming.bind
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
                f"No account is configured: these are the sandbox's {collection.name}, not yours. "
                "Set CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY to mirror your account."
            )
        with (
            explained(),
            advisory_lock(
                database,
                WALK_LOCK,
                on_wait=lambda: context.log.info("Waiting: another sync is reading the API."),
            ),
            current_rms.client(database, collection) as client,
        ):
            if is_incremental:
                # Before the changes are read: those are then the end of the proof.
                begin_proof(database, client, context.run.run_id, every=current_rms.proof_every)
                walk = _land_changes(current_rms, database, client, context.run.run_id, config)
            else:
                walk = _land_window(current_rms, database, client, context.run.run_id, config)
        metadata = walk_metadata(walk)
        if is_incremental and not was_read:
            whole = f"All {collection.name}"
            if collection.parts is not None:
                whole = f"The {collection.name} of {collection.parts.of.name} that are out soon"
            metadata["read_whole"] = (
                f"{whole} were read, and not only what changed: no full sync had read them before."
            )
            context.log.info(metadata["read_whole"])
        told = metadata if collection is COLLECTIONS[0] else {raw_pages_of(collection): metadata}
        with database.session() as connection:
            note_metadata(connection, context.run.run_id, told)
        return dg.MaterializeResult(metadata=metadata)

    @dg.asset(
        key=naming.key(collection.name),
        deps=[raw_pages],
        group_name=naming.group,
        kinds={"postgres", "table"},
        owners=naming.owners,
        description=f"One row for each {collection.single}: the table that people query. In rows "
        "that did not change, only synced_at is updated. Rows that Current RMS no longer has move "
        f"to {collection.deleted}. Each sync ends with the proof that no row is missing or "
        "left over.\n\nIn the metadata: rows *created*, *updated*, *unchanged*, "
        "*restored* after a deletion; records that were *stale* (the table had a newer "
        "one) or *failed* (see the table sync_faults). An incremental sync starts at the "
        "*watermark* of the one before, and the first at that of the first full sync. "
        "*certificate* says whether the mirror was shown to hold exactly what Current "
        "RMS lists. For that, *repaired* records were fetched again, in *proof_calls* "
        "calls. Rows were *deleted*, or kept because too many would have been deleted "
        "(*deletions_held_back*).",
        metadata={"dagster/column_schema": columns_of(collection)},
        freshness_policy=KEPT_FRESH,
        code_version=str(collection.version),
    )
    @naming.bind
    def table(
        context: dg.AssetExecutionContext,
        config: StoreConfig,
        mirror: Mirror,
        current_rms: CurrentRms,
    ) -> dg.MaterializeResult[Any]:
        database, run = mirror.database, context.run.run_id
        with database.session() as connection:
            walk = walk_to_store(connection, collection, context.run)
        proof, settled, audit = None, None, None
        with (
            explained(),
            # Rows that another sync changes meanwhile would leave nothing to be proved.
            advisory_lock(
                database,
                SETTLING_LOCK,
                on_wait=lambda: context.log.info("Waiting: another sync is storing its pages."),
            ),
        ):
            if walk.settled_at is not None:
                merged = merge_walks(
                    database, collection, [walk.id], run, counted_since=walk.started_at
                )
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
        result = merged.result
        with database.session() as connection:
            note_keys(
                connection,
                collection,
                changed_since=walk.since,
                asked_since=walk.started_at if walk.kind == walks.FULL else None,
            )
            keys = known_keys(connection, collection)
            row_count = count_rows(connection, collection)
            synced = count_stored(connection, collection, walk.id)
        metadata = merge_metadata(merged, row_count)
        metadata["outside_window"] = merged.outside_window
        if keys.count:
            metadata["custom_fields"] = keys.count
            metadata["custom_fields_new"] = ", ".join(keys.new) or "none"
            metadata["custom_fields_vanished"] = ", ".join(keys.vanished) or "none"
        if walk.watermark is not None:
            metadata["watermark"] = instant(walk.watermark)
        if settled is not None:
            metadata |= settled_metadata(settled)
        if proof is not None:
            metadata |= proof_metadata(proof) | {"deleted": proof.deleted}
        if audit is not None:
            metadata |= audit_metadata(audit)
        with database.session() as connection:
            note_figures(
                connection,
                run,
                collection.name,
                synced=synced,
                failed=result.failed,
                metadata=metadata,
            )
        return dg.MaterializeResult(metadata=metadata)

    return raw_pages, table


def merge_metadata(merged: MergedWalk, row_count: int) -> dict[str, Any]:
    """What merging the pages of a sync led to, and how many rows there are now."""
    result = merged.result
    return {
        "dagster/row_count": row_count,
        "created": result.created,
        "updated": result.updated,
        "unchanged": result.unchanged,
        "restored": result.restored,
        "stale": result.stale + len(result.lagging),
        "failed": result.failed,
        "merge_seconds": round(merged.seconds, 3),
    }


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
            "`rms-pipeline sync initial`, or the job initial_sync, first."
        )
    return land_changes(
        database, client, since, run, overlap=timedelta(minutes=config.overlap_minutes)
    )


def runs_of(run: dg.DagsterRun) -> list[str]:
    """This run, and those that it retries."""
    return [r for r in (run.run_id, run.parent_run_id, run.root_run_id) if r]


def walk_to_store(
    connection: Connection, collection: Collection, run: dg.DagsterRun
) -> walks.StoredWalk:
    """The walk of this run, or of the one it retries; else the newest, to decode it again."""
    walk = walks.walk_of_run(connection, collection, *runs_of(run))
    if walk is None or walk.completed_at is None:
        walk = walks.newest_walk(connection, collection, kind=walks.FULL)
    if walk is None:
        raise Explained(
            f"There are no pages to decode yet: materialize {raw_pages_of(collection)} as well, or "
            "run the job initial_sync."
        )
    return walk


def status_counts_of(naming: Naming) -> dg.AssetsDefinition:
    """How the opportunities stand."""

    @dg.asset(
        key=naming.key("status_counts"),
        deps=[naming.key(OPPORTUNITIES.name)],
        group_name=naming.group,
        kinds={"postgres", "pandas"},
        owners=naming.owners,
        description="How many opportunities there are in each status, and what they are worth. "
        "The counts add up to the rows of opportunities. Table and chart are in the metadata, "
        "under *counts*; Plots shows how each status developed.",
        metadata={"dagster/column_schema": STATUS_COLUMNS},
        freshness_policy=KEPT_FRESH,
        # People look at it while the checks of opportunities still run.
        op_tags={"dagster/priority": "1"},
        code_version="1",
    )
    @naming.bind
    def status_counts(mirror: Mirror) -> dg.MaterializeResult[Any]:
        frame = refresh_status_counts(mirror.database, mirror.settings.time_zone)
        return dg.MaterializeResult(metadata=status_metadata(frame))

    return status_counts
