"""Every operation killed at random moments, the server restarted, the network at its worst.

After each fault the operation is run once more in peace. Then the mirror has to be equal to the
account, and every webhook that was acknowledged has to be settled. The counts are printed at the
end; --long has 60 kills of each operation.
"""

import contextlib
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline_tests.conftest import database_at, new_database
from rms_pipeline_tests.drills.conftest import Tell, end_claims
from rms_pipeline_tests.drills.test_burst import Postgres, Service, postgres
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.mirror.releases import load_release
from rms_pipeline_tests.processes import (
    COMMAND,
    SECRET_KEY,
    command,
    environment_for,
    query,
    wait_until,
)
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.web.conftest import WEBHOOK_TOKEN

__all__ = ["postgres"]

OPERATION = "rms_pipeline_tests.drills.operation"


@dataclass
class World:
    """An account, its mirror, and a chance that is the same in every run."""

    url: str
    sandbox: SandboxServer
    chance: random.Random
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = environment_for(self.url, self.sandbox, RMS_WEBHOOK_TOKEN=WEBHOOK_TOKEN)

    @property
    def store(self) -> Store:
        return self.sandbox.store

    def edit(self, count: int) -> list[int]:
        """Some are changed, one is new, one is gone; the ids of those that are changed."""
        ids = self.chance.sample(self.store.ids(), count)
        for id_ in ids:
            self.store.edit(id_, {"subject": f"Edit {self.chance.random()}"})
        self.store.create({"subject": "New", **dict.fromkeys(("starts_at", "ends_at"))})
        return ids

    def differences(self) -> dict[int, str]:
        return Mirror(database_at(self.url), self.sandbox, _no_client).differences()


def _no_client(*_: object, **__: object) -> Any:
    raise AssertionError("nobody asks the API here")


@pytest.fixture(scope="module")
def world(embedded_url: str) -> Iterator[World]:
    server = SandboxServer(Store(600), api_key=SECRET_KEY, switches=Switches(max_per_page=25))
    with server as sandbox, new_database(embedded_url) as url:
        made = World(url, sandbox, random.Random(15))
        assert command("sync", "initial", environment=made.environment).returncode == 0
        yield made


@dataclass(frozen=True)
class Operation:
    """`before` puts the world into a state in which there is something to do; `again` is what the
    next person does, by default the same."""

    arguments: tuple[str, ...]
    before: Callable[[World], object] = lambda _: None
    module: str = COMMAND
    again: tuple[tuple[str, ...], ...] = ()

    def start(self, world: World) -> Child:
        return Child(
            *(self.module, *self.arguments),
            env={**world.environment, "POSTGRES_URL_NON_POOLING": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, world: World) -> float:
        """Seconds until it had succeeded."""
        began = time.monotonic()
        with self.start(world) as process:
            assert process.wait(120) == 0
        return time.monotonic() - began


def _damage(world: World) -> None:
    with database_at(world.url).session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE opportunities SET name = 'damaged', charge_total = 1 WHERE id % 3 = 0"
        )


def _age(world: World) -> None:
    with database_at(world.url).session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE dagster.runs SET create_timestamp = create_timestamp - interval '100 days'"
        )
        cursor.execute(
            "INSERT INTO sync_faults (field, problem, run, seen_at)"
            " SELECT 'id', 'old', 'r', now() - interval '100 days' FROM generate_series(1, 2000)"
        )


OPERATIONS = {
    "full": Operation(("sync", "initial"), lambda w: w.edit(40)),
    "incremental": Operation(("sync", "incremental"), lambda w: w.edit(40)),
    "refresh": Operation(("refresh", *map(str, range(1, 40))), lambda w: w.edit(20),
                         again=(("sync", "incremental"),)),
    "reconciliation": Operation(("reconciliation",), lambda w: w.edit(40), OPERATION),
    "housekeeping": Operation(("housekeeping",), _age, OPERATION),
    "rebuild": Operation(("rebuild",), _damage),
}  # fmt: skip


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_killed_at_random_moments_is_completed_by_the_next(
    world: World, name: str, tell: Tell, long: bool
) -> None:
    operation = OPERATIONS[name]
    operation.before(world)
    lasts = operation.run(world)
    killed = ended = 0
    for _ in range(60 if long else 3):
        operation.before(world)
        with operation.start(world) as process:
            time.sleep(world.chance.uniform(0, lasts))
            if process.poll() is None:
                process.kill()
                killed += 1
            else:
                ended += 1
        operation.run(world)
        for arguments in operation.again:
            done = command(*arguments, environment=world.environment)
            assert done.returncode == 0, done.stderr
        # Whatever was killed, a sync after it finds a mirror that it can go on with.
        done = command("sync", "incremental", environment=world.environment)
        assert done.returncode == 0, done.stderr
        assert world.differences() == {}
    running = query(world.environment, "SELECT run_id FROM sync_metadata WHERE status = 'running'")
    assert running == []
    tell(f"{name}: killed {killed} times in its {lasts:.1f} s, ended before {ended} times, equal")


