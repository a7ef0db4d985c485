"""The server's log: a line of JSON for each event on standard error, without anybody's texts."""

import json
import logging
import time
from typing import Any

from promptuary.errors import SettingError, nearest

LEVELS = ("debug", "info", "warning", "error")
log = logging.getLogger("promptuary.serve")


class Lines(logging.Formatter):
    """A record as a line of JSON: when, how grave, what happened, and the fields it was logged with."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def note(event: str, level: int = logging.INFO, *, trace: bool = False, **fields: Any) -> None:
    """Log an event with its fields; `trace` adds the exception that is being handled."""
    log.log(level, event, extra={"fields": fields}, exc_info=trace)


def start(level: str) -> None:
    """Send the logs of this library and of uvicorn to standard error as lines.

    Raises:
        SettingError: for an unknown level.
    """
    if level not in LEVELS:
        raise SettingError(f"--log-level {level}. {nearest(level, LEVELS)}")
    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    for name, own in (("promptuary", level), ("uvicorn", "warning")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(own.upper())
