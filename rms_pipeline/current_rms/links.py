"""Finds links that differ at each read although nothing changed: signed for some hours, or stamped.

This module knows which part of a record's JSON has no lasting meaning. Comparing records is in
`records` and `mirror.merge`.
"""

import re

# The end of a link in JSON as received: slashes and ampersands may be escaped.
_PATH = rb'(?:[^\s"\\<>?#]|\\/)*'
_QUERY = rb'\?(?:[^\s"\\<>]|\\/|\\u00(?:26|3[dD]))*'
_LINK = re.compile(rb"(?P<place>https?:(?:\\?/){2}" + _PATH + rb")(?P<query>" + _QUERY + rb")")
_SIGNED = re.compile(
    rb"(?:[?&;]|\\u0026)(?:x-[a-z]+-\w+|(?:\w+[_-])?(?:signature|token|expires?|expiry)"
    rb"|sig|policy|key-pair-id|awsaccesskeyid|googleaccessid|hmac|hdnea|st|se|sp|sv|sr)=",
    re.IGNORECASE,
)
# Names of fields with links to pictures. Their queries hold only a signature or a time.
_KIND = rb"(?:url|image|thumb|thumbnail|icon|picture|photo|avatar|logo)"
_PICTURE = re.compile(
    rb'(?P<place>"(?:[a-z]+_)?' + _KIND + rb'"\s*:\s*"(?:https?:|\\?/)' + _PATH + rb")" + _QUERY
)
# Rails puts the signature into the path.
_STORED = re.compile(rb'(?P<place>active_storage\\?/)(?:[^\s"\\<>]|\\/)+')


def without_signatures(record: bytes) -> bytes:
    """Return the same JSON without the parts of links that differ at each read.

    Returns `record` itself if there are none. Use the result only to compare two readings: its
    links no longer work.
    """
    if b"?" in record and b"/" in record:
        record = _PICTURE.sub(rb"\g<place>", record)
        record = _LINK.sub(_unsigned, record)
    if b"active_storage" in record:
        record = _STORED.sub(rb"\g<place>", record)
    return record


def _unsigned(link: re.Match[bytes]) -> bytes:
    return link["place"] if _SIGNED.search(link["query"]) else link[0]
