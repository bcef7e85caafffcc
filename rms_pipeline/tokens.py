"""The two secrets of the web service: given by the environment, or made once and kept."""

import os
import re
import secrets
import tempfile
from pathlib import Path

from pydantic import SecretStr

from rms_pipeline.settings import Settings, SettingsError

_SHAPE = re.compile(r"[A-Za-z0-9._~-]{16,200}")


def webhook_token(settings: Settings) -> SecretStr:
    """RMS_WEBHOOK_TOKEN, else one of our own in `<state folder>/webhook_token`.

    Raises SettingsError when the variable is no good secret for an address.
    """
    return _token(settings, settings.webhook_token, "webhook_token", "RMS_WEBHOOK_TOKEN")


def api_token(settings: Settings) -> SecretStr:
    """RMS_API_TOKEN, else one of our own in `<state folder>/api_token`. Raises SettingsError."""
    return _token(settings, settings.api_token, "api_token", "RMS_API_TOKEN")


def _token(settings: Settings, given: SecretStr | None, file: str, variable: str) -> SecretStr:
    if given is None:
        return SecretStr(_kept(settings.state_folder / file))
    if not _SHAPE.fullmatch(given.get_secret_value()):
        raise SettingsError(
            f"{variable} needs at least 16 characters of letters, digits and . _ ~ - (it stands in "
            "an address). Leave it away and one is made; or use: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return given


def _kept(path: Path) -> str:
    """What `path` holds; made whole or not at all, so that two who start at once agree."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".token-")
        with os.fdopen(handle, "w") as new:
            new.write(secrets.token_urlsafe(32))
        try:
            os.link(name, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(name)
    return path.read_text().strip()
