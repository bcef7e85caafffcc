"""The colours of statuses, and bars drawn as SVG. Pure: no file, no clock, no library.

A drawing has no background. Its colours have a contrast of at least 3:1 (text 4:1) with light and
with dark pages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rms_pipeline.mirror.summary import NO_STATUS

# Far enough apart for red- and green-blind eyes too; the test measures it.
_COLOURS = {
    "open": "#0a57f9",
    "provisional": "#d1810e",
    "reserved": "#9538c9",
    "active": "#03a47f",
    "completed": "#387321",
    "cancelled": "#e36f50",
    "lost": "#cb0217",
    "dead": "#7f5e4c",
    "postponed": "#179ad4",
    NO_STATUS: "#5f6979",
}
OTHER_COLOUR = "#7d8590"
_TEXT = "#7a7d82"
_FONT = "system-ui,sans-serif"
_WIDTH, _ROW, _BAR = 620, 26, 16
_LABEL, _VALUE = 130, 130
_LONGEST_LABEL = 18


def status_colour(status: str | None, chosen: Mapping[str, str] | None = None) -> str:
    """The colour of a status as `#rrggbb`: the one in `chosen`, else a fixed one for its name, else
    a neutral one for unknown statuses."""
    name = status or NO_STATUS
    fixed = _COLOURS.get(name.strip().lower(), OTHER_COLOUR)
    return (chosen or {}).get(name) or fixed


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its name, its length (0 or more), the text at its end, and its colour."""

    label: str
    value: float
    note: str
    colour: str


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars as an SVG document, the longest at full width. About 0.2 kB for each bar."""
    longest = max((bar.value for bar in bars), default=0) or 1
    room = _WIDTH - _LABEL - _VALUE
    height = max(len(bars), 1) * _ROW + 4
    labels, rows = [], []
    for number, bar in enumerate(bars):
        middle = number * _ROW + _ROW // 2 + 2
        # A status that has anything has a bar that can be seen.
        length = max(bar.value / longest * room, 2 if bar.value else 0)
        labels.append(f'<text x="{_LABEL - 10}" y="{middle}">{_label(bar.label)}</text>')
        rows.append(
            f'<rect x="{_LABEL}" y="{middle - _BAR // 2}" width="{length:.1f}" height="{_BAR}"'
            f' rx="3" fill="{bar.colour}"/>'
            f'<text x="{_LABEL + length + 8:.1f}" y="{middle}">{_text(bar.note)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"'
        f' viewBox="0 0 {_WIDTH} {height}" role="img" font-family="{_FONT}" font-size="13"'
        f' fill="{_TEXT}" dominant-baseline="central"><title>{_text(title)}</title>'
        f'<g text-anchor="end">{"".join(labels)}</g>{"".join(rows)}</svg>'
    )


def _label(text: str) -> str:
    return _text(text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…")


def _text(text: str) -> str:
    """The text without control characters, which XML does not allow even as escapes."""
    return escape("".join(c for c in text if c.isprintable()))
