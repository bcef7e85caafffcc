"""Whatever shape an error has, people are told what the API said, and what to do."""

import json

import pytest

from rms_pipeline.current_rms.answers import api_words
from rms_pipeline.current_rms.errors import (
    NotFound,
    RequestRefused,
    Unprocessable,
    WebhooksOff,
    refusal,
)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"errors": ["Invalid search term"]}, "Invalid search term"),
        ({"errors": [{"detail": "Rate limit exceeded"}]}, "Rate limit exceeded"),
        ({"errors": {"starts_at": ["is not a date"]}}, "starts_at: is not a date"),
        ({"error": "Webhooks are not enabled"}, "Webhooks are not enabled"),
        ({"message": "Not found"}, "Not found"),
        ({"errors": "Plain text."}, "Plain text"),
        ({"error": {"message": "Nested", "code": 17}}, "Nested"),
        ({"error": {"errors": [{"title": "Deep"}]}}, "Deep"),
        ({"errors": {"base": ["Name is taken"], "name": ["a", "b"]}}, "Name is taken; name: a, b"),
        ({"errors": {"items": [{"price": ["is not a number"]}]}}, "items: price: is not a number"),
        (["first", "second"], "first; second"),
        ("only text", "only text"),
        ({"status": 404, "error": "Not Found", "exception": "#<X>"}, "Not Found"),
        ({"success": False, "errors": []}, ""),
        ({"errors": None}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_words_of_an_error_are_found_in_every_shape(body: object, said: str) -> None:
    assert api_words(json.dumps(body).encode()) == said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", ""),
        (b"Service overloaded\n", "Service overloaded"),
        (
            b"<html><head><title>502 Bad Gateway</title></head><body>\n<h1>502 Bad Gateway</h1>",
            "an HTML page, probably from a proxy or a firewall: 502 Bad Gateway",
        ),
        (
            b"<!DOCTYPE html>\n<TITLE>Attention &amp; care</TITLE><h1 class=x>Wait <b>here</b>"
            b"</h1>",
            "an HTML page, probably from a proxy or a firewall: Attention & care, Wait here",
        ),
        (
            b"<html><body>Back soon</body></html>",
            "an HTML page, probably from a proxy or a firewall",
        ),
        (b"\xff\xfe broken", "\ufffd\ufffd broken"),
        (b'{"errors": ["cut o', '{"errors": ["cut o'),
        (b'{"error": "a\\u0000b\\u001b[31m\\nc"}', "a b [31m c"),
        (b'{"error": "<b>bold</b> &lt; 3"}', "bold < 3"),
    ],
)
def test_what_is_no_json_is_told_too(body: bytes, said: str) -> None:
    assert api_words(body) == said


def test_what_is_quoted_stays_short_however_much_there_is() -> None:
    deep: object = "in the depth"
    for _ in range(60):
        deep = {"errors": [deep]}
    endless = [
        json.dumps({"errors": ["word " * 10_000]}),
        json.dumps({"errors": ["word"] * 100_000}),
        json.dumps(deep),
        "[" * 100_000,
        "<title>" * 100_000,
        "<" * 100_000,
    ]
    for body in endless:
        assert len(api_words(body.encode())) <= 300


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Unprocessable), (404, NotFound), (410, NotFound), (422, Unprocessable)],
)
def test_a_status_is_read_as_what_it_means(status: int, kind: type[RequestRefused]) -> None:
    error = refusal(status, "GET /opportunities", "no")
    assert type(error) is kind
    assert (error.status, error.said) == (status, "no")
    assert '("no")' in str(error)


@pytest.mark.parametrize(
    "said",
    [
        "Webhooks are not enabled for this account",
        "Webhooks have been disabled",
        "Webhook feature isn't available on your plan",
        "Please enable webhooks first",
        "webhooks are switched off",
    ],
)
@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_webhooks_that_are_switched_off_are_told_from_other_refusals(
    status: int, said: str
) -> None:
    error = refusal(status, "POST /webhooks", said)
    assert isinstance(error, WebhooksOff)
    assert "System Setup > Company Information" in str(error)
    assert not isinstance(refusal(status, "GET /opportunities", said), WebhooksOff)


@pytest.mark.parametrize(
    "said", ["Name is taken", "target_url is not a URL", "Webhook event is not known", ""]
)
def test_another_refusal_of_a_webhook_only_names_that_possibility(said: str) -> None:
    error = refusal(422, "POST /webhooks", said)
    assert not isinstance(error, WebhooksOff)
    assert "Webhooks may be switched off in this account" in str(error)
    assert "switched off" not in str(refusal(422, "PUT /webhooks/12", said))
