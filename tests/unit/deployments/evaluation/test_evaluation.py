"""Judged queries asked of one release, the figures that come of it, and the command."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, InvalidArgument, NotFound, Overloaded, Unavailable
from deployments.evaluation.evaluation import (
    Evaluation,
    Plan,
    Unit,
    evaluate,
    parse_measures,
    score,
)
from deployments.evaluation.files import Queries

RAYGION = str(Path(sys.executable).with_name("raygion"))
NUM_QUERIES = 200
BATCH = 64


class FakeRegion:
    """Finds what `hits` says for a text; records the bodies."""

    def __init__(self, hits: Callable[[str], list[str]]) -> None:
        self.hits = hits
        self.release = 7
        self.bodies: list[dict[str, Any]] = []
        self.errors: dict[int, Exception] = {}
        """Raised in place of the reply of that number, counted from 0."""

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        assert path == "/v1/search"
        asked: dict[str, Any] = dict(body)
        self.bodies.append(asked)
        if (error := self.errors.get(len(self.bodies) - 1)) is not None:
            raise error
        found = [self.hits(text)[: asked["top_k"]] for text in asked["queries"]]
        # Another release becomes current after each reply.
        self.release += 1
        return {
            "results": [{"hits": [{"id": id} for id in ids]} for ids in found],
            "release": asked.get("release", self.release - 1),
            "region": "north",
            "coverage": 1.0,
        }


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return 0

    def pause(self, wait_s: float) -> None:
        self.now_s += wait_s


def plan_of(
    judgements: dict[str, dict[str, int]], *, top_k: int = 3, by: Unit = Unit.DOCUMENT, **more: Any
) -> Plan:
    """Every judged query asks for its own id."""
    ids = tuple(judgements)
    settings: dict[str, Any] = {
        "corpus": "notes",
        "queries": Queries(ids=ids, texts=ids),
        "judgements": judgements,
        "measures": parse_measures((), top_k),
        "top_k": top_k,
        "by": by,
    }
    return Plan(**{**settings, **more})


def evaluated(region: FakeRegion, plan: Plan, timeout_s: float = 1e6) -> Evaluation:
    clock = FakeClock()
    return evaluate(
        region,
        plan,
        deadline=Deadline.after(timeout_s, clock),
        pause=clock.pause,
        count=lambda done, total: None,
    )


def many_judgements() -> dict[str, dict[str, int]]:
    return {f"q{n}": {f"q{n}": 1} for n in range(NUM_QUERIES)}


def own_id(text: str) -> list[str]:
    return [text]


# Figures


def test_figures_are_those_of_the_textbook() -> None:
    judgements = {"first": {"a": 3, "b": 1, "c": 0}, "second": {"x": 1, "y": 1}}
    rankings = {"first": ["b", "c", "a"], "second": ["n", "x", "m"]}
    figures = score(parse_measures((), 3), judgements, rankings)
    first = (1 + 3 / 2) / (3 + 1 / math.log2(3))
    second = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert figures == {
        "nDCG@3": pytest.approx((first + second) / 2),
        "R@3": pytest.approx((1 + 0.5) / 2),
        "RR@3": pytest.approx((1 + 0.5) / 2),
    }


def test_the_order_of_the_hits_counts_whatever_their_ids() -> None:
    for ranking in (["a", "z", "ö"], ["z", "ö", "a"], ["ö", "a", "z"]):
        figures = score(parse_measures(["RR"], 3), {"q": {"ö": 1}}, {"q": ranking})
        assert figures == {"RR": pytest.approx(1 / (1 + ranking.index("ö")))}


def test_an_answer_without_hits_counts_as_nothing_found() -> None:
    found = evaluated(
        FakeRegion(lambda text: [text] if text == "a" else []),
        plan_of({"a": {"a": 1}, "b": {"b": 1}}),
    )
    assert (found.num_answered, found.metrics["R@3"]) == (2, 0.5)


@pytest.mark.parametrize("name", ["NOPE", "nDCG@", "nDCG@'a'", "P", "R@0", "R@11", "alpha_nDCG@5"])
def test_a_measure_that_cannot_be_taken_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="metric: "):
        parse_measures([name], 10)


def test_measures_are_named_once() -> None:
    names = [str(measure) for measure in parse_measures(["P@1", "MRR@5", "RR@5", "AP"], 10)]
    assert names == ["P@1", "RR@5", "AP"]


# Passages and documents


def test_a_document_ranks_as_its_best_passage() -> None:
    region = FakeRegion(lambda _: ["a#2", "b", "a#0", "c#note", "a#1"])
    judgements = {"q": {"b": 1, "c#note": 1}}
    found = evaluated(region, plan_of(judgements, top_k=5))
    assert found.metrics["RR@5"] == 0.5
    assert (found.num_hits, found.num_hits_judged) == (3, 2)
    by_passage = evaluated(region, plan_of({"q": {"a#0": 1}}, top_k=5, by=Unit.PASSAGE))
    assert by_passage.metrics["RR@5"] == pytest.approx(1 / 3)


def test_a_document_that_is_named_like_a_passage_is_found_when_it_is_judged() -> None:
    found = evaluated(FakeRegion(lambda _: ["a#1", "b"]), plan_of({"q": {"a#1": 1}}))
    assert found.metrics["RR@3"] == 1.0


def test_queries_whose_passages_are_of_few_documents_are_asked_for_more() -> None:
    def hits(text: str) -> list[str]:
        return [f"long#{n}" for n in range(20)] + ["b", "c"] if text == "q1" else ["a", "b", "c"]

    region = FakeRegion(hits)
    found = evaluated(region, plan_of({"q1": {"c": 1}, "q2": {"c": 1}}))
    assert found.metrics["RR@3"] == pytest.approx(1 / 3)
    assert found.num_hits == 6
    asked = [(body["queries"], body["top_k"]) for body in region.bodies]
    assert asked == [(["q1", "q2"], 3), (["q1"], 12), (["q1"], 48)]


def test_asking_for_more_ends_at_the_most_that_may_be_asked_for() -> None:
    region = FakeRegion(lambda _: [f"long#{n}" for n in range(2000)])
    found = evaluated(region, plan_of({"q": {"long": 1}}, top_k=10))
    assert [body["top_k"] for body in region.bodies] == [10, 40, 160, 640, 1000]
    assert (found.metrics["RR@10"], found.num_hits) == (1.0, 1)


# Asking


def test_the_release_of_the_first_reply_answers_all_queries() -> None:
    region = FakeRegion(own_id)
    found = evaluated(region, plan_of(many_judgements()))
    assert found.release == 7
    assert [body.get("release") for body in region.bodies] == [None, 7, 7, 7]
    assert [len(body["queries"]) for body in region.bodies] == [64, 64, 64, 8]
    assert (found.num_answered, found.num_failed, found.metrics["R@3"]) == (NUM_QUERIES, 0, 1.0)
    assert (found.region, found.coverage) == ("north", 1.0)


def test_a_release_that_was_asked_for_is_asked_from_the_start() -> None:
    region = FakeRegion(own_id)
    assert evaluated(region, plan_of(many_judgements(), release=3)).release == 3
    assert {body["release"] for body in region.bodies} == {3}


def test_only_queries_with_a_relevant_document_are_asked() -> None:
    judgements = {"a": {"a": 1}, "b": {"b": 0}, "c": {"c": -1}, "elsewhere": {"e": 1}}
    ids = ("a", "b", "c", "d")
    region = FakeRegion(own_id)
    found = evaluated(region, plan_of(judgements, queries=Queries(ids=ids, texts=ids)))
    assert [body["queries"] for body in region.bodies] == [["a"]]
    assert (found.num_answered, found.num_unjudged, found.num_without_query) == (1, 3, 1)
    with pytest.raises(InvalidArgument, match="do their query ids agree"):
        evaluated(region, plan_of({"x": {"a": 1}}, queries=Queries(ids=ids, texts=ids)))


def test_a_batch_that_fails_in_passing_is_asked_again() -> None:
    region = FakeRegion(own_id)
    region.errors = {1: Overloaded("full"), 2: Unavailable("away")}
    found = evaluated(region, plan_of(many_judgements()))
    assert (found.num_answered, found.num_failed, len(region.bodies)) == (NUM_QUERIES, 0, 6)


def test_a_lost_batch_is_counted_and_is_not_in_the_means() -> None:
    region = FakeRegion(own_id)
    region.errors = dict.fromkeys(range(1, 4), Overloaded("full"))
    found = evaluated(region, plan_of(many_judgements()))
    assert (found.num_answered, found.num_failed) == (NUM_QUERIES - BATCH, BATCH)
    assert found.failures == {"overloaded": BATCH}
    assert found.metrics["R@3"] == 1.0


def test_a_region_that_is_gone_is_not_asked_forever() -> None:
    judgements = {f"q{n}": {f"q{n}": 1} for n in range(100 * BATCH)}
    region = FakeRegion(own_id)
    region.errors = dict.fromkeys(range(1, 1000), Unavailable("gone"))
    found = evaluated(region, plan_of(judgements))
    assert (found.num_answered, found.num_failed) == (BATCH, 99 * BATCH)
    assert len(region.bodies) == 1 + 3 * 3


def test_the_deadline_ends_the_asking() -> None:
    region = FakeRegion(own_id)
    region.errors = {1: Overloaded("full"), 2: Overloaded("full")}
    found = evaluated(region, plan_of(many_judgements()), timeout_s=0.1)
    assert found.failures == {"deadline_exceeded": NUM_QUERIES - BATCH}
    assert [body["timeout_ms"] for body in region.bodies] == [100, 100]


def test_nothing_answered_is_an_error_and_no_figure() -> None:
    region = FakeRegion(lambda _: [f"long#{n}" for n in range(20)])
    region.errors = dict.fromkeys(range(1, 9), Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        evaluated(region, plan_of({"q": {"long": 1}}))


@pytest.mark.parametrize("error", [Unavailable("no region"), InvalidArgument("wrong", "corpus")])
def test_an_error_before_the_first_reply_is_raised(error: Exception) -> None:
    region = FakeRegion(own_id)
    region.errors = {0: error}
    with pytest.raises(type(error)):
        evaluated(region, plan_of(many_judgements()))
    assert len(region.bodies) == 1


def test_an_error_that_will_not_pass_is_raised() -> None:
    region = FakeRegion(own_id)
    region.errors = {2: NotFound("release 7 is not served here")}
    with pytest.raises(NotFound, match="not served"):
        evaluated(region, plan_of(many_judgements()))


def test_no_time_at_all_is_an_error() -> None:
    with pytest.raises(DeadlineExceeded):
        evaluated(FakeRegion(own_id), plan_of(many_judgements()), timeout_s=0.0)


# The command


class _Handler(BaseHTTPRequestHandler):
    """Replies as a region whose only document is `d`; the first `replies_max` times."""

    replies_max = 1
    asked = threading.Semaphore(0)
    closing = threading.Event()
    num_replies = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.release()
        if self.num_replies >= self.replies_max:
            type(self).closing.wait(60)
            return
        type(self).num_replies += 1
        hits = [{"id": "d", "score": 1.0, "text": "", "metadata": {}}]
        reply = {"results": [{"hits": hits}] * len(body["queries"]), "release": 7}
        content = json.dumps({**reply, "region": "here", "coverage": 1.0}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing on standard error."""


