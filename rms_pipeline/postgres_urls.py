"""URLs of PostgreSQL as people and their hosts write them, brought to what libpq reads."""

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit


def normalise_postgres_url(url: str) -> str:
    """`postgres://`, `postgresql://` and `postgresql+psycopg2://` to the `postgresql://` of libpq.

    Raises ValueError for anything else. SQLAlchemy does not know `postgres://`, and libpq does not
    know `+psycopg2`.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg2"}:
        raise ValueError("is not a PostgreSQL URL (postgresql://user:password@host:5432/database)")
    try:
        parts = urlsplit(f"postgresql://{rest}")
        # libpq would take what follows the first @ for the host, and print it in its errors.
        if parts.netloc.count("@") > 1:
            raise ValueError("more than one @")
        # So it does with all of a part that holds a bare %.
        if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
            raise ValueError("a % that encodes nothing")
        _ = parts.port
    except ValueError as error:
        raise ValueError(
            "has no readable host and port: percent-encode special characters of the password "
            "(@ is %40, / is %2F, # is %23, % is %25)"
        ) from error
    return f"postgresql://{rest}"


def without_password(url: str) -> str:
    """The same URL, fit to be shown."""
    head, _, query = url.partition("?")
    scheme, _, rest = head.partition("://")
    user_info, at, place = rest.rpartition("@")
    kept = urlencode([(k, v) for k, v in parse_qsl(query) if "password" not in k], safe="/")
    return f"{scheme}://{user_info.partition(':')[0]}{at}{place}{'?' if kept else ''}{kept}"


def with_search_path(url: str, schema: str) -> str:
    """The same database, with unqualified names resolved in `schema`, times in UTC, and that name
    in `pg_stat_activity` unless `url` has one."""
    # Not urlunsplit: it drops the empty host of postgresql:///database.
    head, _, tail = url.partition("?")
    query = dict(parse_qsl(tail))
    query["options"] = f"{query.get('options', '')} -csearch_path={schema} -ctimezone=UTC".strip()
    query.setdefault("application_name", schema)
    return f"{head}?{urlencode(query, quote_via=quote)}"
