"""How to reach this machine: never through a proxy."""

from urllib.parse import urlsplit

import requests

from rms_pipeline.settings import LOOPBACK_HOSTS


def session_for(url: str) -> requests.Session:
    """Return a session for requests to `url`.

    Requests to this machine ignore the proxies of the environment. A proxy could not reach this
    machine, and what should stay here would leave it unencrypted.
    """
    session = requests.Session()
    session.trust_env = urlsplit(url).hostname not in LOOPBACK_HOSTS
    return session
