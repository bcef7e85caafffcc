"""What a check reports, and what checks know of each other."""

from dataclasses import dataclass
from enum import StrEnum

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.mirror.database import Database
from rms_pipeline.settings import Settings


class Level(StrEnum):
    """How bad it is: a `problem` stops the mirror or makes it wrong, a `warning` does not."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what `check` found, and what to do (empty if there is nothing to do, or if `found`
    already says it)."""

    check: str
    level: Level
    found: str
    advice: str = ""


def fine(check: str, found: str) -> Finding:
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Level.WARNING, found, advice)


def problem(check: str, found: str, advice: str = "") -> Finding:
    return Finding(check, Level.PROBLEM, found, advice)


@dataclass(slots=True)
class Examination:
    """What earlier checks found: `database` answers, its tables are those of this version
    (`tables_ready`), and the API gave `answer`."""

    settings: Settings
    database: Database | None = None
    tables_ready: bool = False
    answer: ListAnswer | None = None

    @property
    def reached(self) -> Database:
        """The database, for checks that need it to answer."""
        assert self.database is not None
        return self.database
