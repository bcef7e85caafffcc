"""Who may: secrets compared in constant time."""

import hmac
from collections.abc import Callable

from fastapi import HTTPException, Request
from pydantic import SecretStr


def matches(given: str, secret: SecretStr) -> bool:
    """Whether `given` is `secret`, in a time that tells nothing about it."""
    return hmac.compare_digest(given.encode(), secret.get_secret_value().encode())


def api_token_required(token: SecretStr) -> Callable[[Request], None]:
    """A dependency that lets through `Authorization: Bearer <token>` only."""

    def check(request: Request) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not matches(given.strip(), token):
            raise HTTPException(
                401,
                "Send the API token: `Authorization: Bearer <RMS_API_TOKEN>`. "
                "`rms-pipeline up` prints where it is kept.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check
