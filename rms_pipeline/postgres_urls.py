"""Turns PostgreSQL URLs, as people and hosting providers write them, into URLs that libpq reads."""

import logging
import re
from collections.abc import Mapping
from functools import cache
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import psycopg2
from psycopg2.extensions import parse_dsn

logger = logging.getLogger(__name__)

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\],]*)(?::(\d*))?")


def normalise_postgres_url(url: str) -> str:
    """Turns `postgres://`, `postgresql://` and those that name a driver, such as
    `postgresql+psycopg2://`, into the `postgresql://` of libpq.

    Several hosts become parameters, which SQLAlchemy finds too. Parameters that providers and other
    programs add and libpq does not know (`pgbouncer`, `schema`) are left out, and one warning names
    them. Raises ValueError if it is not a URL of PostgreSQL. SQLAlchemy does not know
    `postgres://`, and libpq does not know `+psycopg2`.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not re.fullmatch(r"(?i)postgres(ql)?(\+\w+)?", scheme):
        raise ValueError("is not a PostgreSQL URL (postgresql://user:password@host:5432/database)")
    try:
        parts = urlsplit(f"postgresql://{rest}")
        # libpq would take what follows the first @ for the host, and print it in its errors.
        if parts.netloc.count("@") > 1:
            raise ValueError("more than one @")
        # So it does with all of a part that holds a bare %.
        if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
            raise ValueError("a % that is not followed by two hexadecimal digits")
        user_info, at, place = parts.netloc.rpartition("@")
        hosts = [_HOST.fullmatch(host) for host in place.split(",")]
        if any(int(h[2] or 1) not in range(1, 65_536) if h else True for h in hosts):
            raise ValueError("no host and port")
    except ValueError as error:
        raise ValueError(
            "has no readable host and port. A port is a number from 1 to 65535. Percent-encode "
            "special characters of the password (@ is %40, / is %2F, # is %23, % is %25)"
        ) from error
    parameters: list[tuple[str, str]] = []
    unknown: list[tuple[str, str]] = []
    for part in filter(None, parts.query.split("&")):
        name = unquote(part.partition("=")[0])
        (parameters if _is_known(name) else unknown).append((name, part))
    if unknown:
        _warn_once(", ".join(sorted({name for name, _ in unknown})))
    kept = [part for _, part in parameters]
    if len(hosts) > 1:
        kept.insert(0, "host=" + ",".join(h[1].strip("[]") for h in hosts if h))
        kept.insert(1, "port=" + ",".join(h[2] or "5432" for h in hosts if h))
        place = ""
    query = "?" + "&".join(kept) if kept else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    # libpq would look for a database whose name ends with the slash.
    path = parts.path.rstrip("/")
    return f"postgresql://{user_info}{at}{place}{path}{query}{fragment}"


@cache
def _is_known(parameter: str) -> bool:
    if parameter == "ssl":
        # As JDBC writes it; libpq takes it for sslmode.
        return True
    if not re.fullmatch(r"[a-z_]+", parameter):
        return False
    try:
        parse_dsn(f"postgresql:///?{parameter}=1")
    except psycopg2.ProgrammingError:
        return False
    return True


@cache
def _warn_once(names: str) -> None:
    logger.warning(
        "These parameters of the URL are unknown to PostgreSQL and are left out: %s", names
    )


def without_password(url: str) -> str:
    """The same URL without its password, for showing."""
    head, _, query = url.partition("?")
    scheme, _, rest = head.partition("://")
    user_info, at, place = rest.rpartition("@")
    kept = urlencode([(k, v) for k, v in parse_qsl(query) if "password" not in k], safe="/")
    return f"{scheme}://{user_info.partition(':')[0]}{at}{place}{'?' if kept else ''}{kept}"


def with_settings(url: str, name: str, settings: Mapping[str, str]) -> str:
    """The same database. Each session begins with `settings`, and has that `name` in
    `pg_stat_activity` unless `url` has one."""
    # Not urlunsplit: it drops the empty host of postgresql:///database.
    head, _, tail = url.partition("?")
    query = dict(parse_qsl(tail))
    options = (f"-c{k}={v.replace(' ', chr(92) + ' ')}" for k, v in settings.items())
    query["options"] = " ".join([*filter(None, [query.get("options")]), *options])
    query.setdefault("application_name", name)
    return f"{head}?{urlencode(query, quote_via=quote)}"
