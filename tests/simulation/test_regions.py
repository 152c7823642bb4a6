"""Regions under crashes, cuts, lost replies, leftovers and clocks that differ: whatever happens,
the rules hold, of the release log and of every answer.
"""

from __future__ import annotations

from collections import Counter

from tests.simulation.harness import Scenario, simulate
from tests.simulation.judging.beliefs import beliefs, entries
from tests.simulation.judging.history import History
from tests.simulation.judging.verdict import violations


def test_the_rules_hold(seed: int) -> None:
    found = violations(simulate(seed))
    assert not found, f"replay with `make sim SEED={seed}`: {found}"


def test_the_rules_hold_for_as_many_regions_as_there_may_be() -> None:
    found = violations(simulate(0, Scenario(regions=32)))
    assert not found, found


def test_the_simulation_meets_what_it_is_for() -> None:
    expected = {
        *("elect", "propose", "canary", "commit", "abort", "fence", "rollback"),
        *("void", "retired", "restarted", "led by several", "forwarded", "by canary"),
        *("faults", "aborted for a fault", "tried", "of a damaged index"),
        *(f"ProposeRelease {outcome}" for outcome in ("ok", "failed", "unknown")),
        *(f"RollBackTo {outcome}" for outcome in ("ok", "failed", "unknown")),
        *("SetShare ok", "CommitRelease ok", "AbortRelease ok", "AbortRelease failed"),
        *(f"{level} ok" for level in ("eventual", "session", "bounded", "quorum", "strong")),
        *("bounded Unavailable", "strong Unavailable", "quorum Unavailable"),
        *("eventual lost", "release ok", "session in another region"),
    }
    met: Counter[str] = Counter()
    for seed in range(30):
        met.update(met_in(simulate(seed)))
        missing = {what: met[what] for what in sorted(expected) if met[what] < 3}
        if not missing:
            return
    raise AssertionError(f"hardly met, if at all: {missing}")


def met_in(history: History) -> Counter[str]:
    met = Counter(entry["kind"] for entry in entries(history))
    met.update(f"{r.kind} {r.outcome}" for r in history.requests if r.makes_sense)
    met.update(f"{reply.query.level} {reply.error or 'ok'}" for reply in history.replies)
    met["void"] = beliefs(history)[-1].num_void
    met["retired"] = len(history.retired)
    met["faults"] = len(history.faults)
    reasons = [e["reason"] for e in entries(history) if e["kind"] == "abort"]
    met["aborted for a fault"] = sum("canary" in reason for reason in reasons)
    met["tried"] = sum(seen.tries is not None for seen in history.observations)
    lives = {seen.incarnation for seen in history.observations}
    met["restarted"] = len(lives) - len({seen.region for seen in history.observations})
    leads = {seen.incarnation for seen in history.observations if seen.leads}
    met["led by several"] = len(leads) > 1
    met["forwarded"] = sum(bool(hop.chain) for hop in history.hops)
    met["by canary"] = sum(serving.canary for serving in history.servings)
    met["of a damaged index"] = sum("damaged" in serving.hits for serving in history.servings)
    met["session in another region"] = sum(
        reply.serving is not None and reply.serving.region != reply.query.region
        for reply in history.replies
        if reply.query.level == "session"
    )
    return met
