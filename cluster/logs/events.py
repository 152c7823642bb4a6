"""A line of a log is an event: a name, a sentence, and fields.

    log = EventLog(__name__)
    log.warning("blob.damaged", "{blob} was damaged; fetching it again", blob=blob)

A name stands for one sentence, or for one alert (`cluster.logs.alerts`); docs/events.md lists all.
The sentence is a literal, whose `{names}` are fields. Fields that it leaves out stand behind it.
The context in which it happens (`cluster.logs.context`) stands in every event.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.errors import RaygionError
from cluster.logs.alerts import Alert
from cluster.logs.context import CONTEXT, Value, bound_context

TEXT_MAX = 500
"""Characters of one value; more of it is cut out of its middle."""
_INT_MAX = 2**63
_CUT = " ... "
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN_WORD = re.compile(r"[\w.,:;/@+*%()-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The message of a record of `logging`, which any handler can print."""

    name: str
    sentence: str
    is_alert: bool
    context: Mapping[str, Value]
    fields: Mapping[str, Value]

    @property
    def message(self) -> str:
        """The sentence with its fields filled in."""
        return self.sentence.format_map({**self.context, **self.fields})

    def __str__(self) -> str:
        """One line, whatever the values are."""
        named = set(re.findall(r"{(\w+)", self.sentence))
        known = {**self.context, **self.fields}
        more = "".join(f" {k}={_as_word(v)}" for k, v in known.items() if k not in named)
        alert = "ALERT: " if self.is_alert else ""
        return f"{alert}{one_line(self.message)} [{self.name}{more}]"


class EventLog:
    """Writes events for one module."""

    def __init__(self, module: str) -> None:
        self._logger = logging.getLogger(module)

    def debug(self, name: str, sentence: str, /, **fields: object) -> None:
        self._write(logging.DEBUG, name, sentence, fields)

    def info(self, name: str, sentence: str, /, **fields: object) -> None:
        self._write(logging.INFO, name, sentence, fields)

    def warning(self, name: str, sentence: str, /, **fields: object) -> None:
        self._write(logging.WARNING, name, sentence, fields)

    def error(
        self,
        name: str,
        sentence: str,
        /,
        *,
        traceback_of: BaseException | None = None,
        **fields: object,
    ) -> None:
        """`traceback_of`: an error whose traceback is written, too, because it may be a bug."""
        self._write(logging.ERROR, name, sentence, fields, traceback_of=traceback_of)

    def alert(self, alert: Alert, /, **fields: object) -> None:
        """Somebody has to act on it."""
        self._write(logging.ERROR, alert.name, alert.sentence, fields, is_alert=True)

    def _write(
        self,
        level: int,
        name: str,
        sentence: str,
        fields: Mapping[str, object],
        *,
        traceback_of: BaseException | None = None,
        is_alert: bool = False,
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        known = {key: _plain(value) for key, value in fields.items()}
        event = Event(
            name=name,
            sentence=sentence,
            is_alert=is_alert,
            context=bound_context() | {k: v for k, v in known.items() if k in CONTEXT},
            fields={k: v for k, v in known.items() if k not in CONTEXT},
        )
        # The caller of the caller is where the event is written.
        self._logger.log(level, event, exc_info=traceback_of, stacklevel=3)


def one_line(text: str) -> str:
    """The text without line breaks and other control characters, which are written as escapes: a
    value from outside cannot begin a line of its own.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(text: str, length_max: int) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= length_max:
        return text
    tail = length_max // 3
    return text[: length_max - tail - len(_CUT)] + _CUT + text[-tail:]


def _plain(value: object) -> Value:
    """A value that JSON can hold, of bounded length."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -_INT_MAX <= value < _INT_MAX:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, RaygionError):
        # One that came out of an actor may print as a traceback.
        text = value.message
    elif isinstance(value, BaseException):
        text = f"{type(value).__name__}: {value}"
    else:
        text = str(value)
    return shortened(text, TEXT_MAX)


def _as_word(value: Value) -> str:
    text = str(value)
    return text if _PLAIN_WORD.fullmatch(text) else one_line(json.dumps(text, ensure_ascii=False))
