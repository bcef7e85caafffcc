"""The resources of assets: the mirror's database, and the Current RMS API (or the sandbox).

Each resource has fields, as usual in Dagster: `CurrentRms(subdomain="acme",
api_key=dg.EnvVar("ACME_KEY"))`. Without an account or a database, a resource uses the settings of
this process, as the command `rms-pipeline` does.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urlencode

import dagster as dg
from pydantic import ConfigDict, Field, PrivateAttr

from rms_pipeline.account import client_for
from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.defs.compat import IntEnvVar
from rms_pipeline.defs.failures import explained, told_in_names_of
from rms_pipeline.defs.recording import recorded
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.ownership import demand_no_other_account
from rms_pipeline.mirror.schema import migrate_once
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.postgres_urls import without_password
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN
from rms_pipeline.settings import Settings, SettingsError, settings, settings_of, subdomain_in

# What stands for a secret that was written into code, where Dagster keeps and shows the values of
# resources: its launchpad does. By what stands for it, since each process makes its own resources.
_SECRETS: dict[str, str] = {}
# What the environment may hold of settings that make others whole.
_STANDS_FOR = {
    "subdomain": "acme",
    "api_key": "a-key",
    "postgres_url": "postgresql:///rms",
    "postgres_url_non_pooling": "postgresql:///rms",
}


def _hidden(secret: str, shown: str) -> str:
    """The text that replaces `secret`. The name of an environment variable is shown."""
    if isinstance(secret, dg.EnvVar) or secret in _SECRETS:
        return secret
    _SECRETS[shown] = secret
    return shown


class _Configured(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A resource whose fields are settings, with the same validation."""

    model_config = ConfigDict(extra="forbid")
    # The name of each setting, by the field that gives it, and the field without which all that
    # are not given are those of the process.
    _SETTING_OF: ClassVar[Mapping[str, str]]
    _DECIDES: ClassVar[str]
    # What the resource is in sentences.
    _IS: ClassVar[str]
    _made: Settings | None = PrivateAttr(default=None)

    @property
    def settings(self) -> Settings:
        """The validated fields, and the defaults. Raises SettingsError, which names the wrong
        field."""
        if self._made is None:
            self._made = self._held_to(lambda setting, value: self._resolved(setting, value))
        return self._made

    def _resolved(self, setting: str, value: Any) -> Any:
        """The value of a variable of the environment. A run resolves it itself. A resource that
        somebody uses without one does not."""
        if not isinstance(value, dg.EnvVar | IntEnvVar):
            return value
        name = value.env_var_name if isinstance(value, dg.EnvVar) else value.name
        if (found := value.get_value()) is None:
            raise SettingsError(f"{self._names[setting]} is the variable {name}, which is not set.")
        return found

    def demand_valid(self) -> None:
        """Validates the fields. Raises SettingsError, which names the wrong field. Environment
        variables are not read here, because definitions are also loaded where there are no
        secrets."""
        of_process = getattr(self, self._DECIDES) is None

        def known(setting: str, value: Any) -> Any:
            is_variable = isinstance(value, dg.EnvVar | IntEnvVar)
            # What is not given is that of the process, or nothing.
            unknown = is_variable or (value is None and of_process)
            return _STANDS_FOR.get(setting) if unknown else value

        self._held_to(known)

    def _held_to(self, of: Callable[[str, Any], Any]) -> Settings:
        """The settings that the fields give. `of` converts each value."""
        given = {
            setting: _SECRETS.get(value, value) if isinstance(value, str) else value
            for field, setting in self._SETTING_OF.items()
            if (value := of(setting, getattr(self, field))) is not None
        }
        if getattr(self, self._DECIDES) is None:
            own = settings()
            told = own.model_fields_set.intersection(self._SETTING_OF.values())
            given = {setting: getattr(own, setting) for setting in told} | given
        return settings_of(self._names, **given)

    @property
    def _names(self) -> dict[str, str]:
        """What each setting is called here."""
        shown = type(self).model_fields
        return {s: shown[f].alias or f for f, s in self._SETTING_OF.items()}

    @property
    def called(self) -> Mapping[str, str]:
        """What each field is called in sentences, by the variable of its setting. Fields that are
        those of the process are not among them: there the variable is what a person set."""
        of_process = getattr(self, self._DECIDES) is None
        return {
            str(Settings.model_fields[setting].validation_alias): (
                f"the {self._IS}'s {self._names[setting]}"
            )
            for field, setting in self._SETTING_OF.items()
            if not of_process or getattr(self, field) is not None
        }

    def known(self, field: str) -> Any:
        """The value of `field` while definitions are loaded. There is no run yet that resolves an
        environment variable."""
        value = getattr(self, field)
        if isinstance(value, dg.EnvVar | IntEnvVar):
            value = value.get_value()
        if value is not None:
            return _SECRETS.get(value, value) if isinstance(value, str) else value
        setting = self._SETTING_OF[field]
        is_own = getattr(self, self._DECIDES) is None
        return getattr(settings(), setting) if is_own else Settings.model_fields[setting].default


