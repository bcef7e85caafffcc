"""An upgrade while programs of an earlier release go on beside the new ones.

What the old ones do then is right, or refused in one sentence. Their code comes from this
repository's history. Where that is not here (a shallow clone), the release's stored dump is
upgraded instead, and the drill says that no old code was run.
"""

import time
from pathlib import Path
from typing import Any

import pytest
import requests

from rms_pipeline.mirror.schema import HEAD
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import new_database
from rms_pipeline_tests.drills.conftest import Tell
from rms_pipeline_tests.drills.test_burst import Service
from rms_pipeline_tests.earlier import LANDED, Old, has_history
from rms_pipeline_tests.mirror.releases import load_release
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    SECRET_TOKEN,
    command,
    environment_for,
    query,
    wait_until,
)
from rms_pipeline_tests.web.conftest import WEBHOOK_TOKEN, delivery

# The short form has the newest one whose tables were others.
OFTEN = max(schema for schema in LANDED if schema < HEAD)
SIGNED_IN = {"Authorization": f"Bearer {SECRET_TOKEN}"}


def rows(environment: dict[str, str]) -> dict[Any, Any]:
    return dict(query(environment, "SELECT id, data ->> 'subject' FROM opportunities"))  # type: ignore[arg-type]


def told_in_words(text: str) -> None:
    """A refusal: a sentence and no trace of the code."""
    assert "Traceback" not in text, text
    assert "newer version of this program" in text or "Error:" in text, text


@pytest.mark.parametrize("release", LANDED)
def test_old_and_new_side_by_side_are_right_or_refuse_in_one_sentence(
    release: str, embedded_url: str, tmp_path: Path, tell: Tell, long: bool
) -> None:
    commit = LANDED[release]
    if not long and release != OFTEN:
        # test_releases.py upgrades what each of the others left.
        return
    if not has_history(commit):
        with new_database(embedded_url) as url:
            load_release(url, release)
            with SandboxServer(Store(1), api_key=SECRET_KEY) as sandbox:
                done = command("migrate", environment=environment_for(url, sandbox))
            assert done.returncode == 0, done.stderr
        tell(f"side by side: {release} upgraded from its dump; NO OLD CODE was run, for {commit} "
             "is not in this clone's history")  # fmt: skip
        return
    store = Store(600)
    with (
        new_database(embedded_url) as url,
        SandboxServer(store, api_key=SECRET_KEY) as sandbox,
    ):
        environment = environment_for(
            url, sandbox, RMS_WEBHOOK_TOKEN=WEBHOOK_TOKEN, RMS_API_TOKEN=SECRET_TOKEN
        )
        folder = tmp_path / "old"
        folder.mkdir()
        old = Old(commit, folder, environment)
        done = old.run("sync", "initial")
        assert done.returncode == 0, done.stderr
        assert query(environment, "SELECT version_num FROM rms_pipeline_alembic_version") == [
            (release,)
        ]
        log = tmp_path / "old.log"
        with old.serving(log) as old_url:
            sandbox.latency = 0.3
            walking = old.start("sync", "initial")
            wait_until(lambda: query(environment, "SELECT 1 FROM walks WHERE completed_at IS NULL"))
            planned = command("migrate", "--plan", environment=environment)
            assert planned.returncode == 0, planned.stderr + planned.stdout
            if release != HEAD:
                assert "connections of rms_pipeline are open now" in planned.stdout
            began = time.monotonic()
            migrated = command("migrate", environment=environment)
            took = time.monotonic() - began
            assert migrated.returncode == 0, migrated.stderr
            sandbox.latency = 0
            _, err = walking.communicate(timeout=240)
            if walking.returncode:
                told_in_words(err)
            with Service(environment, tmp_path / "new.log") as new:
                wait_until(new.up)
                asked = pages(old_url)
                accepted = edit_and_deliver(sandbox, [old_url, new.url])
                wait_until(
                    lambda: (
                        {i: s for i, s in rows(environment).items() if i in accepted} == accepted
                    ),
                    timeout=60,
                )
                beside = old.run("sync", "incremental")
                if release == HEAD:
                    assert beside.returncode == 0, beside.stderr
                else:
                    assert beside.returncode == 1, beside.stdout
                    told_in_words(beside.stderr)
                    assert f"(schema {HEAD}" in beside.stderr
            done = command("sync", "incremental", environment=environment)
            assert done.returncode == 0, done.stderr
            done = command("sync", "initial", environment=environment)
            assert done.returncode == 0, done.stderr
        mirrored = rows(environment)
        assert len(mirrored) > 300
        assert {i: (store.get(i) or {}).get("subject") for i in mirrored} == mirrored
        tell(
            f"side by side: from {release} to {HEAD} in {took:.1f} s; the old sync under way "
            f"{'was refused' if walking.returncode else 'ended well'}; of {asked[0]} pages of the "
            f"old service {asked[1]} were shown; of 20 webhooks {len(accepted)} were taken, and "
            "all of those are in their rows"
        )


def pages(url: str) -> tuple[int, int]:
    """Asks the old service for what people and programs ask: how many, and how many were shown."""
    shown = 0
    addresses = ("/", "/opportunities", "/healthz", "/api/sync/status", "/metrics")
    for address in addresses:
        answer = requests.get(url + address, headers=SIGNED_IN, timeout=30)
        assert "Traceback" not in answer.text
        # 0.1.0 cannot read the new sync_metadata (CHANGELOG.md), and says that something is wrong.
        assert answer.ok or "rms-pipeline doctor" in answer.text, answer.text
        shown += answer.ok
    return len(addresses), shown


def edit_and_deliver(sandbox: SandboxServer, urls: list[str]) -> dict[int, str]:
    """Twenty edits, told to each service in turn: the subjects that rows should have, of those that
    were acknowledged."""
    accepted = {}
    for n, id_ in enumerate(sandbox.store.ids()[:20]):
        subject = f"Edited beside {n}"
        sandbox.store.edit(id_, {"subject": subject})
        answer = requests.post(
            f"{urls[n % 2]}/api/webhook/{WEBHOOK_TOKEN}", json=delivery(90_000 + n, id_), timeout=30
        )
        if answer.ok:
            accepted[id_] = subject
        else:
            assert n % 2 == 0, "the new service takes every event"
            assert "Traceback" not in answer.text
    assert len(accepted) >= 10
    return accepted
