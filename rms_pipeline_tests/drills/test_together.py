"""Syncs of every kind by the command, at the same moment."""

import contextlib
import subprocess
from datetime import UTC, datetime

from rms_pipeline.current_rms.window import Window
from rms_pipeline.sandbox import SandboxServer
from rms_pipeline_tests.conftest import with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.processes import command, environment_for, query, started
from rms_pipeline_tests.test_sync import ids_in
from rms_pipeline_tests.test_together import sandbox

__all__ = ["sandbox"]


def test_syncs_of_every_kind_at_once_take_turns_and_leave_one_truth(
    embedded_url: str, sandbox: SandboxServer
) -> None:
    with copy_of(embedded_url, with_all_tables(embedded_url)) as url:
        environment = environment_for(url, sandbox)
        assert command("sync", "initial", environment=environment).returncode == 0
        for id_ in sandbox.store.ids()[:40]:
            sandbox.store.edit(id_, {"subject": f"Renamed {id_}"})
        window = Window.around(datetime.now(UTC), days_back=30, days_ahead=365)
        for id_ in ids_in(sandbox.store, window)[-5:]:
            sandbox.store.delete(id_)
        sandbox.latency = 0.02
        kinds = ["initial", "incremental", "initial", "incremental"]
        with contextlib.ExitStack() as stack:
            children = [
                stack.enter_context(
                    started("sync", kind, environment=environment, stderr=subprocess.PIPE)
                )
                for kind in kinds
            ]
            for child in children:
                _, stderr = child.communicate(timeout=180)
                assert child.returncode == 0, stderr
        alone = query(environment, "SELECT id, name FROM opportunities ORDER BY id")
        assert command("sync", "initial", environment=environment).returncode == 0
        assert query(environment, "SELECT id, name FROM opportunities ORDER BY id") == alone
        assert query(environment, "SELECT count(*) FROM deleted_opportunities") == [(5,)]
