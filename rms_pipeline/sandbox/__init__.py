"""A local Current RMS stand-in for the demo, the tests and people's own experiments."""

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
