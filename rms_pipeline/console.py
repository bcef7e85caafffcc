"""Where the command prints, and texts that all its parts use."""

import io
import logging
from collections.abc import Container, Sequence

from rich import box
from rich.console import Console, ConsoleDimensions
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rms_pipeline import settings as config
from rms_pipeline.logs import start_logging
from rms_pipeline.project_files import lay_out
from rms_pipeline.settings import Settings, set_environment

# As wide as no message is, so that none is broken into lines.
_UNBROKEN = 100_000
# A terminal of fewer columns has no room for lines between those of a table.
_NARROW = 60


class _Output(Console):
    """A console that breaks lines for a terminal, or where COLUMNS asks for it. In a file or a pipe
    each sentence stays on one line, where people search for it, and tables are as wide as their
    content."""

    @property
    def size(self) -> ConsoleDimensions:
        found = super().size
        if self.is_terminal or self._width is not None:
            return found
        return ConsoleDimensions(_UNBROKEN, found.height)

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        self.width, self.height = new


out = _Output()
err = _Output(stderr=True)
logger = logging.getLogger("rms_pipeline")


class _Messages(io.StringIO):
    """The stream of a console whose lines have to be JSON: each message is logged."""

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
    """For a command that works, and does not only answer a question. If `log_format` is JSON,
    everything that it prints from now on is logged with its warnings and errors, one object a line
    on stdout."""
    if log_format == "text":
        return
    start_logging(log_format, logging.WARNING)
    logger.setLevel(logging.INFO)
    for console, level in ((out, logging.INFO), (err, logging.WARNING)):
        console.file = _Messages(level)
        console.width = _UNBROKEN


def printable(text: str) -> str:
    """The text without characters that would move or colour a terminal's output. Lines stay."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def table(title: str, columns: Sequence[str], figures: Container[str] = ()) -> Table:
    """An empty table for `out`. Its columns of `figures` are never cut short: a figure without its
    last digits is another one. Where they do not fit, the others are folded."""
    made = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD if out.width < _NARROW else box.HEAVY_HEAD,
    )
    for heading in columns:
        if heading in figures:
            made.add_column(heading, justify="right", no_wrap=True)
        else:
            made.add_column(heading, overflow="fold")
    return made


def tell_failure(what: str, reason: str) -> None:
    """Prints why the command fails, on stderr or in its log. The reason may quote what others wrote
    into Current RMS."""
    reason = printable(reason)
    if isinstance(err.file, _Messages):
        logger.error("%s: %s", what, reason)
    else:
        err.print(f"[red]{what}:[/red] {escape(reason)}", highlight=False)


def announce_sandbox(current: Settings) -> None:
    """Prints on stderr that nothing here is from a real account."""
    if current.uses_sandbox:
        err.print(
            "[yellow]No account is configured, so the bundled sandbox is used. Its records are "
            "invented.[/yellow]\nSet CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY to "
            "mirror your account."
        )


def prepare(*, instance: bool = False, logs: bool = False) -> config.Settings:
    """The settings, checked. Also tells Dagster where the configuration of its instance is.

    With `instance`, for a command that uses it, missing files of Dagster are created. With `logs`,
    for a command that works, RMS_LOG_FORMAT decides how it prints.
    """
    current = config.settings()
    if logs:
        log_in(current.log_format)
    current.demand_dagster_home()
    if instance:
        for made in lay_out(current.project_folder):
            err.print(f"Made {made}, which Dagster needs.", markup=False, highlight=False)
    # Dagster itself reads no .env.
    set_environment({"DAGSTER_HOME": str(current.dagster_home or current.project_folder)})
    return config.settings()
