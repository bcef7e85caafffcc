"""The colours of statuses, told apart by all eyes on light and dark, and the bars."""

import math
from itertools import combinations
from xml.etree import ElementTree

import pytest

from rms_pipeline.status_chart import OTHER_COLOUR, Bar, bar_chart, status_colour

KNOWN = [
    *("Open", "Provisional", "Reserved", "Active", "Completed"),
    *("Cancelled", "Lost", "Dead", "Postponed", "(none)"),
]
SVG = "{http://www.w3.org/2000/svg}"

Vector = tuple[float, ...]
Matrix = tuple[Vector, Vector, Vector]
NORMAL: Matrix = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
DEUTERANOPIA: Matrix = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.011820, 0.042940, 0.968881),
)
PROTANOPIA: Matrix = (
    (0.152286, 1.052583, -0.204868),
    (0.114503, 0.786281, 0.099216),
    (-0.003882, -0.048116, 1.051998),
)


def linear(colour: str) -> Vector:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return tuple(p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)


def luminance(colour: str) -> float:
    red, green, blue = linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def seen(colour: str, eyes: Matrix) -> Vector:
    """CIE L*a*b* of the colour as those eyes see it."""
    light = linear(colour)
    mixed = [sum(a * b for a, b in zip(row, light, strict=True)) for row in eyes]
    rgb = [min(1.0, max(0.0, part)) for part in mixed]
    xyz = [
        (0.4124 * rgb[0] + 0.3576 * rgb[1] + 0.1805 * rgb[2]) / 0.9505,
        0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2],
        (0.0193 * rgb[0] + 0.1192 * rgb[1] + 0.9505 * rgb[2]) / 1.089,
    ]
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("eyes", [NORMAL, DEUTERANOPIA, PROTANOPIA])
def test_any_two_statuses_are_told_apart(eyes: Matrix) -> None:
    for one, other in combinations(KNOWN, 2):
        distance = math.dist(seen(status_colour(one), eyes), seen(status_colour(other), eyes))
        assert distance > 15, (one, other)


@pytest.mark.parametrize("status", [*KNOWN, "Invoiced"])
@pytest.mark.parametrize("page", ["#ffffff", "#0f1115"])
def test_a_status_stands_out_on_light_and_on_dark(status: str, page: str) -> None:
    assert contrast(status_colour(status), page) >= 3


def test_an_absent_status_is_a_status_and_an_unknown_one_is_neutral() -> None:
    assert status_colour(None) == status_colour("(none)") != OTHER_COLOUR
    assert status_colour("Invoiced") == OTHER_COLOUR
    assert status_colour(" OPEN ") == status_colour("Open")


def test_bars_are_as_long_as_their_values_and_the_smallest_can_be_seen() -> None:
    bars = [Bar(str(v), v, f"{v:,}", "#0a57f9") for v in (2_000, 1_000, 1, 0)]
    drawing = ElementTree.fromstring(bar_chart("Counts", bars))
    widths = [float(r.attrib["width"]) for r in drawing.iter(f"{SVG}rect")]
    assert widths[0] == 2 * widths[1]
    assert widths[2] >= 2
    assert widths[3] == 0


def test_what_people_typed_is_text_and_not_markup() -> None:
    label = "<b>&\x00\"'" + "long " * 20
    drawing = ElementTree.fromstring(bar_chart(label[:5], [Bar(label, 1, "<1>", "#0a57f9")]))
    texts = [t.text or "" for t in drawing.iter(f"{SVG}text")]
    assert texts[0].startswith("<b>&\"'long")
    assert texts[0].endswith("…")
    assert texts[1] == "<1>"


def test_nothing_to_draw_is_an_empty_drawing() -> None:
    assert not list(ElementTree.fromstring(bar_chart("Nothing", [])).iter(f"{SVG}rect"))
