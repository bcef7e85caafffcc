"""How a process that serves writes its log: for people, or a JSON object a line for programs."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from rms_pipeline.settings import LogFormat

_FIELDS = {"asctime": "time", "levelname": "level", "name": "logger"}


def start_logging(log_format: LogFormat) -> None:
    """From now on everything is logged to stderr as text, or to stdout as JSON.

    A line of JSON has `time` (UTC, ISO 8601), `level`, `logger`, `message`, and `exc_info` where
    something was raised.
    """
    if log_format == "text":
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=_FIELDS, timestamp="time")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
