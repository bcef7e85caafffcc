"""A local Current RMS stand-in for the demo, the tests and people's own experiments."""

from rms_pipeline.sandbox.churn import Churn
from rms_pipeline.sandbox.deliveries import Deliveries, WebhookSwitches
from rms_pipeline.sandbox.handler import SANDBOX_SUBDOMAIN
from rms_pipeline.sandbox.server import (
    SANDBOX_API_KEY,
    PortInUseError,
    SandboxServer,
)
from rms_pipeline.sandbox.store import Store
from rms_pipeline.sandbox.switches import Faults, Switches

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
