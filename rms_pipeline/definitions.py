"""What Dagster loads here: `defs`, the account of the settings. Other code locations use
`rms_pipeline.build_defs`."""

import multiprocessing
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import dagster as dg

from rms_pipeline.defs import build
from rms_pipeline.settings import settings

# How long runs at work may go on, in seconds, once their code server is told to end. Most are done
# sooner; docs/how-to/operate.md promises that all is over within 30.
DRAIN = 20.0

# Dagster passes this itself when it binds a sensor to its job; nobody can act on the warning.
warnings.filterwarnings("ignore", "Parameter `owners` of initializer `SensorDefinition")


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """All definitions of this code location. `resource_overrides` replaces resources by key."""
    found = build.build_defs(key_prefix=settings().key_prefix)
    return dg.Definitions(
        assets=found.assets,
        jobs=found.jobs,
        schedules=found.schedules,
        sensors=found.sensors,
        resources={**(found.resources or {}), **(resource_overrides or {})},
        # For "Materialize all", too.
        executor=dg.in_process_executor,
    )


@cache
def end_runs_with_the_code_server() -> None:
    """Makes a code server end within a limit after SIGTERM: runs that take longer than `DRAIN` are
    ended.

    Without this it waits for its runs, for hours if necessary, and is killed with them. Nothing is
    lost: pages are stored completely, and the next sync continues with them. Does nothing in any
    other process.
    """
    if sys.argv[1:3] != ["api", "grpc"] or multiprocessing.parent_process() is not None:
        return
    if threading.current_thread() is not threading.main_thread():
        # Loaded late: only the main thread may ask for signals.
        return
    # Dagster sets handlers of its own again and again; this hears of signals beside them.
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_end_runs_at_a_signal, args=(heard,), daemon=True).start()


def _end_runs_at_a_signal(heard: socket.socket) -> None:
    while signal.SIGTERM not in heard.recv(64):
        pass
    over = time.monotonic() + DRAIN
    while multiprocessing.active_children() and time.monotonic() < over:
        time.sleep(0.2)
    for run in multiprocessing.active_children():
        run.kill()


@dg.definitions
def defs() -> dg.Definitions:
    """Only Dagster asks for this. A wrong setting must not prevent the import of this module."""
    end_runs_with_the_code_server()
    return build_defs()
