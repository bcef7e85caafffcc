"""What can go wrong between this program and the Current RMS API, in one classification.

CurrentRmsError
├── RequestRefused          final: the same request gets the same answer
│   ├── Unauthorized        401: wrong key or subdomain
│   ├── Forbidden           402, 403: the account or the key's user may not do this now
│   ├── NotFound            404, 410: no such record, or not the API's address
│   ├── Unprocessable       400, 422: the API does not know a parameter that we sent
│   ├── WebhooksOff         a person has to switch on webhooks in the account first
│   └── Redirected          3xx: never followed, because the key would be sent along
├── ApiUnavailable          the request failed until patience ran out
│   ├── Throttled           429: the account's limit of calls is used up
│   └── FindsNone           the API finds no record by its id, not even one that a list shows
├── WrongRecord             the API sent another record, or none, instead of the requested one
├── WebhooksNotKept         the API shows something else than what was registered
├── NotHonoured             the API ignored an order, range or filter; we read in another way
└── WalkIncomplete          the list could not be read as a whole
"""

import re

from rms_pipeline.errors import RmsPipelineError


class CurrentRmsError(RmsPipelineError):
    """The API did not give what was asked for."""


class RequestRefused(CurrentRmsError):
    """The answer is final: the same request gets the same answer.

    `status` is the HTTP status. `said` quotes the API's words, or is ''.
    """

    status: int = 0
    said: str = ""


class Unauthorized(RequestRefused):
    """401."""


class Forbidden(RequestRefused):
    """402 or 403."""


class NotFound(RequestRefused):
    """404 or 410."""


class Unprocessable(RequestRefused):
    """400 or 422."""


class WebhooksOff(RequestRefused):
    """The API says that webhooks are not enabled for the account."""


class Redirected(RequestRefused):
    """3xx."""


class ApiUnavailable(CurrentRmsError):
    """Connection errors, 408, 429, 5xx or a body that is not the promised JSON, until patience ran
    out.

    `reason` says what was wrong with the last answer.
    """

    def __init__(self, *texts: object, reason: str = "") -> None:
        super().__init__(*texts)
        self.reason = reason


class Throttled(ApiUnavailable):
    """429, until patience ran out."""


class FindsNone(ApiUnavailable):
    """The API finds no record by its id, not even one that a list shows."""


class WrongRecord(CurrentRmsError):
    """The API sent another record, or something else, instead of the requested record."""


class WebhooksNotKept(CurrentRmsError):
    """The API shows something else than what was registered."""


class NotHonoured(CurrentRmsError):
    """The API ignored an order, a range or a filter of the request."""


class WalkIncomplete(CurrentRmsError):
    """The list could not be read as a whole, so no conclusion may be drawn from it."""


SWITCH_WEBHOOKS_ON = (
    "An administrator of the account has to switch webhooks on in Current RMS: System Setup > "
    "Company Information."
)
_WEBHOOKS_ARE_OFF = re.compile(
    r"webhooks?\b.{0,40}((\bnot|\bnever|n't|\byet to be)\b.{0,20}"
    r"(enabled|active|activated|switched|turned|allowed|permitted|available|included|part of)"
    r"|\b(disabled|deactivated|inactive|unavailable|(switched|turned) off)\b)"
    r"|\b(enable|activate|switch on|turn on)\b.{0,20}\bwebhooks?\b",
    re.IGNORECASE | re.DOTALL,
)
_NO_SUCH = (NotFound, "Check the id, and CURRENT_RMS_BASE_URL if it is set.")
_UNKNOWN_PARAMETER = (Unprocessable, "The API refused a parameter of this request.")
_ADVICE: dict[int, tuple[type[RequestRefused], str]] = {
    400: _UNKNOWN_PARAMETER,
    401: (
        Unauthorized,
        "Check CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY: the key is under "
        "System Setup > Integrations > API in Current RMS, and belongs to one account.",
    ),
    402: (
        Forbidden,
        "The account's subscription to Current RMS seems to have ended. Renew it there.",
    ),
    403: (
        Forbidden,
        "The user of CURRENT_RMS_API_KEY has no permission for this. Give that user the "
        "permission in Current RMS (to see opportunities, to manage webhooks), or use the key of "
        "another user.",
    ),
    404: _NO_SUCH,
    410: _NO_SUCH,
    422: _UNKNOWN_PARAMETER,
}
# An account without webhooks may answer with one of these statuses.
_WITHOUT_WEBHOOKS = frozenset({400, 402, 403, 404, 405, 410, 422})


def refusal(status: int, what: str, said: str) -> RequestRefused:
    """Return the error for a final `status`. `what` names the request, `said` quotes the API's
    words.
    """
    kind, advice = _ADVICE.get(
        status, (RequestRefused, "The API refuses this request. Trying again will not help.")
    )
    if "/webhook" in what and status in _WITHOUT_WEBHOOKS:
        if _WEBHOOKS_ARE_OFF.search(said):
            kind, advice = WebhooksOff, SWITCH_WEBHOOKS_ON
        elif not what.rpartition("/")[2].isdecimal():
            advice += f" Webhooks may be switched off in this account. {SWITCH_WEBHOOKS_ON}"
    quoted = f' ("{said}")' if said else ""
    error = kind(f"Current RMS answered {status} to {what}{quoted}. {advice}")
    error.status, error.said = status, said
    return error
