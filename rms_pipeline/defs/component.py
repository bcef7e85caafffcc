"""The component: an account of Current RMS in YAML, for Dagster projects made with `dg`.

`dg list components` finds it. `dg scaffold defs rms_pipeline.CurrentRmsComponent acme` writes the
YAML. A subclass can override `get_asset_spec`.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from types import new_class
from typing import Annotated, Any, TypeVar

import dagster as dg
from jinja2 import Template
from pydantic import BaseModel, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.defs.build import DefinitionsUnusable, build_defs
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


class _InYaml(dg.Model):
    """Attributes of a resource. The text of each may be a template."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return _without_alternatives(handler(schema), handler)


class AccountInYaml(_InYaml):
    """The account of Current RMS. Without a subdomain, the account of the project's environment."""

    subdomain: str | None = _as_in(CurrentRms, "subdomain")
    api_key: str | None = _as_in(CurrentRms, "api_key")
    base_url: str | None = _as_in(CurrentRms, "base_url")
    requests_per_minute: int | str | None = _as_in(CurrentRms, "requests_per_minute")
    days_back: int | str | None = _as_in(CurrentRms, "days_back")
    days_ahead: int | str | None = _as_in(CurrentRms, "days_ahead")
    items_days_ahead: int | str | None = _as_in(CurrentRms, "items_days_ahead")
    proof_every_minutes: int | str | None = _as_in(CurrentRms, "proof_every_minutes")


class MirrorInYaml(_InYaml):
    """The PostgreSQL database of the mirror. Without a URL, that of the project's environment."""

    url: str | None = _as_in(Mirror, "url")
    url_non_pooling: str | None = _as_in(Mirror, "url_non_pooling")
    schema_name: str | None = _as_in(Mirror, "schema_name")
    time_zone: str | None = _as_in(Mirror, "time_zone")


def _without_alternatives(
    schema: JsonSchemaValue, handler: GetJsonSchemaHandler
) -> JsonSchemaValue:
    """The JSON schema of a model, with one schema for each attribute instead of several of which
    one has to fit. Of several, `dg check yaml` says that none fits, and not what is wrong."""
    shape = handler.resolve_ref_schema(schema)
    for attribute in shape.get("properties", {}).values():
        fitting = attribute.pop("anyOf", None)
        if fitting is None:
            continue
        for each in fitting:
            # Only our own models are referred to. A template could stand for one as a whole, but
            # then its attributes would have no completion, and nobody would look at their names.
            if "$ref" in each:
                attribute["$ref"] = each["$ref"]
                break
        else:
            for each in fitting:
                attribute |= {name: of for name, of in each.items() if name != "type"}
            attribute["type"] = list(dict.fromkeys(each["type"] for each in fitting))
            if {"integer", "string"} <= set(attribute["type"]):
                attribute["pattern"] = r"^\d+$|\{\{"
    return schema


