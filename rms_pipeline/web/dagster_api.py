"""The parts of Dagster's GraphQL API that launch runs and show whether Dagster works."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import requests
from pydantic import SecretStr

from rms_pipeline.current_rms.loopback import session_for
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.settings import DAGSTER_LOCATION

# In a project of somebody else's, and on Kubernetes, our code location has the name they gave it.
LOCATION = DAGSTER_LOCATION
# The tag of our jobs, which a job of the same name that is not ours has not.
_SYNC_TYPE = "rms/sync_type"
_PATIENCE_OF_ONE_CALL = 30
# Dagster's word for a code server that does not answer: it may be starting.
_AWAY = "DagsterUserCodeUnreachableError"

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on PipelineNotFoundError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on UnauthorizedError { message }
  }
}
"""
_LOCATIONS = """
query Locations {
  workspaceOrError {
    ... on Workspace {
      locationEntries {
        name
        loadStatus
        locationOrLoadError {
          __typename
          ... on PythonError { message causes { message } }
          ... on RepositoryLocation { repositories { name jobs { name tags { key } } } }
        }
      }
    }
  }
}
"""
# Dagster's words for runs that have not ended.
_UNDER_WAY = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
_RUNS = """
query Runs($filter: RunsFilter!) {
  runsOrError(filter: $filter, limit: 200) {
    __typename
    ... on Runs {
      results { runId jobName status updateTime repositoryOrigin { repositoryLocationName } }
    }
    ... on PythonError { message }
  }
}
"""
_RUN = """
query Run($run: ID!) {
  runOrError(runId: $run) {
    __typename
    ... on Run { status }
    ... on PythonError { message }
  }
}
"""
_AUTOMATION = """
query Automation($repository: RepositorySelector!) {
  repositoryOrError(repositorySelector: $repository) {
    __typename
    ... on Repository {
      schedules { name scheduleState { status } }
      sensors { name sensorState { status } }
    }
    ... on PythonError { message }
  }
}
"""
_DAEMONS = """
query Daemons {
  instance {
    daemonHealth {
      allDaemonStatuses {
        daemonType required lastHeartbeatTime lastHeartbeatErrors { message }
      }
    }
  }
}
"""
# How a run ended: somebody ended it, also in the queue; by itself; or Dagster does not have it.
End = Literal["canceled", "ended", "deleted"]


@dataclass(frozen=True, slots=True)
class UnfinishedRun:
    """A run that has not ended in Dagster. Its `status` changed `seconds_ago`. `location` is its
    code location, None if it has none."""

    id: str
    job: str
    status: str
    seconds_ago: float
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Daemon:
    """A part of Dagster's daemon that the instance needs. `heartbeat` is the Unix time of its last
    one, None if there was none. `has_errors` is whether that one reported errors."""

    name: str
    heartbeat: float | None
    has_errors: bool


@dataclass(frozen=True, slots=True)
class CodeLocation:
    """A code location: whether Dagster has finished loading it, the error ('' if there is none),
    and the names of the jobs in each repository. `syncs` are our jobs."""

    is_loaded: bool
    error: str = ""
    repositories: dict[str, list[str]] = field(default_factory=dict)
    syncs: frozenset[str] = frozenset()

    @property
    def jobs(self) -> list[str]:
        return [job for jobs in self.repositories.values() for job in jobs]

    def repository_of(self, job: str) -> str | None:
        """The name of the repository that has `job`, or None."""
        return next((name for name, jobs in self.repositories.items() if job in jobs), None)


class DagsterUnavailable(RmsPipelineError):
    """Dagster's webserver does not answer, or did not launch the run."""


def is_up(url: str) -> bool:
    """Whether Dagster's webserver at `url` answers."""
    return answers(f"{url}/server_info")


def answers(url: str) -> bool:
    """Whether a GET of `url` is answered with 200."""
    try:
        with session_for(url) as session:
            return session.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


# Dagster's words about a resource whose `EnvVar` cannot be resolved.
_UNSET = re.compile(r'environment variable "(\w+)" which is not set')
# What PostgreSQL says when its disk is full, in any language of the server.
_NO_SPACE = "DiskFull"


