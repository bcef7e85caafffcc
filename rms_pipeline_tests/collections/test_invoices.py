"""Invoices are a declaration alone."""

import json
from collections.abc import Callable

import msgspec

from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.walks import watermarks
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.sandbox.world.invoices import INVOICES_AN_OPPORTUNITY
from rms_pipeline_tests.core import full_sync, proved_sync
from rms_pipeline_tests.rows import query


def test_they_are_mirrored_whole_and_proved_and_follow_what_becomes_of_them(
    emptied: Database, client_for: Callable[..., CurrentRmsClient]
) -> None:
    with SandboxServer(Store(900)) as sandbox:
        client = client_for(sandbox.url, collection=INVOICES)
        client.now = emptied.clock()
        done = full_sync(emptied, client, None)
        assert done.settled.certificate.shown, done.settled.certificate.sentence
        found = query(emptied, "SELECT id, data, status, organisation_id FROM invoices")
        answer = client.list_records(())
        assert len(found) == answer.page.meta.total_row_count > 3
        rows = {id_: (data, status, customer) for id_, data, status, customer in found}
        for raw in answer.page.records:
            record = msgspec.json.decode(raw)
            assert rows[record["id"]] == (
                json.loads(bytes(raw)), record["status"], record["member_id"]
            )  # fmt: skip
        # Its opportunity goes, and it with that.
        sandbox.store.delete(min(rows) // INVOICES_AN_OPPORTUNITY)
        with emptied.session() as connection:
            since = watermarks(connection, INVOICES)
        _, _, proof = proved_sync(emptied, client, since)
        assert proof is not None
        assert proof.shown, proof.sentence
        left = query(emptied, "SELECT count(*) FROM invoices")
        assert left == [(client.list_records(()).page.meta.total_row_count,)]
