"""What must hold of the answers that are made by live documents, judged by the bytes of the logs
and by true time.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from tests.simulation.documents.checkers import documents_at, logs
from tests.simulation.documents.history import Answer, DocumentHistory, Served

_ROUNDING_MS = 2


def _appended_s(history: DocumentHistory) -> dict[str, list[float]]:
    """By region, the moment when each object of its log was there, in the order of positions."""
    moments: dict[str, list[float]] = {region: [] for region in history.regions}
    created = set()
    for write in history.writes:
        if write.path not in created:
            created.add(write.path)
            moments[write.path.split("/")[2]].append(write.at_s)
    return moments


def _served(history: DocumentHistory, level: str = "") -> Iterator[tuple[Answer, Served]]:
    for answer in history.answers:
        if answer.served is not None and level in ("", answer.level):
            yield answer, answer.served


def _staleness_ms(appended_s: dict[str, list[float]], served: Served) -> float:
    """How long the first write had been there that the answer misses."""
    missed = [
        moments[at]
        for region, moments in appended_s.items()
        if (at := served.watermark.get(region, 0)) < len(moments) and moments[at] <= served.at_s
    ]
    return (served.at_s - min(missed)) * 1000 if missed else 0.0


def staleness_of_documents_is_never_less_than_the_true_one(history: DocumentHistory) -> list[str]:
    appended_s = _appended_s(history)
    problems = []
    for _, served in _served(history):
        true_ms = _staleness_ms(appended_s, served)
        # Without any document here, nothing is said of documents.
        if served.watermark and served.staleness_ms < true_ms - _ROUNDING_MS:
            problems.append(f"{_name(served)} says {served.staleness_ms} ms: it is {true_ms:.0f}")
    return problems


def bounds_on_documents_are_kept(history: DocumentHistory) -> list[str]:
    appended_s = _appended_s(history)
    problems = []
    for answer, served in _served(history, "bounded"):
        assert answer.max_staleness_ms is not None
        true_ms = _staleness_ms(appended_s, served) if served.watermark else 0.0
        if max(served.staleness_ms, true_ms - _ROUNDING_MS) > answer.max_staleness_ms:
            problems.append(
                f"{_name(served)} is {true_ms:.0f} ms old and says {served.staleness_ms}, of "
                f"{answer.max_staleness_ms}"
            )
    return problems


def sessions_of_documents_never_go_back(history: DocumentHistory) -> list[str]:
    return [
        f"{_name(served)} is behind its session's {answer.seen}"
        for answer, served in _served(history)
        if any(served.watermark.get(region, 0) < n for region, n in answer.seen.items())
    ]


def strong_answers_have_all_documents(history: DocumentHistory) -> list[str]:
    """That were in the store before the question, whoever wrote them."""
    appended_s = _appended_s(history)
    problems = []
    for answer, served in _served(history, "strong"):
        for region, moments in appended_s.items():
            there = bisect.bisect_right(moments, answer.asked_s)
            if served.watermark.get(region, 0) < there:
                problems.append(f"{_name(served)} is strong, and lacks {there} of {region}")
    return problems


def gateways_never_go_back(history: DocumentHistory) -> list[str]:
    last: dict[str, dict[str, int]] = {}
    problems = []
    for _, served in sorted(_served(history), key=lambda each: each[1].at_s):
        before = last.get(served.gateway, {})
        if any(served.watermark.get(region, 0) < n for region, n in before.items()):
            problems.append(f"{_name(served)} is behind {before}")
        last[served.gateway] = served.watermark
    return problems


def answers_hold_what_their_watermark_says(history: DocumentHistory) -> list[str]:
    if history.keeps_siblings:
        return []
    rows = logs(history)
    problems = []
    for _, served in _served(history):
        expected = {d: v[-1] for d, v in documents_at(rows, served.watermark).items()}
        if served.documents != expected:
            problems.append(f"{_name(served)} has {served.documents}, not {expected}")
    return problems


def honest_questions_are_not_called_wrong(history: DocumentHistory) -> list[str]:
    """Clients here send no token that is not right."""
    return [
        f"a question at {answer.asked_s:.3f} is said to be wrong: {answer.error}"
        for answer in history.answers
        if answer.error.startswith("InvalidArgument")
    ]


def _name(served: Served) -> str:
    return f"the answer at {served.at_s:.3f} by {served.gateway} at {served.watermark}"
