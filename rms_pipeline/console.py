"""Where the command prints, and what its parts all say."""

import io
import logging

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from rms_pipeline import settings as config
from rms_pipeline.logs import start_logging
from rms_pipeline.project_files import lay_out
from rms_pipeline.settings import Settings, set_environment

out = Console()
err = Console(stderr=True)
logger = logging.getLogger("rms_pipeline")
# As wide as no message is, so that none is broken into lines.
_UNBROKEN = 100_000


class _Messages(io.StringIO):
    """What a console writes to where its lines are to be JSON: each message is logged."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level, self._begun = level, ""

    def write(self, text: str) -> int:
        self._begun += text
        # A message may be printed in several pieces.
        if self._begun.endswith("\n"):
            if message := Text.from_ansi(self._begun).plain.strip():
                logger.log(self._level, message)
            self._begun = ""
        return len(text)


def log_in(log_format: config.LogFormat) -> None:
    """For a command that works, rather than answers a question: where `log_format` is JSON, all it
    prints from now on is logged, with its warnings and errors, an object a line of stdout."""
    if log_format == "text":
        return
    start_logging(log_format, logging.WARNING)
    logger.setLevel(logging.INFO)
    for console, level in ((out, logging.INFO), (err, logging.WARNING)):
        console.file = _Messages(level)
        console.width = _UNBROKEN


def tell_failure(what: str, reason: str) -> None:
    """Why the command ends without success, on stderr, or wherever it logs."""
    if isinstance(err.file, _Messages):
        logger.error("%s: %s", what, reason)
    else:
        err.print(f"[red]{what}:[/red] {escape(reason)}", highlight=False)


def announce_sandbox(current: Settings) -> None:
    """Says loudly, on stderr, that nothing here is a real account's."""
    if current.uses_sandbox:
        err.print(
            "[yellow]No account is configured: the bundled sandbox is used, with invented "
            "opportunities.[/yellow]\nSet CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY to "
            "mirror your account."
        )


def prepare(*, instance: bool = False, logs: bool = False) -> config.Settings:
    """Settings, checked; and Dagster told where its instance is configured.

    With `instance`, for a command that uses it, what Dagster needs in an empty folder is made. With
    `logs`, for one that works rather than answers, it prints as RMS_LOG_FORMAT says.
    """
    current = config.settings()
    if logs:
        log_in(current.log_format)
    current.demand_dagster_home()
    if instance:
        for made in lay_out(current.project_folder):
            err.print(f"Made {made}, which Dagster needs.", highlight=False)
    # Dagster itself reads no .env.
    set_environment({"DAGSTER_HOME": str(current.dagster_home or current.project_folder)})
    return config.settings()
