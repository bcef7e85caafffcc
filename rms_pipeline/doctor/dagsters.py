"""Are Dagster's runs and its daemon alive, and are the default schedules and sensors on?"""

import contextlib
import time
from collections.abc import Iterable, Iterator

import dagster as dg
from pydantic import SecretStr

from rms_pipeline.definitions import build_defs
from rms_pipeline.defs.compat import InstigatorStatus
from rms_pipeline.defs.instance_storage import (
    instance_of,
    keeps_history_here,
    open_instance,
    url_for_dagster,
)
from rms_pipeline.defs.run_launcher import WorkerLockCheck
from rms_pipeline.defs.run_lock import GRACE, UNDER_WAY
from rms_pipeline.doctor.finding import Examination, Finding, fine, problem, warning
from rms_pipeline.mirror.run_workers import lost_runs
from rms_pipeline.mirror.sync_runs import INITIAL
from rms_pipeline.web import dagster_api
from rms_pipeline.web.dagster_api import LOCATION, Daemon, DagsterUnavailable, UnfinishedRun
from rms_pipeline.web.sessions import Sessions
from rms_pipeline.web.tokens import existing_api_token

_QUEUED_TOO_LONG = 600.0
# The daemon writes one every 30 s.
_HEARTBEAT_WITHIN = 120.0
_QUEUED, _STARTED = dg.DagsterRunStatus.QUEUED.value, dg.DagsterRunStatus.STARTED.value
_HOW_TO_NOTICE = (
    "To have it noticed from now on, switch on run_monitoring in dagster.yaml and use a run "
    "launcher with our WorkerLockCheck (rms_pipeline/defs/run_launcher.py)."
)
_START = (
    "Start it with `rms-pipeline up` (or `dagster dev`; for a Dagster of your own, "
    "`dagster-daemon run`)."
)


def check_history(exam: Examination) -> Iterator[Finding]:
    """Where Dagster keeps its runs. The mirror does not depend on it."""
    home = exam.settings.dagster_home or exam.settings.project_folder
    if not (home / "dagster.yaml").exists():
        found = f"{home} has no dagster.yaml, so Dagster has no instance here yet."
        yield warning("history", found, "Run `rms-pipeline up` in this folder. It creates one.")
    elif keeps_history_here(instance_of(home)):
        if exam.database is not None:
            url_for_dagster(exam.database)
        yield fine("history", "Dagster keeps its runs in the mirror's database.")
    else:
        yield fine(
            "history",
            f"The Dagster of {home} keeps its runs elsewhere. The view sync_metadata shows the "
            "syncs from the mirror's own records.",
        )


def check_webserver(exam: Examination) -> Iterator[Finding]:
    """Whether RMS_DAGSTER_URL is the address of this project's Dagster, if that can be expected."""
    url, wanted, job = _asked_for(exam)
    try:
        there = dagster_api.code_locations(url, _token(exam))
    except DagsterUnavailable as error:
        if "dagster_url" in exam.settings.model_fields_set:
            yield problem("webserver", f"RMS_DAGSTER_URL is wrong, or Dagster is down: {error}")
        else:
            yield fine(
                "webserver",
                f"No Dagster webserver at {url}; `rms-pipeline up` starts one. Until then nobody "
                "can start syncs from the dashboard.",
            )
        return
    try:
        ours = dagster_api.location_of(url, job, _token(exam), location=wanted)
    except DagsterUnavailable as error:
        yield problem("webserver", str(error))
        return
    named = there.get(wanted or LOCATION)
    if ours is not None or (named is not None and not named.is_loaded):
        yield fine("webserver", f"Dagster at {url} has the jobs of this project.")
    elif reason := dagster_api.why_not_loaded(there, wanted):
        yield problem(
            "webserver",
            f"Dagster at {url} could not load the code of this project: {reason}.",
            "Correct that, then reload it under Deployment in Dagster's UI.",
        )
    elif wanted is not None or exam.settings.key_prefix:
        yield problem("webserver", dagster_api.why_no_job(url, job, wanted, there))
    else:
        yield problem(
            "webserver",
            f"Dagster at {url} has not loaded this project; it has "
            f"{', '.join(sorted(there)) or 'nothing'}.",
            "Set RMS_DAGSTER_URL to the address of this project's Dagster, or stop the other "
            "Dagster. If definitions there have a key_prefix, set RMS_KEY_PREFIX to it.",
        )


