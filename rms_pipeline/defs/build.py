"""All that Dagster has of one account: `build_defs`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
from psycopg2.extensions import parse_dsn

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.defs import (
    asset_checks,
    assets,
    business_events,
    housekeeping,
    jobs,
    rebuilding,
    webhook_refresh,
)
from rms_pipeline.defs import schedules as all_schedules
from rms_pipeline.defs.naming import CURRENT_RMS, MIRROR, OWN, Naming
from rms_pipeline.defs.parts import part_assets_of
from rms_pipeline.defs.resources import CurrentRms, Mirror
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.postgres_urls import normalise_postgres_url
from rms_pipeline.settings import is_key_part, settings


class DefinitionsUnusable(RmsPipelineError):
    """What `build_defs` was told cannot be."""


def build_defs(
    account: CurrentRms | None = None,
    mirror: Mirror | None = None,
    *,
    key_prefix: str | Sequence[str] | None = None,
    group: str = OWN.group,
    owners: Sequence[str] = OWN.owners,
    collections: Sequence[str] | None = None,
    schedules: bool = True,
    translator: Callable[[dg.AssetSpec], dg.AssetSpec] | None = None,
    pages: str | None = None,
) -> dg.Definitions:
    """The assets, checks, jobs, schedules, sensors and resources of one account.

    Merge them with your own: `dg.Definitions.merge(build_defs(...), mine)`. With a `key_prefix`
    everything that has a name carries it (asset `acme/opportunities`, job `acme__initial_sync`,
    resource `acme__mirror`), so that nothing of several accounts, or of yours, has the same name.
    Accounts that share a database need a `schema` each.

    `account` and `mirror` are those of the settings of this process when absent. `collections` are
    names; `schedules` says whether schedules and the sensor of webhooks start switched on.
    `translator` may change each asset's spec, but not its key. `pages` is where people reach this
    account's web service, which assets and jobs then link to: RMS_PUBLIC_URL of this process for
    its own mirror.

    Raises DefinitionsUnusable.
    """
    naming = Naming(_parts(key_prefix), group, tuple(owners))
    account = account or CurrentRms()
    mirror = _prefixed(mirror or Mirror(), naming)
    chosen = _chosen(collections, account)
    if pages is None and mirror.url is None:
        pages = settings().public_url
    links = _links(pages)
    refresh_job, refresh_sensor = webhook_refresh.webhook_refresh_of(
        chosen, naming, running=schedules
    )
    events_job, events_sensor = business_events.business_events_of(naming)
    return dg.Definitions(
        assets=dg.map_asset_specs(
            _translated(mirror, links, translator),
            [
                assets.account_of(naming),
                *(
                    asset
                    for c in chosen
                    for asset in (assets.assets_of if c.parts is None else part_assets_of)(
                        c, naming
                    )
                ),
                assets.status_counts_of(naming),
            ],
        ),
        asset_checks=asset_checks.checks_of(chosen, naming),
        jobs=[
            *jobs.sync_jobs(
                chosen,
                naming,
                days_back=account.known("days_back"),
                days_ahead=account.known("days_ahead"),
                items_days_ahead=account.known("items_days_ahead"),
                metadata=links,
            ),
            refresh_job,
            events_job,
            housekeeping.housekeeping_job(naming),
            rebuilding.rebuild_job(naming),
        ],
        schedules=all_schedules.schedules(mirror.known("time_zone"), naming, running=schedules),
        sensors=[refresh_sensor, events_sensor],
        resources={naming.name(MIRROR): mirror, naming.name(CURRENT_RMS): account},
    )


def _parts(key_prefix: str | Sequence[str] | None) -> tuple[str, ...]:
    parts = (key_prefix,) if isinstance(key_prefix, str) else tuple(key_prefix or ())
    try:
        for part in parts:
            # Ops are named by it, and take nothing else.
            if not is_key_part(part):
                raise ValueError
    except ValueError:
        raise DefinitionsUnusable(
            f"key_prefix is {key_prefix!r}. Each part of it takes letters, digits, - and _, and "
            'begins with a letter. Example: key_prefix="acme"'
        ) from None
    return parts


def _prefixed(mirror: Mirror, naming: Naming) -> Mirror:
    if not naming.prefix:
        return mirror
    told = {
        info.alias or name: value
        for name, info in type(mirror).model_fields.items()
        if (value := getattr(mirror, name)) is not None
    }
    return type(mirror)(**{**told, "asset_prefix": list(naming.prefix)})


def _chosen(names: Sequence[str] | None, account: CurrentRms) -> Sequence[Collection]:
    if names is None:
        own = settings()
        if account.subdomain is None or "collections" in own.model_fields_set:
            return own.collections
        # What a process without an account shows is the sandbox's.
        return COLLECTIONS[:1]
    known = {c.name: c for c in COLLECTIONS}
    if unknown := [name for name in names if name not in known]:
        raise DefinitionsUnusable(
            f"collections names {', '.join(unknown)}. There are: {', '.join(known)}."
        )
    for collection in COLLECTIONS:
        needed = collection.name in names and collection.parts
        if needed and needed.of.name not in names:
            raise DefinitionsUnusable(
                f"collections names {collection.name}, which are parts of {needed.of.name}: name "
                f"{needed.of.name} as well."
            )
    # The first is what the others belong to.
    return [c for c in COLLECTIONS if c.name in names or c is COLLECTIONS[0]]


def _links(pages: str | None) -> dict[str, dg.MetadataValue]:
    """To the pages of the web service at that address."""
    if not pages:
        return {}
    return {"dashboard": dg.MetadataValue.url(f"{pages.rstrip('/')}/")}


def _translated(
    mirror: Mirror,
    links: Mapping[str, dg.MetadataValue],
    translator: Callable[[dg.AssetSpec], dg.AssetSpec] | None,
) -> Callable[[dg.AssetSpec], dg.AssetSpec]:
    place = _place_of(mirror)

    def translated(spec: dg.AssetSpec) -> dg.AssetSpec:
        found = spec.merge_attributes(metadata=links) if links else spec
        if "dagster/column_schema" in spec.metadata:
            table = f"{place}.{spec.key.path[-1]}"
            found = found.merge_attributes(metadata={"dagster/table_name": table})
        if translator is not None:
            found = translator(found)
        if found.key != spec.key:
            raise DefinitionsUnusable(
                f"The translator changes the key {spec.key.to_user_string()} to "
                f"{found.key.to_user_string()}, by which jobs and checks find it. Use key_prefix."
            )
        return found

    return translated


def _place_of(mirror: Mirror) -> str:
    """Schema of the tables, after the database's name where that can be known yet."""
    schema: str = mirror.known("schema_name")
    url: Any = mirror.known("url")
    if url is None:
        return schema
    text = url if isinstance(url, str) else url.get_secret_value()
    try:
        name = parse_dsn(normalise_postgres_url(text)).get("dbname")
    except Exception:
        # Whatever is wrong with it, a run tells.
        return schema
    return f"{name}.{schema}" if name else schema
