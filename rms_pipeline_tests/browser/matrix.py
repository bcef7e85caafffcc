"""Every page at every size: what an accessibility checker finds, what scrolls sideways, what is
cut.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page

from rms_pipeline_tests.browser.conftest import new_context

# What Axe is asked in each colour scheme. A dark scheme has other colours, and nothing else
# (web/test_colours.py shows that).
RULES: dict[Literal["light", "dark"], dict[str, Any]] = {
    "light": {},
    "dark": {"runOnly": ["color-contrast", "link-in-text-block"]},
}
# Elements that hide a part of their content, and neither scroll nor show an ellipsis.
_CUT = """() => [...document.querySelectorAll('body *')].filter((e) => {
    const s = getComputedStyle(e);
    const hides = (o) => o === 'hidden' || o === 'clip';
    return e.clientWidth > 1 && e.clientHeight > 1 && s.visibility === 'visible'
        && ((hides(s.overflowX) && e.scrollWidth > e.clientWidth + 1
            && s.textOverflow !== 'ellipsis')
        || (hides(s.overflowY) && e.scrollHeight > e.clientHeight + 1
            && s.webkitLineClamp === 'none' && s.textOverflow !== 'ellipsis'));
}).map((e) => e.outerHTML.slice(0, 200))"""
# Elements beyond the right edge of the window, outside of regions that scroll.
_BEYOND = """() => [...document.querySelectorAll('body *')].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.right > document.documentElement.clientWidth + 1
        && getComputedStyle(e).visibility === 'visible'
        && !e.closest('.scroll, .unseen, [hidden], .skip');
}).map((e) => e.outerHTML.slice(0, 200))"""
# On a phone a list is not a table any more, and nothing of it may be beside the window.
_LISTS = """() => innerWidth > 720 ? [] : [...document.querySelectorAll('.scroll:has(.list)')]
    .filter((e) => e.scrollWidth > e.clientWidth + 1)
    .flatMap((e) => [...e.querySelectorAll('td, th')].filter((cell) =>
        cell.getBoundingClientRect().right > e.getBoundingClientRect().right))
    .slice(0, 2).map((e) => e.outerHTML.slice(0, 200))"""
# Rows that differ only in words and addresses are the same row to a checker. It needs seconds for a
# list of a hundred of them. The first two of each kind stay, because an element can look different
# beside another of its kind.
_LEAVE_OUT_ALIKE = """() => {
  const words = /^(id|for|href|src|title|datetime|value|aria-label(ledby)?|data-(?!label).*)$/;
  const kind = (e) => e.tagName + [...e.attributes]
    .map((a) => a.name + '=' + (words.test(a.name) ? a.value !== '' : a.value)).sort().join()
    + '(' + [...e.childNodes].map((n) => n.nodeType === Node.ELEMENT_NODE ? kind(n)
      : n.nodeType === Node.TEXT_NODE && n.data.trim() ? '.' : '').join('') + ')';
  for (const list of document.querySelectorAll('tbody, ul, ol')) {
    const seen = new Map();
    for (const row of [...list.children]) {
      const name = kind(row), before = seen.get(name) ?? 0;
      seen.set(name, before + 1);
      if (before >= 2) row.remove();
    }
  }
}"""


def leave_out_alike(page: Page) -> None:
    """Leave two rows of each kind in every list, before a checker examines the page."""
    page.evaluate(_LEAVE_OUT_ALIKE)


def violations(page: Page, **options: Any) -> list[dict[str, Any]]:
    """Return what Axe finds wrong in a page that contains its script. `options` are Axe's own.

    The list of what is right is as long as the page, and is not returned.
    """
    found: list[dict[str, Any]] = page.evaluate(
        "(options) => axe.run(options).then((results) => results.violations)",
        {"resultTypes": ["violations"], **options},
    )
    return found


# Phones, tablets, and desks from the narrowest to where no table is narrow any more.
_EVERY_WIDTH = (360, 600, 721, 820, 1001, 1100, 1200, 1251, 1280, 1366, 1440)
# Regions with a list that they do not show whole, with letters of this size.
_SCROLLING = """(size) => {
    document.documentElement.style.fontSize = size;
    return [...document.querySelectorAll('.scroll:has(.list)')]
        .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.ariaLabel);
}"""


def hidden_columns(reader: Page) -> list[tuple[int, str, str]]:
    """Return each width at which a list hides its last column, with the size of letters and the
    list's name.
    """
    hidden = []
    # The last one is a phone whose owner enlarges letters.
    for width, text in (*((width, "100%") for width in _EVERY_WIDTH), (390, "200%")):
        reader.set_viewport_size({"width": width, "height": 900})
        regions = reader.evaluate(_SCROLLING, text)
        hidden += [(width, text, name) for name in regions]
    reader.evaluate("document.documentElement.style.fontSize = ''")
    return hidden


@dataclass(frozen=True, slots=True)
class Size:
    """A window of `width` pixels of CSS. A zoom of 200 % halves them.

    `text` is the size of letters relative to the usual one.
    """

    width: int
    height: int = 900
    zoom: float = 1
    text: int = 100

    @property
    def name(self) -> str:
        zoom = f" at {self.zoom:.0%}" if self.zoom != 1 else ""
        return f"{self.width} px{zoom}{f', text {self.text} %' if self.text != 100 else ''}"


PHONE, DESK, WALL = Size(390, 844), Size(1280), Size(2560, 1440)
# The narrowest window that a page has to fit into.
NARROW = Size(320)
ZOOMED, LARGE = Size(1280, zoom=2), Size(1280, text=200)
SIZES = (PHONE, DESK, WALL, ZOOMED, LARGE, Size(360, 800, text=200))


def findings(
    chromium: Browser,
    url: str,
    paths: Sequence[str],
    size: Size,
    token: str,
    all_rules: bool = False,
) -> Iterator[str]:
    """Yield what is wrong with these pages of `url` at this size, in both colour schemes, a line
    each.

    Everything that can be opened is open. With `all_rules` no rule is left out in the dark.
    """
    context = new_context(
        chromium,
        viewport={
            "width": round(size.width / size.zoom),
            "height": round(size.height / size.zoom),
        },
        device_scale_factor=size.zoom,
        bypass_csp=True,
        # This locale has the longest times.
        locale="en-US",
        extra_http_headers={"Authorization": f"Bearer {token}"},
    )
    page = context.new_page()
    try:
        for path in paths:
            page.goto(f"{url}{path}", wait_until="networkidle")
            page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
            if size.text != 100:
                page.evaluate(f"document.documentElement.style.fontSize = '{size.text}%'")
            where = f"{path}, {size.name}"
            wide = page.evaluate("document.documentElement.scrollWidth")
            width = page.evaluate("document.documentElement.clientWidth")
            if wide > width:
                beyond = page.evaluate(_BEYOND)
                yield f"{where}: scrolls sideways, {wide} of {width} px: {beyond[:3]}"
            for cut in [*page.evaluate(_CUT), *page.evaluate(_LISTS)]:
                yield f"{where}: cut off: {cut}"
            leave_out_alike(page)
            page.evaluate(AXE_SCRIPT)
            for scheme, rules in RULES.items():
                page.emulate_media(color_scheme=scheme)
                for each in violations(page, **({} if all_rules else rules)):
                    yield f"{where}, {scheme}: {each['id']}: {each['nodes'][0]['html'][:300]}"
    finally:
        context.close()
