"""For whom a release waits: all, a quorum or named regions, and what happens at the deadline."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Conflict, InvalidArgument
from cluster.releases.entries import (
    Abort,
    Commit,
    Fence,
    LogEntry,
    Proposal,
    Propose,
    ReleaseStatus,
    WaitFor,
)
from cluster.releases.events import Append
from cluster.releases.requests import CommitRelease
from cluster.releases.settings import RolloutPolicy
from tests.support.fakes import Entries
from tests.support.rollout_script import Script, kinds, status

ALL: WaitFor = "all"
QUORUM: WaitFor = "quorum"
TIMEOUT_S = 60.0
LATE_MS = 60_001


def proposed(wait_for: WaitFor, *targets: str, auto_commit: bool = True) -> tuple[Script, int]:
    """A leader in region z, which is no target and has nothing to prepare itself."""
    script = Script("z").elect()
    policy = RolloutPolicy(wait_for=wait_for, prepare_timeout_s=TIMEOUT_S)
    number = script.propose(*targets, auto_commit=auto_commit, policy=policy)
    assert script.decide() == []
    return script, number


@dataclass(frozen=True, kw_only=True)
class Case:
    wait_for: WaitFor
    prepared: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    late: bool = False
    wanted: type[LogEntry] | None = None
    reason: str = ""


CASES = [
    Case(wait_for=ALL, prepared="abcde", wanted=Commit),
    Case(wait_for=ALL, prepared="abcd"),
    Case(wait_for=ALL, prepared="abcd", late=True, wanted=Fence, reason="not prepared by the"),
    Case(wait_for=ALL, prepared="abcd", failed={"e": "full"}, wanted=Fence, reason="full"),
    Case(wait_for=QUORUM, prepared="abc", wanted=Commit),
    Case(wait_for=QUORUM, prepared="ab"),
    Case(wait_for=QUORUM, prepared="ab", failed={"c": "full", "d": "full"}),
    Case(
        wait_for=QUORUM,
        prepared="ab",
        failed={"c": "full", "d": "cut off", "e": "full"},
        wanted=Abort,
        reason="c: full; d: cut off; e: full",
    ),
    Case(wait_for=QUORUM, prepared="cde", failed={"a": "full", "b": "full"}, wanted=Commit),
    Case(
        wait_for=QUORUM,
        prepared="ab",
        failed={"c": "full"},
        late=True,
        wanted=Abort,
        reason="c: full; d: not prepared by the deadline; e: not prepared by the deadline",
    ),
    Case(wait_for=QUORUM, prepared="abc", late=True, wanted=Commit),
    Case(wait_for=("b", "d"), prepared="bd", wanted=Commit),
    Case(wait_for=("b", "d"), prepared="abce"),
    Case(wait_for=("b", "d"), prepared="b", failed={"a": "full", "e": "full"}),
    Case(wait_for=("b", "d"), prepared="b", failed={"d": "full"}, wanted=Abort, reason="d: full"),
    Case(
        wait_for=("b", "d"),
        prepared="abce",
        late=True,
        wanted=Abort,
        reason="d: not prepared by the deadline",
    ),
    Case(wait_for=("b", "d"), prepared="bd", late=True, wanted=Commit),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_the_leader_appends(case: Case) -> None:
    script, number = proposed(case.wait_for, *"abcde")
    script.now_ms = LATE_MS if case.late else LATE_MS - 1
    told = [status(region, number) for region in case.prepared]
    told += [status(region, failed={number: why}) for region, why in case.failed.items()]
    instructions = script.heartbeats(*told)
    assert kinds(instructions) == ([] if case.wanted is None else [case.wanted])
    for instruction in instructions:
        assert isinstance(instruction, Append)
        assert case.reason in getattr(instruction.entry, "reason", "")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_person_may_commit_when_the_leader_would(case: Case) -> None:
    script, number = proposed(case.wait_for, *"abcde", auto_commit=False)
    script.heartbeats(*(status(region, number) for region in case.prepared))
    if case.wanted is Commit:
        script.land(script.ask(CommitRelease(release=number)))
    else:
        with pytest.raises(Conflict, match="not prepared yet in: "):
            script.ask(CommitRelease(release=number))


def test_who_was_not_waited_for_catches_up_after_the_commit() -> None:
    e = Entries()
    propose = e.propose(1).model_copy(update={"targets": ("a", "b"), "wait_for": ("a",)})
    script = Script("b", log=[e.elect("a", 1), propose])
    script.heartbeats(status("a"))
    assert kinds(script.decide()) == [("prepare", 1)]
    script.read(e.commit(1))
    assert script.decide() == [], "it is still being prepared"
    late = Script("b", log=script.log)
    late.heartbeats(status("a", 1))
    assert kinds(late.decide()) == [("prepare", 1)]


def test_the_policy_is_in_the_log_for_the_next_leader() -> None:
    script, number = proposed(QUORUM, *"abc")
    successor = Script("y", log=script.log)
    successor.heartbeats(status("z", at_ms=-100_000))
    for instruction in successor.decide():
        successor.land(instruction)
    assert successor.rollout.leads
    assert successor.decide() == []
    assert kinds(successor.heartbeats(status("a", number), status("b", number))) == [Commit]
    proposal = successor.rollout.state.proposals[number]
    assert proposal.wait_for == QUORUM
    assert proposal.prepare_by_ms == int(TIMEOUT_S * 1000)


def test_an_entry_without_a_policy_waits_for_all() -> None:
    told = Entries().propose(1).model_dump(mode="json")
    del told["wait_for"]
    assert Propose.model_validate(told).wait_for == "all"


@pytest.mark.parametrize(
    ("wait_for", "strangers"),
    [(("c",), "c"), (("a", "c"), "c"), (("f", "a", "d", "c", "e"), "c, d, e, f")],
)
def test_waiting_for_who_is_no_target_is_refused(wait_for: tuple[str, ...], strangers: str) -> None:
    script = Script().elect()
    with pytest.raises(InvalidArgument, match=f"no target of the release: {strangers}$") as caught:
        script.propose("a", "b", policy=RolloutPolicy(wait_for=wait_for))
    assert caught.value.field == "wait_for"


regions = st.sets(st.sampled_from("abcdefg"), min_size=1)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Proposal, frozenset[str]]:
    targets = draw(regions)
    named = draw(st.sets(st.sampled_from(sorted(targets)), min_size=1))
    wait_for: WaitFor = draw(st.sampled_from(["all", "quorum", tuple(sorted(named))]))
    e = Entries()
    entry = e.propose(1, targets=tuple(sorted(targets))).model_copy(update={"wait_for": wait_for})
    script = Script("z", log=[e.elect("z", 1), entry])
    return script.rollout.state.proposals[1], frozenset(draw(st.sets(st.sampled_from("abcdefg"))))


@given(situations())
def test_who_is_waited_for(situation: tuple[Proposal, frozenset[str]]) -> None:
    proposal, prepared = situation
    missing = proposal.waits_for(prepared)
    targets = set(proposal.targets)
    assert missing == sorted(set(missing))
    assert set(missing) <= targets - prepared
    assert proposal.waits_for(frozenset(targets)) == []
    assert proposal.waits_for(frozenset()) != []
    # More prepared regions never make anybody wait longer.
    for region in targets:
        assert set(proposal.waits_for(prepared | {region})) <= set(missing)
    match proposal.wait_for:
        case "all":
            assert (missing == []) == (targets <= prepared)
        case "quorum":
            assert (missing == []) == (len(targets & prepared) > len(targets) / 2)
        case named:
            assert (missing == []) == (set(named) <= prepared)


@given(situations(), st.sets(st.sampled_from("abcdefg")))
def test_an_open_release_ends_at_its_deadline(
    situation: tuple[Proposal, frozenset[str]], failed: set[str]
) -> None:
    """By a commit exactly when enough have prepared it, else by an abort; never by waiting on."""
    proposal, prepared = situation
    script, number = proposed(proposal.wait_for, *proposal.targets)
    script.now_ms = LATE_MS
    told = [status(region, number) for region in sorted(prepared)]
    told += [status(r, failed={number: "full"}) for r in sorted(failed - prepared)]
    instructions = script.heartbeats(*told)
    while appends := [x for x in instructions if isinstance(x, Append)]:
        script.land(appends[0])
        instructions = script.decide()
    ended = script.rollout.state.proposals[number]
    enough = not proposal.waits_for(prepared)
    if proposal.wait_for == "all":
        enough = bool(prepared & set(proposal.targets))
    assert ended.status is (ReleaseStatus.COMMITTED if enough else ReleaseStatus.ABORTED)
    if not enough and proposal.wait_for != "all":
        assert all(region in (ended.reason or "") for region in proposal.waits_for(prepared))
