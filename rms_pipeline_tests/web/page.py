"""Pages of the web service, parsed as a browser does."""

from collections.abc import Iterable
from html.parser import HTMLParser

import requests

from rms_pipeline_tests.web.conftest import BEARER, Web

# If a page or fragment contains this unescaped, it has an element or an attribute too many.
EVIL = "\"><script>alert(1)</script>'><img src=x onerror=alert(1)>&amp;{{7*7}}</textarea></title>"
_OUTSIDE = ("http:", "https:", "//", "javascript:", "data:")


class Page(HTMLParser):
    """A parsed page.

    `html` is the page as it came, `text` the text to read on it, `tags` its elements with
    attributes, and `forbidden` what the content policy would refuse.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.text, self.tags = "", list[tuple[str, dict[str, str]]]()
        self.forbidden = list[str]()
        self._in_script = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        self._in_script = tag == "script"
        self.forbidden += [
            f"{tag} {name}" for name in found if name == "style" or name.startswith(("on", "hx-on"))
        ]
        if tag in ("style", "img", "iframe", "object", "embed", "base"):
            self.forbidden.append(tag)
        if tag == "script" and not found.get("src", "").startswith("/static/"):
            self.forbidden.append("a script that is no file of ours")
        if tag == "link" and found["href"].startswith(_OUTSIDE) and found["href"] != "data:,":
            self.forbidden.append(found["href"])
        for name in ("href", "action", "hx-get", "hx-post"):
            if found.get(name, "").strip().lower().startswith(("javascript:", "data:text")):
                self.forbidden.append(found[name])

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_script and data.strip():
            self.forbidden.append(f"script in the page: {data[:50]}")

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [
            found
            for name, found in self.tags
            if name == tag and all(found.get(k) == v for k, v in attributes.items())
        ]

    @property
    def links(self) -> list[str]:
        return [found["href"] for found in self.all("a") if "href" in found]

    @property
    def ids(self) -> Iterable[str]:
        return [found["id"] for _, found in self.tags if "id" in found]


def get(web: Web, path: str, **headers: str) -> requests.Response:
    """Return what a browser with the token gets."""
    asked = {**BEARER, "Accept": "text/html", **headers}
    return requests.get(f"{web.url}{path}", headers=asked, timeout=30, allow_redirects=False)


def visit(web: Web, path: str, status: int = 200) -> Page:
    """Return the page at `path`. Asserts that it keeps to the content policy."""
    answer = get(web, path)
    assert answer.status_code == status, (path, answer.status_code, answer.text[:500])
    page = Page(answer.text)
    assert page.forbidden == [], path
    return page
