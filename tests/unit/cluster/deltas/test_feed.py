"""The feed: whoever follows it, from whenever on, holds what the fold holds at that version."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cluster.deltas.changes import Changes
from cluster.deltas.feed import Feed
from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.fold import DocumentFold
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.watermark import HeldMutations, Watermark
from tests.support.values.mutations import batch, delete, upsert
from tests.support.worlds.writing_regions import DOCUMENTS, REGIONS, histories

POLICIES = st.sampled_from(ConflictPolicy)
Documents = dict[str, HybridTime]
"""The versions of the documents that exist."""


def new_feed() -> Feed:
    numbers = itertools.count(1)
    return Feed(lambda: f"epoch {next(numbers)}")


def documents_of(fold: DocumentFold) -> Documents:
    current = {document: fold.versions(document)[-1:] for document in DOCUMENTS}
    return {d: kept[0].time for d, kept in current.items() if kept and kept[0].content is not None}


class Follower:
    """Holds the changes that it was told, over a base."""

    def __init__(self) -> None:
        self.base: Documents = {}
        self.epoch, self.version = "", 0
        self.told: dict[str, HybridTime | None] = {}

    def take(self, changes: Changes) -> None:
        assert changes.after in (0, self.version)
        if changes.after == 0:
            self.told = {}
        for change in changes.changes:
            self.told[change.document] = None if change.content is None else change.time
        self.epoch, self.version = changes.epoch, changes.version

    def documents(self) -> Documents:
        over = self.base | self.told
        return {document: time for document, time in over.items() if time is not None}


class Region:
    """A fold and its feed, which is made anew when the process dies, and the base of all."""

    def __init__(self, policy: ConflictPolicy, logs: dict[str, list[Batch]]) -> None:
        self._policy = policy
        self._left = {region: list(log) for region, log in logs.items()}
        self._taken: list[Batch] = []
        self._held = HeldMutations()
        self._epochs = itertools.count(1)
        self.base: Documents = {}
        self.at_version: dict[tuple[str, int], Documents] = {}
        self.watermarks: dict[tuple[str, int], Watermark] = {}
        self.start()

    def start(self) -> None:
        self.fold = DocumentFold(self._policy)
        self.feed = Feed(lambda: f"epoch {next(self._epochs)}")
        self.feed.hold(self._held, self._held)
        for each in self._taken:
            assert self.fold.apply(each)
        self._publish()

    def read(self, region: str, objects: int) -> None:
        for _ in range(min(objects, len(self._left[region]))):
            self._taken.append(self._left[region].pop(0))
            assert self.fold.apply(self._taken[-1])
        self._publish()

    def forget(self) -> None:
        stable = self.fold.stable_time(REGIONS)
        if stable is not None:
            self.fold.forget_deletes(stable)

    def compact(self) -> None:
        """All bases hold what there is, and the feed drops it."""
        self.base = documents_of(self.fold)
        self._held = self.fold.taken
        self.feed.hold(self._held, self._held)
        self._note()

    def _publish(self) -> None:
        self.feed.take(self.fold.take_changed(), self.fold.watermark)
        self._note()

    def _note(self) -> None:
        at = (self.feed.position.epoch, self.feed.position.version)
        assert self.at_version.setdefault(at, documents_of(self.fold)) == documents_of(self.fold)
        self.watermarks[at] = self.fold.watermark


STEPS = st.one_of(
    st.tuples(st.just("read"), st.sampled_from(REGIONS), st.integers(1, 3)),
    st.tuples(st.just("poll"), st.integers(0, 2), st.just(0)),
    st.tuples(st.sampled_from(["forget", "compact", "die"]), st.just(0), st.just(0)),
)


@given(
    history=POLICIES.flatmap(lambda policy: st.tuples(st.just(policy), histories(policy))),
    steps=st.lists(STEPS, max_size=25),
)
def test_a_follower_holds_what_the_fold_holds(
    history: tuple[ConflictPolicy, dict[str, list[Batch]]], steps: list[tuple[str, str | int, int]]
) -> None:
    region = Region(*history)
    followers = [Follower() for _ in range(3)]
    for step, what, number in [*steps, *(("poll", n, 0) for n in range(3))]:
        match step, what:
            case "read", str():
                region.read(what, number)
            case "poll", int():
                follower = followers[what]
                # Its base is loaded anew whenever it likes: what is dropped is in all of them.
                follower.base = region.base
                changes = region.feed.since(follower.epoch, follower.version)
                assert region.feed.is_news(follower.epoch, follower.version) or not changes.changes
                follower.take(changes)
                at = (follower.epoch, follower.version)
                assert follower.documents() == region.at_version[at]
                assert changes.watermark == region.watermarks[at]
            case "forget", _:
                region.forget()
            case "compact", _:
                region.compact()
            case _:
                region.start()


def fed(*batches: Batch) -> tuple[Feed, DocumentFold]:
    feed, fold = new_feed(), DocumentFold(ConflictPolicy.LAST_WRITER)
    for each in batches:
        fold.apply(each)
        feed.take(fold.take_changed(), fold.watermark)
    return feed, fold


def test_each_document_comes_once_as_it_was_last() -> None:
    feed, _ = fed(batch(1, upsert("x", 1), upsert("y", 2)), batch(2, delete("x", 3)))
    everything = feed.since("another epoch", 7)
    assert (everything.after, everything.version) == (0, 2)
    assert [(c.document, c.content is None) for c in everything.changes] == [
        ("y", False),
        ("x", True),
    ]
    assert [c.document for c in feed.since(everything.epoch, 1).changes] == ["x"]
    assert feed.since(everything.epoch, 2).changes == ()


def test_it_counts_rows_and_bytes() -> None:
    feed, fold = fed(batch(1, upsert("x", 1, text="four"), upsert("y", 2)))
    size_bytes = feed.size_bytes
    assert feed.num_rows == 2
    assert size_bytes > 2 * len("four")
    fold.apply(batch(2, delete("x", 3)))
    feed.take(fold.take_changed(), fold.watermark)
    assert feed.num_rows == 2, "the delete hides a document of the base"
    assert feed.size_bytes == size_bytes / 2
    assert (feed.unheld_rows, feed.unheld_bytes) == (2, feed.size_bytes)
    feed.hold(HeldMutations(), fold.taken)
    assert (feed.num_rows, feed.unheld_rows, feed.unheld_bytes) == (2, 0, 0)
    fold.apply(batch(3, upsert("y", 4), upsert("z", 5, text="four")))
    feed.take(fold.take_changed(), fold.watermark)
    assert (feed.num_rows, feed.unheld_rows) == (3, 2)
    feed.hold(fold.taken, fold.taken)
    assert (feed.num_rows, feed.size_bytes) == (0, 0)
    assert (feed.unheld_rows, feed.unheld_bytes) == (0, 0)


def test_what_is_known_is_no_change() -> None:
    first, second = batch(1, upsert("x", 1)), batch(2, upsert("y", 2))
    feed, _ = fed(first, second)
    anew = DocumentFold(ConflictPolicy.LAST_WRITER)
    for each in (first, second, batch(3, upsert("y", 3))):
        anew.apply(each)
    feed.take(anew.take_changed(), anew.watermark)
    assert [c.document for c in feed.since(feed.position.epoch, 2).changes] == ["y"]
    before = feed.position
    feed.take({}, before.watermark)
    assert feed.position == before


def test_a_watermark_without_changes_is_a_version() -> None:
    feed, fold = fed(batch(1, upsert("x", 5)))
    fold.apply(batch(1, upsert("x", 1, "b"), region="b"))
    feed.take(fold.take_changed(), fold.watermark)
    assert feed.position.version == 2
    assert feed.since(feed.position.epoch, 1).changes == ()


def test_a_reading_is_told_without_a_version() -> None:
    feed, _ = fed(batch(1, upsert("x", 1)))
    feed.has_read(500)
    feed.has_read(400)
    assert (feed.position.version, feed.position.read_ms) == (1, 500)


def test_a_state_is_found_by_its_watermark() -> None:
    feed, _ = fed(batch(1, upsert("x", 1)), batch(2, upsert("y", 2)), batch(3, upsert("z", 3)))
    assert feed.version_at(Watermark.of({"a": 2})) == 2
    assert feed.version_at(Watermark.of({"a": 9, "b": 4})) == 3
    assert feed.version_at(Watermark.of({"b": 4})) == 0


def test_a_change_says_since_when_the_document_is_not_as_the_base_has_it() -> None:
    feed = new_feed()
    for version, document in enumerate(["a", "b", "a"], start=1):
        changed = {document: (upsert(document, version),)}
        feed.take(changed, Watermark.of({"a": version}))
    changes = feed.since(feed.position.epoch, 2)
    assert [(change.document, change.since) for change in changes.changes] == [("a", 1)]
