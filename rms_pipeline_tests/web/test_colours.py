"""What a page is like in the dark."""

import re
from pathlib import Path

import rms_pipeline.web

STATIC = Path(rms_pipeline.web.__file__).parent / "static"
# On paper there is no dark scheme.
DARK = re.compile(
    r"@media screen and \(prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}\s*\}", re.DOTALL
)
NAMED = re.compile(r"(--[a-z-]+): ([^;]+);")
# A colour, none, or a shadow: nothing that takes room.
LOOKS = re.compile(r"#[0-9a-f]{3,8}|none|0( \d+px){2} rgb\(.*\)", re.DOTALL)


def test_a_dark_scheme_has_other_colours_and_shadows_and_nothing_else() -> None:
    """So whatever else is shown of a page in one scheme is so in both. (`light-dark(...)` has
    colours alone by its definition.)"""
    sheets = "\n".join(sheet.read_text() for sheet in STATIC.glob("*.css"))
    places = [*STATIC.glob("*.css"), *STATIC.glob("*.js"), *STATIC.parent.glob("templates/**/*")]
    told = "".join(place.read_text() for place in places if place.is_file())
    (dark,) = DARK.findall(sheets)
    assert told.count("prefers-color-scheme") == 1
    assert NAMED.sub("", dark).strip() == ""
    light = dict(NAMED.findall(DARK.sub("", sheets)))
    for name, value in NAMED.findall(dark):
        assert name in light
        assert LOOKS.fullmatch(value), (name, value)