@contextmanager
def served_region(folder: Path, replies: int, num_queries: int) -> Iterator[type[_Handler]]:
    """A folder with settings, queries and judgements of a region that gives so many replies."""

    class Handler(_Handler):
        replies_max = replies
        asked = threading.Semaphore(0)
        closing = threading.Event()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    port = server.server_address[1]
    (folder / "regions.yaml").write_text(f"regions: {{here: {{http: {{port: {port}}}}}}}\n")
    ids = range(num_queries)
    (folder / "q.tsv").write_text("".join(f"{n}\tquestion\n" for n in ids))
    (folder / "r.tsv").write_text("".join(f"{n}\td\t1\n" for n in ids))
    try:
        yield Handler
    finally:
        Handler.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYGION_"))}
    return subprocess.Popen(
        [RAYGION, "eval", "notes", "--queries", "q.tsv", "--qrels", "r.tsv", *options],
        cwd=folder,
        env={**environment, "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    with served_region(tmp_path, replies=2, num_queries=5):
        process = started(tmp_path)
        shown, errors = process.communicate(timeout=60)
        assert (process.returncode, errors.count("✓ Ask")) == (0, 1), errors
        assert "Release 7 of region here alone answered 5 queries; coverage 1.00" in shown
        assert [line.split()[-1] for line in shown.splitlines() if "@10" in line] == ["1.0000"] * 3
        process = started(tmp_path, "--json", "--metric", "P@1")
        shown, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    found = json.loads(shown)
    assert (found["metrics"], found["release"], found["num_answered"]) == ({"P@1": 1.0}, 7, 5)


def test_failed_queries_show_in_the_status(tmp_path: Path) -> None:
    with served_region(tmp_path, replies=1, num_queries=BATCH + 1) as region:
        # The second batch is let go without a reply.
        region.closing.set()
        process = started(tmp_path)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "1 of 65 queries failed and are not in the means: 1 unavailable" in shown


def test_an_interrupt_ends_the_command_quietly(tmp_path: Path) -> None:
    with served_region(tmp_path, replies=1, num_queries=BATCH + 1) as region:
        process = started(tmp_path)
        for _ in range(2):
            assert region.asked.acquire(timeout=60)
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=60)
    assert (process.returncode, shown) == (130, "")
    assert errors.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in errors
