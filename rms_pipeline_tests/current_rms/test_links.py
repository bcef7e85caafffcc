"""Links that differ at each read are told from what has a meaning."""

import json

import pytest

from rms_pipeline.current_rms.links import without_signatures

S3 = "https://s3.example.com/icons/7/thumb.png"
AMAZON = f"{S3}?X-Amz-Algorithm=AWS4&X-Amz-Date=20261126T0000&X-Amz-Signature="
PAGE = "https://example.com/shop?id="


def same(one: object, other: object) -> bool:
    return without_signatures(json.dumps(one).encode()) == without_signatures(
        json.dumps(other).encode()
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"icon": {"url": f"{AMAZON}1"}}, {"icon": {"url": f"{AMAZON}2"}}),
        ({"a": [{"b": {"thumb_url": f"{S3}?1"}}]}, {"a": [{"b": {"thumb_url": f"{S3}?2"}}]}),
        ({"image": "/system/7.png?169"}, {"image": "/system/7.png?170"}),
        ({"icon_url": f"{S3}?v=1"}, {"icon_url": S3}),
        ({"attachment": f"{AMAZON}1"}, {"attachment": f"{AMAZON}2"}),
        ({"file": f"{S3}?Expires=1&Signature=a"}, {"file": f"{S3}?Expires=2&Signature=b"}),
        ({"file": f"{S3}?sv=1&sig=a%2F"}, {"file": f"{S3}?sv=1&sig=b"}),
        ({"file": f"{S3}?alt=media&token=a"}, {"file": f"{S3}?alt=media&token=b"}),
        ({"text": f'<img src="{AMAZON}1"> Tea?'}, {"text": f'<img src="{AMAZON}2"> Tea?'}),
        (
            {"x": "https://e.com/rails/active_storage/blobs/redirect/eyJ--1/a.png"},
            {"x": "https://e.com/rails/active_storage/blobs/redirect/eyJ--2/a.png"},
        ),
    ],
)
def test_a_link_that_is_signed_anew_is_the_same(one: object, other: object) -> None:
    assert same(one, other)


def test_a_link_whose_slashes_and_ampersands_are_escaped_is_read_too() -> None:
    one, other = (
        b'{"file":"https:\\/\\/e.com\\/a.png?a=1\\u0026Signature=%b","n":1}' % signature
        for signature in (b"x", b"y")
    )
    assert without_signatures(one) == without_signatures(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"website": f"{PAGE}5"}, {"website": f"{PAGE}6"}),
        ({"description": f"See {PAGE}5"}, {"description": f"See {PAGE}6"}),
        ({"icon": {"url": f"{AMAZON}1"}}, {"icon": {"url": AMAZON.replace("7", "8")}}),
        ({"icon": {"url": f"{AMAZON}1"}}, {"icon": {"url": None}}),
        ({"url": "Is it there? Yes"}, {"url": "Is it there? No"}),
        ({"icon": {"url": f"{AMAZON}1"}, "n": 1}, {"icon": {"url": f"{AMAZON}1"}, "n": 2}),
        (
            {"text": f'<img src="{AMAZON}1"> Tea?'},
            {"text": f'<img src="{AMAZON}1"> Coffee?'},
        ),
    ],
)
def test_what_else_differs_is_a_change(one: object, other: object) -> None:
    assert not same(one, other)


def test_a_record_without_such_links_is_the_very_same_object() -> None:
    body = json.dumps({"icon": {"url": S3}, "subject": "Tea?", "site": f"{PAGE}5"}).encode()
    assert without_signatures(body) is body or without_signatures(body) == body
