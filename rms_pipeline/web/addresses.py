"""The addresses of the web service, and the link that signs a browser in."""

import sys

from pydantic import SecretStr
from rich.console import Console

from rms_pipeline.settings import LOOPBACK_HOSTS, Settings

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}

UNENCRYPTED = (
    "The web service listens on %s without TLS, so tokens are sent unencrypted. Put a "
    "proxy with a certificate in front of it."
)


def url_of(host: str, port: int) -> str:
    """The address to open on this machine for a server that listens on `host`."""
    reachable = _ANY.get(host, host)
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


def is_exposed(host: str) -> bool:
    """Whether other machines can reach a server that listens on `host`."""
    return host not in LOOPBACK_HOSTS


def kept_in(token: SecretStr | None, variable: str, current: Settings) -> str:
    """Where a person finds a token: the setting `variable`, or its file."""
    file = variable.removeprefix("RMS_").lower()
    return variable if token is not None else str(current.state_folder / file)


def print_dashboard(current: Settings, url: str, token: SecretStr, out: Console) -> None:
    """The link that signs a browser in, for a terminal. A log shows where the token is stored
    instead."""
    # Not out.is_terminal: FORCE_COLOR makes a log file look like one.
    if out.file is sys.stdout and sys.stdout.isatty():
        link = f"{url}/?token={token.get_secret_value()}"
        out.print(f"[bold]Dashboard    {link}[/bold]", highlight=False, soft_wrap=True)
        out.print("             (anyone with this link can sign in: keep it secret)")
    else:
        kept = kept_in(current.api_token, "RMS_API_TOKEN", current)
        place = f"{url}/, the API token is in {kept}"
        out.print(f"Dashboard    {place}", markup=False, soft_wrap=True)
