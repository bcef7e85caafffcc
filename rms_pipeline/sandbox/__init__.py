"""A local Current RMS stand-in for the demo, the tests and people's own experiments.

It imports nothing of the rest of the package, so that it cannot share its mistakes.

    server, handler      HTTP: connections, bodies, credentials, the limit
    account              all that an answer depends on
    api/                 what is answered, address by address; filters and pages of lists
    records, store       opportunities and their items: read, edited, as they were a while ago
    tables               members, products, stores
    world/               what the invented company owns and does
    switches, faults     what nobody is sure of; what goes wrong
    webhooks, events, deliveries    subscriptions, what happens, who is told
    churn                people at work
"""

from rms_pipeline.sandbox.account import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN
from rms_pipeline.sandbox.churn import Churn
from rms_pipeline.sandbox.deliveries import Deliveries, WebhookSwitches
from rms_pipeline.sandbox.faults import Faults
from rms_pipeline.sandbox.server import PortInUseError, SandboxServer
from rms_pipeline.sandbox.store import Store
from rms_pipeline.sandbox.switches import Switches

__all__ = [
    "SANDBOX_API_KEY",
    "SANDBOX_SUBDOMAIN",
    "Churn",
    "Deliveries",
    "Faults",
    "PortInUseError",
    "SandboxServer",
    "Store",
    "Switches",
    "WebhookSwitches",
]
