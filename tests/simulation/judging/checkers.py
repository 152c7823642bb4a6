"""What must hold of the release log, and of what coordinators believe of it. Independent of the
code that is judged.
"""

from __future__ import annotations

from collections import Counter

from tests.simulation.judging.beliefs import LOG, beliefs, entries, holding
from tests.simulation.judging.history import History

FAULT_TAKEN_IN_S = 1.5
"""A coordinator takes it in after its next pause."""


def log_is_consecutive_and_immutable(history: History) -> list[str]:
    written = [write for write in history.writes if write.path.startswith(LOG)]
    problems = []
    for number, write in enumerate(written, 1):
        if write.path != f"{LOG}{number:020}.json":
            problems.append(f"{write.writer} wrote {write.path} as entry {number}")
        if history.content[write.path] != write.data:
            problems.append(f"{write.path} was changed")
    return problems


def epochs_never_go_back(history: History) -> list[str]:
    problems = []
    epochs = [entry["epoch"] for _, entry in holding(history)]
    if epochs != sorted(epochs):
        problems.append(f"epochs in the log go back: {epochs}")
    last: dict[str, tuple[int, int]] = {}
    for seen in history.observations:
        now = (seen.epoch, seen.position)
        before = last.get(seen.incarnation, (0, 0))
        if now[0] < before[0] or now[1] < before[1]:
            problems.append(f"{seen.incarnation} went back from {before} to {now}")
        last[seen.incarnation] = now
    return problems


def one_incarnation_leads_an_epoch(history: History) -> list[str]:
    """Whoever leads an epoch, and whoever writes in it, is the one that was elected to it."""
    writer = {write.path: write.writer for write in history.writes}
    elected: dict[int, str] = {}
    problems = []
    for position, entry in holding(history):
        name = writer[f"{LOG}{position:020}.json"]
        if entry["kind"] == "elect":
            elected[entry["epoch"]] = name
        elif elected.get(entry["epoch"]) != name:
            problems.append(f"{name} wrote entry {position} in an epoch that it does not lead")
    problems += [
        f"{seen.incarnation} believes to lead epoch {seen.epoch}"
        for seen in history.observations
        if seen.leads and elected.get(seen.epoch) != seen.incarnation
    ]
    return problems


def requests_have_the_effect_that_was_told(history: History) -> list[str]:
    """Acknowledged: in the log once, and in force. Refused: not there at all, and never again."""
    landed = Counter(entry["commit_id"] for entry in entries(history))
    in_force = {entry["commit_id"] for _, entry in holding(history)}
    problems = [f"entry {cid} is in the log {n} times" for cid, n in landed.items() if n > 1]
    for request in history.requests:
        found = [cid for cid in request.commit_ids if landed[cid]]
        if request.outcome == "ok" and (
            found != request.commit_ids[-1:] or found[0] not in in_force
        ):
            problems.append(f"an acknowledged {request.kind} stands in the log as {found}")
        if request.outcome == "failed" and found:
            problems.append(f"a {request.kind} that was told to have failed stands in the log")
        if len(found) > 1:
            problems.append(f"one {request.kind} landed as {found}")
    return problems


def what_makes_no_sense_is_refused(history: History) -> list[str]:
    return [
        f"{request.kind} was granted to {request.region} at {request.at_s:.3f}"
        for request in history.requests
        if not request.makes_sense and (request.commit_ids or request.outcome == "ok")
    ]


def rollbacks_without_force_last(history: History) -> list[str]:
    """They lead to what is loaded, and nothing that is being prepared takes over from them."""
    known = beliefs(history)
    asked = {
        commit_id: request
        for request in history.requests
        if request.kind == "RollBackTo"
        for commit_id in request.commit_ids[-1:]
    }
    problems = []
    for position, entry in holding(history):
        request = asked.get(entry["commit_id"])
        if request is None:
            continue
        before = known[position - 1]
        opened = before.open_release()
        if not request.was_loaded:
            problems.append(f"the roll-back at {position} leads to what its region has not loaded")
        if opened is not None and before.auto_commit[opened]:
            problems.append(f"release {opened} takes over from the roll-back at {position}")
    return problems


