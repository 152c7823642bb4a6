"""Batches of mutations come back from their bytes as they were, or not at all."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import LogUnreadable
from cluster.mutations.batch import Batch, batch_bytes, read_batch
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content, Mutation
from tests.support.values.mutations import CORPUS, batch, contents, delete, text_content, upsert

TEXTS = st.text(min_size=1, max_size=6)
SEEN = st.dictionaries(st.sampled_from("bcd"), st.integers(0, 99), max_size=3)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    walls = draw(st.lists(st.integers(0, 2**48), unique=True, max_size=6).map(sorted))
    mutations = [
        Mutation(
            document=draw(TEXTS),
            time=HybridTime(wall_ms, draw(st.integers(0, 2**31 - 1)), "a"),
            content=draw(st.none() | contents()),
            key=draw(st.none() | TEXTS),
            timestamp_ms=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
            seen=tuple(HybridTime(n, 0, region) for region, n in sorted(draw(SEEN).items())),
        )
        for wall_ms in walls
    ]
    first = draw(st.integers(1, 2**40))
    last = first + draw(st.integers(0, 99))
    return Batch(corpus=CORPUS, region="a", first=first, last=last, mutations=tuple(mutations))


def read(data: bytes, **expected: object) -> Batch:
    asked = {"corpus": CORPUS, "region": "a", "first": 7, "last": 7, **expected}
    return read_batch(data, source="the object", **asked)  # type: ignore[arg-type]


@given(written=batches())
def test_what_was_written_is_read(written: Batch) -> None:
    assert read(batch_bytes(written), first=written.first, last=written.last) == written


@given(written=batches())
def test_equal_batches_are_equal_bytes(written: Batch) -> None:
    data = batch_bytes(written)
    assert batch_bytes(read(data, first=written.first, last=written.last)) == data


def test_vectors_do_not_keep_the_bytes_of_all_documents() -> None:
    (mutation,) = read(batch_bytes(batch(7, upsert("x", 1)))).mutations
    assert mutation.content is not None
    vectors = mutation.content.vectors
    assert vectors is not None
    assert vectors.flags.owndata
    assert not vectors.flags.writeable


SMALL = batch_bytes(batch(7, upsert("x", 1), delete("y", 2)))


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 65, len(SMALL) // 2, len(SMALL) - 1])
def test_a_part_of_an_object_is_refused(cut: int) -> None:
    with pytest.raises(LogUnreadable, match="the object") as caught:
        read(SMALL[:cut])
    assert caught.value.position == 7


@given(place=st.integers(0, len(SMALL) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_noticed(place: int, bit: int) -> None:
    spoilt = bytearray(SMALL)
    spoilt[place] ^= 1 << bit
    with pytest.raises(LogUnreadable):
        read(bytes(spoilt))


@pytest.mark.parametrize(
    "other", [{"corpus": "notes"}, {"region": "b"}, {"first": 6}, {"first": 8, "last": 8}]
)
def test_an_object_under_the_name_of_another_is_refused(other: dict[str, object]) -> None:
    with pytest.raises(LogUnreadable, match="holds what"):
        read(SMALL, **other)


def with_hash(head: bytes, body: bytes) -> bytes:
    return head + hashlib.sha256(head + body).digest() + body


def test_a_newer_format_is_told_apart_from_damage() -> None:
    head, body = SMALL[:8] + b"\2" + SMALL[9:32], SMALL[64:]
    with pytest.raises(LogUnreadable, match="format 2 of a newer version"):
        read(with_hash(head, body))


def test_what_is_no_arrow_is_refused_though_its_hash_is_right() -> None:
    with pytest.raises(LogUnreadable, match="cannot be read"):
        read(with_hash(SMALL[:32], b"not an Arrow stream"))


@pytest.mark.parametrize(
    ("mutations", "problem"),
    [
        ((upsert("x", 2), upsert("x", 1)), "ascend"),
        ((upsert("x", 1), upsert("y", 1)), "ascend"),
        ((upsert("x", 1, "b"),), "not of the region a"),
    ],
)
def test_a_batch_holds_ascending_times_of_its_region(
    mutations: tuple[Mutation, ...], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        batch(1, *mutations)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1)])
def test_positions_ascend_from_one(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="no positions"):
        Batch(corpus=CORPUS, region="a", first=first, last=last, mutations=())


def test_passages_are_parts_of_the_text() -> None:
    content = Content(text="one two", metadata={}, cuts=((0, 3), (4, 7)))
    assert content.passages == ["one", "two"]
    assert Content(text="one", metadata={}).passages == []
    with pytest.raises(ValueError, match="no part"):
        Content(text="one", metadata={}, cuts=((1, 4),))
    with pytest.raises(ValueError, match="do not fit"):
        Content(text="one", metadata={}, cuts=((0, 3),), vectors=np.zeros((2, 4), np.float32))


VECTORS = np.ones((1, 2), dtype=np.float32)
BASE = Content(text="ab", metadata={"n": 1}, cuts=((0, 2),), vectors=VECTORS)


@pytest.mark.parametrize(
    "other",
    [
        Content(text="ac", metadata={"n": 1}, cuts=((0, 2),), vectors=VECTORS),
        Content(text="ab", metadata={"n": True}, cuts=((0, 2),), vectors=VECTORS),
        Content(text="ab", metadata={"n": 1}, cuts=((0, 1),), vectors=VECTORS),
        Content(text="ab", metadata={"n": 1}, cuts=((0, 2),), vectors=-VECTORS),
        Content(text="ab", metadata={"n": 1}, cuts=((0, 2),)),
        Content(text="ab", metadata={"n": 1}),
        Content(text="ab", metadata={}, cuts=((0, 2),), vectors=VECTORS),
        Content(text="ab", metadata={"n": 1}, cuts=((0, 2),), vectors=VECTORS, embedder="e"),
    ],
)
def test_contents_that_differ_have_other_digests(other: Content) -> None:
    assert other.digest() != BASE.digest()
    assert other != BASE


def test_a_batch_is_hardly_larger_than_its_texts_and_vectors() -> None:
    text, vectors = "some text " * 48, np.ones((2, 384), dtype=np.float32)
    metadata = {"state": "open", "number": 7}
    content = Content(text=text, metadata=metadata, cuts=((0, 200), (180, 480)), vectors=vectors)
    mutations = [
        Mutation(document=f"doc-{n}", time=HybridTime(1, n, "a"), content=content)
        for n in range(1000)
    ]
    plain_bytes = 1000 * (len(text) + vectors.nbytes)
    assert len(batch_bytes(batch(1, *mutations))) / plain_bytes < 1.04


def test_the_size_counts_text_passages_metadata_and_vectors() -> None:
    small, large = text_content("x"), text_content("é" * 1000)
    assert large.size_bytes - small.size_bytes == 1999
    assert BASE.size_bytes == len('ab{"n":1}') + 8 + 8
