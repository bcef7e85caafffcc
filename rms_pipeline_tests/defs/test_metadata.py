"""What people typed, in the Markdown that Dagster's UI shows."""

import base64
import html
import re
from decimal import Decimal

import pytest

from rms_pipeline.defs.metadata import in_markdown, status_metadata
from rms_pipeline.mirror.summary import StatusCount

HOSTILE = [
    "![x](https://evil.example/pixel.png)",
    "[click](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "https://evil.example/?a=b",
    "www.evil.example",
    "WWW.evil.example and somebody@evil.example",
    "a | b \\| c",
    "`code` *bold* _thin_ ~~gone~~ # title",
    "two\nlines\r\n| - | - |",
    "&lt;script&gt;&#60;",
    "[^1]: https://evil.example",
    "Réservé – geprüft ✓",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_shown_as_it_was_typed_and_holds_no_markdown(text: str) -> None:
    written = in_markdown(text)
    assert html.unescape(written).replace("\u200b", "") == " ".join(text.split())
    # Nothing is left but letters, blanks and references to single characters.
    assert not re.search(r"[!\"$%'()*+,\-./:<=>?@\[\\\]^_`{|}~\n]", written)
    assert re.sub(r"&#\d+;", "", written).isascii() == text.isascii() or "\u200b" in written
    assert not re.search(r"(?i)https?://|www\.|@(?=\w)", html.unescape(written))


def test_an_ordinary_status_is_written_as_it_is() -> None:
    assert in_markdown("Provisional 2 für Ümit") == "Provisional 2 für Ümit"


def test_the_table_of_statuses_has_a_row_for_each_whatever_it_is_called() -> None:
    counts = [StatusCount(status, 1, Decimal(0), Decimal(0)) for status in HOSTILE]
    table = status_metadata(counts)["counts"].md_str.rpartition("\n\n")[2].splitlines()
    assert len(table) == len(HOSTILE) + 2
    assert {row.count("|") for row in table} == {5}


def test_the_chart_of_statuses_is_in_the_colours_that_somebody_chose() -> None:
    counts = [
        StatusCount("Open", 2, Decimal(0), Decimal(0)),
        StatusCount("Waitlisted", 1, Decimal(0), Decimal(0)),
    ]
    shown = status_metadata(counts, {"Waitlisted": "#123456"})["counts"].md_str
    drawing = base64.b64decode(shown.partition("base64,")[2].partition(")")[0]).decode()
    assert re.findall(r'rx="3" fill="([^"]+)"', drawing) == ["#0a57f9", "#123456"]