def commits_wait_for_their_targets(history: History) -> list[str]:
    written_s = {write.path: write.at_s for write in history.writes}
    prepared_s: dict[tuple[str, int], float] = {}
    for at_s, region, release in history.prepared:
        prepared_s.setdefault((region, release), at_s)
    waiting: dict[int, set[str]] = {}
    targets: dict[int, set[str]] = {}
    wait_for: dict[int, str | list[str]] = {}
    problems = []
    for position, entry in holding(history):
        at_s = written_s[f"{LOG}{position:020}.json"]
        if entry["kind"] == "propose":
            number = entry["release"]["number"]
            targets[number], waiting[number] = set(entry["targets"]), set(entry["targets"])
            wait_for[number] = entry["wait_for"]
        elif entry["kind"] == "fence":
            waiting[entry["release"]].discard(entry["region"])
        elif entry["kind"] == "commit" or (entry["kind"] == "canary" and entry["percent"]):
            number, done = entry["release"], f"{entry['kind']} of release {entry['release']}"
            late = {r for r in waiting[number] if prepared_s.get((r, number), at_s) >= at_s}
            if isinstance(wait_for[number], list):
                late &= set(wait_for[number])
            enough = wait_for[number] == "quorum" and 2 * len(late) < len(targets[number])
            if late and not enough:
                problems.append(f"{done} before {sorted(late)} prepared it")
            if not waiting[number]:
                problems.append(f"{done} with all regions fenced out")
    return problems


def nobody_is_left_out_for_what_passes(history: History) -> list[str]:
    """A region is fenced out, and a release aborted for what it lacks, at the deadline; before it
    only when a region has met with something that no further attempt puts right.
    """
    given_up = {(region, release): at_s for at_s, region, release in reversed(history.given_up)}
    written_s = {write.path: write.at_s for write in history.writes}
    prepare_by_ms: dict[int, int] = {}
    problems = []
    for position, entry in holding(history):
        kind, number = entry["kind"], entry.get("release")
        if kind == "propose":
            prepare_by_ms[entry["release"]["number"]] = entry["prepare_by_ms"]
        elif kind == "fence" or (kind == "abort" and _is_for_a_lack(entry["reason"])):
            if entry["at_ms"] > prepare_by_ms[number]:
                continue
            at_s = written_s[f"{LOG}{position:020}.json"]
            regions = [entry["region"]] if kind == "fence" else history.regions
            if not any(given_up.get((region, number), at_s) < at_s for region in regions):
                problems.append(f"entry {position}, a {kind} of release {number}, came too early")
    return problems


def _is_for_a_lack(reason: str) -> bool:
    """Whether the leader aborted it for what is not prepared, and no person or canary did."""
    return bool(reason) and not reason.startswith("canary in ")


def everybody_agrees_at_a_position(history: History) -> list[str]:
    known = beliefs(history)
    problems = []
    for seen in history.observations:
        if seen.position >= len(known):
            problems.append(f"{seen.incarnation} has read {seen.position} entries of fewer")
            continue
        belief = known[seen.position]
        current = belief.current(seen.wall_ms)
        tried = belief.tried(seen.wall_ms)
        opened = belief.open_release()
        expected = (belief.epoch, belief.leader, belief.switches, opened, current, tried)
        found = (
            *(seen.epoch, seen.leader, seen.switches, seen.open_release, seen.current),
            seen.canary,
        )
        if found != expected or seen.num_void != belief.num_void:
            problems.append(f"at {seen.position} {seen.incarnation} believes {found}")
    return problems


def a_canarys_share_goes_to_what_may_have_it(history: History) -> list[str]:
    """To a release that is open or about to be current, in a region that takes part in it and has
    found no fault in it.
    """
    known = beliefs(history)
    log = entries(history)
    found_s = {(name, release): at_s for at_s, name, release in reversed(history.faults)}
    problems = []
    for seen in history.observations:
        if seen.tries is None or seen.position >= len(known):
            continue
        belief = known[seen.position]
        due = {number for number, at_ms in belief.switches if at_ms > seen.wall_ms}
        if belief.status[seen.tries] != "open" and seen.tries not in due:
            status = belief.status[seen.tries]
            problems.append(f"{seen.incarnation} tries release {seen.tries}, which is {status}")
        fenced = {
            entry["region"]
            for entry in log[: seen.position]
            if entry["kind"] == "fence" and entry["release"] == seen.tries
        }
        if seen.region not in belief.targets[seen.tries] - fenced:
            problems.append(f"{seen.incarnation} tries release {seen.tries} without part in it")
        if found_s.get((seen.incarnation, seen.tries), seen.at_s) < seen.at_s - FAULT_TAKEN_IN_S:
            problems.append(f"{seen.incarnation} tries release {seen.tries} in spite of its fault")
    return problems


def what_serves_is_never_retired(history: History) -> list[str]:
    known = beliefs(history)
    problems = []
    for incarnation, release, position, now_ms in history.retired:
        belief = known[min(position, len(known) - 1)]
        due = {number for number, at_ms in belief.switches if at_ms > now_ms}
        if release == belief.current(now_ms) or release in due:
            problems.append(f"{incarnation} retired release {release}, which serves or will")
    return problems


def the_quiet_time_ends_well(history: History) -> list[str]:
    return list(history.failures)