@pytest.mark.timeout(3_600)
def test_an_upgrade_killed_at_random_moments_is_completed_by_the_next(
    embedded_url: str, world: World, tell: Tell, long: bool
) -> None:
    lasts, killed = 0.0, 0
    kept = "SELECT count(*), count(data), (SELECT count(*) FROM sync_metadata) FROM opportunities"
    truth: list[tuple[object, ...]] = []
    for number in range(1 + (60 if long else 3)):
        with new_database(embedded_url) as url:
            load_release(url, "0006")
            upgraded = World(url, world.sandbox, world.chance)
            if number == 0:
                lasts = Operation(("migrate",)).run(upgraded)
                truth = query(upgraded.environment, kept)
                continue
            with Operation(("migrate",)).start(upgraded) as process:
                time.sleep(world.chance.uniform(0, lasts))
                killed += process.poll() is None
                process.kill()
            Operation(("migrate",)).run(upgraded)
            assert query(upgraded.environment, kept) == truth
    tell(f"migrate: killed {killed} times in its {lasts:.1f} s, rows and history there each time")


def _deliver(service: Service, number: int, id_: int) -> bool:
    action = {
        "id": number,
        "subject_id": id_,
        "subject_type": "Opportunity",
        "action_type": "update",
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
    }
    with contextlib.suppress(requests.RequestException):
        return requests.post(
            f"{service.url}/api/webhook/{WEBHOOK_TOKEN}", json={"action": action}, timeout=5
        ).ok
    return False


@pytest.mark.timeout(7_200)
def test_the_web_service_killed_in_bursts_loses_nothing_that_it_acknowledged(
    world: World, tmp_path: Path, tell: Tell, long: bool
) -> None:
    acknowledged: set[int] = set()
    edited: set[int] = set()
    number = 1_000_000
    with Service(world.environment, tmp_path / "web.log") as service:
        for _ in range(60 if long else 3):
            wait_until(service.up)
            stop = threading.Timer(world.chance.uniform(0.05, 1.0), service.kill)
            stop.start()
            while stop.is_alive():
                id_ = world.chance.choice(world.store.ids())
                world.store.edit(id_, {"subject": f"Burst {number}"})
                number += 1
                if _deliver(service, number, id_):
                    acknowledged.add(number)
                    edited.add(id_)
                else:
                    # Current RMS would deliver it again; here nobody was told of this edit.
                    edited.discard(id_)
            stop.join()
            service.start()
        wait_until(service.up)
        if not long:
            end_claims(world.url)
        waiting = "SELECT count(*) FROM webhook_events WHERE processed_at IS NULL"
        wait_until(lambda: query(world.environment, waiting) == [(0,)], timeout=150)
    kept = query(world.environment, "SELECT action_id FROM webhook_events")
    assert acknowledged <= {row[0] for row in kept}
    assert not edited & world.differences().keys()
    tell(f"burst: {len(acknowledged)} acknowledged, none lost, {len(edited)} rows equal")


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("name", ["full", "incremental", "rebuild"])
def test_a_server_that_is_restarted_in_mid_operation_costs_nothing(
    postgres: Postgres, name: str, tell: Tell, long: bool
) -> None:
    operation = OPERATIONS[name]
    with SandboxServer(Store(300), api_key=SECRET_KEY) as sandbox:
        world = World(postgres.url, sandbox, random.Random(15))
        assert command("sync", "initial", environment=world.environment).returncode == 0
        operation.before(world)
        lasts = operation.run(world)
        failed = 0
        for _ in range(20 if long else 2):
            operation.before(world)
            with operation.start(world) as process:
                time.sleep(world.chance.uniform(0, lasts))
                postgres.crash()
                postgres.start()
                failed += process.wait(120) != 0
            operation.run(world)
            assert world.differences() == {}
        tell(f"{name}: server restarted, {failed} failed and said so, equal after the next")


class BadNetwork:
    """A proxy in front of a server that stalls, drops or trickles what comes back."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self._port, self._chance = port, chance
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.did = dict.fromkeys(("stall", "drop", "trickle", "pass"), 0)
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def __enter__(self) -> "BadNetwork":
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(near,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            upward = threading.Thread(target=self._pump, args=(near, far), daemon=True)
            upward.start()
            with contextlib.suppress(OSError):
                self._answer(far, near)
            for end in (near, far):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            upward.join()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        # Who asked has gone; the server would keep its end open for the next request.
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        while data := far.recv(1 << 16):
            kinds = ("stall", "drop", "trickle", "pass")
            kind = self._chance.choices(kinds, (1, 3, 3, 93))[0]
            self.did[kind] += 1
            if kind == "stall":
                self._over.wait(3)
            elif kind == "drop":
                near.sendall(data[: len(data) // 2])
                return
            elif kind == "trickle":
                for start in range(0, len(data), 4_096):
                    near.sendall(data[start : start + 4_096])
                    self._over.wait(0.01)
                continue
            near.sendall(data)


@pytest.mark.timeout(3_600)
def test_a_network_that_stalls_drops_and_trickles_leaves_the_mirror_equal(
    world: World, tell: Tell, long: bool
) -> None:
    port = int(world.sandbox.url.split(":")[2].partition("/")[0])
    with BadNetwork(port, world.chance) as network:
        url = world.sandbox.url.replace(f":{port}/", f":{network.port}/")
        environment = {**world.environment, "CURRENT_RMS_BASE_URL": url}
        for _ in range(30 if long else 2):
            world.edit(30)
            for arguments in (("sync", "incremental"), ("sync", "initial", "--fresh")):
                done = command(*arguments, environment=environment)
                assert done.returncode == 0, done.stderr
            assert world.differences() == {}
        tell(f"network: {network.did}, equal each time")
