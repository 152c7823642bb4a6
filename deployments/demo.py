"""`raygion demo`: documents in, cited answers out, on this machine, with nothing set up before."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.coordinator_client import CoordinatorClient
from cluster.errors import Conflict, InvalidArgument, NotFound
from cluster.releases import ReleaseContents
from deployments import pipeline, region_host
from deployments.cli_queries import residents
from deployments.console import Steps, err, out, print_json, table
from deployments.http_client import HttpRegion
from deployments.installation import Installation

CORPUS = "factbook"
SOURCE = Path(__file__).resolve().parents[1] / "data" / "factbook" / "factbook.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoQuestion:
    question: str
    filter: dict[str, Any] | None = None


QUESTIONS = (
    DemoQuestion(question="What is the capital of Mongolia?"),
    DemoQuestion(question="What is the highest point in Nepal?"),
    DemoQuestion(question="Which country mines copper?", filter={"region": "africa"}),
)


def run_demo(installation: Installation, *, stay: bool, as_json: bool) -> None:
    """Tells the story and, unless told otherwise, stays up until Ctrl-C. Leaves nothing running."""
    if installation.region_settings.ray_address is not None:
        raise InvalidArgument("the demo starts a Ray cluster of its own; unset it", "ray_address")
    if not SOURCE.is_file():
        raise NotFound("the demo's corpus comes with the repository: run it from a clone of it")
    if region_host.runs_here(installation):
        raise Conflict(f"region {installation.region!r} already runs here: `raygion down` first")
    steps = Steps(quiet=as_json)
    started_s = time.monotonic()
    with _interruptible(), _region_stopped_at_end(installation, steps):
        with steps.shown():
            _bring_up(installation, steps)
            answers = list(_ask(installation, steps))
        took_s = time.monotonic() - started_s
        _report(installation, steps, answers, took_s, as_json=as_json)
        if stay:
            out.print(f"The region is up at [bold]{installation.url}[/]; Ctrl-C ends it.")
            threading.Event().wait()


def _bring_up(installation: Installation, steps: Steps) -> None:
    with steps.step("Ray cluster"):
        region_host.start_cluster(installation)
        region_host.join(installation)
    with steps.step("Read and chunk the World Factbook") as step:
        pipeline.ingest_documents(installation, CORPUS, [str(SOURCE)], replace=False, step=step)
    with steps.step("Embedding model") as step:
        embedder = pipeline.store_embedder(installation, step)
    with steps.step("Language model") as step:
        pipeline.store_generator(installation, step)
    with steps.step("Embed and build the shards") as step:
        pipeline.build(installation, CORPUS, embedder, step)
    with steps.step("Collect the release") as step:
        contents = pipeline.contents_of_latest(installation, step)
        step.note(f"{len(contents.indexes)} index, embedder, generator, prompt")
    with steps.step("Coordinator and HTTP endpoint") as step:
        client = region_host.start_services(installation, step.note)
    with steps.step("Propose, prepare and commit a release") as step:
        number, reused = _release(installation, client, contents, step.note)
        client.wait_until_serving(number, region_host.PREPARE_TIMEOUT_S)
        step.note(f"release {number}" + (", already committed" if reused else ""))


def _release(
    installation: Installation,
    client: CoordinatorClient,
    contents: ReleaseContents,
    note: region_host.Progress,
) -> tuple[int, bool]:
    """The current release when it is made of the same parts, or a new one."""
    state = client.log_state()
    current = state.current(region_host.now_ms())
    if current is not None and state.proposals[current].release.contents == contents:
        return current, True
    return region_host.propose(installation, contents, commit=True, note=note), False


def _ask(installation: Installation, steps: Steps) -> Iterator[dict[str, Any]]:
    with (
        steps.step("Ask three questions over HTTP", total=len(QUESTIONS)) as step,
        HttpRegion.of(installation) as http,
    ):
        for done, asked in enumerate(QUESTIONS, 1):
            body: dict[str, object] = {"question": asked.question, "max_tokens": 64}
            if asked.filter is not None:
                body["filter"] = asked.filter
            answer = http.post("/v1/answer", body)
            step.count(done, len(QUESTIONS))
            yield {"question": asked.question, "filter": asked.filter, **answer}


def _report(
    installation: Installation,
    steps: Steps,
    answers: list[dict[str, Any]],
    took_s: float,
    *,
    as_json: bool,
) -> None:
    with HttpRegion.of(installation) as http:
        summary = http.get("/v1/status")
    if as_json:
        seconds = {**steps.seconds, "all": took_s}
        print_json(
            {"url": installation.url, "answers": answers, "status": summary, "seconds": seconds}
        )
        return
    for answer in answers:
        narrowed = f"  [dim]only {answer['filter']}[/]" if answer["filter"] else ""
        out.print(f"\n[bold]Q[/] {answer['question']}{narrowed}")
        out.print(f"[bold]A[/] {answer['answer']}", soft_wrap=True)
        cited = ", ".join(f"[{i}] {c['id']}" for i, c in enumerate(answer["citations"], 1))
        out.print(
            f"  {cited}; release {answer['release']}, region {answer['region']}, "
            f"coverage {answer['coverage']:.2f}, {answer['took_ms']:.0f} ms",
            style="dim",
            markup=False,
        )
    out.print()
    out.print(residents(summary))
    rows = [(step, f"{seconds:.1f}") for step, seconds in steps.seconds.items()]
    out.print(table("Times", ("step", "seconds"), [*rows, ("all", f"{took_s:.1f}")]))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and a polite kill alike end the demo in good order, and quietly."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        err.print("Interrupted; everything was ended.")
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _region_stopped_at_end(installation: Installation, steps: Steps) -> Iterator[None]:
    try:
        yield
    finally:
        # A second Ctrl-C must not leave half of the cluster behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not steps.quiet:
            err.print("Stopping the region ...")
        region_host.leave()
        region_host.stop_region(installation)
        signal.signal(signal.SIGINT, before)
