"""The secrets of the web service: from the environment, or generated once and stored.

All processes with the same state folder use the same tokens. No log and no error contains a token.
"""

import contextlib
import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from rms_pipeline.settings import Settings, SettingsError, is_token


def webhook_token(settings: Settings) -> SecretStr:
    """The secret in the URL to which Current RMS posts. Raises SettingsError."""
    return settings.webhook_token or kept_token(_webhook_token_file(settings), "RMS_WEBHOOK_TOKEN")


def webhook_tokens(settings: Settings) -> list[SecretStr]:
    """All accepted webhook tokens: the current one, and the previous one during a change. Raises
    SettingsError."""
    previous = settings.webhook_token_previous
    return [webhook_token(settings), *([previous] if previous else [])]


def existing_webhook_token(settings: Settings) -> SecretStr | None:
    """The webhook token, or None if none was needed yet."""
    if settings.webhook_token is None and not _webhook_token_file(settings).exists():
        return None
    return webhook_token(settings)


def api_token(settings: Settings) -> SecretStr:
    """The API token, for everything else in the web service. Raises SettingsError."""
    return settings.api_token or kept_token(settings.state_folder / "api_token", "RMS_API_TOKEN")


def existing_api_token(settings: Settings) -> SecretStr | None:
    """The API token, or None if none was needed yet."""
    if settings.api_token is None and not (settings.state_folder / "api_token").exists():
        return None
    return api_token(settings)


def kept_token(path: Path, variable: str) -> SecretStr:
    """The token in the file `path`, which is created if necessary. `variable` is the setting that
    replaces it. Raises SettingsError."""
    try:
        if not path.exists():
            _make(path)
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise SettingsError(
            f"{variable} is not set, and the token kept in {path} cannot be used ({reason}). Set "
            f"{variable}, or allow the user of this process to read and write that file."
        ) from None
    if not is_token(token):
        raise SettingsError(
            f"{path} does not hold a token of at least 16 characters out of A-Z a-z 0-9 - _ . ~. "
            f"Delete the file to have a new token generated, or set {variable}."
        )
    return SecretStr(token)


def _webhook_token_file(settings: Settings) -> Path:
    return settings.state_folder / "webhook_token"


def _make(path: Path) -> None:
    """Writes the file completely or not at all, and never twice: the first process to link its file
    wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
