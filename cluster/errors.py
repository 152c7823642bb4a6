"""Every error that Raygion raises on purpose.

    RaygionError
    |- InvalidArgument     the caller's input is wrong; names the field        (400)
    |  `- ContextLengthExceeded  the prompt exceeds the model's context       (400)
    |- NotFound            no such thing in the store                          (404)
    |- TooLarge            the request body exceeds the limit                  (413)
    |- UnsupportedMedia    the request body is encoded in another way          (415)
    |- Unauthenticated     the bearer key is missing or wrong                  (401)
    |- Conflict            somebody else was first; refresh and try again      (409)
    |- NotYet              no region meets the asked consistency in time       (409)
    |- Fenced              a higher epoch leads; stop acting                   (409)
    |- Overloaded          a bounded queue is full; come back later            (503)
    |- ClockAhead          a write's time is too far ahead of this clock       (503)
    |- Unavailable         a part that is needed does not answer now           (503)
    |- DeadlineExceeded    the time that the caller gave is over               (504)
    |- OutcomeUnknown      the write may or may not have landed; read back     (500)
    `- Corrupt             bytes from the store do not match their hash        (500)
       `- LogUnreadable    an entry of a log cannot be read                    (500)

A class of its own exists only where the caller acts differently. `code` is the word on the wire,
`retryable` tells whether the same request may succeed later. All arguments go to
`super().__init__`, so that errors survive pickling on their way out of an actor; a test pickles
each class.
"""

from __future__ import annotations

from typing import ClassVar


class RaygionError(Exception):
    """Root of the tree. `message` is written for the user: what is wrong and what to do."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


OWN_FAULTS = frozenset({"internal", "corrupt", "outcome_unknown", "unauthenticated"})
"""Codes of errors that are no fault of the request: another region may well answer it."""


class InvalidArgument(RaygionError):
    """The caller's input is wrong. `field` is the path of the offending part, such as
    `filter.region`.
    """

    code = "invalid_argument"
    http_status = 400

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.args = (message, field)
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class ContextLengthExceeded(InvalidArgument):
    """The prompt does not fit into the model's context, and may not be cut: ask for less."""

    code = "context_length_exceeded"


class NotFound(RaygionError):
    code = "not_found"
    http_status = 404


class TooLarge(RaygionError):
    code = "too_large"
    http_status = 413


class UnsupportedMedia(RaygionError):
    code = "unsupported_media"
    http_status = 415


class Unauthenticated(RaygionError):
    code = "unauthenticated"
    http_status = 401


class Conflict(RaygionError):
    code = "conflict"
    retryable = True
    http_status = 409


class NotYet(RaygionError):
    """No region that may answer has the release yet that the caller has seen or asks for."""

    code = "not_yet"
    retryable = True
    http_status = 409


class Fenced(RaygionError):
    code = "fenced"
    http_status = 409


class Overloaded(RaygionError):
    """A bounded queue is full. `retry_after_s` goes into the Retry-After header."""

    code = "overloaded"
    retryable = True
    http_status = 503

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.args = (message, retry_after_s)
        self.retry_after_s = retry_after_s


class ClockAhead(RaygionError):
    """The time of a write is `ahead_ms` ahead of this machine's clock, more than clocks may differ:
    a write made now would not count as later than it.
    """

    code = "clock_ahead"
    retryable = True
    http_status = 503

    def __init__(self, message: str, ahead_ms: int = 0) -> None:
        super().__init__(message)
        self.args = (message, ahead_ms)
        self.ahead_ms = ahead_ms


class Unavailable(RaygionError):
    code = "unavailable"
    retryable = True
    http_status = 503


class DeadlineExceeded(RaygionError):
    code = "deadline_exceeded"
    retryable = True
    http_status = 504


class OutcomeUnknown(RaygionError):
    code = "outcome_unknown"


class Corrupt(RaygionError):
    code = "corrupt"


class LogUnreadable(Corrupt):
    """An entry of the log cannot be read, and the entries after it are not known: go on with the
    state before it, and change nothing.
    """

    code = "log_unreadable"

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.args = (message, position)
        self.position = position
