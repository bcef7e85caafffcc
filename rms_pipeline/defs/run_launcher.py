"""Run launchers that notice when the process of a run has died, for `dagster.yaml`.

Dagster's run monitoring asks the launcher every few seconds about each started run of the instance.
Without an answer, a run whose process was killed stays started for ever, and every later sync waits
for it.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import psycopg2
from dagster import DagsterRun, DefaultRunLauncher

from rms_pipeline.defs.compat import (
    CheckRunHealthResult,
    ConfigurableClassData,
    ResumeRunContext,
    WorkerStatus,
)
from rms_pipeline.defs.run_lock import DEAD_RUN_MESSAGE, died_unseen, is_dead, is_own
from rms_pipeline.errors import in_one_line
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.run_workers import EXPECTED_WITHIN, expect_worker, was_seen
from rms_pipeline.mirror.sync_runs import declare_dead
from rms_pipeline.settings import settings, settings_of

if TYPE_CHECKING:
    from rms_pipeline.defs.compat import RunLauncher as _Launcher
else:
    _Launcher = object

logger = logging.getLogger(__name__)


class WorkerLockCheck(_Launcher):
    """Adds the check to any launcher: `class Mine(WorkerLockCheck, SomeRunLauncher): ...`.

    A run is dead if its worker had announced itself and then lost its lock without an end. For
    every other run, and for ours between two steps, the launcher itself is asked, if it can answer.
    Otherwise the run is left alone. If the launcher does not know (Celery forgets a task when its
    results are lost, and does not know one that waits), a run that was seen of late lives.

    A launcher that resumes runs may take a while to start the new process. Until then the run is
    not dead.
    """

    @property
    def mirrors(self) -> Sequence[Database]:
        """The mirrors whose runs this instance can have: by default that of the settings of this
        process."""
        return [open_database(settings())]

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if self._declared_dead(run):
            return CheckRunHealthResult(WorkerStatus.FAILED, DEAD_RUN_MESSAGE)
        if not super().supports_check_run_worker_health:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        found = super().check_run_worker_health(run)
        if found.status is WorkerStatus.FAILED and self._declared_dead(run, grace=timedelta(0)):
            # The launcher was first to see it, and has no words for it that help anybody.
            return CheckRunHealthResult(WorkerStatus.FAILED, DEAD_RUN_MESSAGE)
        if found.status is WorkerStatus.UNKNOWN and self._was_seen(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return found

    def resume_run(self, context: ResumeRunContext) -> None:
        run = context.dagster_run
        for database in self.mirrors:
            with _if_it_answers(run), database.session() as connection:
                expect_worker(connection, run.run_id)
        super().resume_run(context)

    def _declared_dead(self, run: DagsterRun, **how: timedelta) -> bool:
        """Whether a mirror knows that `run` is dead. If so, its own row says it too."""
        for database in self.mirrors:
            with _if_it_answers(run):
                if is_dead(database, run, **how):
                    with database.session() as connection:
                        declare_dead(connection, [run.run_id])
                    return True
        return False

    def _was_seen(self, run: DagsterRun) -> bool:
        for database in self.mirrors:
            with _if_it_answers(run), database.session() as connection:
                if was_seen(connection, run.run_id, within=EXPECTED_WITHIN):
                    return True
        return False


@contextlib.contextmanager
def _if_it_answers(run: DagsterRun) -> Iterator[None]:
    """A mirror that has no tables yet, or is away, is logged and passed over. The runs of other
    mirrors are judged nevertheless."""
    try:
        yield
    except (psycopg2.Error, DatabaseError) as error:
        told = in_one_line(error)
        logger.warning(
            "A mirror did not answer whether the worker of run %s is alive: %s", run.run_id, told
        )


class UnannouncedRunCheck(WorkerLockCheck):
    """Adds the check to a launcher that believes for ever that a started run lives.

    A run of our own code location is also dead if no process of it was seen for five minutes.
    """

    @property
    def own_mirror(self) -> Database | None:
        """The mirror of the settings, if our own code location has runs in this instance."""
        return open_database(settings())

    def resume_run(self, context: ResumeRunContext) -> None:
        run, own = context.dagster_run, self.own_mirror
        if own is not None and is_own(run):
            with _if_it_answers(run), own.session() as connection:
                expect_worker(connection, run.run_id, is_ours=True)
        super().resume_run(context)

    def _declared_dead(self, run: DagsterRun, **how: timedelta) -> bool:
        return super()._declared_dead(run, **how) or self._died_unseen(run)

    def _died_unseen(self, run: DagsterRun) -> bool:
        own = self.own_mirror
        if own is None:
            return False
        try:
            return died_unseen(own, self._instance, run)
        except (psycopg2.Error, DatabaseError):
            # `_declared_dead` has logged why.
            return False


class LockedRunLauncher(UnannouncedRunCheck, DefaultRunLauncher):
    """Dagster's default launcher with the check. This project's `dagster.yaml` names it. For
    another Dagster instance, `mirrors` names the databases of the accounts."""

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        mirrors: Sequence[Database] = (),
    ) -> None:
        super().__init__(inst_data)
        self._mirrors = mirrors

    @property
    def mirrors(self) -> Sequence[Database]:
        return self._mirrors or super().mirrors

    @property
    def own_mirror(self) -> Database | None:
        return None if self._mirrors else super().own_mirror

    @classmethod
    def config_type(cls) -> Any:
        mirror = {
            "url": dg.Field(dg.StringSource, description="The `url` of its Mirror."),
            "url_non_pooling": dg.Field(dg.Noneable(dg.StringSource), is_required=False),
            "schema": dg.Field(dg.StringSource, default_value="public"),
        }
        return {
            "mirrors": dg.Field(
                [mirror],
                is_required=False,
                description="The mirrors whose runs this instance has. Without it, the mirror of "
                "the process's settings.",
            )
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "LockedRunLauncher":
        return cls(inst_data, [_mirror(**each) for each in config_value.get("mirrors", ())])


def _mirror(url: str, schema: str, url_non_pooling: str | None = None) -> Database:
    """Raises SettingsError, which says what is wrong."""
    names = {"postgres_url": "url", "schema_name": "schema"}
    return open_database(
        settings_of(
            names,
            postgres_url=url,
            schema_name=schema,
            **({"postgres_url_non_pooling": url_non_pooling} if url_non_pooling else {}),
        )
    )