class Mirror(_Configured):
    """The company's PostgreSQL.

    The first use upgrades its tables to this version. While a run uses it, an advisory lock shows
    that the process is alive.
    """

    _SETTING_OF = {  # noqa: RUF012
        "url": "postgres_url",
        "url_non_pooling": "postgres_url_non_pooling",
        "schema_name": "schema_name",
        "time_zone": "time_zone",
    }
    _DECIDES = "url"
    _IS = "mirror"

    url: str | None = Field(
        default=None,
        repr=False,
        description="PostgreSQL 14 or later: postgresql://user:password@host:5432/database. "
        "Without it, the database of the settings of this process (POSTGRES_URL).",
    )
    url_non_pooling: str | None = Field(
        default=None,
        repr=False,
        description="The same database without a transaction pooler in between.",
    )
    schema_name: str | None = Field(
        default=None,
        alias="schema",
        description="The schema of the mirror's tables, one for each account. `public` when "
        "absent.",
    )
    time_zone: str | None = Field(
        default=None,
        description="The company's time zone, which days, weeks and schedules follow. UTC when "
        "absent.",
    )
    asset_prefix: list[str] = Field(
        default=[],
        description="The key_prefix of the assets that write here. `build_defs` sets it.",
    )
    account: str | None = Field(
        default=None,
        description="The account whose mirror this is. `build_defs` sets it. A mirror of another "
        "account is then refused at its first use.",
    )
    _database: Database | None = PrivateAttr(default=None)

    def __init__(self, **values: Any) -> None:
        for name in ("url", "url_non_pooling"):
            given = values.get(name)
            if not isinstance(given, str) or isinstance(given, dg.EnvVar):
                continue
            if (bare := without_password(given)) != given:
                values[name] = _hidden(given, f"{bare} (and its password)")
        super().__init__(**values)

    @property
    def database(self) -> Database:
        """The mirror, upgraded to this version. Raises DatabaseError, also if it is that of another
        account than `account`."""
        if self._database is None:
            with told_in_names_of(self):
                self._database = self._opened()
        return self._database

    def _opened(self) -> Database:
        database = open_database(self.settings)
        migrate_once(database)
        if self.account is not None:
            try:
                account = subdomain_in(self.account)
            except ValueError as error:
                raise SettingsError(f"The account's subdomain {error}.") from None
            # Otherwise schedules of this account would start runs that can only fail, and the
            # history of the other account would show them.
            demand_no_other_account(database, account, sandbox=SANDBOX_SUBDOMAIN)
        return database

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A psycopg2 connection for SQL of your own. The mirror's schema is first in its
        `search_path`. It commits at the end, or rolls back on an error, and is closed. Raises
        DatabaseError."""
        with told_in_names_of(self), self.database.session() as connection:
            yield connection

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["Mirror"]:
        if context.run is None or context.instance is None:
            yield self
            return
        with explained("run"):
            database = self.database
        with recorded(database, context.instance, context.run, self.asset_prefix):
            yield self


class Api:
    """What Current RMS has and the mirror does not. See `CurrentRms.api`."""

    def __init__(self, client: CurrentRmsClient) -> None:
        self._client = client

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The decoded JSON of `GET path`, such as `/products`. A list in `params` gives its name
        several times.

        The call waits for its turn, like those of a full sync, and is repeated while Current RMS
        does not answer. Raises CurrentRmsError.
        """
        query = urlencode(params or {}, doseq=True, safe="[]:")
        request = f"/{path.lstrip('/')}{'?' if query else ''}{query}"
        return self._client.read(request, json.loads, Lane.WALK).decoded


