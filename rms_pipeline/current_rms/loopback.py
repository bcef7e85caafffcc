"""This machine, and how to reach it: never through a proxy."""

from urllib.parse import urlsplit

import requests

from rms_pipeline.settings import LOOPBACK_HOSTS


def session_for(url: str) -> requests.Session:
    """A session for requests to `url`. The environment's proxies are for other machines only: they
    could not reach this one, and would be sent in clear what was meant to stay here."""
    session = requests.Session()
    session.trust_env = urlsplit(url).hostname not in LOOPBACK_HOSTS
    return session
