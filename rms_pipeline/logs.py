"""How our processes write their logs: as text for people, or as one JSON object a line for
programs."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from rms_pipeline.settings import LogFormat

_FIELDS = {"asctime": "time", "levelname": "level", "name": "logger"}


def json_handler() -> logging.Handler:
    """Writes to stdout. A line has `time` (UTC, ISO 8601), `level`, `logger`, `message`, and
    `exc_info` if there was an exception."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=_FIELDS, timestamp="time")
    )
    return handler


def start_logging(log_format: LogFormat, level: int = logging.INFO) -> None:
    """From now on all logs go to stderr as text, or to stdout as JSON."""
    if log_format == "text":
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    else:
        logging.basicConfig(level=level, handlers=[json_handler()])
