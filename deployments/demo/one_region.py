"""`raygion demo`: documents in, cited answers out, on this machine, with nothing set up before."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from actors.coordinator.client import CoordinatorClient
from actors.documents.source_files import find_source_files
from cluster.clock import SYSTEM_CLOCK
from cluster.errors import Conflict, InvalidArgument, NotFound
from cluster.progress import Note
from cluster.releases.entries import ReleaseContents
from cluster.releases.requests import AbortRelease
from deployments.clients.http_client import HttpRegion
from deployments.demo.live_note import LiveNote, live_note_table, write_and_find
from deployments.hosting import pipeline, region_host, release_commands
from deployments.hosting.interrupts import uninterrupted
from deployments.installation import Installation
from deployments.terminal import REUSED, Steps, err, out, print_json, say, table

CORPUS = "factbook"
SOURCE = Path(__file__).resolve().parents[2] / "data" / "factbook" / "factbook.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoQuestion:
    question: str
    filter: dict[str, Any] | None = None


QUESTIONS = (
    DemoQuestion(question="What is the capital of Mongolia?"),
    DemoQuestion(question="What is the highest point in Nepal?"),
    DemoQuestion(question="What is the capital of Chad?", filter={"region": "africa"}),
)


def run_demo(installation: Installation, *, stay: bool, as_json: bool) -> None:
    """Runs the whole story, then stays up until Ctrl-C unless asked to end. Leaves nothing
    running.
    """
    if installation.ray_address is not None:
        raise InvalidArgument("the demo starts a Ray cluster of its own; unset it", "ray_address")
    if not SOURCE.is_file():
        raise NotFound("the demo's corpus comes with the repository: run it from a clone of it")
    if region_host.runs_here(installation):
        raise Conflict(f"region {installation.region!r} already runs here: `raygion down` first")
    steps = Steps(quiet=as_json)
    started_s = SYSTEM_CLOCK.monotonic_s()
    with _region_stopped_at_end(installation, steps):
        with steps.shown():
            _bring_up(installation, steps)
            answers = list(_ask(installation, steps))
            note = _write_note(installation, steps)
        took_s = SYSTEM_CLOCK.monotonic_s() - started_s
        _report(installation, steps, answers, note, took_s, as_json=as_json)
        if stay:
            say(f"The region is up at [bold]{installation.url}[/]; Ctrl-C ends it.")
            threading.Event().wait()


def _bring_up(installation: Installation, steps: Steps) -> None:
    with steps.step("Ray cluster"):
        region_host.start_cluster(installation)
        region_host.join(installation)
    with steps.step("Read the World Factbook") as step:
        listing = find_source_files([str(SOURCE)])
        pipeline.ingest_documents(installation, CORPUS, listing, replace=False, progress=step)
    with steps.step("Embedding model") as step:
        embedder = pipeline.store_embedder(installation, step)
    with steps.step("Language model") as step:
        pipeline.store_generator(installation, step)
    with steps.step("Embed and build the shards") as step:
        pipeline.build(installation, CORPUS, embedder, step)
    with steps.step("Collect the release") as step:
        contents = pipeline.contents_of_next(installation, step)
        parts = {"embedder": contents.embedder, "generator": contents.generator}
        named = [*contents.indexes, *(name for name, ref in parts.items() if ref is not None)]
        step.note(", ".join([*named, "prompt"]))
    with steps.step("Coordinator and HTTP endpoint") as step:
        client = region_host.start_services(installation, step.note)
    with steps.step("Propose, prepare and commit a release") as step:
        number, reused = _release(installation, client, contents, step.note)
        client.wait_until_serving(number, region_host.PREPARE_TIMEOUT_S)
        step.note(f"release {number}, {REUSED}" if reused else f"release {number}")


def _release(
    installation: Installation,
    client: CoordinatorClient,
    contents: ReleaseContents,
    note: Note,
) -> tuple[int, bool]:
    """The current release when it is made of the same parts, or a new one. A release that an
    interrupted demo left open is given up.
    """
    state = client.log_state()
    left_open = state.open_proposal()
    if left_open is not None:
        reason = "the demo that proposed it was interrupted"
        client.request(AbortRelease(release=left_open.release.number, reason=reason))
    current = state.current(SYSTEM_CLOCK.wall_ms())
    if current is not None and state.proposals[current].release.contents == contents:
        return current, True
    return release_commands.propose(installation, contents, commit=True, note=note), False


def _ask(installation: Installation, steps: Steps) -> Iterator[dict[str, Any]]:
    with (
        steps.step("Ask three questions over HTTP") as step,
        HttpRegion.of(installation) as http,
    ):
        ask = _answered if installation.settings.generator.source is not None else _found
        for done, asked in enumerate(QUESTIONS, 1):
            narrowed = {} if asked.filter is None else {"filter": asked.filter}
            answer = ask(http, asked.question, narrowed)
            step.count(done, len(QUESTIONS))
            yield {"question": asked.question, "filter": asked.filter, **answer}


def _answered(http: HttpRegion, question: str, narrowed: Mapping[str, Any]) -> dict[str, Any]:
    return http.post("/v1/answer", {"question": question, "max_tokens": 64, **narrowed})


def _found(http: HttpRegion, question: str, narrowed: Mapping[str, Any]) -> dict[str, Any]:
    """The best passage, where no language model is set up."""
    found = http.post("/v1/search", {"query": question, "top_k": 3, **narrowed})
    hits = found.pop("hits")
    return {**found, "answer": hits[0]["text"] if hits else "", "citations": hits}


def _write_note(installation: Installation, steps: Steps) -> LiveNote:
    region = installation.region
    with (
        steps.step("A document written while the region serves") as step,
        HttpRegion.of(installation) as http,
    ):
        note = write_and_find(region, {region: http}, CORPUS, {"region": "europe"})
        found_ms = note.found_ms[region]
        step.note("NOT FOUND" if found_ms is None else f"found within {found_ms:.0f} ms")
    return note


def _report(
    installation: Installation,
    steps: Steps,
    answers: list[dict[str, Any]],
    note: LiveNote,
    took_s: float,
    *,
    as_json: bool,
) -> None:
    with HttpRegion.of(installation) as http:
        summary = http.get("/v1/status")
    if as_json:
        seconds = {**steps.seconds, "all": took_s}
        print_json(
            {
                "url": installation.url,
                "answers": answers,
                "note": note,
                "status": summary,
                "seconds": seconds,
            }
        )
        return
    for answer in answers:
        _show_answer(answer)
    out.print()
    out.print(_outcome(summary, answers))
    out.print(live_note_table(note))
    rows = [(s, f"{took:.1f}", steps.notes.get(s, "")) for s, took in steps.seconds.items()]
    out.print(table("Times", ("step", "seconds", ""), [*rows, ("all", f"{took_s:.1f}", "")]))
    if reused := [step for step, note in steps.notes.items() if REUSED in note]:
        say(f"{len(reused)} steps found what they make in the store, from an earlier run.")


def _show_answer(answer: dict[str, Any]) -> None:
    narrowed = f"  only {answer['filter']}" if answer["filter"] else ""
    cited = ", ".join(f"[{i}] {c['id']}" for i, c in enumerate(answer["citations"], 1))
    out.print(f"\nQ {answer['question']}{narrowed}", style="bold", markup=False, soft_wrap=True)
    out.print(f"A {answer['answer']}", markup=False, soft_wrap=True)
    out.print(f"  {cited}", style="dim", markup=False, soft_wrap=True)


def _outcome(summary: dict[str, Any], answers: list[dict[str, Any]]) -> Table:
    """The release and model of the answers, and how long they took."""
    number = summary["release"]
    release = next(r for r in summary["resident"] if r["release"] == number)
    corpora = release["corpora"]
    serving, replicas = (sum(c[k] for c in corpora) for k in ("replicas_serving", "replicas"))
    rows = [
        ("release", f"{number}, current in region {summary['region']}"),
        ("passages", ", ".join(f"{c['num_passages']} in {c['corpus']}" for c in corpora)),
        ("shards", sum(c["shards"] for c in corpora)),
        ("replicas", f"{serving} of {replicas} serving"),
        ("coverage", f"{min(answer['coverage'] for answer in answers):.2f}"),
        ("recall@10", ", ".join(f"{c['recall_at_10']:.3f}" for c in corpora)),
        ("language model", release["model"] or "none"),
        ("answers", ", ".join(f"{answer['took_ms'] / 1000:.1f} s" for answer in answers)),
    ]
    return table("The region", ("", ""), rows)


@contextmanager
def _region_stopped_at_end(installation: Installation, steps: Steps) -> Iterator[None]:
    try:
        yield
    finally:
        with uninterrupted():
            if not steps.quiet:
                err.print("Stopping the region ...")
            region_host.leave()
            region_host.stop_region(installation)
