"""The component: an account of Current RMS in YAML, for Dagster projects made with `dg`.

`dg list components` finds it. `dg scaffold defs rms_pipeline.CurrentRmsComponent acme` writes the
YAML. A subclass can override `get_asset_spec`.
"""

import re
import textwrap
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import dagster as dg
from pydantic import Field

from rms_pipeline.defs.build import build_defs
from rms_pipeline.defs.naming import OWN
from rms_pipeline.defs.resources import CurrentRms, Mirror
from rms_pipeline.settings import is_key_part


def _as_in(resource: type[dg.ConfigurableResource[Any]], name: str) -> Any:
    """The field of `resource` with this name, with its description."""
    info = resource.model_fields[name]
    hint = "" if info.repr else " Write {{ env.NAME_OF_A_VARIABLE }}, not the secret."
    return Field(
        default=None, alias=info.alias, repr=info.repr, description=f"{info.description}{hint}"
    )


class AccountInYaml(dg.Model):
    """The account of Current RMS. Without a subdomain, the account of the project's environment."""

    subdomain: str | None = _as_in(CurrentRms, "subdomain")
    api_key: str | None = _as_in(CurrentRms, "api_key")
    base_url: str | None = _as_in(CurrentRms, "base_url")
    requests_per_minute: int | None = _as_in(CurrentRms, "requests_per_minute")
    days_back: int | None = _as_in(CurrentRms, "days_back")
    days_ahead: int | None = _as_in(CurrentRms, "days_ahead")
    items_days_ahead: int | None = _as_in(CurrentRms, "items_days_ahead")
    proof_every_minutes: int | None = _as_in(CurrentRms, "proof_every_minutes")


class MirrorInYaml(dg.Model):
    """The PostgreSQL database of the mirror. Without a URL, that of the project's environment."""

    url: str | None = _as_in(Mirror, "url")
    url_non_pooling: str | None = _as_in(Mirror, "url_non_pooling")
    schema_name: str | None = _as_in(Mirror, "schema_name")
    time_zone: str | None = _as_in(Mirror, "time_zone")


_InYaml = TypeVar("_InYaml", bound=dg.Model)


def _filled_in(context: dg.ResolutionContext, written: _InYaml) -> _InYaml:
    """The attributes as written, with the values of their templates."""
    return type(written)(**context.resolve_value(dict(_told(written))))


class _Scaffolder(dg.Scaffolder[Any]):
    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        dg.scaffold_component(request, _attributes(request.target_path.name))
        if request.scaffold_format == "yaml":
            path = request.target_path if request.append else request.target_path / "defs.yaml"
            with path.open("a", encoding="utf-8") as file:
                file.write(_all_options())


def _all_options() -> str:
    """Every attribute that the YAML can have, as comments."""
    lines = ["", "# All attributes, and what they mean:"]
    models: dict[str, type[dg.Model]] = {"account": AccountInYaml, "mirror": MirrorInYaml}
    whole = CurrentRmsComponent.get_model_cls()
    for name, field in (whole.model_fields if whole else {}).items():
        inner = models.get(name)
        lines += _option(name, field.description, "")
        for below, of in (inner.model_fields if inner else {}).items():
            lines += _option(of.alias or below, of.description, "  ")
    lines += [
        "",
        "# To change assets (tags, owners, group, automation), beside `attributes`:",
        "# post_processing:",
        "#   assets:",
        '#     - target: "kind:table"',
        "#       attributes:",
        "#         tags: {domain: rental}",
        "",
    ]
    return "\n".join(lines)


def _option(name: str, says: str | None, indent: str) -> list[str]:
    before = f"#   {indent}"
    # A template stays on one line.
    text = re.sub(r"\{\{ (\S+) \}\}", "{{\xa0\\1\xa0}}", says or "")
    words = textwrap.TextWrapper(96, initial_indent=f"{before}  ", subsequent_indent=f"{before}  ")
    return [f"{before}{name}:", *(line.replace("\xa0", " ") for line in words.wrap(text))]


def _attributes(name: str) -> dict[str, Any]:
    """The names of an account that a person calls `name`, which can be any name of a folder."""
    word = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:36]
    # Neither a schema nor a variable begins with a digit, and some schemas are not ours to take.
    if not word[:1].isalpha() or word.startswith(("dagster", "pg_", "information_schema")):
        word = f"rms_{word}".rstrip("_")
    return {
        "account": {
            "subdomain": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "acme",
            "api_key": f"{{{{ env.{word.upper()}_API_KEY }}}}",
        },
        "mirror": {"url": f"{{{{ env.{word.upper()}_POSTGRES_URL }}}}", "schema": word},
        "key_prefix": name if is_key_part(name) else word,
    }


@dg.scaffold_with(_Scaffolder)
class CurrentRmsComponent(dg.Component, dg.Resolvable, dg.Model):
    """A complete, live copy of a Current RMS account in PostgreSQL: assets, checks, jobs, schedules
    and the webhook sensor.

    Without attributes it is the account of the project's environment. Each of several accounts
    needs its own `key_prefix`. If they share a database, each needs its own `schema`.
    """

    account: Annotated[
        AccountInYaml,
        dg.Resolver(
            _filled_in,
            model_field_type=AccountInYaml,
            description="The account of Current RMS that is mirrored.",
        ),
    ] = AccountInYaml()
    mirror: Annotated[
        MirrorInYaml,
        dg.Resolver(
            _filled_in,
            model_field_type=MirrorInYaml,
            description="The PostgreSQL database of the mirror.",
        ),
    ] = MirrorInYaml()
    key_prefix: Annotated[
        str | list[str] | None,
        dg.Resolver.default(
            description="The first parts of all asset keys, and of the names of jobs, schedules, "
            "sensors and resources.",
            examples=["acme"],
        ),
    ] = None
    group: Annotated[str, dg.Resolver.default(description="The group of all assets.")] = OWN.group
    owners: Annotated[
        list[str],
        dg.Resolver.default(description="The owners of all assets.", examples=[["team:rental"]]),
    ] = list(OWN.owners)  # noqa: RUF012
    collections: Annotated[
        list[str] | None,
        dg.Resolver.default(
            description="The collections to mirror besides opportunities. Without it: "
            "RMS_COLLECTIONS of the project's environment.",
            examples=[["opportunities", "members"]],
        ),
    ] = None
    schedules: Annotated[
        bool,
        dg.Resolver.default(
            description="Whether the schedules and the webhook sensor are on from the start."
        ),
    ] = True

    pages: Annotated[
        str | None,
        dg.Resolver.default(
            description="Where people reach this account's web service: assets and jobs link to "
            "it.",
            examples=["https://rms.example.com"],
        ),
    ] = None

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """Changes the spec of an asset. Override it to add tags, owners or metadata. Keys must
        stay."""
        return spec

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return build_defs(
            CurrentRms(**_told(self.account)),
            Mirror(**_told(self.mirror)),
            key_prefix=self.key_prefix,
            group=self.group,
            owners=self.owners,
            collections=self.collections,
            schedules=self.schedules,
            translator=self.get_asset_spec,
            pages=self.pages,
        )


def _told(model: dg.Model) -> Mapping[str, Any]:
    return model.model_dump(exclude_none=True, by_alias=True)
