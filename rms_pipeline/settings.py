"""The environment, read once and validated. No other module reads `os.environ`.

What belongs here: names, defaults and validation of environment variables, and what follows from
them alone (which API, which database, which folder). What does not: opening any of these.
"""

import difflib
import io
import ipaddress
import os
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from rms_pipeline.collections import COLLECTIONS, Collection
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.postgres_urls import normalise_postgres_url

CURRENT_RMS_BASE_URL = "https://api.current-rms.com/api/v1"
DAGSTER_PORT, WEB_PORT, SANDBOX_PORT = 3000, 8400, 8401
# Calls a minute. It is nobody's account, and its first sync, of all collections, should not take a
# minute.
SANDBOX_LIMIT = 300
# What workspace.yaml calls the code location of this project.
DAGSTER_LOCATION = "rms_pipeline"
PROJECT_FILES = ("dagster.yaml", "workspace.yaml")
LogFormat = Literal["text", "json"]
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

EXAMPLES = {
    "RMS_COLLECTIONS": "opportunities,members",
    "CURRENT_RMS_SUBDOMAIN": "acme",
    "CURRENT_RMS_API_KEY": "the key from System Setup > Integrations > API in Current RMS",
    "CURRENT_RMS_BASE_URL": CURRENT_RMS_BASE_URL,
    "CURRENT_RMS_REQUESTS_PER_MINUTE": "120",
    "POSTGRES_URL": "postgresql://rms:password@db.example.com:5432/rms",
    "POSTGRES_URL_NON_POOLING": "postgresql://rms:password@db.example.com:5432/rms",
    "RMS_DAGSTER_URL": "http://127.0.0.1:3000",
    "RMS_DAGSTER_LOCATION": "rentals",
    "RMS_KEY_PREFIX": "acme",
    "DAGSTER_HOME": "/opt/rms_pipeline",
    "RMS_SYNC_DAYS_BACK": "30",
    "RMS_SYNC_DAYS_AHEAD": "365",
    "RMS_ITEMS_DAYS_AHEAD": "14",
    "RMS_PROOF_EVERY_MINUTES": "60",
    "RMS_TIME_ZONE": "Europe/London",
    "RMS_CURRENCY": "GBP",
    "RMS_SCHEMA": "public",
    "RMS_LOG_FORMAT": "json",
    "RMS_API_TOKEN": "what `openssl rand -hex 24` prints",
    "RMS_WEBHOOK_TOKEN": "what `openssl rand -hex 24` prints",
    "RMS_WEBHOOK_TOKEN_PREVIOUS": "the value that RMS_WEBHOOK_TOKEN had before",
    "RMS_TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8",
    "RMS_PUBLIC_URL": "https://rms.example.com",
}


class SettingsError(RmsPipelineError):
    """The error for wrong variables. One line for each: which one, why, and an example of a valid
    value."""


def _usual_collections(given: Mapping[str, Any]) -> tuple[Collection, ...]:
    """The default of the collections. A company decides what its calls are used for. The bundled
    sandbox shows everything."""
    is_bundled = given.get("subdomain") is None and given.get("base_url") is None
    return COLLECTIONS if is_bundled else COLLECTIONS[:1]


# What stands before .current-rms.com in the addresses of the API and of the vendor's own pages.
_NO_ACCOUNTS = frozenset({"api", "www"})
# Not of the IANA database: what a machine calls its own, and what nobody has set.
_NO_TIME_ZONES = ("localtime", "posixrules", "Factory")
# For PostgreSQL these are abbreviations, without summer time. In the IANA database they are other
# names of the following.
_FULL_TIME_ZONES = {
    "CET": "Europe/Brussels",
    "EET": "Europe/Athens",
    "MET": "Europe/Brussels",
    "WET": "Europe/Lisbon",
}


@cache
def _time_zones() -> set[str]:
    """Looking through the folders of time zones takes longer than everything else here."""
    return available_timezones()


