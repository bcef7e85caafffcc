"""Takes the pictures of the README anew: `python docs/take_pictures.py`.

Starts everything as `rms-pipeline up` does, on the sandbox, lets people work in that account for a
moment, and looks at it with Debian's chromium (or chromium-headless-shell).
"""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg2
from playwright.sync_api import Browser, Page, sync_playwright

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.processes import PROJECT, SECRET_KEY, command, environment_for, free_port
from rms_pipeline_tests.servers import embedded_postgresql, new_database

HERE = Path(__file__).parent
TOKEN = "a-token-for-these-pictures"
ROWS = 5_200
# The same engine twice, as in the tests.
PROGRAMS = ("chromium", "chromium-headless-shell")


def main() -> None:
    with (
        embedded_postgresql() as server,
        new_database(server) as url,
        SandboxServer(Store(ROWS), api_key=SECRET_KEY) as sandbox,
        tempfile.TemporaryFile() as log,
    ):
        web, dagster = free_port(), free_port()
        # As without an account.
        shown = ",".join(c.name for c in COLLECTIONS)
        environment = environment_for(url, sandbox, RMS_API_TOKEN=TOKEN, RMS_COLLECTIONS=shown)
        ports = ["--port", str(web), "--dagster-port", str(dagster)]
        arguments = [sys.executable, "-m", "rms_pipeline.cli", "up", *ports]
        up = subprocess.Popen(arguments, env=environment, cwd=PROJECT, stdout=log, stderr=log)
        try:
            wait_for_sync(url)
            where = f"http://127.0.0.1:{web}"
            command("webhooks", "register", where, environment=environment)
            work(sandbox, url)
            command("sync", "incremental", environment=environment)
            sandbox.api_key = "another"
            command("sync", "incremental", environment=environment)
            sandbox.api_key = SECRET_KEY
            command("sync", "initial", environment=environment)
            look(where)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(timeout=60)


def wait_for_sync(url: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        time.sleep(1)
        try:
            connection = psycopg2.connect(url)
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM sync_metadata WHERE status = 'completed'")
                row = cursor.fetchone()
            connection.close()
        except psycopg2.Error:
            continue
        if row and row[0]:
            return
    raise TimeoutError("no sync completed")


def work(sandbox: SandboxServer, url: str) -> None:
    """Forty edits, and webhooks of the days before."""
    dice = random.Random(5)
    ids = sandbox.store.ids()
    for _ in range(40):
        sandbox.store.edit(dice.choice(ids[-400:]), {"status": dice.choice([0, 1, 1, 5, 5, 5, 20])})
        time.sleep(0.1)
    time.sleep(5)
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        for day, count in enumerate((31, 44, 52, 12, 9, 47), 1):
            cursor.execute(
                "INSERT INTO webhook_events (action_type, subject_type, opportunity_id,"
                " received_at, processed_at)"
                " SELECT 'update', 'Opportunity', (%s::bigint[])[1 + n %% 40],"
                " now() - make_interval(days => %s), now() FROM generate_series(1, %s) AS n",
                (ids[-40:], day, count),
            )
    connection.close()


def look(where: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, PROGRAMS))),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        start = f"{where}/?token={TOKEN}"
        page = tab(browser, start)
        page.screenshot(path=HERE / "dashboard-light.png", full_page=True)
        page.goto(f"{where}/opportunities?status=Reserved&sort=starts")
        page.screenshot(path=HERE / "opportunities.png")
        for name in ("today", "calendar", "customers", "changes"):
            page.goto(f"{where}/{name}")
            page.wait_for_timeout(1000)
            page.screenshot(path=HERE / f"{name}.png")
        page.goto(f"{where}/")
        page.locator(".recent li a").first.click()
        page.screenshot(path=HERE / "opportunity.png")
        tab(browser, start, dark=True).screenshot(path=HERE / "dashboard-dark.png", full_page=True)
        tab(browser, start, phone=True).screenshot(path=HERE / "dashboard-phone.png")
        inside = f"{where}/dagster?to=/asset-groups&token={TOKEN}"
        lineage = tab(browser, inside, height=560, seconds=8)
        lineage.screenshot(path=HERE / "dagster-lineage.png")
        browser.close()


def tab(
    browser: Browser,
    url: str,
    *,
    dark: bool = False,
    phone: bool = False,
    height: int = 900,
    seconds: float = 1,
) -> Page:
    context = browser.new_context(
        viewport={"width": 390, "height": 1500} if phone else {"width": 1360, "height": height},
        color_scheme="dark" if dark else "light",
        locale="en-GB",
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(1000 * seconds)
    return page


if __name__ == "__main__":
    main()