def launch(
    url: str,
    job: str,
    *,
    by: str | None = None,
    token: SecretStr | None = None,
    location: str | None = None,
    patience: float = 30.0,
) -> str:
    """Launches `job` and returns the id of its run.

    Waits at most `patience` seconds for the job to be loaded. `location` is the code location that
    has it; None finds it by the job. `by` is the name that Dagster's UI shows as the one who
    launched it. `token` is for a guarded Dagster (`Sessions.dagster_token`); others ignore it.
    Raises DagsterUnavailable.
    """
    deadline = time.monotonic() + patience
    # Dagster shows the tag "user" as who launched the run.
    tags = [{"key": "user", "value": by}] if by else []
    while True:
        there = code_locations(url, token)
        place = _place(url, job, location, there)
        said = "its code is not loaded yet"
        if place is not None:
            selector = {
                "repositoryLocationName": place,
                "repositoryName": there[place].repository_of(job),
                "jobName": job,
            }
            executed = {"runConfigData": {}, "executionMetadata": {"tags": tags}}
            params = {"selector": selector, **executed}
            result = _ask(url, token, _LAUNCH, {"params": params})["launchRun"]
            if result["__typename"] == "LaunchRunSuccess":
                return str(result["run"]["runId"])
            said = _reason(result)
            if unset := _UNSET.search(said):
                raise DagsterUnavailable(
                    f"Dagster at {url} did not launch {job}: the variable {unset[1]} is not set "
                    f"where the code location {place} runs. Set it there, then reload that code "
                    "location under Deployment in Dagster's UI."
                )
            if _NO_SPACE in said:
                raise DagsterUnavailable(
                    f"Dagster at {url} could not store the run of {job}: the disk of its database "
                    "is full. Free some disk space, then try again. Stored data is intact."
                )
        elif reason := why_not_loaded(there, location):
            said = reason
            if _AWAY not in reason:
                raise DagsterUnavailable(
                    f"Dagster at {url} could not load the code of this project: {reason}. Correct "
                    "that, then reload it under Deployment in Dagster's UI."
                )
        elif there and all(each.is_loaded for each in there.values()):
            raise DagsterUnavailable(why_no_job(url, job, location, there))
        if time.monotonic() > deadline:
            raise DagsterUnavailable(
                f"Dagster at {url} would not launch {job}: {said}. Check that RMS_DAGSTER_URL is "
                "the address of this project's Dagster."
            )
        time.sleep(1)


def location_of(
    url: str, job: str, token: SecretStr | None = None, *, location: str | None = None
) -> str | None:
    """The code location that has our `job`, None if none has it yet. `location` is the expected
    name, if it is known. Raises DagsterUnavailable if several have it, unless one has the name that
    our workspace.yaml uses."""
    return _place(url, job, location, code_locations(url, token))


def _place(
    url: str, job: str, location: str | None, there: Mapping[str, CodeLocation]
) -> str | None:
    if location is not None:
        found = there.get(location)
        return location if found is not None and found.repository_of(job) else None
    places = [name for name, each in there.items() if job in each.syncs]
    if len(places) > 1 and LOCATION not in places:
        raise DagsterUnavailable(
            f"Several code locations of Dagster at {url} have the job {job}: "
            f"{', '.join(sorted(places))}. Give each account its own key_prefix, and set "
            "RMS_KEY_PREFIX to it. Or name the code location in RMS_DAGSTER_LOCATION."
        )
    return LOCATION if LOCATION in places else next(iter(places), None)


def why_no_job(url: str, job: str, location: str | None, there: Mapping[str, CodeLocation]) -> str:
    """The error for a missing job: what Dagster has, and which setting is probably wrong."""
    elsewhere = [name for name, each in there.items() if each.repository_of(job)]
    if location is not None and elsewhere:
        return (
            f"Dagster at {url} has no job {job} in the code location {location}; it has it in "
            f"{_some(elsewhere)}. Set RMS_DAGSTER_LOCATION={elsewhere[0]}."
        )
    if location is not None and location not in there:
        return (
            f"Dagster at {url} has no code location {location}; it has {_some(there)}. Set "
            "RMS_DAGSTER_LOCATION to the one that has this account's jobs, or RMS_DAGSTER_URL to "
            "its Dagster."
        )
    # Those of other accounts tell most.
    own = job.rpartition("__")[2]
    jobs = {j for name, each in there.items() if location in (None, name) for j in each.jobs}
    known = _some(sorted(jobs, key=lambda name: (not name.endswith(own), name)))
    place = f" in the code location {location}" if location is not None else ""
    return (
        f"Dagster at {url} has no job {job}{place}; it has {known}. Set RMS_KEY_PREFIX to the "
        "key_prefix of this account's definitions there, or RMS_DAGSTER_URL to the Dagster that "
        "has them."
    )