def _asked_for(exam: Examination) -> tuple[str, str | None, str]:
    """The Dagster to look for: its address, the named code location, and a job that it must
    have."""
    current = exam.settings
    return current.dagster_url, current.dagster_location, current.in_dagster(INITIAL)


def check_runs(exam: Examination) -> Iterator[Finding]:
    """Runs whose process is dead, and runs that wait too long: in this project's own instance, and
    in a Dagster elsewhere that RMS_DAGSTER_URL leads to."""
    with open_instance() as instance:
        here = _unfinished_in(instance)
        elsewhere = [run for run in _unfinished_there(exam) if not instance.has_run(run.id)]
        launcher = instance.run_launcher
        notices = isinstance(launcher, WorkerLockCheck) and instance.run_monitoring_enabled
    if notices:
        advice = (
            "Dagster's daemon (`rms-pipeline up`) ends such runs within seconds. Any "
            "`rms-pipeline sync` does so too."
        )
    else:
        advice = (
            f"The {type(launcher).__name__} of this Dagster does not notice dead runs. Run any "
            f"`rms-pipeline sync`, which ends it, or end it in Dagster's UI. {_HOW_TO_NOTICE}"
        )
    url, *_ = _asked_for(exam)
    advice_elsewhere = (
        f"Wait a minute: the Dagster at {url} may notice it by itself. If not, terminate it in its "
        f"UI. {_HOW_TO_NOTICE}"
    )
    runs = [*here, *elsewhere]
    with exam.reached.session() as connection:
        lost = lost_runs(connection, [run.id for run in runs], for_longer_than=GRACE)
    queued = [run for run in runs if run.status == _QUEUED]
    is_fine = True
    for some, what_to_do in ((here, advice), (elsewhere, advice_elsewhere)):
        dead = [run for run in some if run.id in lost and run.status != _QUEUED]
        if dead:
            is_fine = False
            yield problem(
                "runs",
                f"{_named(dead)} still marked as running, but the process died. Scheduled syncs "
                "wait for it.",
                what_to_do,
            )
    waiting = [run for run in queued if run.seconds_ago > _QUEUED_TOO_LONG]
    if waiting:
        is_fine = False
        found = f"{_named(waiting)} queued for more than 10 minutes."
        if not _silent(_daemons(exam)):
            what_to_do = (
                "Look in Dagster's UI for the run before it. If that run is stuck, terminate it."
            )
            yield warning("runs", found, what_to_do)
        else:
            yield problem(
                "runs", found, f"The daemon, which starts queued runs, is not running. {_START}"
            )
    if is_fine:
        started = sum(run.status == _STARTED for run in runs)
        yield fine("runs", f"{started:,} running, {len(queued):,} queued, none stuck.")


def _unfinished_in(instance: dg.DagsterInstance) -> list[UnfinishedRun]:
    now = time.time()
    return [
        UnfinishedRun(
            record.dagster_run.run_id,
            record.dagster_run.job_name,
            record.dagster_run.status.value,
            now - record.create_timestamp.timestamp(),
        )
        for record in instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY))
    ]


def _unfinished_there(exam: Examination) -> list[UnfinishedRun]:
    """Those of our code location in the Dagster at RMS_DAGSTER_URL. The others of a shared Dagster
    are no business of this mirror."""
    url, wanted, job = _asked_for(exam)
    token = _token(exam)
    with contextlib.suppress(DagsterUnavailable):
        place = dagster_api.location_of(url, job, token, location=wanted)
        if place is not None:
            unfinished = dagster_api.all_unfinished_runs(url, token)
            return [run for run in unfinished if run.location in (None, place)]
    return []


