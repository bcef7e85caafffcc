"""Dagster's GraphQL API, as far as launching runs needs it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests
from pydantic import SecretStr

from rms_pipeline.current_rms.loopback import session_for
from rms_pipeline.errors import RmsPipelineError

# What our own workspace.yaml calls our code. In a project of somebody else's, and on Kubernetes, it
# is what they call it.
LOCATION = "rms_pipeline"
# The tag of our jobs, which a job of the same name that is not ours has not.
_SYNC_TYPE = "rms/sync_type"
_PATIENCE_OF_ONE_CALL = 30

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
        locationOrLoadError { __typename ... on PythonError { message } }
      }
    }
  }
}
"""
_JOBS = """
query Jobs {
  repositoriesOrError {
    ... on RepositoryConnection {
      nodes { location { name } jobs { name tags { key } } }
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


@dataclass(frozen=True, slots=True)
class UnfinishedRun:
    """A run that Dagster has not seen end; its `status` changed `seconds_ago`."""

    id: str
    job: str
    status: str
    seconds_ago: float


class DagsterUnavailable(RmsPipelineError):
    """Dagster's webserver does not answer, or would not launch the run."""


def is_up(url: str) -> bool:
    """Whether Dagster's webserver at `url` answers."""
    return answers(f"{url}/server_info")


def answers(url: str) -> bool:
    """Whether a GET of `url` is answered 200."""
    try:
        with session_for(url) as session:
            return session.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def launch(
    url: str,
    job: str,
    *,
    by: str | None = None,
    token: SecretStr | None = None,
    patience: float = 30.0,
) -> str:
    """Launches `job` and returns the run's id. Waits `patience` seconds for the job to be loaded.

    `by` is who or what Dagster's UI is to name as having launched it. `token` is what a guarded
    Dagster asks for (`Sessions.dagster_token`); a plain one ignores it.

    Raises DagsterUnavailable.
    """
    deadline = time.monotonic() + patience
    # Dagster shows the tag "user" as who launched the run.
    tags = [{"key": "user", "value": by}] if by else []
    while True:
        selector = {
            "repositoryLocationName": location_of(url, job, token) or LOCATION,
            "repositoryName": "__repository__",
            "jobName": job,
        }
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
        result = _ask(url, token, _LAUNCH, {"params": params})["launchRun"]
        if result["__typename"] == "LaunchRunSuccess":
            return str(result["run"]["runId"])
        if reason := _why_not_loaded(url, token):
            raise DagsterUnavailable(
                f"Dagster at {url} could not load the code of this project: {reason}. Correct "
                "that, then reload it under Deployment in Dagster's UI."
            )
        if time.monotonic() > deadline:
            raise DagsterUnavailable(
                f"Dagster at {url} would not launch {job}: {_reason(result)}. "
                "Does RMS_DAGSTER_URL lead to this project's Dagster?"
            )
        time.sleep(1)


def location_of(url: str, job: str, token: SecretStr | None = None) -> str | None:
    """The code location that has our `job`; None while none has.

    Raises DagsterUnavailable where several have it, unless one is called as our workspace.yaml
    calls it.
    """
    found = {
        str(node["location"]["name"])
        for node in _ask(url, token, _JOBS)["repositoriesOrError"].get("nodes", [])
        for each in node["jobs"]
        if each["name"] == job and any(tag["key"] == _SYNC_TYPE for tag in each["tags"])
    }
    if len(found) > 1 and LOCATION not in found:
        raise DagsterUnavailable(
            f"Several code locations of Dagster at {url} have the job {job}: "
            f"{', '.join(sorted(found))}. Give each account a key_prefix of its own."
        )
    return LOCATION if LOCATION in found else next(iter(found), None)


def unfinished_runs(
    url: str, jobs: Sequence[str], token: SecretStr | None = None
) -> list[UnfinishedRun]:
    """The runs of our `jobs` that wait, start or go on as Dagster sees it, newest first.

    Raises DagsterUnavailable.
    """
    result = _ask(url, token, _RUNS, {"filter": {"statuses": _UNDER_WAY}})["runsOrError"]
    if result["__typename"] != "Runs":
        raise DagsterUnavailable(f"Dagster at {url} does not list its runs: {_reason(result)}.")
    found = [run for run in result["results"] if run["jobName"] in jobs]
    # The instance may be shared with code whose jobs have the same names. A run that the command
    # executes is of no code location.
    place = location_of(url, jobs[0], token) or LOCATION if found else LOCATION
    now = time.time()
    return [
        UnfinishedRun(r["runId"], r["jobName"], r["status"], now - (r["updateTime"] or now))
        for r in found
        if (r["repositoryOrigin"] or {}).get("repositoryLocationName", place) == place
    ]


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
            f"Dagster does not answer at {url}. Start it (`rms-pipeline up` does), or set "
            "RMS_DAGSTER_URL to where its UI is."
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
            f"What answers at {url} is not Dagster (HTTP {answer.status_code}). "
            "Set RMS_DAGSTER_URL to where its UI is."
        ) from None
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict) or None in data.values():
        raise DagsterUnavailable(
            f"Dagster at {url} failed: {_reason(body)}. Its log says more; is its database up?"
        )
    return data


def loaded_locations(url: str, token: SecretStr | None = None) -> set[str]:
    """The names of the code locations that Dagster at `url` knows. Raises DagsterUnavailable."""
    found = _ask(url, token, _LOCATIONS)["workspaceOrError"].get("locationEntries", [])
    return {str(entry["name"]) for entry in found}


def _bearer(token: SecretStr | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}


def _why_not_loaded(url: str, token: SecretStr | None) -> str | None:
    """What keeps our code from being loaded; None while it loads, and when it is.

    Where no code location has the name that our workspace.yaml gives it, any that failed may be it.
    """
    found = _ask(url, token, _LOCATIONS)["workspaceOrError"].get("locationEntries", [])
    ours = [entry for entry in found if entry["name"] == LOCATION] or found
    for entry in ours:
        loaded = entry["locationOrLoadError"]
        failed = loaded is not None and loaded["__typename"] == "PythonError"
        if entry["loadStatus"] == "LOADED" and failed:
            return _one_line(loaded["message"])
    return None


def _reason(answer: Any) -> str:
    """The message in an answer of GraphQL, wherever it is."""
    if isinstance(answer, dict):
        if isinstance(answer.get("message"), str):
            return _one_line(answer["message"])
        if isinstance(answer.get("errors"), list) and answer["errors"]:
            return _reason(answer["errors"][0])
        if "__typename" in answer:
            return str(answer["__typename"])
    return "it does not say why"


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")[:500]
