from __future__ import annotations

import numpy as np
import pytest

from cluster.documents.live_schema import LiveSchema
from cluster.documents.write_checks import (
    KEY_CHARS_MAX,
    WRITES_MAX,
    CorpusForm,
    fitted_writes,
    parse_writes,
)
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import IfVersion
from cluster.mutations.requests import DocumentWrite
from cluster.vectors.metric import Metric

TEXTS = CorpusForm(corpus="tickets", dimension=384, metric=Metric.COSINE, has_embedder=True)
VECTORS = CorpusForm(corpus="words", dimension=2, metric=Metric.COSINE, has_embedder=False)


def parse(**raw: object) -> DocumentWrite:
    (write,) = parse_writes([raw])
    if isinstance(write, InvalidArgument):
        raise write
    return write


def fitted(write: DocumentWrite, form: CorpusForm) -> DocumentWrite:
    (found,) = fitted_writes([write], form, LiveSchema({"state": ColumnType.STRING}))
    if isinstance(found, InvalidArgument):
        raise found
    return found


def test_a_document_is_read_with_all_that_it_may_have() -> None:
    write = parse(
        id="T-1",
        text="The bridge is closed.",
        metadata={"state": "open", "price": 5},
        key="k",
        if_version="1700000000000.3.eu",
        timestamp_ms=1,
    )

    assert (write.id, write.text, write.vector) == ("T-1", "The bridge is closed.", None)
    assert write.metadata == {"state": "open", "price": 5}
    assert (write.key, write.timestamp_ms) == ("k", 1)
    assert write.if_version == HybridTime(1_700_000_000_000, 3, "eu")
    assert parse(id="a", text="t", if_version="absent").if_version is IfVersion.ABSENT


def test_a_delete_has_an_id_and_no_content() -> None:
    write = parse(id="T-1", delete=True, if_version="5.0.eu")

    assert (write.id, write.text, write.metadata) == ("T-1", None, {})
    assert write.if_version == HybridTime(5, 0, "eu")


