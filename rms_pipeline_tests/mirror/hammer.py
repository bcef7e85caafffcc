"""A process that asks for calls without end: URL, account, limit, and a lane for each thread.

It prints the lane and the machine's monotonic clock (s) at each call. All processes share that
clock.
"""

import sys
import threading
import time

from pydantic import SecretStr

from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror.budget import SharedBudget
from rms_pipeline.mirror.database import Database


def hammer(budget: SharedBudget, lane: Lane) -> None:
    while True:
        budget.acquire(lane)
        sys.stdout.write(f"{lane.value} {time.monotonic()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    url, account, limit, *lanes = sys.argv[1:]
    shared = SharedBudget(Database(SecretStr(url), SecretStr(url)), account, int(limit))
    for name in lanes:
        threading.Thread(target=hammer, args=(shared, Lane(name))).start()
