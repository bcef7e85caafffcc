"""`/sandbox/...`: what is no part of the API, for those who want the account to be otherwise."""

from dataclasses import asdict, replace

import msgspec

from rms_pipeline.sandbox.account import InventedAccount
from rms_pipeline.sandbox.api.answers import Answer, Refusal, Request
from rms_pipeline.sandbox.deliveries import WebhookSwitches
from rms_pipeline.sandbox.switches import decoded_changes


def answer(account: InventedAccount, request: Request) -> Answer:
    """GET shows, PUT changes what the body names, DELETE undoes all changes. Raises Refusal.

    A PUT of `/faults` takes both of its parts as they are to be.
    """
    try:
        match request.path:
            case "/faults":
                return _faults(account, request)
            case "/switches":
                return _switches(account, request)
            case "/deliveries":
                return _deliveries(account, request)
    except ValueError as error:
        raise Refusal(str(error)) from None
    raise _unknown()


def _faults(account: InventedAccount, request: Request) -> Answer:
    if request.method == "GET":
        return Answer(200, msgspec.json.encode(account.faults.told()))
    if request.method not in ("PUT", "DELETE"):
        raise _unknown()
    account.faults.change(request.sent if request.method == "PUT" else b"{}")
    return Answer(204)


def _switches(account: InventedAccount, request: Request) -> Answer:
    if request.method == "PUT":
        account.switches = account.switches.turned(request.sent)
    elif request.method == "DELETE":
        account.switches = account.first_switches
    elif request.method != "GET":
        raise _unknown()
    return Answer(200, account.switches.told())


def _deliveries(account: InventedAccount, request: Request) -> Answer:
    deliveries = account.deliveries
    if request.method == "PUT":
        changes = decoded_changes(WebhookSwitches, request.sent)
        deliveries.switches = replace(deliveries.switches, **changes)
    elif request.method == "DELETE":
        deliveries.switches = replace(account.first_deliveries)
    elif request.method != "GET":
        raise _unknown()
    return Answer(200, msgspec.json.encode(asdict(deliveries.switches)))


def _unknown() -> Refusal:
    known = "GET, PUT and DELETE of /sandbox/faults, /sandbox/switches and /sandbox/deliveries"
    return Refusal(f"there is only {known}", 404)
