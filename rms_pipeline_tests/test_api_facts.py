"""The table of what is taken for granted of the API names files and tests that are there; and syncs
are right with each unsure fact in its other position, and with all new ones at once."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.sync.conftest import Mirror, mirror_of
from rms_pipeline_tests.test_sync import ids_in

__all__ = ["mirror_of"]

ROOT = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/api-facts.md").read_text().splitlines()
    if line.startswith("| ") and "`rms_pipeline_tests/" in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_fact_names_code_and_a_test_that_are_there(row: list[str]) -> None:
    _, code, _, shown = row
    assert (ROOT / code.strip("`")).is_file()
    path, _, name = shown.strip("` |").partition("::")
    assert re.search(rf"^def {name}\b", (ROOT / path).read_text(), re.MULTILINE)


OTHERWISE = {
    "v1": Switches(api="v1"),
    "v2.1": Switches(api="v2.1"),
    "per_page refused": Switches(api="v2.1", per_page_over="422"),
    "unknown predicates refused": Switches(api="v2.1", unknown_predicate="422"),
    "gone is 410": Switches(api="v2.1", gone_status=410),
    "associations always": Switches(api="v2.1", nested="always"),
    "order ignored": Switches(api="v2.1", honours_sort=False),
    "ids ignored": Switches(api="v2.1", honours_id_in=False),
    "null filters ignored": Switches(api="v2.1", null_predicates="ignored"),
    "no Date": Switches(api="v2.1", tells_date=False),
    "signed links": Switches(api="v2.1", signed_links=True),
    "all at once": Switches(
        api="v2.1", unknown_predicate="ignored", signed_links=True, gone_status=410, nested="asked"
    ),
}


@pytest.mark.parametrize("switches", OTHERWISE.values(), ids=OTHERWISE.keys())
def test_every_way_of_syncing_is_right_with_each_fact_otherwise(
    mirror_of: Callable[..., Mirror],
    switches: Switches,
) -> None:
    mirror = mirror_of(Store(60), switches=switches)
    mirror.full_sync()
    ids = ids_in(mirror.store, mirror.window)
    mirror.store.edit(ids[0], {"subject": "By an incremental sync"})
    mirror.incremental_sync()
    mirror.store.edit(ids[1], {"subject": "By a webhook"})
    mirror.store.delete(ids[2])
    done = refresh(mirror.database, mirror.client(), ids[1:3], "refresh")
    assert done.gone == {ids[2]}
    mirror.store.delete(ids[3])
    mirror.full_sync()
    assert mirror.deleted() == {ids[2], ids[3]}
    rows = mirror.rows()
    assert rows[ids[0]]["name"] == "By an incremental sync"
    assert rows[ids[1]]["name"] == "By a webhook"
    assert switches.signed_links or mirror.differences() == {}
