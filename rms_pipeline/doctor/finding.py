"""What a check says, and what checks know of one another."""

from dataclasses import dataclass
from enum import StrEnum

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.mirror.database import Database
from rms_pipeline.settings import Settings


class Level(StrEnum):
    """How bad it is: `problem` stops the mirror or makes it wrong, `warning` does not."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what `check` found, and what to do about it (empty when nothing, or when `found`
    says it already)."""

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
    """What the checks so far have established: `database` answers, its tables are those of this
    version (`tables_ready`), the API gave `answer`."""

    settings: Settings
    database: Database | None = None
    tables_ready: bool = False
    answer: ListAnswer | None = None

    @property
    def reached(self) -> Database:
        """The database, for checks that are only made when it answers."""
        assert self.database is not None
        return self.database
