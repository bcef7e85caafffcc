"""How a run says why it failed."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import psycopg2

from rms_pipeline.errors import RmsPipelineError


@contextmanager
def explained(work: str = "sync") -> Iterator[None]:
    """Errors that a person can act on become the failure's text, without a stack around them."""
    try:
        yield
    except RmsPipelineError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except psycopg2.OperationalError as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise dg.Failure(
            f"PostgreSQL failed during the {work}: {said}. Check that the server is up and its "
            f"disk has room. What was stored is whole; run the {work} again to complete it.",
            allow_retries=False,
        ) from None
