"""How a record of `logging` becomes a line: text to read, or JSON.

    2026-11-30T15:26:08.123Z INFO preparing release 7 [release.preparing region=eu]

    {"time": "2026-11-30T15:26:08.123Z", "level": "INFO",
     "logger": "actors.coordinator.loading.region_releases", "event": "release.preparing",
     "message": "preparing release 7", "region": "eu", "release": 7}

Besides, `fields` holds further values of the event, and `exception` a traceback.
A record of another library is no event: it has the context, but neither `event` nor `fields`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from cluster.logs.context import bound_context
from cluster.logs.events import Event, one_line, shortened
from cluster.logs.settings import LogFormat

MESSAGE_MAX = 4_000
EXCEPTION_MAX = 16_000
"""Characters of a traceback."""


class TextFormatter(logging.Formatter):
    """A line, and the lines of a traceback below it, each of which is indented."""

    def format(self, record: logging.LogRecord) -> str:
        message = one_line(shortened(record.getMessage(), MESSAGE_MAX))
        source = "" if isinstance(record.msg, Event) else f"{record.name}: "
        line = f"{_time(record)} {record.levelname} {source}{message}"
        lines = [line, *("    " + one_line(x) for x in _exception(self, record).split("\n") if x)]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object in ASCII, without the keys that have no value."""

    def format(self, record: logging.LogRecord) -> str:
        event = record.msg if isinstance(record.msg, Event) else None
        message = record.getMessage() if event is None else event.message
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "event": None if event is None else event.name,
            "alert": True if event is not None and event.is_alert else None,
            "message": shortened(message, MESSAGE_MAX),
            **(bound_context() if event is None else event.context),
            "fields": (event.fields or None) if event is not None else None,
            "exception": _exception(self, record) or None,
        }
        return json.dumps({key: value for key, value in entry.items() if value is not None})


FORMATTERS: Mapping[LogFormat, type[logging.Formatter]] = {
    LogFormat.TEXT: TextFormatter,
    LogFormat.JSON: JsonFormatter,
}


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info:
        return ""
    return shortened(formatter.formatException(record.exc_info), EXCEPTION_MAX)
