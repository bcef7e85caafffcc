"""The secrets that gate the web service: from the environment, else generated once and kept.

All processes of a state folder agree on them. The text of a token appears in no log or error.
"""

import contextlib
import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from rms_pipeline.settings import Settings, SettingsError, is_token


def webhook_token(settings: Settings) -> SecretStr:
    """The secret in the URL that Current RMS posts to. Raises SettingsError."""
    return settings.webhook_token or kept_token(_webhook_token_file(settings), "RMS_WEBHOOK_TOKEN")


def webhook_tokens(settings: Settings) -> list[SecretStr]:
    """All that are accepted: the same, and during a change the one of before.

    Raises SettingsError.
    """
    previous = settings.webhook_token_previous
    return [webhook_token(settings), *([previous] if previous else [])]


def existing_webhook_token(settings: Settings) -> SecretStr | None:
    """The same, but None while nobody has needed one."""
    if settings.webhook_token is None and not _webhook_token_file(settings).exists():
        return None
    return webhook_token(settings)


def api_token(settings: Settings) -> SecretStr:
    """What everything else of the web service asks for. Raises SettingsError."""
    return settings.api_token or kept_token(settings.state_folder / "api_token", "RMS_API_TOKEN")


def existing_api_token(settings: Settings) -> SecretStr | None:
    """The same, but None while nobody has needed one."""
    if settings.api_token is None and not (settings.state_folder / "api_token").exists():
        return None
    return api_token(settings)


def kept_token(path: Path, variable: str) -> SecretStr:
    """The token in the file `path`, made when there is none; `variable` is what may replace it.

    Raises SettingsError.
    """
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
    """Whole or not at all, and never a second one: the first process to link its file wins."""
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
