"""Idempotency keys: known for their time and up to their number, and no longer."""

from __future__ import annotations

from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.recent_keys import KnownKey, RecentKeys, fingerprint
from tests.support.values.mutations import text_content


def known(wall_ms: int, region: str = "a") -> KnownKey:
    return KnownKey(HybridTime(wall_ms, 0, region), wall_ms, b"")


def test_a_key_is_known_for_its_time_by_the_times_in_the_log() -> None:
    keys = RecentKeys(kept_ms=100)
    keys.add("first", known(1000))
    keys.add("last", known(1100))
    assert keys.get("first") == known(1000)
    keys.add("later", known(1101))
    assert keys.get("first") is None
    assert keys.get("last") == known(1100)
    assert keys.get("other") is None


def test_an_old_key_that_comes_late_is_not_known() -> None:
    keys = RecentKeys(kept_ms=100)
    keys.add("new", known(1000, "b"))
    keys.add("old", known(899))
    keys.add("young", known(900))
    assert [keys.get(key) is None for key in ("new", "old", "young")] == [False, True, False]


def test_the_latest_keys_are_known_however_young_older_ones_are() -> None:
    keys = RecentKeys(keys_max=2)
    for number in range(1, 4):
        keys.add(f"{number}", known(number))
    assert [keys.get(f"{number}") is None for number in range(1, 4)] == [True, False, False]


def test_the_first_use_of_a_key_stays() -> None:
    keys = RecentKeys()
    keys.add("k", known(1))
    keys.add("k", known(2, "b"))
    assert keys.get("k") == known(1)


def test_a_key_that_is_used_again_after_its_time_is_known_anew() -> None:
    keys = RecentKeys(kept_ms=100)
    keys.add("k", known(1000))
    keys.add("k", known(1101, "b"))
    assert keys.get("k") == known(1101, "b")
    keys.add("other", known(1201))
    assert keys.get("k") == known(1101, "b")


def test_no_key_is_known_when_late_ones_have_taken_the_place_of_the_newest() -> None:
    keys = RecentKeys(kept_ms=100, keys_max=1)
    keys.add("new", known(1000, "b"))
    keys.add("old", known(899))
    assert [keys.get("new"), keys.get("old")] == [None, None]


def test_a_fingerprint_tells_writes_apart() -> None:
    one, two = text_content("one"), text_content("two")
    prints = {fingerprint(*write) for write in [("x", one), ("y", one), ("x", two), ("x", None)]}
    assert len(prints) == 4
    assert fingerprint("x", text_content("one")) == fingerprint("x", one)
