"""How many regions a write has to come to, and what is said when it has not."""

from __future__ import annotations

import pytest

from cluster.errors import Unavailable
from cluster.regions.applied import AppliedBy

HOMES = ("a", "b", "c")


@pytest.mark.parametrize(
    ("homes", "everywhere", "applied", "failed", "enough", "hopeless"),
    [
        (HOMES, False, "a", "", False, False),
        (HOMES, False, "ab", "", True, False),
        (HOMES, False, "a", "b", False, False),
        (HOMES, False, "a", "bc", False, True),
        (HOMES, True, "ab", "", False, False),
        (HOMES, True, "abc", "", True, False),
        (HOMES, True, "ab", "c", False, True),
        (("a", "b"), False, "a", "b", False, True),
        (("a",), False, "a", "", True, False),
        (("a",), True, "", "a", False, True),
    ],
)
def test_a_majority_or_all_of_those_that_may_hold_the_corpus(
    homes: tuple[str, ...],
    everywhere: bool,
    applied: str,
    failed: str,
    enough: bool,
    hopeless: bool,
) -> None:
    said = AppliedBy(
        homes=homes,
        everywhere=everywhere,
        applied=set(applied),
        failed={region: Unavailable("is away") for region in failed},
    )
    assert (said.is_enough, said.is_hopeless) == (enough, hopeless)


def test_who_waited_in_vain_is_told_that_nothing_is_lost() -> None:
    said = AppliedBy(homes=HOMES, everywhere=True, applied={"a"})
    said.failed["c"] = Unavailable("region c does not answer")
    assert said.refusal().message == (
        "the write is in the store, and 1 of 3 regions have applied it, where 3 were asked for; "
        "the others (b, c) do so by themselves (c: region c does not answer)"
    )
