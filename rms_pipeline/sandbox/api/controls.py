"""`/sandbox/...`: what is no part of the API, for those who want the account to be otherwise."""

import msgspec

from rms_pipeline.sandbox.account import InventedAccount
from rms_pipeline.sandbox.api.answers import Answer, Refusal, Request


def answer(account: InventedAccount, request: Request) -> Answer:
    """GET and PUT of `/faults` and `/switches`; DELETE of `/switches` undoes. Raises Refusal."""
    asked = (request.method, request.path)
    try:
        if asked == ("GET", "/faults"):
            return Answer(200, msgspec.json.encode(account.faults.told()))
        if asked == ("PUT", "/faults"):
            account.faults.change(request.sent)
            return Answer(204)
        if asked == ("PUT", "/switches"):
            account.switches = account.switches.turned(request.sent)
        elif asked == ("DELETE", "/switches"):
            account.switches = account.first_switches
        elif asked != ("GET", "/switches"):
            raise Refusal("there are only /sandbox/faults and /sandbox/switches", 404)
    except ValueError as error:
        raise Refusal(str(error)) from None
    return Answer(200, account.switches.told())
