"""Dagster's GraphQL API, as far as launching runs needs it."""

import time

import requests

from rms_pipeline.errors import RmsPipelineError

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


class DagsterUnavailable(RmsPipelineError):
    """Dagster's webserver does not answer, or would not launch the run."""


def is_up(url: str) -> bool:
    """Whether Dagster's webserver at `url` answers."""
    return answers(f"{url}/server_info")


def answers(url: str) -> bool:
    """Whether a GET of `url` is answered 200."""
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def launch(url: str, job: str, *, patience: float = 30.0) -> str:
    """Launches `job` and returns the run's id. Waits `patience` seconds for the job to be loaded.

    Raises DagsterUnavailable.
    """
    selector = {
        "repositoryLocationName": "rms_pipeline",
        "repositoryName": "__repository__",
        "jobName": job,
    }
    variables = {"params": {"selector": selector, "runConfigData": {}}}
    deadline = time.monotonic() + patience
    while True:
        try:
            answer = requests.post(
                f"{url}/graphql", json={"query": _LAUNCH, "variables": variables}, timeout=60
            ).json()
            result = answer["data"]["launchRun"]
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise DagsterUnavailable(
                f"Dagster at {url} did not take the run ({type(error).__name__}). "
                "Is it up, and is RMS_DAGSTER_URL right?"
            ) from None
        if result["__typename"] == "LaunchRunSuccess":
            return str(result["run"]["runId"])
        if time.monotonic() > deadline:
            raise DagsterUnavailable(
                f"Dagster would not launch {job}: {result.get('message') or result}"
            )
        time.sleep(1)
