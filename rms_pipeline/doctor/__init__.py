"""Checks everything that a mirror needs, and says what to do if something is wrong.

What belongs here: checking. What does not: changing anything. No table is created or upgraded, and
no run is ended.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from rms_pipeline.doctor import accounts, dagsters, databases, syncs, webhooks
from rms_pipeline.doctor.finding import Examination, Finding, Level, problem, warning
from rms_pipeline.errors import RmsPipelineError, in_one_line
from rms_pipeline.settings import Settings, SettingsError

__all__ = ["Finding", "Level", "examine"]


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    look: Callable[[Examination], Iterator[Finding]]
    needs: Literal["nothing", "a database", "the tables"] = "nothing"


_CHECKS = (
    _Check("settings", accounts.check_settings),
    _Check("database", databases.check_database),
    _Check("rights", databases.check_rights, "a database"),
    _Check("tables", databases.check_tables, "a database"),
    _Check("alterations", databases.check_alterations, "a database"),
    _Check("account", databases.check_account, "a database"),
    _Check("time zone", databases.check_time_zone, "a database"),
    _Check("pooler", databases.check_pooler, "a database"),
    _Check("credentials", accounts.check_credentials),
    _Check("access", accounts.check_access),
    _Check("terms", accounts.check_terms, "the tables"),
    _Check("clock", accounts.check_clock),
    _Check("budget", accounts.check_budget),
    _Check("webhooks", webhooks.check_subscriptions),
    _Check("queue", webhooks.check_queue, "the tables"),
    _Check("intake", webhooks.check_intake, "the tables"),
    _Check("storage", databases.check_storage, "the tables"),
    _Check("syncs", syncs.check_syncs, "the tables"),
    _Check("collections", syncs.check_collections, "the tables"),
    _Check("completeness", syncs.check_certificate, "the tables"),
    _Check("history", dagsters.check_history),
    _Check("runs", dagsters.check_runs, "the tables"),
    _Check("daemon", dagsters.check_daemon, "the tables"),
    _Check("automation", dagsters.check_automation, "the tables"),
    _Check("webserver", dagsters.check_webserver),
)


def examine(settings: Callable[[], Settings]) -> Iterator[Finding]:
    """The findings of all checks, as they are found. Raises nothing, and no text contains a
    secret."""
    try:
        current = settings()
    except SettingsError as error:
        for line in str(error).splitlines():
            yield problem("settings", line)
        return
    secrets = _secrets(current)
    exam = Examination(current)
    for check in _CHECKS:
        for finding in _look(check, exam):
            yield replace(
                finding,
                found=_censored(finding.found, secrets),
                advice=_censored(finding.advice, secrets),
            )


def _look(check: _Check, exam: Examination) -> Iterator[Finding]:
    if (check.needs != "nothing" and exam.database is None) or (
        check.needs == "the tables" and not exam.tables_ready
    ):
        lacking = "database" if exam.database is None else "tables"
        yield warning(check.name, f"Not checked: it needs {check.needs}.", f"See {lacking}.")
        return
    try:
        yield from check.look(exam)
    except RmsPipelineError as error:
        yield problem(check.name, str(error))
    except Exception as error:
        said = in_one_line(error)[:400]
        yield problem(
            check.name,
            f"The check failed: {type(error).__name__}: {said}",
            "If a line above names the cause, correct that first.",
        )


def _secrets(current: Settings) -> set[str]:
    found = {
        s.get_secret_value()
        for s in (current.api_key, current.api_token, current.webhook_token)
        if s is not None
    }
    for secret in (current.postgres_url, current.postgres_url_non_pooling):
        if secret is None:
            continue
        parts = urlsplit(secret.get_secret_value())
        passwords = {parts.password or "", dict(parse_qsl(parts.query)).get("password", "")}
        # The usual postgres:postgres@.../postgres would make every other text unreadable.
        passwords -= {parts.username or "", parts.path.removeprefix("/"), parts.hostname or ""}
        found |= passwords | {unquote(p) for p in passwords}
    return found - {""}


def _censored(text: str, secrets: set[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
