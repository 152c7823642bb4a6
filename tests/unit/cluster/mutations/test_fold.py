"""The fold of the logs: whatever the order of arrival, equal watermarks are equal documents."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy, Versions, merged
from cluster.mutations.fold import DocumentFold, digest_of
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Mutation
from cluster.mutations.watermark import Watermark
from tests.support.values.mutations import batch, delete, upsert
from tests.support.worlds.writing_regions import DOCUMENTS, REGIONS, histories

POLICIES = st.sampled_from(ConflictPolicy)
LOGS = POLICIES.flatmap(lambda policy: st.tuples(st.just(policy), histories(policy)))
SEEDS = st.integers(0, 2**32)


def folded(policy: ConflictPolicy, batches: list[Batch]) -> DocumentFold:
    fold = DocumentFold(policy)
    for each in batches:
        assert fold.apply(each)
    return fold


def contents(fold: DocumentFold) -> dict[str, Versions]:
    return {document: fold.versions(document) for document in DOCUMENTS}


def in_some_order(logs: dict[str, list[Batch]], seed: int) -> list[Batch]:
    """All batches, each region's in the order of its log, the regions mixed."""
    rng = random.Random(seed)
    turns = [region for region, log in logs.items() for _ in log]
    rng.shuffle(turns)
    left = {region: iter(log) for region, log in logs.items()}
    return [next(left[region]) for region in turns]


@given(history=LOGS, one=SEEDS, other=SEEDS)
def test_the_order_of_regions_does_not_matter(
    history: tuple[ConflictPolicy, dict[str, list[Batch]]], one: int, other: int
) -> None:
    policy, logs = history
    first = folded(policy, in_some_order(logs, one))
    second = folded(policy, in_some_order(logs, other))
    assert first.watermark == second.watermark
    assert contents(first) == contents(second)
    assert first.digest == second.digest == digest_of(first.live())


@given(history=LOGS, seed=SEEDS)
def test_lost_late_doubled_and_overtaken_batches_do_no_harm(
    history: tuple[ConflictPolicy, dict[str, list[Batch]]], seed: int
) -> None:
    """Deliveries in any order; what is told to be missing is read from the log in the end."""
    policy, logs = history
    rng = random.Random(seed)
    sent = [each for log in logs.values() for each in log]
    arrived = rng.choices(sent, k=2 * len(sent)) if sent else []
    fold = DocumentFold(policy)
    for each in arrived:
        before = fold.position(each.region)
        was_next = each.last == before + 1
        assert fold.apply(each) is (each.last <= before + 1)
        assert fold.position(each.region) == before + was_next
        assert fold.digest == digest_of(fold.live())
    for each in in_some_order(logs, seed):
        assert fold.apply(each)
    assert contents(fold) == contents(folded(policy, in_some_order(logs, 0)))


@given(history=LOGS, data=st.data())
def test_single_mutations_merge_in_any_order_and_number(
    history: tuple[ConflictPolicy, dict[str, list[Batch]]], data: st.DataObject
) -> None:
    """Commutative, associative and idempotent, without the help of positions in a log."""
    policy, logs = history
    of_x = [m for log in logs.values() for b in log for m in b.mutations if m.document == "x"]
    shuffled = data.draw(st.permutations(of_x + of_x))
    assert merge_all(policy, shuffled) == merge_all(policy, of_x)


def merge_all(policy: ConflictPolicy, mutations: list[Mutation]) -> Versions:
    versions: Versions = ()
    for mutation in mutations:
        versions = merged(policy, versions, mutation)
    return versions


@given(history=LOGS, seed=SEEDS)
def test_equal_watermarks_on_the_way_are_equal_digests(
    history: tuple[ConflictPolicy, dict[str, list[Batch]]], seed: int
) -> None:
    policy, logs = history
    digests: dict[Watermark, str] = {}
    for order in (seed, seed + 1):
        fold = DocumentFold(policy)
        for each in in_some_order(logs, order):
            assert fold.apply(each)
            assert digests.setdefault(fold.watermark, fold.digest) == fold.digest


ORDERS = list(itertools.permutations(range(3)))


def winner(policy: ConflictPolicy, order: tuple[int, ...], *mutations: Mutation) -> Versions:
    return merge_all(policy, [mutations[n] for n in order])


@pytest.mark.parametrize("order", ORDERS)
def test_the_last_writer_wins_and_a_delete_is_a_write(order: tuple[int, ...]) -> None:
    one, two, three = upsert("x", 1, "a"), delete("x", 2, "b"), upsert("x", 3, "c", "new")
    assert winner(ConflictPolicy.LAST_WRITER, order, one, two, three) == (three,)
    two_late = delete("x", 4, "b")
    assert winner(ConflictPolicy.LAST_WRITER, order, one, two_late, three) == (two_late,)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_writers_of_one_moment_are_ordered_by_their_regions(order: tuple[int, ...]) -> None:
    of_a, of_b = upsert("x", 5, "a", "one"), upsert("x", 5, "b", "two")
    assert winner(ConflictPolicy.LAST_WRITER, order, of_a, of_b) == (of_b,)


