"""Connections to the mirror's database, and the locks that are held by them."""

import threading
import time

from rms_pipeline.mirror.database import Database, advisory_lock, is_locked
from rms_pipeline_tests.rows import query


def test_a_lock_is_held_and_waited_for_longer_than_the_server_lets_others_wait(
    database: Database,
) -> None:
    name = query(database, "SELECT current_database()")[0][0]
    for limit in ("statement_timeout", "lock_timeout", "idle_session_timeout"):
        query(database, f"ALTER DATABASE {name} SET {limit} = '400ms'")
    order: list[str] = []

    def wait_for_it() -> None:
        with advisory_lock(database, "walk", on_wait=lambda: order.append("waits")):
            order.append("has it")

    with advisory_lock(database, "walk"):
        other = threading.Thread(target=wait_for_it)
        other.start()
        time.sleep(1.2)
        assert is_locked(database, "walk")
        order.append("gives it up")
    other.join()
    assert order == ["waits", "gives it up", "has it"]
