"""Which account is it, does the API accept us, do the clocks agree, and how many calls are
allowed?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from rms_pipeline.account import account_name, open_account
from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.current_rms.errors import ApiUnavailable, CurrentRmsError, RequestRefused
from rms_pipeline.current_rms.pacing import Lane, ProcessBudget
from rms_pipeline.current_rms.terms import Refusal, Terms
from rms_pipeline.doctor.finding import Examination, Finding, fine, problem, warning
from rms_pipeline.mirror.api_terms import read_page_size, read_refusals, read_terms
from rms_pipeline.mirror.budget import read_budget
from rms_pipeline.mirror.statements import one_row
from rms_pipeline.postgres_urls import without_password
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN
from rms_pipeline.settings import Settings, unknown_variables

# One answer is enough to know, and nobody wants to wait for a doctor.
_PATIENCE = Patience(connect=5, read=15, answer=20, attempts=2, throttled=0, backoff=0.2)
_ODD, _WRONG = timedelta(seconds=5), timedelta(minutes=5)
# `Date` comes in whole seconds, cut off.
_HALF_SECOND = timedelta(seconds=0.5)


def check_settings(exam: Examination) -> Iterator[Finding]:
    """Which account and which database the settings name."""
    current = exam.settings
    name = "the sandbox" if current.uses_sandbox else f"account {current.subdomain}"
    if current.base_url:
        name += f" at {current.base_url}"
    if current.postgres_url is None:
        place = f"embedded PostgreSQL in {current.state_folder}"
    else:
        place = without_password(current.postgres_url.get_secret_value())
        direct = current.postgres_url_non_pooling
        if direct is not None and direct != current.postgres_url:
            place += f" (sessions: {without_password(direct.get_secret_value())})"
    yield fine("settings", f"{name}; {place}")
    for unknown, meant in unknown_variables().items():
        yield warning(
            "settings",
            f"{unknown} is not a setting of this program, so it has no effect.",
            f"Did you mean {meant}?"
            if meant
            else "Remove it, or look for the right name in docs/reference/settings.md.",
        )


@contextmanager
def open_client(
    current: Settings, terms: Terms | None = None, collection: Collection = OPPORTUNITIES
) -> Iterator[CurrentRmsClient]:
    """A client for `collection` of the account. It stops after few attempts, and uses `terms`."""
    with (
        open_account(current) as (base_url, subdomain, api_key),
        CurrentRmsClient(
            collection=collection,
            base_url=base_url,
            subdomain=subdomain,
            api_key=api_key,
            budget=ProcessBudget(current.request_limit),
            patience=_PATIENCE,
            terms=terms,
        ) as client,
    ):
        yield client


def check_credentials(exam: Examination) -> Iterator[Finding]:
    """Whether the API accepts the key. One call, which also gives the API's time."""
    current = exam.settings
    terms = None
    if exam.tables_ready:
        with exam.reached.session() as connection:
            terms = read_terms(connection, account_name(current), OPPORTUNITIES)
    with open_client(current, terms) as client:
        try:
            exam.answer = client.list_records((), per_page=1, lane=Lane.LIVE)
        except ApiUnavailable as error:
            if not client.counts.throttled:
                raise
            yield warning("credentials", str(error), "Run the doctor again in a minute.")
            return
    count = exam.answer.page.meta.total_row_count
    if current.uses_sandbox:
        yield warning(
            "credentials",
            f"No account is configured: the sandbox's {count:,} opportunities are invented.",
            "Set CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY to mirror your account.",
        )
    else:
        yield fine("credentials", f"The key is accepted; the account has {count:,} opportunities.")


def check_access(exam: Examination) -> Iterator[Finding]:
    """Whether the key's user can read the other collections that are on. One call for each."""
    if exam.answer is None:
        return
    current = exam.settings
    for collection in current.collections[1:]:
        if collection.parts is not None:
            # There need be no list of all of them; syncs name those that cannot be read.
            continue
        check = f"{collection.name} access"
        try:
            with open_client(current, collection=collection) as client:
                answer = client.list_records((), per_page=1, lane=Lane.LIVE)
        except RequestRefused as error:
            said = f' ("{error.said}")' if error.said else ""
            left = ",".join(c.name for c in current.collections if c is not collection)
            yield problem(
                check,
                f"The user of the API key has no permission to read {collection.name}: Current "
                f"RMS answered {error.status}{said}. Each sync stores the other collections, but "
                "ends as failed.",
                "Give that user the permission in Current RMS. Or leave this collection out: "
                f"RMS_COLLECTIONS={left}.",
            )
        except CurrentRmsError as error:
            yield warning(check, str(error), "Run the doctor again in a minute.")
        else:
            count = answer.page.meta.total_row_count
            yield fine(check, f"The key can read {collection.name}; the account has {count:,}.")


def check_terms(exam: Examination) -> Iterator[Finding]:
    """What syncs found out about the account: how many records a page has, and what it refuses. For
    other collections than opportunities, only what it refuses."""
    account = account_name(exam.settings)
    for collection in exam.settings.collections:
        with exam.reached.session() as connection:
            size = read_page_size(connection, account, collection)
            refusals = read_refusals(connection, account, collection)
        found = "The page size of the API is not known yet. The first sync finds it out."
        if size:
            found = f"A page of the API holds up to {size:,} records."
        missing = [r for r in refusals if r.kind != "per_page"]
        is_first = collection is OPPORTUNITIES
        if collection.parts is not None and any(r.kind == "filter" for r in missing):
            # Few accounts have such a list, and nothing is amiss without it.
            missing = [r for r in missing if r.kind != "filter"]
            if not missing:
                said = (
                    f"The API has no list of all of them: each {collection.parts.of.single} is "
                    "asked"
                )
                yield fine(f"{collection} terms", f"{said} for its own.")
        if missing:
            yield _refused("terms" if is_first else f"{collection} terms", found, missing)
        elif is_first:
            yield fine("terms", found)