def _some(names: Iterable[str], most: int = 10) -> str:
    found = list(names)
    more = f" and {len(found) - most:,} more" if len(found) > most else ""
    return (", ".join(found[:most]) or "nothing") + more


def unfinished_runs(
    url: str,
    jobs: Sequence[str],
    token: SecretStr | None = None,
    *,
    location: str | None = None,
) -> list[UnfinishedRun]:
    """The runs of our `jobs` that are queued, starting or running in Dagster, newest first.
    `location` is their code location, if it is known. Raises DagsterUnavailable."""
    found = [run for run in all_unfinished_runs(url, token) if run.job in jobs]
    # The instance may be shared with code whose jobs have the same names. A run that the command
    # executes is of no code location.
    place = location or (location_of(url, jobs[0], token) if found else None) or LOCATION
    return [run for run in found if run.location in (None, place)]


def all_unfinished_runs(url: str, token: SecretStr | None = None) -> list[UnfinishedRun]:
    """Every run that has not ended in the Dagster at `url`, also those that are not ours, newest
    first, at most 200. Raises DagsterUnavailable."""
    result = _ask(url, token, _RUNS, {"filter": {"statuses": _UNDER_WAY}})["runsOrError"]
    if result["__typename"] != "Runs":
        raise DagsterUnavailable(f"Dagster at {url} does not list its runs: {_reason(result)}.")
    now = time.time()
    return [
        UnfinishedRun(
            r["runId"],
            r["jobName"],
            r["status"],
            now - (r["updateTime"] or now),
            (r["repositoryOrigin"] or {}).get("repositoryLocationName"),
        )
        for r in result["results"]
    ]


def automation(
    url: str, job: str, token: SecretStr | None = None, *, location: str | None = None
) -> dict[str, bool] | None:
    """Whether each schedule and sensor beside our `job` is on: `schedule reconciliation` and the
    like. `location` is the expected code location, if it is known. None if none has the job yet.
    Raises DagsterUnavailable."""
    there = code_locations(url, token)
    place = _place(url, job, location, there)
    if place is None:
        return None
    repository = {
        "repositoryLocationName": place,
        "repositoryName": there[place].repository_of(job),
    }
    found = _ask(url, token, _AUTOMATION, {"repository": repository})["repositoryOrError"]
    if found["__typename"] != "Repository":
        raise DagsterUnavailable(f"Dagster at {url} does not list its schedules: {_reason(found)}.")
    return {
        f"{kind} {each['name']}": each[f"{kind}State"]["status"] == "RUNNING"
        for kind in ("schedule", "sensor")
        for each in found[f"{kind}s"]
    }


def daemons(url: str, token: SecretStr | None = None) -> list[Daemon]:
    """The daemons that the instance of the Dagster at `url` needs. Raises DagsterUnavailable."""
    health = _ask(url, token, _DAEMONS)["instance"]["daemonHealth"]
    return [
        Daemon(each["daemonType"], each["lastHeartbeatTime"], bool(each["lastHeartbeatErrors"]))
        for each in health["allDaemonStatuses"]
        if each["required"]
    ]


def end_of(url: str, run: str, token: SecretStr | None = None) -> End | None:
    """How `run` ended in Dagster. None if it has not ended. Raises DagsterUnavailable."""
    result = _ask(url, token, _RUN, {"run": run})["runOrError"]
    if result["__typename"] == "RunNotFoundError":
        return "deleted"
    if result["__typename"] != "Run":
        raise DagsterUnavailable(f"Dagster at {url} does not report a run: {_reason(result)}.")
    if result["status"] in _UNDER_WAY:
        return None
    return "canceled" if result["status"] == "CANCELED" else "ended"