def stamped(wall_ms: int, timestamp_ms: int | None, region: str = "a") -> Mutation:
    return Mutation(
        document="x",
        time=HybridTime(wall_ms, 0, region),
        content=None,
        timestamp_ms=timestamp_ms,
    )


@pytest.mark.parametrize("order", ORDERS)
def test_the_callers_time_may_count_instead(order: tuple[int, ...]) -> None:
    late_but_old = stamped(9, 1)
    early_but_new, equal_but_later = stamped(1, 20), stamped(2, 20, "b")
    three = (late_but_old, early_but_new, equal_but_later)
    assert winner(ConflictPolicy.TIMESTAMP, order, *three) == (equal_but_later,)


@pytest.mark.parametrize("policy", [ConflictPolicy.VERSION_VECTOR, ConflictPolicy.MANUAL])
@pytest.mark.parametrize("order", ORDERS)
def test_what_did_not_know_of_each_other_stays_until_somebody_has_seen_both(
    policy: ConflictPolicy, order: tuple[int, ...]
) -> None:
    of_a, of_b = upsert("x", 1, "a", "one"), upsert("x", 2, "b", "two")
    both = merge_all(policy, [of_b, of_a])
    assert both == (of_a, of_b)
    resolved = Mutation(
        document="x", time=HybridTime(3, 0, "a"), content=of_a.content, seen=seen_with(both)
    )
    assert winner(policy, order, of_a, of_b, resolved) == (resolved,)


def seen_with(versions: Versions) -> tuple[HybridTime, ...]:
    return tuple(version.time for version in versions)


def test_conflicts_are_found_and_all_their_versions_are_live() -> None:
    fold = folded(
        ConflictPolicy.MANUAL,
        [batch(1, upsert("x", 1), upsert("y", 2)), batch(1, upsert("x", 3, "b"), region="b")],
    )
    assert list(fold.conflicts()) == ["x"]
    assert sorted(version.document for version in fold.live()) == ["x", "x", "y"]


def test_a_delete_takes_the_document_out_of_the_digest() -> None:
    fold = folded(ConflictPolicy.LAST_WRITER, [batch(1, upsert("x", 1))])
    other = folded(ConflictPolicy.LAST_WRITER, [batch(1, upsert("x", 1), upsert("y", 2))])
    assert fold.digest != other.digest
    assert other.apply(batch(2, delete("y", 3)))
    assert fold.digest == other.digest


def test_a_digest_tells_versions_and_contents_apart() -> None:
    digests = {
        digest_of(mutations)
        for mutations in (
            [],
            [upsert("x", 1)],
            [upsert("x", 2)],
            [upsert("x", 1, "b")],
            [upsert("y", 1)],
            [upsert("x", 1, text="other")],
            [upsert("x", 1), upsert("y", 2)],
            [upsert("x", 2), upsert("y", 1)],
        )
    }
    assert len(digests) == 8


@given(history=histories(ConflictPolicy.LAST_WRITER), cut=st.integers(0, 20), seed=SEEDS)
def test_a_delete_is_forgotten_only_when_nothing_older_can_come(
    history: dict[str, list[Batch]], cut: int, seed: int
) -> None:
    order = in_some_order(history, seed)
    fold = folded(ConflictPolicy.LAST_WRITER, order[:cut])
    stable = fold.stable_time(REGIONS)
    if stable is not None:
        fold.forget_deletes(stable)
    for each in order[cut:]:
        assert fold.apply(each)
    whole = folded(ConflictPolicy.LAST_WRITER, order)
    assert fold.digest == whole.digest
    assert set(fold.live()) == set(whole.live())


def test_deletes_are_kept_for_a_region_that_may_still_be_behind() -> None:
    fold = folded(
        ConflictPolicy.LAST_WRITER,
        [batch(1, upsert("x", 1), delete("x", 5)), batch(1, upsert("y", 4, "b"), region="b")],
    )
    assert fold.stable_time("abc") is None
    assert fold.stable_time([]) is None
    assert fold.stable_time("ab") == HybridTime(4, 0, "b")
    assert fold.forget_deletes(HybridTime(4, 0, "b")) == 0
    assert fold.apply(batch(2, upsert("x", 3, "b"), region="b"))
    assert fold.versions("x") == (delete("x", 5),)
    assert fold.forget_deletes(HybridTime(5, 0, "b")) == 1
    assert fold.versions("x") == ()


@pytest.mark.parametrize("policy", sorted(set(ConflictPolicy) - {ConflictPolicy.LAST_WRITER}))
def test_other_policies_keep_their_deletes(policy: ConflictPolicy) -> None:
    fold = folded(policy, [batch(1, delete("x", 1))])
    assert fold.forget_deletes(HybridTime(9, 0, "a")) == 0
    assert fold.versions("x") == (delete("x", 1),)
