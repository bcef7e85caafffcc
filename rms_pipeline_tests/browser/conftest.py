"""A real browser, Debian's chromium, for what people look at."""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

_SECONDS = 30
_REPORT = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_REPORT] = report
    return report


# No longer than a module: while it lives, other code in this thread cannot run an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser; `chromium.new_context(...)` for another size, colour scheme or language."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    expect.set_options(timeout=_SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """An empty tab with patience; a test that fails leaves `failure.png` in its `tmp_path`."""
    context = chromium.new_context(
        viewport={"width": 1400, "height": 1000}, locale="en-GB", timezone_id="UTC"
    )
    tab = context.new_page()
    tab.set_default_timeout(_SECONDS * 1000)
    yield tab
    report = request.node.stash.get(_REPORT, None)
    if report is not None and report.failed:
        tab.screenshot(path=tmp_path / "failure.png")
    context.close()
