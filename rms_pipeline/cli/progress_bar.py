"""The progress bar of a sync, which reads the progress from the database.

It is the same for every process that runs the sync: this one, or a worker of Dagster.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.progress import read_progress

_STAGES = {
    "fetching": ("Fetching from Current RMS", "pages"),
    "storing": ("Storing in PostgreSQL", "pages"),
    "decoding": ("Decoding rows again", "batches"),
}


class _RecordsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        records = task.fields.get("records", 0)
        rate = records / task.elapsed if task.elapsed else 0
        return Text(f"{records:,} records, {rate:,.0f}/s", style="cyan")


@contextmanager
def sync_progress(database: Database, run: str, console: Console) -> Iterator[None]:
    """Draws the progress of `run` on `console` inside the context."""
    done = threading.Event()
    thread = threading.Thread(target=_draw, args=(database, run, console, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _draw(database: Database, run: str, console: Console, done: threading.Event) -> None:
    with (
        database.session() as connection,
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} {task.fields[unit]}"),
            _RecordsPerSecond(),
            TimeRemainingColumn(compact=True),
            console=console,
        ) as bar,
    ):
        tasks = {
            stage: bar.add_task(text, total=1, visible=False, start=False, unit=unit)
            for stage, (text, unit) in _STAGES.items()
        }
        while True:
            finished = done.is_set()
            progress = read_progress(connection, run)
            if progress is not None:
                if progress.stage == "storing":
                    before = bar.tasks[tasks["fetching"]]
                    bar.update(tasks["fetching"], completed=before.total)
                    bar.stop_task(tasks["fetching"])
                task = tasks[progress.stage]
                bar.start_task(task)
                bar.update(
                    task,
                    visible=True,
                    completed=progress.pages,
                    total=progress.pages_expected,
                    records=progress.records,
                )
            if finished:
                return
            done.wait(0.25)
