"""Instances of Dagster that keep their history in files, with fewer steps for each event.

Dagster's storage in files makes an engine for every event, opens the file, and takes both down
again. That was a third of the processor time of tests of runs. Here a file keeps its engine and one
connection until the instance ends. The files, their tables and all statements are Dagster's.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage


@contextlib.contextmanager
def history_in_files(folder: Path) -> Iterator[dg.DagsterInstance]:
    """An instance whose files are in `folder`."""
    engines = dict[str, sqlalchemy.Engine]()

    def kept(url: str, *, poolclass: object, **options: Any) -> sqlalchemy.Engine:
        if url not in engines:
            engines[url] = sqlalchemy.create_engine(url, pool_size=1, max_overflow=-1, **options)
            # Dagster calls it after every event.
            engines[url].dispose = lambda close=True: None  # type: ignore[method-assign]
        return engines[url]

    with pytest.MonkeyPatch.context() as changes:
        for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
            changes.setattr(module, "create_engine", kept)
        try:
            with dg.instance_for_test(temp_dir=str(folder)) as instance:
                yield instance
        finally:
            for engine in engines.values():
                sqlalchemy.Engine.dispose(engine)
