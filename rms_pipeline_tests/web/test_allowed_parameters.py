"""Programs are told of a parameter that is not read, since they would take all for a part."""

import pytest
from fastapi.routing import iter_route_contexts

from rms_pipeline_tests.rows import insert_opportunities
from rms_pipeline_tests.web.conftest import Web
from rms_pipeline_tests.web.page import get, visit

LISTS = [
    *("/opportunities.json", "/opportunities.csv", "/opportunities.xlsx"),
    *("/api/opportunities", "/api/opportunities/facets"),
]


def for_programs(web: Web) -> list[str]:
    """The addresses with figures for programs, of an opportunity and a customer that there are."""
    paths = {str(route.path) for route in iter_route_contexts(web.app.routes)}
    twins = {p for p in paths if p.endswith((".json", ".csv", ".xlsx"))} - {"/openapi.json"}
    filled = (p.replace("{id_}", "1").replace("{month}", "2026-05") for p in twins | {*LISTS})
    return sorted(filled)


def test_every_address_for_programs_refuses_a_parameter_that_it_does_not_read(web: Web) -> None:
    who = {"organisation_id": 1, "venue_id": 1, "owner_id": 1}
    insert_opportunities(web.database, who)
    asked = for_programs(web)
    assert len(asked) >= 20
    for path in asked:
        assert get(web, path).status_code == 200, path
        refused = get(web, f"{path}?nosuch=1", Accept="application/json")
        assert refused.status_code == 422, path
        assert refused.json()["error"].startswith("nosuch is not a parameter here."), path


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("statsu=Lost", "statsu is not a parameter here. Did you mean status?"),
        ("status=Lost&status=Dead", "status is there more than once. Give it one value."),
        ("onhire=2026-05-01&onhire=2026-05-02", "onhire is there more than once."),
        ("date=2026-05-01", "date is not a parameter here. Did you mean state?"),
    ],
)
def test_a_list_for_programs_names_what_is_wrong_where_a_page_shows_its_filters(
    web: Web, query: str, words: str
) -> None:
    for path in LISTS:
        refused = get(web, f"{path}?{query}", Accept="application/json")
        assert refused.status_code == 422, path
        assert refused.json()["error"].startswith(words), path
    assert visit(web, f"/opportunities?{query}&utm_source=mail")


def test_what_forms_and_links_send_is_known(web: Web) -> None:
    insert_opportunities(web.database, {"opportunity_status": "Lost", "tags": ["a", "b"]})
    for path in LISTS:
        for query in (
            "status=Lost&status=Lost&tag=a&tag=b&column=name&column=tags&sort=-value&page=1",
            "onhire=custom&onhire_from=2026-05-01&onhire_to=2026-05-02&q=&owner=",
        ):
            assert get(web, f"{path}?{query}").status_code == 200, (path, query)
    for address in ("/today.json?day=2026-05-01&store=1", "/changes.json?day=custom&day_from="):
        assert get(web, address).status_code == 200