def _ask(
    url: str, token: SecretStr | None, query: str, variables: dict[str, Any] | None = None
) -> dict[str, Any]:
    try:
        with session_for(url) as session:
            answer = session.post(
                f"{url}/graphql",
                json={"query": query, "variables": variables or {}},
                headers=_bearer(token),
                timeout=(5, _PATIENCE_OF_ONE_CALL),
                allow_redirects=False,
            )
    except requests.ConnectionError:
        raise DagsterUnavailable(
            f"Dagster does not answer at {url}. Start it with `rms-pipeline up`, or set "
            "RMS_DAGSTER_URL to the address of its UI."
        ) from None
    except requests.RequestException as error:
        raise DagsterUnavailable(
            f"Dagster at {url} did not answer within {_PATIENCE_OF_ONE_CALL} seconds "
            f"({type(error).__name__}). Check in its UI whether the run was launched anyway."
        ) from None
    if answer.status_code in (401, 403):
        raise DagsterUnavailable(
            f"Dagster at {url} refuses this process (HTTP {answer.status_code}). Both must have "
            "the same RMS_API_TOKEN, and RMS_DAGSTER_URL must be Dagster's own address."
        )
    try:
        body = answer.json()
    except ValueError:
        raise DagsterUnavailable(
            f"What answers at {url} is not Dagster (HTTP {answer.status_code}). Set "
            "RMS_DAGSTER_URL to the address of Dagster's UI."
        ) from None
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict) or None in data.values():
        raise DagsterUnavailable(
            f"Dagster at {url} failed: {_reason(body)}. Check its log, and check that its "
            "database is up."
        )
    return data


def code_locations(url: str, token: SecretStr | None = None) -> dict[str, CodeLocation]:
    """The code locations of the Dagster at `url`, by name. Raises DagsterUnavailable."""
    entries = _ask(url, token, _LOCATIONS)["workspaceOrError"].get("locationEntries", [])
    return {str(entry["name"]): _code_location(entry) for entry in entries}


def _code_location(entry: Mapping[str, Any]) -> CodeLocation:
    found = entry.get("locationOrLoadError") or {}
    is_loaded = entry.get("loadStatus") == "LOADED"
    if found.get("__typename") == "PythonError":
        # While it is loaded anew, what failed before means nothing.
        return CodeLocation(is_loaded, _with_its_cause(found) if is_loaded else "")
    repositories = found.get("repositories", [])
    return CodeLocation(
        is_loaded,
        repositories={
            # Dagster's own begin with underscores.
            each["name"]: [job["name"] for job in each["jobs"] if not job["name"].startswith("__")]
            for each in repositories
        },
        syncs=frozenset(
            job["name"]
            for each in repositories
            for job in each["jobs"]
            if any(tag["key"] == _SYNC_TYPE for tag in job["tags"])
        ),
    )


def _with_its_cause(error: Mapping[str, Any]) -> str:
    """The error, and the first of those that led to it: the error itself says only what Dagster
    was doing."""
    said = [error["message"], *(each["message"] for each in error.get("causes", [])[-1:])]
    return ": ".join(map(_one_line, said))


def why_not_loaded(there: Mapping[str, CodeLocation], location: str | None) -> str:
    """The error that prevents our code from being loaded. '' while it is loading and when it is
    loaded. If nobody named our code location, and none has its usual name, the error of any other
    counts."""
    ours = there.get(location or LOCATION)
    if location is not None or ours is not None:
        return ours.error if ours is not None else ""
    return next((each.error for each in there.values() if each.error), "")


def _bearer(token: SecretStr | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}


def _reason(answer: Any) -> str:
    """The error message in a GraphQL answer, wherever it is."""
    if isinstance(answer, dict):
        if isinstance(answer.get("message"), str):
            return _one_line(answer["message"])
        if isinstance(answer.get("errors"), list) and answer["errors"]:
            return _reason(answer["errors"][0])
        if "__typename" in answer:
            return str(answer["__typename"])
    return "no reason given"


def _one_line(text: str) -> str:
    # Dagster's storage adds the statement and its values, which tell people nothing.
    return " ".join(text.partition("[SQL:")[0].split()).rstrip(".")[:500]
