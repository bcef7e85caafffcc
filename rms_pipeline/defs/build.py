"""Everything that Dagster has for one account: `build_defs`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import dagster as dg
from psycopg2.extensions import parse_dsn

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.defs import (
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

_Resource = TypeVar("_Resource", CurrentRms, Mirror)


class DefinitionsUnusable(RmsPipelineError):
    """An argument of `build_defs` is not valid. The text says which, and what is valid."""


def build_defs(
    account: CurrentRms | None = None,
    mirror: Mirror | None = None,
    *,
    key_prefix: str | Sequence[str] | None = None,
    group: str = OWN.group,
    owners: str | Sequence[str] = OWN.owners,
    collections: str | Iterable[str] | None = None,
    schedules: bool = True,
    translator: Callable[[dg.AssetSpec], dg.AssetSpec] | None = None,
    pages: str | None = None,
) -> dg.Definitions:
    """The assets, checks, jobs, schedules, sensors and resources of one account.

    Merge them with your own: `dg.Definitions.merge(build_defs(...), mine)`. With a `key_prefix`
    every name contains it (asset `acme/opportunities`, job `acme__initial_sync`, resource
    `acme__mirror`), so names of several accounts and your own names differ. Accounts that share a
    database each need their own `schema`.

    Without `account` and `mirror`, those of the settings of this process are used. `collections`
    are names, in a list or with commas between them. `schedules` says whether schedules and the
    webhook sensor are on from the start. `translator` can change the spec of each asset, but not
    its key. `pages` is the address of this account's web service, to which assets, jobs and runs
    link. For the mirror of the settings it is RMS_PUBLIC_URL by default.

    Raises DefinitionsUnusable, and SettingsError if a field of a resource is wrong and already
    known.
    """
    _demand_texts_that_are_known(
        key_prefix=key_prefix, group=group, owners=owners, collections=collections, pages=pages
    )
    account = _of_kind(account, CurrentRms)
    mirror = _of_kind(mirror, Mirror)
    owners = _texts("owners", owners, 'owners=["team:rental"]')
    _demand(isinstance(group, str), "group", group, 'group="rental"')
    _demand(isinstance(schedules, bool), "schedules", schedules, "schedules=False")
    _demand(
        translator is None or callable(translator),
        "translator",
        translator,
        'translator=lambda spec: spec.merge_attributes(tags={"domain": "rental"})',
    )
    if pages is None and mirror.url is None:
        pages = settings().public_url
    naming = Naming(_parts(key_prefix), group, owners, _address(pages))
    mirror = _prepared(mirror, naming, account)
    chosen = _chosen(collections, account)
    links = naming.links
    refresh_job, refresh_sensor = webhook_refresh.webhook_refresh_of(
        chosen, naming, running=schedules
    )
    events_job, events_sensor = business_events.business_events_of(naming)
    return dg.Definitions(
        assets=dg.map_asset_specs(
            _translated(mirror, naming, translator),
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


def _demand(is_valid: bool, argument: str, given: object, example: str) -> None:
    if not is_valid:
        raise DefinitionsUnusable(
            f"{argument} is {given!r}, which is not valid. Example: {example}"
        )


def _demand_texts_that_are_known(**given: object) -> None:
    """An EnvVar is a text, that of its name, until a run resolves it."""
    for argument, value in given.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, dg.EnvVar):
                raise DefinitionsUnusable(
                    f"{argument} is an EnvVar, which only a run resolves, but definitions need its "
                    "value when they are loaded. Write "
                    f'{argument}=dg.EnvVar("{each.env_var_name}").get_value()'
                )


def _texts(argument: str, given: str | Iterable[str], example: str) -> tuple[str, ...]:
    """One text, or several."""
    given = (given,) if isinstance(given, str) else given
    _demand(isinstance(given, Iterable), argument, given, example)
    texts = tuple(given)
    _demand(all(isinstance(text, str) for text in texts), argument, list(texts), example)
    return texts


def _parts(key_prefix: str | Sequence[str] | None) -> tuple[str, ...]:
    parts = (key_prefix,) if isinstance(key_prefix, str) else key_prefix or ()
    try:
        if not isinstance(parts, Sequence):
            raise ValueError
        for part in parts:
            # Ops are named by it, and take nothing else.
            if not is_key_part(part):
                raise ValueError
    except ValueError:
        raise DefinitionsUnusable(
            f"key_prefix is {key_prefix!r}. Use letters, digits, - and _ in each part, and "
            'begin it with a letter. Example: key_prefix="acme"'
        ) from None
    return tuple(parts)


def _prepared(mirror: Mirror, naming: Naming, account: CurrentRms) -> Mirror:
    """The mirror that knows whose it is."""
    known: dict[str, Any] = {}
    if naming.prefix:
        known["asset_prefix"] = list(naming.prefix)
    if account.subdomain is not None:
        known["account"] = account.subdomain
    if not known:
        return mirror
    told = {
        info.alias or name: value
        for name, info in type(mirror).model_fields.items()
        if (value := getattr(mirror, name)) is not None
    }
    return type(mirror)(**{**told, **known})


def _chosen(names: str | Iterable[str] | None, account: CurrentRms) -> Sequence[Collection]:
    if names is None:
        own = settings()
        if account.subdomain is None or "collections" in own.model_fields_set:
            return own.collections
        # What a process without an account shows is the sandbox's.
        return COLLECTIONS[:1]
    names = _texts("collections", names, 'collections=["members"]')
    names = [name.strip() for text in names for name in text.split(",") if name.strip()]
    known = {c.name: c for c in COLLECTIONS}
    if unknown := [name for name in names if name not in known]:
        raise DefinitionsUnusable(
            f"collections has {', '.join(unknown)} in it. The collections are: {', '.join(known)}."
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


def _of_kind(given: _Resource | None, kind: type[_Resource]) -> _Resource:
    """The resource. Checks those of its fields that are known while definitions are loaded."""
    resource = kind() if given is None else given
    if not isinstance(resource, kind):
        raise DefinitionsUnusable(
            f"build_defs takes a CurrentRms and a Mirror, in this order. A "
            f"{type(given).__name__} stands where a {kind.__name__} belongs."
        )
    resource.demand_valid()
    return resource


def _address(pages: str | None) -> str | None:
    """The address of the web service, without a slash at its end."""
    if not pages:
        return None
    parts = urlsplit(str(pages))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise DefinitionsUnusable(
            f"pages is {pages!r}, which is not an http(s) URL. Example: "
            'pages="https://rms.example.com"'
        )
    return pages.rstrip("/")


def _translated(
    mirror: Mirror,
    naming: Naming,
    translator: Callable[[dg.AssetSpec], dg.AssetSpec] | None,
) -> Callable[[dg.AssetSpec], dg.AssetSpec]:
    place, links = _place_of(mirror), naming.links

    def translated(spec: dg.AssetSpec) -> dg.AssetSpec:
        found = spec.merge_attributes(metadata=links) if links else spec
        if table := spec.metadata.get("dagster/table_name"):
            found = found.merge_attributes(metadata={"dagster/table_name": f"{place}.{table}"})
        if translator is not None:
            found = translator(found)
        if not isinstance(found, dg.AssetSpec):
            raise DefinitionsUnusable(
                f"The translator gives {found!r} for {spec.key.to_user_string()}. Have it return "
                "the spec."
            )
        if found.key != spec.key:
            raise DefinitionsUnusable(
                f"The translator changes the key {spec.key.to_user_string()} to "
                f"{found.key.to_user_string()}, but jobs and checks find the asset by that key. "
                "Use key_prefix instead."
            )
        # Nothing makes the API, so nobody has to wait for it.
        kept = {*(dep.asset_key for dep in found.deps), naming.key("current_rms_api")}
        if lost := [dep.asset_key for dep in spec.deps if dep.asset_key not in kept]:
            raise DefinitionsUnusable(
                f"The translator removes {lost[0].to_user_string()} from the deps of "
                f"{spec.key.to_user_string()}, which is made from it. Add deps with "
                "spec.merge_attributes(deps=[...])."
            )
        if found.partitions_def is not None:
            raise DefinitionsUnusable(
                f"The translator gives {spec.key.to_user_string()} partitions, but a sync stores "
                "the whole table. Give partitions to an asset of your own that depends on it."
            )
        return found

    return translated


def _place_of(mirror: Mirror) -> str:
    """The schema of the tables, with the name of the database before it if that is already
    known."""
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