class Settings(BaseSettings):
    """All settings of the environment (and of a `.env` file in the working folder).

    Days are whole days. `requests_per_minute` 0 means no limit. Secrets are `SecretStr`: their
    `repr` and `str` are stars.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        # Editors of Windows put a mark in front, which would become part of the first name.
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    subdomain: str | None = Field(
        None,
        validation_alias="CURRENT_RMS_SUBDOMAIN",
        description=(
            "The account: `acme` for acme.current-rms.com. Set it together with the key. "
            "Without both, the bundled sandbox is used."
        ),
    )
    api_key: SecretStr | None = Field(
        None,
        validation_alias="CURRENT_RMS_API_KEY",
        description=(
            "The API key of the account. A user of the account makes it under System Setup > "
            "Integrations > API. Set it together with the subdomain."
        ),
    )
    base_url: str | None = Field(
        None,
        validation_alias="CURRENT_RMS_BASE_URL",
        description=(
            "The address of the API. Change it only to use another server, such as a sandbox of "
            "your own. Plain http is accepted only to this machine. Without it, "
            "`https://api.current-rms.com/api/v1` is used, or the bundled sandbox if there is "
            "no account."
        ),
    )
    requests_per_minute: Annotated[int, Field(ge=0, le=100_000)] = Field(
        120,
        validation_alias="CURRENT_RMS_REQUESTS_PER_MINUTE",
        description=(
            "Calls a minute that all processes together may send, 0 to 100,000. Set the "
            "account's own limit, or less if other integrations need a part of it. A sync uses "
            "at most 90 % of it. If Current RMS refuses calls, a lower limit is learned. 0 "
            f"means no limit. The bundled sandbox takes {SANDBOX_LIMIT}."
        ),
    )
    postgres_url: SecretStr | None = Field(
        None,
        validation_alias="POSTGRES_URL",
        description=(
            "The database of the mirror, PostgreSQL 14 or later. The user needs CREATE on the "
            "database. Without it, an embedded PostgreSQL is used, which is good for a first "
            "look on one machine."
        ),
    )
    postgres_url_non_pooling: SecretStr | None = Field(
        None,
        validation_alias="POSTGRES_URL_NON_POOLING",
        description=(
            "The direct address of the same database. Set it if `POSTGRES_URL` leads through a "
            "transaction pooler, such as PgBouncer: locks and notifications need a direct "
            "connection. Without it, `POSTGRES_URL` is used for them too."
        ),
    )
    schema_name: str = Field(
        "public",
        validation_alias="RMS_SCHEMA",
        description=(
            "The schema of this program's tables, up to 40 of `a-z`, `0-9` and `_`. Change it "
            "to keep several accounts in one database: each needs its own schema. If it is "
            "`acme`, Dagster's tables are in `dagster_acme`. A later change begins a new, empty "
            "mirror."
        ),
    )
    days_back: Annotated[int, Field(ge=0, le=36_500)] = Field(
        30,
        validation_alias="RMS_SYNC_DAYS_BACK",
        description=(
            "The window of a full sync: days back, 0 to 36,500. Raise it to mirror older "
            "opportunities for good. `rms-pipeline sync further-back` and the page "
            "`/further-back` do the same and first say how many calls that costs."
        ),
    )
    days_ahead: Annotated[int, Field(ge=0, le=36_500)] = Field(
        365,
        validation_alias="RMS_SYNC_DAYS_AHEAD",
        description=(
            "The window of a full sync: days ahead, 0 to 36,500. Raise it if bookings start "
            "later than a year from now."
        ),
    )
    items_days_ahead: Annotated[int, Field(ge=0, le=36_500)] = Field(
        14,
        validation_alias="RMS_ITEMS_DAYS_AHEAD",
        description=(
            "Days, 0 to 36,500. It matters only if `opportunity_items` is mirrored. Each night "
            "the items of opportunities that are out or start within so many days are read "
            "again, for at most one call each. Items of changed opportunities are always read."
        ),
    )
    proof_every_minutes: Annotated[int, Field(ge=0, le=1_440)] = Field(
        0,
        validation_alias="RMS_PROOF_EVERY_MINUTES",
        description=(
            "Minutes from one proof of completeness to the next, 0 to 1,440. 0 means that each "
            "incremental sync makes one, which costs three more calls. Set 60 if the account's "
            "limit is tight. Full syncs always make one."
        ),
    )
    dagster_url: Annotated[str, NoDecode] = Field(
        f"http://127.0.0.1:{DAGSTER_PORT}",
        validation_alias="RMS_DAGSTER_URL",
        description=(
            "The address of Dagster's UI. The web service starts syncs there, and pages link to "
            "it. Change it if Dagster runs on another machine or port."
        ),
    )
    dagster_location: str | None = Field(
        None,
        validation_alias="RMS_DAGSTER_LOCATION",
        description=(
            "The code location of this account's jobs in that Dagster. Set it if several "
            "locations have jobs of the same names. Without it, the location is found by the "
            "names of the jobs."
        ),
    )
    key_prefix: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias="RMS_KEY_PREFIX",
        description=(
            "The `key_prefix` that your own Dagster project gives to the account's definitions, "
            "such as `acme` if the job is `acme__initial_sync`. Separate several parts by "
            "slashes: `rentals/acme`. Leave it out if there is no prefix."
        ),
    )
    api_token: SecretStr | None = Field(
        None,
        validation_alias="RMS_API_TOKEN",
        description=(
            "The token of the web service, for people who sign in and for scripts: at least 16 "
            "letters and digits. Set it to use the same token on several machines, or to "
            "replace it. Without it, one is generated at the first start and kept in the state "
            "folder: `.rms/api_token` in the folder of the project, or "
            "`/var/lib/rms-pipeline/api_token` for root."
        ),
    )
    webhook_token: SecretStr | None = Field(
        None,
        validation_alias="RMS_WEBHOOK_TOKEN",
        description=(
            "The secret in the address of the webhooks: at least 16 letters and digits. Set it "
            "to replace the old one, and then run `rms-pipeline webhooks register` again. "
            "Without it, one is generated at the first start and kept beside the "
            "API token, in the file `webhook_token`."
        ),
    )
    webhook_token_previous: SecretStr | None = Field(
        None,
        validation_alias="RMS_WEBHOOK_TOKEN_PREVIOUS",
        description=(
            "The earlier webhook token. Set it while you change `RMS_WEBHOOK_TOKEN`, so that "
            "deliveries to the old address are accepted. Remove it when the webhooks are "
            "registered again."
        ),
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias="RMS_TRUSTED_PROXIES",
        description=(
            "IP addresses or networks of your proxies, separated by commas. Set it if a proxy "
            "is in front of the web service. Only from these does the service believe the "
            "headers `X-Forwarded-For` and `X-Forwarded-Proto`."
        ),
    )
    public_url: Annotated[str | None, NoDecode] = Field(
        None,
        validation_alias="RMS_PUBLIC_URL",
        description=(
            "The address at which people reach the web service, if that is not its own host and "
            "port. Links in Dagster and in calendars use it."
        ),
    )
    collections: Annotated[tuple[Collection, ...], NoDecode] = Field(
        default_factory=_usual_collections,
        validation_alias="RMS_COLLECTIONS",
        description=(
            "The collections to mirror, separated by commas: "
            f"{', '.join(f'`{c.name}`' for c in COLLECTIONS)}. Opportunities are always mirrored. "
            "Each further collection costs calls. Without an account, all collections of the "
            "bundled sandbox are mirrored."
        ),
    )
    time_zone: str = Field(
        "UTC",
        validation_alias="RMS_TIME_ZONE",
        description=(
            "The company's time zone, by its name in the IANA database. Set it, because days, "
            "weeks, pages, views and schedules follow it."
        ),
    )
    currency: str | None = Field(
        None,
        validation_alias="RMS_CURRENCY",
        description=(
            "The currency of the account, as an ISO 4217 code. With it, pages and workbooks "
            "show the currency's symbol. Without it, they show amounts only. It converts "
            "nothing."
        ),
    )
    log_format: LogFormat = Field(
        "text",
        validation_alias="RMS_LOG_FORMAT",
        description=(
            "The format of logs: `text` on stderr, or `json` on stdout, one object a line, for "
            "programs that collect logs. It applies to the web service, Dagster's guarded UI, "
            "and the commands `up`, `sync`, `refresh`, `rebuild` and `migrate`."
        ),
    )
    dagster_home: Path | None = Field(
        None,
        validation_alias="DAGSTER_HOME",
        description=(
            "The folder with `dagster.yaml`, as an absolute path. Set it if Dagster's "
            "configuration is not in the folder of the project. Without it, the folder of the "
            "project is used."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _ignore_blank(cls, given: Any) -> Any:
        """A variable of blanks alone is not set, like an empty one (`env_ignore_empty`)."""
        if not isinstance(given, dict):
            return given
        ours = {field.validation_alias for field in cls.model_fields.values()}
        return {n: v for n, v in given.items() if n not in ours or v == "" or not _is_blank(v)}

    @field_validator("*", mode="before")
    @classmethod
    def _trim(cls, value: object) -> object:
        """Takes away blanks around any value, such as the end of a line that an editor of Windows
        left in a file for Docker's `--env-file`.

        Quotes are refused. A shell and `.env` take them away, but that file and a service unit may
        not.
        """
        if not isinstance(value, str):
            return value
        value = value.strip()
        if re.fullmatch(r"""(["']).*\1""", value, re.DOTALL):
            raise ValueError("is in quotes, which belong to the value here: write it without them")
        return value

    @field_validator("subdomain")
    @classmethod
    def _trim_subdomain(cls, value: str | None) -> str | None:
        return None if value is None else subdomain_in(value)

    @field_validator("api_key")
    @classmethod
    def _check_api_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value().strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                "has characters that an API key cannot have, such as blanks, line breaks or quotes"
            )
        return SecretStr(key)

    @field_validator("base_url", "dagster_url", "public_url")
    @classmethod
    def _check_http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            # Reading the port raises ValueError if it is none.
            readable = parts.port != 0 and not re.search(r"[\s,]", value)
        except ValueError:
            readable = False
        if not readable or parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("is not an http(s) URL")
        if parts.username is not None:
            raise ValueError(
                "must not have a user or a password in it, because it is printed and shown as a "
                "link"
            )
        if parts.query or parts.fragment:
            raise ValueError("has a ? or # in it: paths are added to its end, so leave that out")
        return value.rstrip("/")

    @field_validator("base_url")
    @classmethod
    def _never_send_the_key_in_clear(cls, value: str | None) -> str | None:
        if value and urlsplit(value).scheme == "http":
            host = urlsplit(value).hostname
            if host not in LOOPBACK_HOSTS:
                raise ValueError(
                    "would send the API key unencrypted: use https (plain http is allowed only "
                    "to this machine)"
                )
        return value

    @field_validator("postgres_url", "postgres_url_non_pooling")
    @classmethod
    def _normalise_postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        return (
            None if value is None else SecretStr(normalise_postgres_url(value.get_secret_value()))
        )

    @field_validator("schema_name")
    @classmethod
    def _check_schema(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", value):
            raise ValueError(
                "is not a valid name of a schema: use up to 40 of a-z, 0-9 and _, and do not "
                "begin with a digit"
            )
        if value == "information_schema" or value.startswith("pg_"):
            raise ValueError("is a schema of PostgreSQL itself: use another name")
        if value == "dagster" or value.startswith("dagster_"):
            raise ValueError("is the schema of Dagster's tables: use another name")
        return value

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, value: str) -> str:
        if value not in _time_zones() or value in _NO_TIME_ZONES:
            if re.fullmatch(r"(UTC|GMT)?\s*[+-]?\d[\d:]*", value, re.IGNORECASE):
                # The zones Etc/GMT+1 and the like have the opposite sign.
                raise ValueError(
                    "is not the name of a time zone. A difference from UTC has no summer time: "
                    "write the zone of a city"
                )
            ending = f"/{value}".lower().replace(" ", "_")
            alike = [z for z in sorted(_time_zones()) if f"/{z}".lower().endswith(ending)]
            told = f": write {alike[0]}" if alike and value not in _NO_TIME_ZONES else ""
            raise ValueError(f"is not the name of a time zone{told}")
        return _FULL_TIME_ZONES.get(value, value)

    @field_validator("currency")
    @classmethod
    def _check_currency(cls, value: str | None) -> str | None:
        if value is None or not value.strip():
            return None
        code = value.strip().upper()
        # It takes a while to read, and few set this.
        from babel.numbers import list_currencies

        if code not in list_currencies():
            raise ValueError("is not an ISO 4217 code: use three letters like EUR, GBP or USD")
        return code

    @field_validator("collections", mode="before")
    @classmethod
    def _find_collections(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        wanted = {name.strip().lower() for name in value.split(",")} - {""}
        if unknown := sorted(wanted - {c.name for c in COLLECTIONS}):
            known = ", ".join(c.name for c in COLLECTIONS)
            raise ValueError(f"has {', '.join(unknown)} in it; the collections are {known}")
        for collection in COLLECTIONS:
            needed = collection.name in wanted and collection.parts
            if needed and needed.of.name not in wanted:
                both = [c.name for c in COLLECTIONS if c.name in wanted | {needed.of.name}]
                raise ValueError(
                    f"has {collection.name} in it, which needs {needed.of.name} as well: write "
                    f"{','.join(both)}"
                )
        return tuple(c for c in COLLECTIONS if c.name in wanted or c is COLLECTIONS[0])

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_addresses(cls, value: object) -> object:
        """Reads the list of proxies. `*` is refused, because then anybody could claim any
        address."""
        if not isinstance(value, str):
            return value
        found = tuple(part.strip() for part in value.split(",") if part.strip())
        for each in found:
            try:
                ipaddress.ip_network(each, strict=False)
            except ValueError:
                raise ValueError(
                    f"holds {each}, which is neither an IP address nor a network like 10.0.0.0/8"
                ) from None
        return found

    @field_validator("key_prefix", mode="before")
    @classmethod
    def _split_key_prefix(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        text = value.strip()
        parts = tuple(text.strip("/").split("/")) if text else ()
        if not all(is_key_part(part) for part in parts):
            raise ValueError(
                "is not a valid prefix of asset keys: use letters, digits, - and _ in each part, "
                "and begin it with a letter"
            )
        return parts

    @field_validator("api_token", "webhook_token", "webhook_token_previous")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_token(value.get_secret_value()):
            raise ValueError(
                "is not a valid token: use at least 16 characters out of A-Z a-z 0-9 - _ . ~, or "
                "leave the variable out to have a token generated"
            )
        return value

    @model_validator(mode="after")
    def _account_is_whole(self) -> "Settings":
        if (self.subdomain is None) != (self.api_key is None):
            absent = "CURRENT_RMS_SUBDOMAIN" if self.subdomain is None else "CURRENT_RMS_API_KEY"
            present = "CURRENT_RMS_API_KEY" if self.subdomain is None else "CURRENT_RMS_SUBDOMAIN"
            raise ValueError(
                f"{absent} is missing while {present} is set. Set both to mirror an account, "
                f"or neither to try the bundled sandbox. Example: {absent}={EXAMPLES[absent]}"
            )
        return self

    @model_validator(mode="after")
    def _sessions_are_of_the_same_database(self) -> "Settings":
        if self.postgres_url is None and self.postgres_url_non_pooling is not None:
            raise ValueError(
                "POSTGRES_URL is missing while POSTGRES_URL_NON_POOLING is set. Set both to the "
                "same database, or neither to use the embedded PostgreSQL."
            )
        return self

    def in_dagster(self, own: str) -> str:
        """The name of this account's job, op or resource `own` in Dagster."""
        # As `defs.naming` makes it, which takes a second to import.
        return "__".join([*self.key_prefix, own]).replace("-", "_")

    @property
    def uses_sandbox(self) -> bool:
        """Whether no account is configured, so that the bundled sandbox is used in place of the
        API."""
        return self.subdomain is None

    @property
    def is_bundled(self) -> bool:
        """Whether the sandbox that is used is the one of this program itself."""
        return self.uses_sandbox and self.base_url is None

    @property
    def request_limit(self) -> int:
        """Calls a minute, 0 for no limit: the setting, or what the bundled sandbox accepts without
        a setting."""
        is_told = "requests_per_minute" in self.model_fields_set
        return SANDBOX_LIMIT if self.is_bundled and not is_told else self.requests_per_minute

    @property
    def session_url(self) -> SecretStr | None:
        """The URL for what a transaction pooler breaks: session locks, `LISTEN`, startup
        options."""
        return self.postgres_url_non_pooling or self.postgres_url

    @property
    def state_folder(self) -> Path:
        """The folder of the embedded PostgreSQL, generated tokens and logs.

        For root it is in `/var/lib/rms-pipeline`, because its PostgreSQL runs as another user. That
        user has to reach the data folder, and a home folder should not be opened for others.
        """
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            return Path("/var/lib/rms-pipeline")
        return self.project_folder / ".rms"

    def demand_dagster_home(self) -> None:
        """Raises SettingsError if DAGSTER_HOME is set and has no instance.

        Dagster accepts any folder. Without a `dagster.yaml` it keeps its history in files there,
        where no other process finds it. This check is for our own command only: the code server of
        another Dagster may find its instance in another way.
        """
        folder = self.dagster_home
        if folder is None:
            return
        if not folder.is_absolute():
            problem = f"is not an absolute path: {folder}. Write an absolute path"
        elif not folder.is_dir():
            problem = f"is not a folder: {folder}. Create it and copy dagster.yaml into it"
        elif not (folder / "dagster.yaml").is_file():
            problem = (
                f"has no dagster.yaml in it: {folder}. Copy this project's dagster.yaml into it"
            )
        else:
            return
        raise SettingsError(
            f"DAGSTER_HOME {problem}, or leave the variable out to use the working folder. "
            f"Example: DAGSTER_HOME={EXAMPLES['DAGSTER_HOME']}"
        )

    @property
    def project_folder(self) -> Path:
        """The folder with `workspace.yaml`: the working folder, or else the folder of the package.
        It is also the working folder if the package was installed without its project. Then `up`
        and the commands that sync create the missing files there (`project_files`)."""
        working = Path.cwd()
        checkout = Path(__file__).resolve().parent.parent
        for folder in (working, checkout):
            if all((folder / name).exists() for name in PROJECT_FILES):
                return folder
        return working


def subdomain_in(text: str) -> str:
    """The account that `text` names: `https://Acme.current-rms.com/opportunities` names `acme`.

    Raises ValueError if it is not the name of an account.
    """
    host = urlsplit(text if "//" in text else f"//{text}").netloc or text
    name = host.strip().lower().split(".")[0]
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ValueError("is not the name of a Current RMS account")
    if name in _NO_ACCOUNTS:
        raise ValueError(
            "is not the name of a Current RMS account: take the first word of the address at which "
            "people open it, such as acme of acme.current-rms.com"
        )
    return name


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def is_key_part(value: object) -> bool:
    """Whether asset keys and names of ops can have it. Names of ops allow fewer characters."""
    return isinstance(value, str) and value.isascii() and value.replace("-", "_").isidentifier()


def is_token(value: str) -> bool:
    """At least 16 characters that have no special meaning in a URL."""
    return re.fullmatch(r"[A-Za-z0-9_.~-]{16,}", value) is not None


def load_settings(**overrides: Any) -> Settings:
    """Reads the environment now. Raises SettingsError naming every variable that is wrong."""
    try:
        if "_env_file" not in overrides:
            _demand_whole_dotenv()
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_explanations(error))) from None
    except (UnicodeDecodeError, OSError) as error:
        raise _unreadable_dotenv(error) from None


