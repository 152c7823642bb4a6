"""The release log under crashes, lost replies and leftovers: whatever happens, the rules hold."""

from __future__ import annotations

from collections import Counter

from tests.simulation.checkers import beliefs, entries, violations
from tests.simulation.harness import simulate


def test_the_rules_hold(seed: int) -> None:
    found = violations(simulate(seed))
    assert not found, f"replay with SEED={seed}: {found}"


def test_the_simulation_meets_what_it_is_for() -> None:
    met: Counter[str] = Counter()
    for seed in range(30):
        history = simulate(seed)
        met.update(entry["kind"] for entry in entries(history))
        met.update(f"{request.kind} {request.outcome}" for request in history.requests)
        met["void"] += beliefs(history)[-1].num_void
        met["retired"] += len(history.retired)
        met["faults"] += len(history.faults)
        reasons = [e["reason"] for e in entries(history) if e["kind"] == "abort"]
        met["aborted for a fault"] += sum("canary" in reason for reason in reasons)
        met["tried"] += sum(seen.tries is not None for seen in history.observations)
        lives = {seen.incarnation for seen in history.observations}
        met["restarted"] += len(lives) - len({seen.region for seen in history.observations})
        leads = {(seen.incarnation, seen.region) for seen in history.observations if seen.leads}
        met["led by several"] += len(leads) > 1
    expected = {
        *("elect", "propose", "canary", "commit", "abort", "fence", "rollback"),
        *("void", "retired", "restarted", "led by several"),
        *("faults", "aborted for a fault", "tried"),
        *(
            f"{k} {o}"
            for k in ("propose", "canary", "abort", "rollback")
            for o in ("ok", "failed", "unknown")
        ),
    }
    assert {what: met[what] for what in expected if met[what] < 5} == {}
