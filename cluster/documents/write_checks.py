"""The documents of a request to write, each checked by itself: one that is wrong fails no other.

    {"id": "T-1", "text": "...", "metadata": {"state": "open"}, "if_version": "absent"}
    {"id": "T-2", "delete": true}

A document is checked as an ingest checks it, and against the corpus as it is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.documents.documents import DocumentOrigin, parse_document
from cluster.documents.live_schema import LiveSchema
from cluster.errors import InvalidArgument
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import IfVersion
from cluster.mutations.requests import DocumentWrite
from cluster.quoting import quoted
from cluster.vectors.checks import norms
from cluster.vectors.metric import Metric

WRITES_MAX = 1_000
"""Documents of one request."""
KEY_CHARS_MAX = 256
_TIMESTAMP_MS_MAX = 2**53
_CONTENT_KEYS = frozenset({"text", "metadata", "vector"})
_ORIGIN = DocumentOrigin(source="document")
KNOWN_KEYS = _CONTENT_KEYS | {"id", "delete", "key", "if_version", "timestamp_ms"}


def parse_writes(
    documents: Sequence[object], key: str | None = None
) -> list[DocumentWrite | InvalidArgument]:
    """The writes of a request, or the error of each that is none, in order.

    `key`: the idempotency key of the whole request. A single document has it as its own; of several
    the first has `{key}/0`, the next `{key}/1`..., so that the same request sent once more writes
    nothing twice. A document that brings a key keeps that one. Errors name the field within the
    document. Raises InvalidArgument for too many documents, for none, and for a key that is none.
    """
    if not 1 <= len(documents) <= WRITES_MAX:
        raise InvalidArgument(
            f"must be 1 to {WRITES_MAX} documents; send several requests", "documents"
        )
    if key is not None:
        _parse_key(key, "Idempotency-Key")
    writes: list[DocumentWrite | InvalidArgument] = []
    for number, raw in enumerate(documents):
        own_key = key if key is None or len(documents) == 1 else f"{key}/{number}"
        try:
            write = _parse_write(raw)
        except InvalidArgument as error:
            writes.append(error)
        else:
            writes.append(write if write.key is not None else replace(write, key=own_key))
    return writes


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusForm:
    """The form that the documents of a corpus have, as the release says that is served."""

    corpus: str
    dimension: int
    metric: Metric
    has_embedder: bool
    """False where documents bring their vectors."""


def fitted_writes(
    writes: Sequence[DocumentWrite], form: CorpusForm, schema: LiveSchema
) -> Iterator[DocumentWrite | InvalidArgument]:
    """The writes as the corpus takes them, or the error of each that it does not take, in order.

    Metadata fit the fields of `schema` and those of the writes before; `schema` is not changed.
    """
    schema = schema.copy()
    for write in writes:
        if write.text is None:
            yield write
            continue
        try:
            _check_vector(write, form)
            metadata = schema.fitted(write.metadata)
        except InvalidArgument as error:
            yield error
        else:
            schema.learn(metadata)
            yield replace(write, metadata=metadata)


def _parse_write(raw: object) -> DocumentWrite:
    if not isinstance(raw, Mapping):
        raise InvalidArgument("must be an object")
    unknown = next((key for key in raw if key not in KNOWN_KEYS), None)
    if unknown is not None:
        known = ", ".join(sorted(KNOWN_KEYS))
        raise InvalidArgument(f"is not known; known: {known}", quoted(str(unknown)))
    deletes = raw.get("delete", False)
    if not isinstance(deletes, bool):
        raise InvalidArgument("must be true or false", "delete")
    if deletes and (given := sorted(_CONTENT_KEYS & raw.keys())):
        raise InvalidArgument("must be left out of a delete, which has no content", given[0])
    try:
        # Of a delete the id is all that is checked.
        document = parse_document({"text": "-", **raw} if deletes else raw, _ORIGIN)
    except InvalidArgument as error:
        message = error.message.removeprefix(f"{_ORIGIN}: ")
        raise InvalidArgument(message, error.field) from None
    return DocumentWrite(
        id=document.id,
        text=None if deletes else document.text,
        metadata=document.metadata,
        vector=document.vector,
        key=_parse_key(raw.get("key"), "key"),
        if_version=_parse_if_version(raw.get("if_version")),
        timestamp_ms=_parse_timestamp_ms(raw.get("timestamp_ms")),
    )


def _parse_key(value: object, field: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= KEY_CHARS_MAX:
        raise InvalidArgument(f"must be a string of 1 to {KEY_CHARS_MAX} characters", field)
    if not value.isprintable():
        raise InvalidArgument("must be of printable characters", field)
    return value


def _parse_if_version(value: object) -> HybridTime | Literal[IfVersion.ABSENT] | None:
    if value is None:
        return None
    if value == IfVersion.ABSENT:
        return IfVersion.ABSENT
    if not isinstance(value, str):
        raise InvalidArgument('must be the version of a document, or "absent"', "if_version")
    return HybridTime.parse(value, "if_version")


def _parse_timestamp_ms(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _TIMESTAMP_MS_MAX:
        raise InvalidArgument("must be milliseconds since 1970, an integer", "timestamp_ms")
    return value


def _check_vector(write: DocumentWrite, form: CorpusForm) -> None:
    """Raises InvalidArgument where the write has a vector and should not, or the other way round,
    or one that cannot be compared with those of the corpus.
    """
    if form.has_embedder:
        if write.vector is not None:
            raise InvalidArgument(
                f"corpus {form.corpus!r} has its texts embedded; leave the vector out", "vector"
            )
        return
    if write.vector is None:
        raise InvalidArgument(
            f"corpus {form.corpus!r} has documents that bring their vectors; add one of "
            f"{form.dimension} numbers",
            "vector",
        )
    if len(write.vector) != form.dimension:
        raise InvalidArgument(
            f"must have {form.dimension} numbers, as the index has; got {len(write.vector)}",
            "vector",
        )
    if form.metric is Metric.COSINE and not norms(write.vector[None])[0]:
        raise InvalidArgument("must not be all zeros, which have no direction", "vector")
