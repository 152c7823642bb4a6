"""The settings of logs."""

from __future__ import annotations

from enum import StrEnum

from cluster.records import Record


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class LogSettings(Record):
    """The logs of a region's processes."""

    format: LogFormat = LogFormat.TEXT
    """`text`: lines to read. `json`: one JSON object a line, for a collector of logs."""
