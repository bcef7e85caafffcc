"""A real browser for what people look at: Debian's chromium without windows."""

import contextlib
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from rms_pipeline_tests.browser.stand import Stand, everything

# The same engine twice. The second one draws windows that nobody sees, which costs more processor
# time than the pages in them. The first one can leave out to draw the pages too. Everything is laid
# out, found, clicked and printed as before. Without drawing, the second one cannot print.
_PROGRAMS = {
    "chromium-headless-shell": ("--blink-settings=acceleratedCompositingEnabled=false",),
    "chromium": (),
}
_SECONDS = 60
_DESK: ViewportSize = {"width": 1400, "height": 1000}
_REPORT = pytest.StashKey[pytest.TestReport]()
# Animations cost more processor time here than what a page waits for, because no graphics card
# draws them. So nothing moves, and a page draws ten times a second.
_STILL = """
const still = new CSSStyleSheet();
still.replaceSync(
  "*, ::before, ::after { animation: none !important; transition: none !important }"
);
document.adoptedStyleSheets = [...document.adoptedStyleSheets, still];
window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 100);
window.cancelAnimationFrame = clearTimeout;
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_REPORT] = report
    return report


@contextlib.contextmanager
def opened_browser() -> Iterator[Browser]:
    """The browser. While it is open, other code in this thread cannot run an event loop."""
    program = next(filter(shutil.which, _PROGRAMS), None)
    if program is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium-headless-shell)")
    expect.set_options(timeout=_SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which(program),
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                # Tabs of one site share a process, because each process takes long to start.
                *("--disable-sync", "--process-per-site", "--renderer-process-limit=1"),
                # A page is open for too short a time for its scripts to be worth optimizing.
                "--js-flags=--no-opt",
                *_PROGRAMS[program],
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """The browser. Use `new_context` for another size, colour scheme or language."""
    with opened_browser() as browser:
        yield browser


@pytest.fixture(scope="package")
def stand(embedded_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """All that `up` starts, over an account with 1,500 opportunities."""
    with everything(embedded_url, tmp_path_factory.mktemp("up"), opportunities=1_500) as started:
        yield started


def new_context(chromium: Browser, **options: Any) -> BrowserContext:
    """Return a context: its tabs share cookies and loaded files, and nothing moves by itself."""
    context = chromium.new_context(**{"locale": "en-GB", "timezone_id": "UTC", **options})
    context.set_default_timeout(_SECONDS * 1000)
    context.add_init_script(_STILL)
    return context


@pytest.fixture(scope="module")
def standing_tab(chromium: Browser) -> Iterator[Page]:
    """A tab that stays open for all tests of a module, in the context of each `page`.

    While it is there, the process that draws pages stays too, with the programs of the pages in its
    memory. A new process for each test took as much of a processor as half of the pages.
    """
    with new_context(chromium, viewport=_DESK) as context:
        yield context.new_page()


@pytest.fixture
def page(request: pytest.FixtureRequest, standing_tab: Page, tmp_path: Path) -> Iterator[Page]:
    """An empty tab with long timeouts. A test that fails leaves `failure.pdf` in its `tmp_path`.

    Nobody is signed in. Loaded files are those of all tests of the module.
    """
    standing_tab.context.clear_cookies()
    tab = standing_tab.context.new_page()
    yield tab
    picture_failure(request, tab, tmp_path)
    tab.close()


def picture_failure(request: pytest.FixtureRequest, tab: Page, folder: Path) -> None:
    """Leave `failure.pdf` in the folder if the test has failed: the page as it is on the screen."""
    report = request.node.stash.get(_REPORT, None)
    if report is not None and report.failed:
        size = tab.viewport_size or _DESK
        tab.emulate_media(media="screen")
        tab.pdf(
            path=folder / "failure.pdf",
            width=f"{size['width']}px",
            height=f"{size['height']}px",
            print_background=True,
        )
