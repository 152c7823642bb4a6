"""Searches and answers at a steady pace while something breaks, every reply judged.

Nothing is asked twice: what fails once counts as failed.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from tests.chaos.region import ChaosRegion, ask
from tests.support.regions.search_region import CORPUS, Reply
from tests.support.waiting import wait_until

SLOW_S = 1.0
_SEARCH_CLIENTS, _ANSWER_CLIENTS = 4, 1
_SEARCH_PAUSE_S, _ANSWER_PAUSE_S = 0.02, 0.2
_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    sent: int = 0
    failed: int = 0
    refused: int = 0
    """Told to come back later, with the typed error for it."""
    wrong: int = 0
    slow: int = 0
    slowest_s: float = 0.0
    first_failure: str = ""


@dataclass
class SteadyLoad:
    """Asks from several clients until the block ends."""

    region: ChaosRegion
    searches: list[Reply] = field(default_factory=list)
    answers: list[tuple[str, Reply]] = field(default_factory=list)
    last_failure_s: float = 0.0
    """When a search failed last, by the monotonic clock."""

    def __enter__(self) -> SteadyLoad:
        self._over = threading.Event()
        targets = [(self._search, number) for number in range(_SEARCH_CLIENTS)]
        if self.region.questions:
            targets += [(self._answer, number) for number in range(_ANSWER_CLIENTS)]
        self._threads = [threading.Thread(target=does, args=(n,)) for does, n in targets]
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, searches: int = 40, answers: int = 1) -> None:
        """Returns when so many more replies have come."""
        searched, answered = len(self.searches) + searches, len(self.answers) + answers
        wait_until(lambda: len(self.searches) >= searched, "replies")
        if self.region.questions:
            wait_until(lambda: len(self.answers) >= answered, "answers")

    def counts(self) -> dict[str, Counts]:
        """By what was asked: searches and, where there is a model, answers."""
        letters = self.region.search.letters()
        right = [not r.error and self.region.search.is_right(r, letters) for r in self.searches]
        counts = {"search": _counted(self.searches, right)}
        if self.region.questions:
            cited = self.region.questions
            right = [
                reply.ids == cited[question] and reply.release in letters
                for question, reply in self.answers
            ]
            counts["answer"] = _counted([reply for _, reply in self.answers], right)
        return counts

    def _search(self, number: int) -> None:
        region, query = self.region.search, number
        with region.client() as client:
            while not self._over.wait(_SEARCH_PAUSE_S):
                query = (query + 1) % len(region.queries)
                reply = region.search(client, query, corpus=CORPUS, timeout_ms=_TIMEOUT_MS)
                self.searches.append(reply)
                if reply.error:
                    self.last_failure_s = time.monotonic()

    def _answer(self, number: int) -> None:
        questions = list(self.region.questions)
        with self.region.search.client() as client:
            while not self._over.wait(_ANSWER_PAUSE_S):
                number = (number + 1) % len(questions)
                self.answers.append((questions[number], ask(client, questions[number])))


def _counted(replies: list[Reply], right: list[bool]) -> Counts:
    is_refusal = [r.error.startswith("503") and '"overloaded"' in r.error for r in replies]
    failures = [
        r.error for r, refused in zip(replies, is_refusal, strict=True) if r.error and not refused
    ]
    return Counts(
        sent=len(replies),
        failed=len(failures),
        refused=sum(is_refusal),
        wrong=sum(not ok and not r.error for r, ok in zip(replies, right, strict=True)),
        slow=sum(r.took_s > SLOW_S for r in replies),
        slowest_s=max((r.took_s for r in replies), default=0.0),
        first_failure=failures[0][:160] if failures else "",
    )