def _refused(check: str, found: str, missing: Sequence[Refusal]) -> Finding:
    advice = []
    if any(r.kind == "include" for r in missing):
        advice.append(
            "Without an include, `data` and the columns read from it lack its values. Syncs ask "
            "for it again after a week, or after `rms-pipeline migrate`."
        )
    if any(r.kind == "filter" for r in missing):
        advice.append(
            "An ignored filter makes no row wrong and deletes nothing. Syncs only need more "
            "calls. They notice by themselves when the API applies the filter again."
        )
    if any(r.what_follows for r in missing):
        advice.append(
            "Until the API does, no sync can prove that the mirror is complete. Report it to "
            "Current RMS."
        )
    return warning(
        check,
        f"{found} Current RMS does not give everything that is asked for: "
        f"{'; '.join(r.sentence for r in missing)}.",
        " ".join(advice),
    )


def check_clock(exam: Examination) -> Iterator[Finding]:
    """How far the clocks of the API, of this machine and of the database differ."""
    ahead = {"this machine": timedelta(0)}
    if exam.answer is not None and exam.answer.api_date is not None:
        middle = exam.answer.asked_at + (exam.answer.answered_at - exam.answer.asked_at) / 2
        ahead["Current RMS"] = exam.answer.api_date + _HALF_SECOND - middle
    if exam.database is not None:
        with exam.database.session() as connection, connection.cursor() as cursor:
            asked = datetime.now(UTC)
            cursor.execute("SELECT clock_timestamp()")
            row = one_row(cursor)
            answered = datetime.now(UTC)
        ahead["the database"] = row[0] - asked - (answered - asked) / 2
    if len(ahead) == 1:
        yield warning(
            "clock",
            "Neither the API nor the database answered with its time, so the clocks were not "
            "compared.",
            "See above.",
        )
        return
    apart = max(ahead.values()) - min(ahead.values())
    if apart <= _ODD:
        yield fine("clock", f"{_listed(list(ahead))} agree within {apart.total_seconds():.1f} s.")
        return
    others = {name: shift for name, shift in ahead.items() if name != "this machine"}
    found = "; ".join(f"{name} is {_told(shift)} this machine" for name, shift in others.items())
    odd = odd_clock(ahead)
    advice = (
        f"Synchronise the clock of {odd or 'whichever is wrong'} over the network "
        "(timedatectl set-ntp true). Incremental syncs lose nothing, because they use the "
        "API's clock. But the edges of the window, the schedules and the times in the "
        "history are wrong by the same amount."
    )
    if odd == "Current RMS":
        advice = (
            "You cannot set the API's clock. Incremental syncs lose nothing, because they "
            "use that clock. Check that CURRENT_RMS_BASE_URL is right, and that no proxy "
            "answers in place of the API."
        )
    yield (problem if apart > _WRONG else warning)("clock", f"{found}.", advice)


def odd_clock(ahead: dict[str, timedelta]) -> str | None:
    """The one of three clocks that differs from the two others. None if that is not known. Pure."""
    for name, shift in ahead.items():
        rest = [s for n, s in ahead.items() if n != name]
        if (
            len(rest) == 2
            and abs(rest[0] - rest[1]) <= _ODD
            and all(abs(shift - other) > _ODD for other in rest)
        ):
            return name
    return None


def check_budget(exam: Examination) -> Iterator[Finding]:
    """How many calls a minute are allowed, and how many were made."""
    limit = exam.settings.request_limit
    use = None
    if exam.tables_ready:
        with exam.reached.session() as connection:
            use = read_budget(connection, exam.settings.subdomain or SANDBOX_SUBDOMAIN)
    found = f"{limit:,} calls a minute" if limit else "No limit of calls a minute"
    found += f", {use.calls:,} in the last one." if use else "."
    if use and use.paused_until:
        yield warning(
            "budget",
            f"{found} All calls wait until {use.paused_until:%H:%M:%S} UTC: the API said that "
            "its limit is reached.",
            "If that happens often, another program uses the same account's limit: lower "
            "CURRENT_RMS_REQUESTS_PER_MINUTE.",
        )
    elif limit and use and use.allowance < use.requests_per_minute:
        yield warning(
            "budget",
            f"{found} In force: {use.sentence}",
            "You need not do anything. If the account's limit is lower, or another program uses "
            "a part of it, set CURRENT_RMS_REQUESTS_PER_MINUTE to what is left.",
        )
    elif not limit and not exam.settings.uses_sandbox:
        yield warning(
            "budget",
            found,
            "Set CURRENT_RMS_REQUESTS_PER_MINUTE to the account's limit (120 by default). "
            "Otherwise the API refuses calls, which slows down syncs and other programs.",
        )
    else:
        yield fine("budget", found)


def _listed(names: list[str]) -> str:
    text = f"{', '.join(names[:-1])} and {names[-1]}"
    return text[0].upper() + text[1:]


def _told(shift: timedelta) -> str:
    seconds = abs(shift.total_seconds())
    length = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
    return f"{length} {'ahead of' if shift > timedelta(0) else 'behind'}"
