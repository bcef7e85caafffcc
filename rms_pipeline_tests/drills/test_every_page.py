"""Every page, in both colour schemes, from a phone to a wall, and for readers who enlarge."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from playwright.sync_api import Browser

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.browser.matrix import (
    DESK,
    LARGE,
    NARROW,
    PHONE,
    SIZES,
    WALL,
    Size,
    findings,
)
from rms_pipeline_tests.rows import insert, insert_opportunities, insert_proof, insert_sync
from rms_pipeline_tests.web.conftest import API_TOKEN, Web, serving

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
STATUS = "Waiting for the customer to confirm the deposit and insurance documents"
PATHS = (
    *("/login", "/nowhere", "/", "/today", "/today?day=2020-02-29", "/today/checks"),
    *("/today?store=1", "/opportunities?venue=is:none&owner=is:none", "/changes?day=2026-01-01.."),
    *("/opportunities", "/opportunities?q=zzzz", "/opportunities?status=Open&least=-5&tag=vip"),
    "/opportunities?column=venue&column=tags&column=out&column=back&column=reference&column=profit",
    *("/print/opportunities", "/opportunities/1", "/opportunities/2", "/opportunities/999"),
    *("/opportunities/1?as_of=2020-01-01", f"/opportunities/1?as_of={NOW.date()}"),
    *("/changes", "/changes?by=Somebody", "/find", "/find?q=gala", "/find?q=zzzz"),
    *("/customers", "/customers/1", "/customers/9999", "/venues", "/venues/1", "/owners"),
    *("/owners/1", "/calendar", "/calendar?view=week", "/calendar?view=agenda"),
    *("/calendar?by=stages", "/calendar?view=week&by=stages", "/calendar?status=zz"),
    *("/calendar/feeds", "/?statuses=pie", "/further-back"),
    *("/won-and-lost", "/won-and-lost?owner=1", "/won-and-lost/undated"),
    *(f"/won-and-lost/{NOW:%Y-%m}", f"/won-and-lost/{NOW:%Y-%m}?outcome=lost"),
    *("/compared", "/today/compared", "/customers/1/compared", "/venues/1/compared"),
    *("/owners/1/compared", "/views/1", "/counts/opportunities", "/counts/opportunities?tag=vip"),
    *("/counts/opportunities?q=zzzz", "/opportunities?from=soon", "/opportunities?field.gone=1"),
    *("/opportunities/1?as_of=soon", "/find?q=x", "/opportunities?created=last-month&sort=-value"),
)
# Answers that are no pages: parts of one, files, and ways to another page.
NO_PAGES = re.compile(
    r"/fragments/|\.(json|csv|xlsx|ics)$|/(api|dagster|metrics|healthz|openapi)\b"
)
FEW = (
    *("/", "/today", "/opportunities?status=Open&least=-5&tag=vip", "/opportunities/1"),
    *("/today/compared", "/today?store=1"),
)
# Pages that `browser/test_dashboard.py` does not look at, because it looks at one like each.
LIKE_OTHERS = (
    *("/nowhere", "/?statuses=pie", "/changes", "/further-back", "/opportunities?q=zzzz"),
    "/customers/1",
)
# Pages that it shows to no checker of accessibility: it looks only at the columns of their lists.
LISTS = ("/won-and-lost", "/customers")
# On a phone, and dark there, also all that it checks at other widths.
ON_A_PHONE = (
    *FEW,
    *LIKE_OTHERS,
    *LISTS,
    *("/login", "/find?q=gala", "/opportunities"),
)
SHORT = {
    PHONE: ON_A_PHONE,
    DESK: (*FEW, *LIKE_OTHERS, *LISTS),
    LARGE: (*FEW, "/won-and-lost"),
    NARROW: (*LIKE_OTHERS, *LISTS),
    WALL: ("/customers",),
}


@pytest.fixture
def web(emptied: Database) -> Iterator[Web]:
    names = ["Gala", "x" * 200, "כנס שנתי בתל אביב", "حفل زفاف في القاهرة", "Fête " * 30]
    insert_opportunities(
        emptied,
        *(
            {
                "name": names[i % 5],
                "number": f"{i:08}",
                "opportunity_status": ("Open", "Reserved", "Active", "Lost", STATUS, None)[i % 6],
                "state_name": "Order",
                "organisation_id": 1 + i % 5,
                "organisation_name": names[-i % 5],
                "venue_id": 1 + i % 5,
                "venue_name": names[(i + 2) % 5],
                "store_id": 1 + i % 2,
                "owner_id": 1 + i % 3,
                "owner_name": ("Ann", "y" * 100, "דנה")[i % 3],
                "starts_at": NOW + (i % 30 - 15) * DAY,
                "ends_at": NOW + (i % 30 - 15 + i % 9) * DAY,
                "show_starts_at": NOW + (i % 30 - 15) * DAY,
                "show_ends_at": NOW + (i % 30 - 14) * DAY,
                "open_ended_rental": i % 17 == 0,
                "confirmed_at": NOW - i * timedelta(hours=3),
                "created_at_rms": NOW - i * DAY,
                "updated_at_rms": NOW - i * timedelta(hours=1),
                "charge_total": Decimal(i * 1_234_567),
                "total_value": Decimal(i * 1_234_567),
                "tags": ["vip", "z" * 80],
                "reference": "PO-" + "9" * 60,
            }
            for i in range(90)
        ),
    )
    insert(
        emptied,
        "opportunity_changes",
        (
            {
                "opportunity_id": 1 + i % 40,
                "field": ("opportunity_status", "charge_total", "name", "starts_at")[i % 4],
                "old_value": ("Open", "1", "x" * 150, "2026-01-01T00:00:00Z")[i % 4],
                "new_value": (STATUS, "99999999.5", "Gala", "2026-02-01T00:00:00Z")[i % 4],
                "changed_by": ("Somebody", None, "y" * 100)[i % 3],
                "changed_at": NOW - i * timedelta(minutes=17),
            }
            for i in range(120)
        ),
    )
    insert(
        emptied,
        "webhook_events",
        (
            {
                "action_id": i,
                "action_type": "update",
                "subject_type": "Opportunity",
                "opportunity_id": 1,
                "received_at": NOW - i * DAY,
                "dead_at": NOW if i % 2 else None,
                "error": "The record was refused: " + "w" * 120 if i % 2 else None,
            }
            for i in range(6)
        ),
    )
    # A view whose list is no more: those that are lead to their list.
    insert(
        emptied,
        "saved_views",
        [{"collection": "opportunities", "id": 1, "name": "x" * 90, "query": "field.gone=1"}],
    )
    insert_proof(emptied)
    insert_sync(emptied, "one", status="failed", ago=600, error="e" * 300, in_dagster=False)
    refresh_status_counts(emptied, "UTC")
    with SandboxServer(Store(1)) as sandbox, serving(emptied, sandbox) as served:
        yield served


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "size" not in metafunc.fixturenames:
        return
    sizes = SIZES if metafunc.config.getoption("--long") else tuple(SHORT)
    metafunc.parametrize("size", sizes, ids=[size.name for size in sizes])


def test_no_page_has_an_accessibility_finding_scrolls_sideways_or_is_cut(
    web: Web, chromium: Browser, long: bool, size: Size
) -> None:
    paths = PATHS if long else SHORT[size]
    found = list(findings(chromium, web.url, paths, size, API_TOKEN, all_rules=long))
    assert not found, "\n".join(["", *found])


def test_each_page_is_among_those_that_are_looked_at(web: Web) -> None:
    looked_at = {path.partition("?")[0] for path in PATHS}
    left_out = []
    for route in iter_route_contexts(web.app.routes):
        path = route.path or ""
        if isinstance(route.original_route, APIRoute) and "GET" in (route.methods or ()):
            pattern = re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(path))
            if not NO_PAGES.search(path) and not any(re.fullmatch(pattern, p) for p in looked_at):
                left_out.append(path)
    assert not left_out
