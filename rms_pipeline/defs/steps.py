"""What the assets of all collections share, however their records are read.

What belongs here: how they are declared, the locks that they wait for, which walk a run stores, and
what is reported to Dagster and in the row of the sync. What does not: what is read, and how it is
merged (`assets`, `parts`).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import dagster as dg

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.defs.asset_checks import check_results_of, check_specs_of
from rms_pipeline.defs.columns import RAW_PAGE_COLUMNS, columns_of
from rms_pipeline.defs.data_versions import version_of_pages, version_of_table
from rms_pipeline.defs.failures import Explained, explained
from rms_pipeline.defs.naming import MIRROR, Naming
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database, advisory_lock
from rms_pipeline.mirror.raw_pages import count_stored
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.summary import count_rows
from rms_pipeline.mirror.sync_runs import INITIAL, note_figures, note_metadata
from rms_pipeline.sync.storing import MergedWalk, merge_walks

# Incremental syncs come every 15 minutes: two in a row are missing, or a morning's worth. (Dagster
# would show 45 minutes as "an hour".)
KEPT_FRESH = dg.FreshnessPolicy.time_window(
    warn_window=timedelta(minutes=40), fail_window=timedelta(hours=3)
)

Declare = Callable[[Callable[..., dg.MaterializeResult[Any]]], dg.AssetsDefinition]


def raw_pages_of(collection: Collection) -> str:
    """The name of the asset of the collection's pages. The pages of all collections are in the
    table raw_rms_pages."""
    return "raw_rms_pages" if collection is OPPORTUNITIES else f"raw_{collection.name}"


def own_steps(naming: Naming) -> frozenset[str]:
    """The keys of all steps that assets and checks of this account can have in a run."""
    names = ["status_counts"]
    for collection in COLLECTIONS:
        names += [raw_pages_of(collection), collection.name]
    return frozenset(map(naming.name, names))


def declare(
    naming: Naming,
    name: str,
    deps: Sequence[str],
    columns: dg.TableSchema,
    description: str,
    *,
    kinds: set[str],
    table: str | None = None,
    code_version: str = "1",
) -> Declare:
    """The decorator of an asset of this account, and of its checks. `deps` are names of other
    assets. `table` is the name of its table, by default its own name. `build_defs` knows where the
    table is."""

    def decorate(function: Callable[..., dg.MaterializeResult[Any]]) -> dg.AssetsDefinition:
        return dg.multi_asset(
            name=naming.name(name),
            specs=[
                dg.AssetSpec(
                    naming.key(name),
                    deps=naming.keys(deps),
                    group_name=naming.group,
                    kinds=kinds,
                    owners=naming.owners,
                    description=description,
                    metadata={
                        "dagster/column_schema": columns,
                        "dagster/table_name": table or name,
                    },
                    freshness_policy=KEPT_FRESH,
                    code_version=code_version,
                )
            ],
            check_specs=check_specs_of(name, naming),
            # A run may select the asset without its checks, or some checks alone.
            can_subset=True,
        )(naming.bind(_then_checked(function, name, naming)))

    return decorate


def _then_checked(
    function: Callable[..., dg.MaterializeResult[Any]], name: str, naming: Naming
) -> Callable[..., Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]]:
    """Does what `function` does if the run selects the asset, and then runs the selected checks."""

    @functools.wraps(function)
    def both(
        context: dg.AssetExecutionContext, **given: Any
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        if context.selected_asset_keys:
            yield function(context, **given)
        selected = {key.name for key in context.selected_asset_check_keys}
        if selected:
            run, mirror = context.run.run_id, given[MIRROR]
            yield from check_results_of(name, naming, selected, mirror.database, run)

    return both


def declare_pages(
    collection: Collection, naming: Naming, deps: Sequence[str], description: str
) -> Declare:
    """The decorator of the asset of pages as received."""
    return declare(
        naming,
        raw_pages_of(collection),
        deps,
        RAW_PAGE_COLUMNS,
        description,
        kinds={"python", "postgres"},
        table="raw_rms_pages",
    )


def declare_table(collection: Collection, naming: Naming, description: str) -> Declare:
    """The decorator of the asset of the table that is made from these pages."""
    return declare(
        naming,
        collection.name,
        [raw_pages_of(collection)],
        columns_of(collection),
        description,
        kinds={"postgres", "table"},
        # What decodes records otherwise is another version of it.
        code_version=str(collection.version),
    )


@contextmanager
def reading(
    context: dg.AssetExecutionContext, database: Database, lists: str | None = None
) -> Iterator[None]:
    """Lets one sync at a time read the API, or read `lists`. Explains errors."""

    def tell() -> None:
        what = "these lists" if lists else "the API"
        context.log.info(f"Waiting: another sync is reading {what}.")

    with explained(), advisory_lock(database, lists or "walk", on_wait=tell):
        yield


@contextmanager
def storing(context: dg.AssetExecutionContext, database: Database) -> Iterator[None]:
    """Lets one sync at a time store. If another one changed rows meanwhile, nothing could be
    proved. Explains errors."""

    def tell() -> None:
        context.log.info("Waiting: another sync is storing its pages.")

    with explained(), advisory_lock(database, "settling", on_wait=tell):
        yield


def runs_of(run: dg.DagsterRun) -> list[str]:
    """This run, and the runs that it retries."""
    return [r for r in (run.run_id, run.parent_run_id, run.root_run_id) if r]


def walk_to_store(
    connection: Connection, collection: Collection, run: dg.DagsterRun, naming: Naming
) -> walks.StoredWalk:
    """The walk of this run, or of the run that it retries. Otherwise the newest walk, to decode it
    again."""
    walk = walks.walk_of_run(connection, collection, *runs_of(run))
    if walk is None or walk.completed_at is None:
        walk = walks.newest_walk(connection, collection, kind=walks.FULL)
    if walk is None:
        raise Explained(
            "There are no pages to decode yet: materialize "
            f"{naming.key(raw_pages_of(collection)).to_user_string()} as well, or run the job "
            f"{naming.name(INITIAL)}."
        )
    return walk


def merge_again(
    database: Database, collection: Collection, walk: walks.StoredWalk, run: str
) -> MergedWalk:
    """Decodes and merges the pages of a walk that is settled."""
    return merge_walks(database, collection, [walk.id], run, counted_since=walk.started_at)


def told_of_pages(
    naming: Naming,
    database: Database,
    collection: Collection,
    run: str,
    walk: int,
    metadata: dict[str, Any],
) -> dg.MaterializeResult[Any]:
    """Writes the result of reading the pages of `walk` into the row of the sync, and reports it to
    Dagster."""
    told = metadata if collection is OPPORTUNITIES else {raw_pages_of(collection): metadata}
    with database.session() as connection:
        note_metadata(connection, run, told)
    return dg.MaterializeResult(
        metadata=metadata | naming.links, data_version=version_of_pages(walk)
    )


def told_of_table(
    naming: Naming,
    database: Database,
    collection: Collection,
    run: str,
    walk: walks.StoredWalk,
    merged: MergedWalk,
    more: Mapping[str, Any],
) -> dg.MaterializeResult[Any]:
    """Writes the result of merging the pages of `walk`, and the number of rows now, into the row of
    the sync, and reports both to Dagster. `more` is additional metadata."""
    result = merged.result
    with database.session() as connection:
        metadata = {
            "dagster/row_count": count_rows(connection, collection),
            "created": result.created,
            "updated": result.updated,
            "unchanged": result.unchanged,
            "restored": result.restored,
            "stale": result.stale + len(result.lagging),
            "failed": result.failed,
            "merge_seconds": round(merged.seconds, 3),
            **more,
        }
        note_figures(
            connection,
            run,
            collection.name,
            synced=count_stored(connection, collection, walk.id),
            failed=result.failed,
            metadata=metadata,
        )
        version = version_of_table(connection, collection)
    return dg.MaterializeResult(metadata=metadata | naming.links, data_version=version)
