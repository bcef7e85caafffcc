"""How a run reports why it failed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import dagster as dg
import psycopg2

from rms_pipeline.defs.compat import DagsterUserCodeProcessError, SerializableErrorInfo
from rms_pipeline.errors import RmsPipelineError, in_one_line
from rms_pipeline.mirror.postgres_errors import explain, reason

# Classes of what a server tells that stops, or lacks something; the first one when the connection
# is lost and nobody tells anything.
_OF_THE_SERVER = frozenset({"08", "40", "53", "57", "58", "XX"})


class Explained(DagsterUserCodeProcessError, dg.Failure):
    """A failure that Dagster shows as text only and does not retry.

    A person can act on the text. Dagster prints a stack around a plain `Failure`, which would hide
    the text. Dagster accepts the error of another process as it is.
    """

    def __init__(self, text: str) -> None:
        shown = SerializableErrorInfo(message=f"{text}\n", stack=[], cls_name="Failure")
        super().__init__(text, user_code_process_error_infos=[shown])  # type: ignore[no-untyped-call]
        self.allow_retries = False


@contextmanager
def explained(work: str = "sync") -> Iterator[None]:
    """Turns errors that a person can act on into the text of the failure, without a stack."""
    try:
        yield
    except RmsPipelineError as error:
        raise Explained(str(error)) from None
    except psycopg2.Error as error:
        raise Explained(in_words(error, work)) from None


def in_words(error: psycopg2.Error, work: str = "sync") -> str:
    """What PostgreSQL refused during the `work`, and what to do."""
    if told := explain(error):
        return str(told)
    if (error.pgcode or "08")[:2] in _OF_THE_SERVER:
        said = in_one_line(error) or type(error).__name__
        return (
            f"PostgreSQL failed during the {work}: {said}. Check that the server is up and its "
            f"disk has room. Stored data is intact; run the {work} again to complete it."
        )
    return (
        f"PostgreSQL refused what the {work} needs: {reason(error)}. Check whether something "
        "that was added to our tables (a rule, a trigger, a privilege) blocks it; "
        f"`rms-pipeline doctor` looks for it. Stored data is intact; run the {work} again to "
        "complete it."
    )


@runtime_checkable
class SetHere(Protocol):
    """A resource whose fields stand for settings."""

    @property
    def called(self) -> Mapping[str, str]:
        """What its fields are called, by the variables of the settings that they stand for."""


def in_names_of(text: str, resources: Iterable[object]) -> str:
    """`text` with the names of the fields that somebody set, not of variables that nobody reads."""
    for resource in resources:
        if isinstance(resource, SetHere):
            for variable, name in resource.called.items():
                text = re.sub(rf"\b{variable}\b", name, text)
    return text


@contextmanager
def told_in_names_of(*resources: object) -> Iterator[None]:
    """Errors that name settings name the fields of `resources` in their place."""
    try:
        yield
    except RmsPipelineError as error:
        error.args = (in_names_of(str(error), resources), *error.args[1:])
        raise
    except Explained as error:
        told = in_names_of(error.description or "", resources)
        if told == error.description:
            raise
        raise Explained(told) from None
