"""Dagster's UI as someone meets it: everything runs for real, daemon and sandbox included."""

import base64
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    Dagster,
    command,
    environment_for,
    query,
    reset_schedules,
    stop_schedules,
)

RUN_MS = 60_000
pytestmark = pytest.mark.usefixtures("warm")


@dataclass(frozen=True)
class Deployment:
    url: str
    environment: dict[str, str]

    def syncs(self, columns: str) -> list[tuple[object, ...]]:
        return query(self.environment, f"SELECT {columns} FROM sync_metadata ORDER BY started_at")


@pytest.fixture(scope="module")
def deployment(embedded_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    log = tmp_path_factory.mktemp("dagster") / "log"
    with (
        copy_of(embedded_url, with_all_tables(embedded_url)) as url,
        SandboxServer(Store(150), api_key=SECRET_KEY) as sandbox,
    ):
        environment = environment_for(url, sandbox)
        dagster = Dagster(environment, log, warm=True)
        try:
            dagster.wait_until_quiet()
            yield Deployment(dagster.url, environment)
        finally:
            dagster.end(signal.SIGTERM)


def open_launchpad(page: Page, deployment: Deployment, job: str) -> Locator:
    page.goto(f"{deployment.url}/locations/rms_pipeline/jobs/{job}")
    page.get_by_role("button", name="Materialize all").locator("xpath=following::button[1]").click()
    page.get_by_role("menuitem", name="Open launchpad").click()
    return page.get_by_role("dialog")


def test_materialize_all_succeeds_and_status_counts_has_its_table_and_its_chart(
    page: Page, deployment: Deployment
) -> None:
    page.goto(f"{deployment.url}/asset-groups")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_role("link", name="View", exact=True).click()
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible(timeout=RUN_MS)
    assert deployment.syncs("sync_type, status") == [("initial_sync", "completed")]

    page.goto(f"{deployment.url}/assets/status_counts")
    for said in (
        "The number and the value of opportunities in each status",
        "The sum of their charges with tax",
        "current_rms",
    ):
        expect(page.get_by_text(said).first).to_be_visible()
    page.get_by_text("Show Markdown").first.click()
    dialog = page.get_by_role("dialog")
    counts = query(
        deployment.environment, "SELECT opportunity_status, opportunities FROM status_counts"
    )
    assert len(counts) > 5
    for status, count in counts:
        expect(dialog.locator("tr", has_text=str(status))).to_contain_text(str(count))
    chart = dialog.get_by_alt_text("Opportunities by status")
    expect(chart).to_be_visible()
    # A picture that the page refuses, or cannot read, has no width of its own.
    assert chart.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    drawing = base64.b64decode((chart.get_attribute("src") or "").partition(",")[2]).decode()
    assert drawing.count("<rect") == len(counts)


def test_another_window_is_synced_from_the_launchpad(page: Page, deployment: Deployment) -> None:
    launchpad = open_launchpad(page, deployment, "initial_sync")
    setting = launchpad.locator(".CodeMirror-line", has_text="days_back: 30")
    expect(launchpad.locator(".CodeMirror-line", has_text="days_ahead: 365")).to_be_visible()
    setting.click()
    expect(launchpad.get_by_text("fetch opportunities that end at most")).to_be_visible()
    page.keyboard.press("End")
    for key in ("Backspace", "Backspace", "9", "0"):
        page.keyboard.press(key)
    expect(launchpad.get_by_text("No errors")).to_be_visible()
    launchpad.locator("button", has_text="Materialize").click()
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible(timeout=RUN_MS)
    run = page.url.rpartition("/")[2]
    window = "(metadata ->> 'window_end')::date - (metadata ->> 'window_start')::date"
    found = query(
        deployment.environment,
        f"SELECT sync_type, status, {window} FROM sync_metadata WHERE run_id = '{run}'",
    )
    assert found == [("initial_sync", "completed", 90 + 365)]


def test_a_setting_of_the_wrong_type_is_refused_before_it_runs(
    page: Page, deployment: Deployment
) -> None:
    before = deployment.syncs("id")
    launchpad = open_launchpad(page, deployment, "initial_sync")
    launchpad.locator(".CodeMirror-line", has_text="days_back: 30").click()
    page.keyboard.press("End")
    page.keyboard.type("x")
    expect(launchpad.get_by_text(re.compile("Invalid scalar|Expected type"))).to_be_visible()
    expect(launchpad.locator("button", has_text="Materialize")).to_be_disabled()
    assert deployment.syncs("id") == before


def test_a_failed_sync_says_what_to_do_on_its_page_without_a_stack(
    page: Page, deployment: Deployment
) -> None:
    environment = {**deployment.environment, "CURRENT_RMS_API_KEY": "not-the-key"}
    assert command("sync", "initial", environment=environment).returncode == 1
    page.goto(f"{deployment.url}/runs")
    expect(page.get_by_text("user: command line")).to_be_visible()
    run = deployment.syncs("run_id, status")[-1]
    assert run[1] == "failed"
    page.goto(f"{deployment.url}/runs/{run[0]}")
    expect(page.get_by_text("RUN_FAILURE")).to_be_in_viewport()
    said = page.get_by_text("Check CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY").last
    expect(said).to_be_in_viewport()
    expect(page.get_by_text("Stack Trace")).to_have_count(0)


@pytest.fixture(scope="module")
def automation(deployment: Deployment, warm: BrowserContext) -> Iterator[Page]:
    """The page of what runs by itself, which other tests could do without."""
    reset_schedules(deployment.url)
    page = warm.new_page()
    page.goto(f"{deployment.url}/automation")
    yield page
    page.close()
    assert stop_schedules(deployment.url)


@pytest.mark.parametrize(
    ("name", "is_on"),
    [
        *(("incremental_sync", True), ("reconciliation", True), ("housekeeping", True)),
        *(("webhook_refresh", True), ("business_events", False)),
    ],
)
def test_what_runs_by_itself_is_listed_and_shows_whether_it_is_on(
    automation: Page, name: str, is_on: bool
) -> None:
    row = automation.locator("[data-index]").filter(has=automation.get_by_text(name, exact=True))
    expect(row.get_by_role("checkbox")).to_have_count(2)
    expect(row.get_by_role("checkbox").last).to_be_checked(checked=is_on)
