"""What is asked of the account and what it answers, without HTTP's own details."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from rms_pipeline.sandbox.switches import ErrorShape

JSON = "application/json; charset=utf-8"
HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is what follows `/api/v1`; `query` is decoded, in its order; `sent` is the body."""

    method: str
    path: str
    query: list[tuple[str, str]]
    sent: bytes

    def fields(self, name: str) -> dict[str, Any]:
        """What the body says below `name`. Raises Refusal."""
        try:
            found = msgspec.json.decode(self.sent)[name]
        except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
            raise Refusal(f'the body must be {{"{name}": {{...}}}}') from None
        if not isinstance(found, dict):
            raise Refusal(f"{name} must be an object")
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    kind: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """A request that gets `status`, by default 422, and this text as what is wrong with `field`."""

    def __init__(self, text: str, status: int = 422, field: str = "base") -> None:
        super().__init__(text)
        self.text, self.status, self.field = text, status, field

    def answer(self, shape: ErrorShape) -> Answer:
        """In one of the shapes in which the API has been seen to say what is wrong."""
        bodies: dict[ErrorShape, Any] = {
            "texts": {"errors": [self.text]},
            "details": {"errors": [{"detail": self.text}]},
            "by_field": {"errors": {self.field: [self.text]}},
            "error": {"error": self.text},
            "message": {"message": self.text},
        }
        return Answer(self.status, msgspec.json.encode(bodies[shape]))


def page_of_a_proxy(status: int) -> Answer:
    """What stands between the API and the client says so in HTML."""
    text = f"<html><head><title>{status}</title></head><body><h1>Back soon</h1></body></html>"
    return Answer(status, text.encode(), kind=HTML)