@cache
def _with_plain_schema(model: type[BaseModel]) -> type[BaseModel]:
    """The model of the component's attributes, whose errors and completions are about each."""

    def plain(_: type, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = _without_alternatives(handler(schema), handler)
        of_collections = handler.resolve_ref_schema(made)["properties"]["collections"]
        of_collections["items"]["enum"] = [c.name for c in COLLECTIONS]
        return made

    told: dict[str, Any] = {"__module__": model.__module__, "__doc__": model.__doc__}
    told["__get_pydantic_json_schema__"] = classmethod(plain)
    # Its name is in the errors.
    return new_class(model.__name__, (model,), exec_body=lambda body: body.update(told))


_OF_ENVIRONMENT = re.compile(r"\{\{\s*env\.([A-Za-z_]\w*)\s*\}\}")
_Attributes = TypeVar("_Attributes", bound=_InYaml)


def _filled_in(context: dg.ResolutionContext, written: _Attributes) -> _Attributes:
    """The attributes as written, with the values of their templates.

    A variable of the environment stays one, as `dg.EnvVar`. So it is needed when a run begins, not
    where definitions are loaded, and one that is not set fails the run by its name. Its value would
    be None here, which stands for the account and the database of the process.
    """
    values: dict[str, Any] = {}
    for name, info in type(written).model_fields.items():
        value = getattr(written, name)
        if not isinstance(value, str):
            values[name] = value
            continue
        # Another field takes whole numbers, or a template.
        is_text = info.annotation == str | None
        if found := _OF_ENVIRONMENT.fullmatch(value.strip()):
            variable = found[1]
            values[name] = dg.EnvVar(variable) if is_text else dg.EnvVar.int(variable)
            continue
        told = info.alias or name
        text = _text_of(context.at_path(told), told, value)
        values[name] = text if is_text else _whole_number(told, text)
    # A validated text would be no EnvVar any more.
    return type(written).model_construct(**values)


def _text_of(context: dg.ResolutionContext, told: str, written: str) -> str:
    """The text that a template gives. Dagster's own reading takes texts like `1e5` for numbers."""
    if "{{" not in written and "{%" not in written:
        return written
    # With its errors, which name the place in the file.
    value = context.resolve_value(written)
    _demand_variables(told, written, value)
    return value if isinstance(value, str) else Template(written).render(**context.scope)


def _whole_number(told: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DefinitionsUnusable(
            f"{told} is {text!r}, which is not a whole number. Example: {told}: 30"
        ) from None


def _when_loaded(name: str, **told: Any) -> Any:
    """The resolver of an attribute that definitions need when they are loaded."""

    def resolve(context: dg.ResolutionContext, written: Any) -> Any:
        value = context.resolve_value(written)
        for each, of in zip(_each(written), _each(value), strict=False):
            _demand_variables(name, each, of)
        return value

    return dg.Resolver(resolve, inject_before_resolve=False, **told)


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _demand_variables(told: str, written: object, value: object) -> None:
    """Refuses a template of a variable that is not set: Dagster takes it for None."""
    if not isinstance(written, str) or (value is not None and "None" not in str(value)):
        return
    for variable in re.findall(r"\benv\.([A-Za-z_]\w*)", written):
        if dg.EnvVar(variable).get_value() is None:
            raise DefinitionsUnusable(
                f"{told} is {written!r}, but the variable {variable} is not set where definitions "
                f"are loaded. Set it, or write the value. With a default: "
                f"{{{{ env('{variable}', '...') }}}}"
            )


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
        _when_loaded(
            "key_prefix",
            description="The first parts of all asset keys, and of the names of jobs, schedules, "
            "sensors and resources.",
            examples=["acme"],
        ),
    ] = None
    group: Annotated[str, _when_loaded("group", description="The group of all assets.")] = OWN.group
    owners: Annotated[
        list[str],
        _when_loaded("owners", description="The owners of all assets.", examples=[["team:rental"]]),
    ] = list(OWN.owners)  # noqa: RUF012
    collections: Annotated[
        list[str] | None,
        _when_loaded(
            "collections",
            description="The collections to mirror besides opportunities. Without it: "
            "RMS_COLLECTIONS of the project's environment.",
            examples=[["opportunities", "members"]],
        ),
    ] = None
    schedules: Annotated[
        bool,
        _when_loaded(
            "schedules",
            description="Whether the schedules and the webhook sensor are on from the start.",
        ),
    ] = True

    pages: Annotated[
        str | None,
        _when_loaded(
            "pages",
            description="Where people reach this account's web service: assets and jobs link to "
            "it.",
            examples=["https://rms.example.com"],
        ),
    ] = None

    @classmethod
    def model(cls) -> type[BaseModel]:
        return _with_plain_schema(super().model())

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


def _told(attributes: _InYaml) -> Mapping[str, Any]:
    return {
        info.alias or name: value
        for name, info in type(attributes).model_fields.items()
        if (value := getattr(attributes, name)) is not None
    }