class CurrentRms(_Configured):
    """Access to an account of Current RMS.

    Without fields it is the account of the settings of this process, or the sandbox if the settings
    have no account.
    """

    _SETTING_OF = {  # noqa: RUF012
        name: name
        for name in (
            *("subdomain", "api_key", "base_url", "requests_per_minute"),
            *("days_back", "days_ahead", "items_days_ahead", "proof_every_minutes"),
        )
    }
    _DECIDES = "subdomain"
    _IS = "account"

    subdomain: str | None = Field(
        default=None,
        description="The account: `acme` for acme.current-rms.com. Without it, the account of the "
        "settings of this process (CURRENT_RMS_SUBDOMAIN).",
    )
    api_key: str | None = Field(
        default=None,
        repr=False,
        description="A key from System Setup > Integrations > API in Current RMS.",
    )
    base_url: str | None = Field(
        default=None,
        description="Another address of the API. It may be plain http only on this machine.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        description="The account's limit, shared with other integrations: 120 when absent. 0 means "
        "no limit.",
    )
    days_back: int | None = Field(
        default=None, description="The window of a full sync: how many days back, 30 when absent."
    )
    days_ahead: int | None = Field(
        default=None, description="The window of a full sync: how many days ahead, 365 when absent."
    )
    items_days_ahead: int | None = Field(
        default=None,
        description="Each night the items of opportunities that start or are out within this "
        "many days are read: 14 when absent.",
    )
    proof_every_minutes: int | None = Field(
        default=None,
        description="How often incremental syncs prove that the copy is complete, which costs "
        "three more calls. Each time when absent.",
    )

    def __init__(self, **values: Any) -> None:
        if isinstance(key := values.get("api_key"), str):
            account = values.get("subdomain")
            if isinstance(account, dg.EnvVar):
                # Its text is not known before a run.
                account = account.env_var_name
            values["api_key"] = _hidden(key, f"(the key of {account})")
        super().__init__(**values)

    @property
    def is_sandbox(self) -> bool:
        """Whether there is no account, so that the bundled sandbox is used."""
        return self.settings.uses_sandbox

    @property
    def proof_every(self) -> timedelta:
        """For how long after a proof an incremental sync does not prove again."""
        return timedelta(minutes=self.settings.proof_every_minutes)

    @contextmanager
    def client(self, database: Database, collection: Collection) -> Iterator[CurrentRmsClient]:
        """A client for `collection`. It marks what it fetches with the time of the database's
        clock."""
        with told_in_names_of(self), client_for(self.settings, database, collection) as client:
            yield client

    @contextmanager
    def api(self, mirror: Mirror) -> Iterator[Api]:
        """The account's API, for assets of your own. `mirror` has the account's request budget, so
        that all processes together stay within the limit. Raises DatabaseError."""
        with self.client(mirror.database, COLLECTIONS[0]) as client:
            yield Api(client)


# What they were called before they had fields.
MirrorResource = Mirror
CurrentRmsResource = CurrentRms