@pytest.mark.parametrize(
    ("raw", "field", "message"),
    [
        ({"text": "t"}, "id", "must be a string, not missing"),
        ({"id": "", "text": "t"}, "id", "must not be empty"),
        ({"id": "é" * 257, "text": "t"}, "id", "has more than 512 bytes"),
        ({"id": "a\0b", "text": "t"}, "id", "must not contain control characters"),
        ({"id": "a"}, "text", "must be a string, not missing"),
        ({"id": "a", "text": " \n"}, "text", "must not be empty"),
        ({"id": "a", "text": "x" * 1_000_001}, "text", "has more than 1000000 bytes"),
        ({"id": "a", "text": "\ud800"}, "text", "half of a surrogate pair"),
        ({"id": "a", "text": "t", "metadata": {"n": [1]}}, "metadata.n", "metadata is flat"),
        ({"id": "a", "text": "t", "metadata": {"1": 1}}, "metadata", "field name '1'"),
        ({"id": "a", "text": "t", "metadata": {"n": 2**63}}, "metadata.n", "fit into 64 bits"),
        ({"id": "a", "vector": [1.0, "x"]}, "vector", "must be a list of numbers"),
        ({"id": "a", "vector": [float("nan")]}, "vector", "must hold finite numbers"),
        ({"id": "a", "vector": [1e39]}, "vector", "must hold finite numbers"),
        ({"id": "a", "text": "t", "txt": 1}, "txt", "is not known; known: delete, id"),
        ({"id": "a", "delete": 1}, "delete", "must be true or false"),
        ({"id": "a", "delete": True, "text": "t"}, "text", "left out of a delete"),
        ({"id": "a", "delete": True, "metadata": {}}, "metadata", "left out of a delete"),
        ({"id": "\0", "delete": True}, "id", "must not contain control characters"),
        ({"id": "a", "text": "t", "key": ""}, "key", f"1 to {KEY_CHARS_MAX} characters"),
        ({"id": "a", "text": "t", "key": "a\nb"}, "key", "printable"),
        ({"id": "a", "text": "t", "if_version": 7}, "if_version", '"absent"'),
        ({"id": "a", "text": "t", "if_version": "7"}, "if_version", "is no version"),
        ({"id": "a", "text": "t", "timestamp_ms": -1}, "timestamp_ms", "since 1970"),
        ({"id": "a", "text": "t", "timestamp_ms": True}, "timestamp_ms", "since 1970"),
    ],
)
def test_what_is_wrong_is_refused_by_the_name_of_its_field(
    raw: dict[str, object], field: str, message: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse(**raw)

    assert error.value.field == field
    assert message in error.value.message


def test_one_wrong_document_fails_no_other() -> None:
    first, wrong, odd, last = parse_writes(
        [{"id": "a", "text": "t"}, {"id": "b"}, "c", {"id": "d", "text": "t"}]
    )

    assert isinstance(first, DocumentWrite)
    assert isinstance(wrong, InvalidArgument)
    assert isinstance(odd, InvalidArgument)
    assert odd.message == "must be an object"
    assert isinstance(last, DocumentWrite)


@pytest.mark.parametrize("count", [0, WRITES_MAX + 1])
def test_too_many_documents_or_none_are_refused_together(count: int) -> None:
    with pytest.raises(InvalidArgument, match=f"1 to {WRITES_MAX} documents") as error:
        parse_writes([{"id": "a", "text": "t"}] * count)

    assert error.value.field == "documents"


def test_one_key_of_a_request_gives_each_document_its_own() -> None:
    def keys(documents: list[dict[str, object]]) -> list[str | None]:
        found = parse_writes(documents, "order-17")
        return [write.key for write in found if isinstance(write, DocumentWrite)]

    document: dict[str, object] = {"id": "a", "text": "t"}
    assert keys([document]) == ["order-17"]
    assert keys([document, {**document, "key": "own"}, document]) == [
        "order-17/0",
        "own",
        "order-17/2",
    ]
    with pytest.raises(InvalidArgument, match="Idempotency-Key"):
        parse_writes([document], "x" * (KEY_CHARS_MAX + 1))


def test_a_vector_is_for_corpora_that_bring_theirs() -> None:
    text, vector = parse(id="a", text="t"), parse(id="a", vector=[3, 4])

    assert fitted(text, TEXTS) is not None
    assert np.array_equal(fitted(vector, VECTORS).vector, [3, 4])  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="has its texts embedded; leave the vector out"):
        fitted(parse(id="a", text="t", vector=[1, 2]), TEXTS)
    with pytest.raises(InvalidArgument, match="bring their vectors; add one of 2 numbers"):
        fitted(text, VECTORS)
    with pytest.raises(InvalidArgument, match="must have 2 numbers, as the index has; got 3"):
        fitted(parse(id="a", vector=[1, 2, 3]), VECTORS)


def test_zeros_have_no_direction_but_a_distance() -> None:
    zeros = parse(id="a", vector=[0, 0])
    by_distance = CorpusForm(corpus="words", dimension=2, metric=Metric.L2, has_embedder=False)

    with pytest.raises(InvalidArgument, match="must not be all zeros"):
        fitted(zeros, VECTORS)
    assert fitted(zeros, by_distance).vector is not None


def test_a_delete_fits_every_corpus() -> None:
    delete = parse(id="a", delete=True)

    assert fitted(delete, TEXTS) is delete
    assert fitted(delete, VECTORS) is delete


def test_types_hold_from_one_document_of_a_request_to_the_next() -> None:
    schema = LiveSchema({"state": ColumnType.STRING})
    writes = [
        parse(id="a", text="t", metadata={"team": "red"}),
        parse(id="b", text="t", metadata={"team": 7}),
        parse(id="c", text="t", metadata={"state": 7, "other": 1}),
        parse(id="d", text="t", metadata={"other": "one"}),
    ]

    kept, clash, wrong, last = fitted_writes(writes, TEXTS, schema)

    assert isinstance(kept, DocumentWrite)
    assert isinstance(clash, InvalidArgument)
    assert clash.field == "metadata.team"
    assert isinstance(wrong, InvalidArgument)
    assert wrong.field == "metadata.state"
    # The document that was refused has brought no field.
    assert isinstance(last, DocumentWrite)
    assert schema.types == {"state": ColumnType.STRING}
