"""How many replicas a corpus has: by the settings, a wish, the load, a new coordinator."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from actors.replica_counts import ReplicaCounts
from cluster.config import Settings
from cluster.corpus_settings import CorpusSettings
from cluster.errors import InvalidArgument, Unavailable
from cluster.local_store import LocalStore
from cluster.replica_scaling import ReplicaLoad

BUSY = [ReplicaLoad(busy_share=1.0, waiting=50)] * 2
IDLE = [ReplicaLoad(busy_share=0.0, waiting=0)] * 2
SETTINGS = Settings(
    corpora={
        "fixed": CorpusSettings(replicas=2),
        "free": CorpusSettings(replicas=2, replicas_max=3),
    }
)


def counts(folder: Path, settings: Settings = SETTINGS) -> ReplicaCounts:
    return ReplicaCounts(settings, LocalStore(folder), "here")


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
    for now_s in range(0, 60, 2):
        for corpus in ("fixed", "free"):
            found.observe(corpus, BUSY, float(now_s))
    assert (found.count("fixed"), found.count("free")) == (2, 3)
    assert counts(tmp_path).count("free") == 3
    for now_s in range(60, 400, 2):
        found.observe("free", IDLE, float(now_s))
    assert found.count("free") == 2


def test_settings_that_changed_meanwhile_bound_what_the_log_says(tmp_path: Path) -> None:
    found = counts(tmp_path)
    for now_s in range(0, 60, 2):
        found.observe("free", BUSY, float(now_s))
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
    found = ReplicaCounts(SETTINGS, store, "here")
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


def test_while_the_store_is_away_the_settings_count(tmp_path: Path) -> None:
    counts(tmp_path).ask_for("fixed", 4)

    class Away(LocalStore):
        away = True

        def list_names(self, folder: str, after: str | None = None) -> list[str]:
            if self.away:
                raise Unavailable("the store is away")
            return super().list_names(folder, after)

    store = Away(tmp_path)
    found = ReplicaCounts(SETTINGS, store, "here")
    assert found.count("fixed") == 2
    for now_s in range(0, 20, 2):
        found.observe("free", BUSY, float(now_s))
    assert found.count("free") == 2
    store.away = False
    assert found.count("fixed") == 4