class _Handed(Settings):
    """Settings made only from the given values, by the names of the fields."""

    model_config = SettingsConfigDict(extra="forbid", populate_by_name=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settings_of(names: Mapping[str, str], **values: Any) -> Settings:
    """Settings from `values` and the defaults. The environment and a `.env` file are not read.

    The keys of `values` are the names of the fields. `names` says how an error names a field, if
    the person who gave the value knows it by another name. Raises SettingsError for each value that
    is wrong.
    """
    try:
        return _Handed(**values)
    except ValidationError as error:
        text = "\n".join(_explanations(error, with_example=False))
    told = {
        str(field.validation_alias): names.get(name, name)
        for name, field in Settings.model_fields.items()
    }
    told |= names
    for variable in sorted(told, key=len, reverse=True):
        text = re.sub(rf"\b{variable}\b", told[variable], text)
    raise SettingsError(text)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read on first use."""
    return load_settings()


def child_environment(**changes: str | None) -> dict[str, str]:
    """The environment of this process for a child, with variables set, or removed if None. It also
    contains the values of our `.env`, because the child may start in another folder."""
    try:
        found = dotenv_values(".env", encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise _unreadable_dotenv(error) from None
    kept = {name: value for name, value in found.items() if value is not None}
    environment = kept | dict(os.environ)
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


def unknown_variables() -> dict[str, str | None]:
    """Variables with a name like ours that nobody reads. Each has the most similar valid name, if
    there is one."""
    ours = {str(field.validation_alias) for field in Settings.model_fields.values()}
    given = set(child_environment())
    unknown = (n for n in given - ours if n.startswith(("RMS_", "CURRENT_RMS_")))
    return {n: next(iter(difflib.get_close_matches(n, ours, 1)), None) for n in sorted(unknown)}


def _demand_whole_dotenv() -> None:
    """Raises SettingsError if there is no working folder, or if a line of `.env` would be ignored
    without a message. Then another account or database could be used than intended."""
    try:
        place = Path.cwd() / ".env"
    except OSError as error:
        raise SettingsError(
            f"The working folder cannot be used ({error.strerror}). Change to a folder that "
            "exists and that this user can read."
        ) from None
    if not place.exists():
        return
    if not place.is_file():
        raise SettingsError(
            f"{place} is not a file. (Docker creates a folder when the file to mount does not "
            "exist.) Remove it, or put the file there."
        )
    text = place.read_text(encoding="utf-8-sig")
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise SettingsError(
                f"Line {binding.original.line} of {place} cannot be read. Write NAME=value; a "
                "value that begins with a quote has to end with the same one."
            )


def _unreadable_dotenv(error: UnicodeDecodeError | OSError) -> SettingsError:
    place = Path(".env").absolute()
    if isinstance(error, UnicodeDecodeError):
        return SettingsError(
            f"{place} is not UTF-8 text (byte {error.start + 1} is not valid). Save it as UTF-8 "
            "in your editor."
        )
    return SettingsError(
        f"{place} cannot be read ({error.strerror}). Give this user the right to read it, or move "
        "it away."
    )


def set_environment(values: Mapping[str, str]) -> None:
    """Sets what libraries read from the environment of this process (`DAGSTER_HOME`)."""
    os.environ.update(values)
    settings.cache_clear()


def _explanations(error: ValidationError, *, with_example: bool = True) -> list[str]:
    """One line for each wrong variable. A default that could not be derived from wrong values does
    not count."""
    return [
        _explain(each, with_example=with_example)
        for each in error.errors()
        if each["type"] != "default_factory_not_called"
    ]


def _demanded(error: Any) -> str | None:
    """What a number has to be, in words that name no type of Python. None for other errors."""
    limits = error.get("ctx", {})
    match error["type"]:
        case "greater_than_equal":
            return f"has to be {limits['ge']} or more"
        case "less_than_equal":
            return f"has to be {limits['le']:,} or less"
        case "int_parsing" | "int_type" | "int_from_float":
            return "has to be a whole number"
        case "literal_error":
            return f"has to be {limits['expected']}"
    return None


def _explain(error: Any, *, with_example: bool = True) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    example = f" Example: {name}={EXAMPLES[name]}" if with_example and name in EXAMPLES else ""
    if demanded := _demanded(error):
        message = demanded
    elif not message.startswith(("is ", "has ", "holds ", "would ")):
        message = f"is wrong: {message[0].lower()}{message[1:]}"
    return f"{name} {message.rstrip('.')}.{example}"
