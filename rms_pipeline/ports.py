"""Whether this machine can listen on an address, asked before anything is started."""

import errno
import socket

from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.settings import SettingsError


class PortTaken(RmsPipelineError):
    """Nothing can listen on this port now. The text says what to do."""


def demand_different(ports: dict[str, int]) -> None:
    """Raise SettingsError if two parts shall listen on one port. `ports` has them by option.

    0 stands for any free port, so several parts may have it.
    """
    options: dict[int, str] = {}
    for option, port in ports.items():
        if port and port in options:
            raise SettingsError(
                f"{options[port]} and {option} are both {port}. Give each part a port of its own."
            )
        options[port] = option


def demand_free_port(host: str, port: int, option: str) -> None:
    """Raise PortTaken if this machine cannot listen on `port` of `host`.

    `option` is the option that sets the port. Raises SettingsError if `host` is no address of this
    machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise SettingsError(
                    f"{host} is not an address of this machine ({error.strerror}). Use 127.0.0.1 "
                    "to be reached from this machine only, or 0.0.0.0 for all its addresses."
                ) from None
            if error.errno == errno.EACCES:
                raise PortTaken(
                    f"This user has no right to port {port}. Choose a port above 1023 with "
                    f"{option}."
                ) from None
            raise PortTaken(
                f"Port {port} on {host} is in use ({error.strerror}). Stop the other program, or "
                f"choose another port with {option}."
            ) from None
