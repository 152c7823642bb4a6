"""How many replicas a corpus has: by the settings, a wish, the load, a new coordinator."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from actors.coordinator.loading.replica_counts import ReplicaCounts
from cluster.balance.replica_scaling import ReplicaLoad
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.config import Settings
from cluster.errors import InvalidArgument, OutcomeUnknown, Unavailable
from cluster.store.local_store import LocalStore

BUSY = [ReplicaLoad(busy_share=1.0, waiting=50)] * 2
IDLE = [ReplicaLoad(busy_share=0.0, waiting=0)] * 2
SETTINGS = Settings(
    corpora={
        "fixed": CorpusSettings(replicas=2),
        "free": CorpusSettings(replicas=2, replicas_max=3),
    }
)


def counts(folder: Path, settings: Settings = SETTINGS) -> ReplicaCounts:
    return counts_in(LocalStore(folder), settings)


def counts_in(store: LocalStore, settings: Settings = SETTINGS) -> ReplicaCounts:
    """Counts that try again at once when the store fails."""
    return ReplicaCounts(settings, store, "here", sleep=lambda _: None)


def watch(
    found: ReplicaCounts, corpus: str, loads: Sequence[ReplicaLoad], looks_s: Iterable[int]
) -> None:
    """Looks at those moments, and lets each change end before the next look."""
    for now_s in looks_s:
        change = found.observe(corpus, loads, float(now_s))
        if change is not None:
            change.result(30)


class FlakyStore(LocalStore):
    """A store that can be away, and then fails to read or to write."""

    away = False
    reads_while_away = False

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        self._check(reads=True)
        return super().list_names(folder, start_after)

    def exists(self, path: str) -> bool:
        self._check(reads=True)
        return super().exists(path)

    def get(self, path: str) -> bytes:
        self._check(reads=True)
        return super().get(path)

    def put_if_absent(self, path: str, data: bytes) -> None:
        self._check(reads=False)
        super().put_if_absent(path, data)

    def _check(self, *, reads: bool) -> None:
        if self.away and not (reads and self.reads_while_away):
            raise Unavailable("the store is away")


def test_the_settings_count_until_somebody_asks(tmp_path: Path) -> None:
    found = counts(tmp_path)
    assert (found.count("fixed"), found.count("free"), found.count("other")) == (2, 2, 2)
    found.ask_for("fixed", 5)
    assert (found.count("fixed"), found.count("free")) == (5, 2)
    found.ask_for("fixed", 1)
    assert found.count("fixed") == 1
    assert counts(tmp_path).count("fixed") == 1


def test_load_adds_replicas_up_to_the_most_and_takes_them_away_again(tmp_path: Path) -> None:
    found = counts(tmp_path)
    for corpus in ("fixed", "free"):
        watch(found, corpus, BUSY, range(0, 60, 2))
    assert (found.count("fixed"), found.count("free")) == (2, 3)
    assert counts(tmp_path).count("free") == 3
    watch(found, "free", IDLE, range(60, 400, 2))
    assert found.count("free") == 2


def test_settings_that_changed_meanwhile_bound_what_the_log_says(tmp_path: Path) -> None:
    found = counts(tmp_path)
    watch(found, "free", BUSY, range(0, 60, 2))
    fewer = Settings(corpora={"free": CorpusSettings(replicas=1)})
    assert counts(tmp_path, fewer).count("free") == 1
    more = Settings(corpora={"free": CorpusSettings(replicas=6)})
    assert counts(tmp_path, more).count("free") == 6


def test_a_corpus_that_is_gone_is_busy_no_more(tmp_path: Path) -> None:
    found = counts(tmp_path)
    found.observe("fixed", BUSY, 0.0)
    found.observe("free", IDLE, 0.0)
    assert found.load() == 1.0
    found.forget_all_but({"fixed", "free"})
    assert found.load() == 1.0, "one whose replicas do not answer is not gone"
    found.forget_all_but({"free"})
    assert found.load() == 0.0


def test_the_load_is_told_while_the_store_is_slow(tmp_path: Path) -> None:
    class Slow(LocalStore):
        asked, may_answer = threading.Event(), threading.Event()

        def list_names(self, folder: str, after: str | None = None) -> list[str]:
            self.asked.set()
            assert self.may_answer.wait(30)
            return super().list_names(folder, after)

    store = Slow(tmp_path)
    found = counts_in(store)
    asking = threading.Thread(target=found.ask_for, args=("fixed", 3))
    asking.start()
    assert store.asked.wait(30)
    loads: list[float] = []
    heart = threading.Thread(target=lambda: loads.append(found.load()))
    heart.start()
    heart.join(10)
    assert loads == [0.0]
    store.may_answer.set()
    asking.join()


@pytest.mark.parametrize("least", [0, -1, 65])
def test_counts_out_of_bounds_are_refused(tmp_path: Path, least: int) -> None:
    with pytest.raises(InvalidArgument):
        counts(tmp_path).ask_for("fixed", least)
    assert not (tmp_path / "regions").exists()


@pytest.mark.parametrize("reads_while_away", [False, True])
def test_no_replica_is_given_up_because_the_store_is_away(
    tmp_path: Path, reads_while_away: bool
) -> None:
    settings = Settings(corpora={"free": CorpusSettings(replicas=2, replicas_max=6)})
    store = FlakyStore(tmp_path)
    found = counts_in(store, settings)
    found.ask_for("free", 4)
    store.away, store.reads_while_away = True, reads_while_away
    watch(found, "free", BUSY, range(0, 100, 2))
    with pytest.raises((Unavailable, OutcomeUnknown)):
        found.ask_for("free", 3)
    assert found.count("free") == 4
    store.away = False
    watch(found, "free", BUSY, range(100, 140, 2))
    assert found.count("free") > 4


def test_numbers_that_were_never_read_are_not_guessed(tmp_path: Path) -> None:
    counts(tmp_path).ask_for("fixed", 4)
    store = FlakyStore(tmp_path)
    store.away = True
    found = counts_in(store)
    for ask in (lambda: found.count("fixed"), lambda: found.observe("fixed", BUSY, 0.0)):
        with pytest.raises(Unavailable):
            ask()
    store.away = False
    assert found.count("fixed") == 4


@pytest.mark.parametrize("landed", [False, True])
def test_a_change_of_unknown_outcome_is_found_out_by_the_next_one(
    tmp_path: Path, landed: bool
) -> None:
    class Doubtful(FlakyStore):
        doubts = False

        def put_if_absent(self, path: str, data: bytes) -> None:
            if not self.doubts:
                super().put_if_absent(path, data)
                return
            if landed:
                super().put_if_absent(path, data)
            self.away = True
            raise OutcomeUnknown("no reply")

    store = Doubtful(tmp_path)
    found = counts_in(store)
    found.ask_for("fixed", 3)
    store.doubts = True
    with pytest.raises(OutcomeUnknown):
        found.ask_for("fixed", 4)
    assert found.count("fixed") == 3
    store.doubts = store.away = False
    found.ask_for("free", 2)
    assert found.count("fixed") == counts(tmp_path).count("fixed") == (4 if landed else 3)


def test_two_that_change_at_once_keep_the_changes_of_both(tmp_path: Path) -> None:
    one, other = counts(tmp_path), counts(tmp_path)
    assert one.count("fixed") == other.count("fixed") == 2
    one.ask_for("fixed", 3)
    other.ask_for("free", 3)
    assert (other.count("fixed"), other.count("free")) == (3, 3)


def test_counting_and_looking_wait_for_no_store(tmp_path: Path) -> None:
    class Hanging(FlakyStore):
        hangs = False
        asked, may_answer = threading.Event(), threading.Event()

        def _check(self, *, reads: bool) -> None:
            if self.hangs:
                self.asked.set()
                assert self.may_answer.wait(30)

    store = Hanging(tmp_path)
    found = counts_in(store)
    found.ask_for("free", 2)
    store.hangs = True
    looks = (found.observe("free", BUSY, float(now_s)) for now_s in range(0, 60, 2))
    changes = [change for change in looks if change is not None]
    assert store.asked.wait(30)
    assert found.count("free") == 2
    store.may_answer.set()
    for change in changes:
        change.result(30)
    assert (len(changes), found.count("free")) == (1, 3)