def check_daemon(exam: Examination) -> Iterator[Finding]:
    """Whether Dagster's daemon is alive. Without it no schedule and no queued run starts."""
    needed = _daemons(exam)
    silent = _silent(needed)
    if silent:
        since = max((each.heartbeat for each in needed if each.heartbeat), default=None)
        names = ", ".join(silent).lower()
        ago = None if since is None else time.time() - since
        if ago is None:
            found = "Dagster's daemon has never run here: schedules do not run."
        elif ago >= 0:
            found = (
                f"Dagster's daemon sent its last heartbeat {ago / 60:,.0f} min ago ({names}): "
                "schedules do not run."
            )
        else:
            found = (
                f"The last heartbeat of Dagster's daemon ({names}) is of a time that is "
                f"{-ago / 60:,.0f} min ahead of this machine's clock. A clock was or is wrong, so "
                "it shows nothing of whether the daemon is alive."
            )
        yield warning("daemon", found, _START)
    elif troubled := sorted(each.name.lower() for each in needed if each.has_errors):
        found = f"Dagster's daemon reports errors: {', '.join(troubled)}."
        yield warning("daemon", found, "See Deployment > Daemons in Dagster's UI.")
    else:
        yield fine("daemon", "Dagster's daemon is alive.")


def check_automation(exam: Examination) -> Iterator[Finding]:
    """Whether the schedules and sensors are on that are on by default."""
    repository = build_defs().get_repository_def()
    expected = {
        f"schedule {s.name}"
        for s in repository.schedule_defs
        if s.default_status is dg.DefaultScheduleStatus.RUNNING
    } | {
        f"sensor {s.name}"
        for s in repository.sensor_defs
        if s.default_status is dg.DefaultSensorStatus.RUNNING
    }
    url, wanted, job = _asked_for(exam)
    try:
        # It alone knows of a Dagster elsewhere, and of what is off there by default.
        there = dagster_api.automation(url, job, _token(exam), location=wanted)
    except DagsterUnavailable:
        there = None
    if there is not None:
        off = sorted(name for name in expected if not there.get(name, False))
    else:
        off = sorted(expected & _switched_off_here(wanted or LOCATION))
    if off:
        yield warning(
            "automation",
            f"Switched off: {', '.join(off)}.",
            "If nobody switched them off on purpose, switch them on in Dagster's UI under "
            "Automation, or with `dagster schedule start NAME` and `dagster sensor start NAME`.",
        )
    else:
        yield fine("automation", f"All {len(expected)} schedules and sensors are on.")


def _switched_off_here(location: str) -> set[str]:
    """What somebody switched off of the code location, as this instance knows."""
    with open_instance() as instance:
        states = instance.all_instigator_state(instigator_statuses={InstigatorStatus.STOPPED})
    return {
        f"{state.instigator_type.value.lower()} {state.instigator_name}"
        for state in states
        if state.origin.repository_origin.code_location_origin.location_name == location
    }


def _token(exam: Examination) -> SecretStr | None:
    token = existing_api_token(exam.settings)
    return Sessions(token).dagster_token if token else None


def _daemons(exam: Examination) -> list[Daemon]:
    """The daemons that must run: those of the Dagster at RMS_DAGSTER_URL, if it has our jobs.
    Otherwise those of this project's own instance."""
    url, wanted, job = _asked_for(exam)
    token = _token(exam)
    with contextlib.suppress(DagsterUnavailable):
        if dagster_api.location_of(url, job, token, location=wanted) is not None:
            return dagster_api.daemons(url, token)
    with open_instance() as instance:
        statuses = instance.get_daemon_statuses()
    beats = {name: status.last_heartbeat for name, status in statuses.items() if status.required}
    return [
        Daemon(name, beat and beat.timestamp, bool(beat and beat.errors))
        for name, beat in beats.items()
    ]


def _silent(daemons: Iterable[Daemon]) -> list[str]:
    now = time.time()
    return sorted(
        each.name
        for each in daemons
        # One of the future was sent when a clock was wrong, or is read when one is.
        if each.heartbeat is None or abs(now - each.heartbeat) > _HEARTBEAT_WITHIN
    )


def _named(runs: list[UnfinishedRun]) -> str:
    names = ", ".join(f"{run.job} {run.id[:8]}" for run in runs)
    return f"{names} {'is' if len(runs) == 1 else 'are'}"
