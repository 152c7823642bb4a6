"""`raygion put`, `get`, `rm` and `changes`: single documents of a corpus that is served, over the
region's HTTP interface.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer
from rich.markup import escape

from cluster.clock import SYSTEM_CLOCK, Backoff, system_rng
from cluster.deltas.document_service import Acknowledgement
from cluster.errors import InvalidArgument, Unavailable
from deployments.cli.options import Config, Corpus, Json, Region, opened
from deployments.clients.document_loading import Loading
from deployments.clients.http_client import HttpRegion
from deployments.terminal import Steps, err, out, print_json, say, table, utc

_REFUSED_SHOWN_MAX = 20
_STREAM_TIMEOUT_S = 30.0
"""A stream of changes gives a sign of life every few seconds."""
_BACKOFF = Backoff(initial_s=0.5, wait_max_s=10.0)

Wait = Annotated[
    str,
    typer.Option(
        "--wait",
        help="When a write is done: durable (in the store), visible (searches of the region show "
        "it), quorum or all (a majority of the regions, or all, have it).",
    ),
]
DocumentId = Annotated[str, typer.Argument(help="Id of the document.", metavar="ID")]


def put(
    corpus: Corpus,
    file: Annotated[
        Path,
        typer.Argument(
            help="Documents, one JSON object a line: "
            '{"id": "T-1", "text": "...", "metadata": {"state": "open"}}, or '
            '{"id": "T-1", "delete": true}. "-" reads standard input.',
            metavar="FILE.jsonl",
        ),
    ],
    wait: Wait = Acknowledgement.DURABLE,
    skip: Annotated[
        int, typer.Option("--skip", help="Lines to leave out, which were written before.", min=0)
    ] = 0,
    config: Config = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Write documents into a corpus that is served: searches find them without a build.

    A document replaces the one of its id. One that is wrong is told and left out, and the others
    are written; the command then ends with status 2. When it is interrupted, it says how to go on.

    Example: raygion put tickets notes.jsonl --wait visible
    """
    _check_wait(wait)
    steps = Steps(quiet=as_json)
    with HttpRegion.of(opened(config, region)) as http, steps.shown():
        loading = _loading(http, corpus, wait)
        with _resumable(loading), steps.step("Write documents") as step:
            num_lines = _num_lines(file)
            for done in loading.load(_lines(file), skip):
                step.count(done, max(done, num_lines))
            step.note(f"{loading.written} written")
    _tell(loading, as_json=as_json)


def rm(
    corpus: Corpus,
    ids: Annotated[list[str], typer.Argument(help="Ids of documents.", metavar="ID...")],
    wait: Wait = Acknowledgement.DURABLE,
    config: Config = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Delete documents of a corpus that is served: searches stop showing them without a build.

    An id that the corpus does not have is no error.

    Example: raygion rm tickets T-1 T-2 --wait all
    """
    _check_wait(wait)
    lines = (orjson.dumps({"id": id, "delete": True}) for id in ids)
    with HttpRegion.of(opened(config, region)) as http:
        loading = _loading(http, corpus, wait)
        for _ in loading.load(lines):
            pass
    _tell(loading, as_json=as_json, verb="deleted")


def get(
    corpus: Corpus,
    id: DocumentId,
    config: Config = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Show a document as it is now: as it was written last, or else as it was built.

    Example: raygion get tickets T-1
    """
    with HttpRegion.of(opened(config, region)) as http:
        # Dots are escaped as well, since "." and ".." are steps in a path.
        path = f"/v1/documents/{quote(id, safe='').replace('.', '%2E')}"
        found = http.get(path, params={"corpus": corpus})
    if as_json:
        print_json(found)
        return
    changed_ms = found["changed_ms"]
    rows = [
        ("version", found["version"] or "as it was built"),
        *([] if changed_ms is None else [("changed", utc(changed_ms))]),
        ("embedded", "yes" if found["embedded"] else "not by the embedder of the current release"),
        *((f"metadata.{name}", value) for name, value in found["metadata"].items()),
    ]
    out.print(table(found["id"], ("field", "value"), rows))
    out.print(found["text"], markup=False, soft_wrap=True)


def changes(
    corpus: Corpus,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            help="Where an earlier call ended, such as eu:120,us:7. Default: all changes that the "
            "index does not hold yet.",
        ),
    ] = None,
    exit_when_current: Annotated[
        bool, typer.Option("--exit", help="End once all present changes are told.")
    ] = False,
    config: Config = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Follow the documents that change, until Ctrl-C; then it says where to go on.

    With --json each change is one line.

    Example: raygion changes tickets --after eu:120
    """
    with HttpRegion.of(opened(config, region)) as http:
        try:
            for event, data in _followed(http, corpus, after):
                if event == "change":
                    _print_change(data, as_json=as_json)
                elif event == "current":
                    after = data["after"]
                    if exit_when_current:
                        break
        finally:
            if after:
                err.print(f"Next: --after {after}")


def _followed(
    http: HttpRegion, corpus: str, after: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events, over as many streams as it takes: each ends after minutes."""
    path = f"/v1/corpora/{quote(corpus, safe='')}/changes"
    rng, failures = system_rng(), 0
    while True:
        params = {"after": after} if after else {}
        try:
            for events in http.follow(path, params=params, timeout_s=_STREAM_TIMEOUT_S):
                failures = 0
                for event, data in events:
                    if event == "current":
                        after = data["after"]
                    yield event, data
        except Unavailable:
            failures += 1
            if failures == _BACKOFF.attempts_max:
                raise
            SYSTEM_CLOCK.sleep(_BACKOFF.wait_s(failures - 1, rng))


def _print_change(change: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(orjson.dumps(change).decode() + "\n")
        sys.stdout.flush()
        return
    what = "deleted" if change.get("deleted") else change["text"].replace("\n", " ")[:80]
    say(f"{change['version']}  [bold]{escape(change['id'])}[/]  {escape(what)}")


def _loading(http: HttpRegion, corpus: str, wait: str) -> Loading:
    return Loading(http, corpus, wait, SYSTEM_CLOCK.sleep, system_rng())


@contextmanager
def _resumable(loading: Loading) -> Iterator[None]:
    """Says how to go on if the block does not come to its end."""
    try:
        yield
    except BaseException:
        if loading.lines:
            err.print(
                f"{loading.written} documents are written, of the first {loading.lines} lines. "
                f"Go on with --skip {loading.lines}.",
                soft_wrap=True,
            )
        raise


def _tell(loading: Loading, *, as_json: bool, verb: str = "written") -> None:
    """The end of a load. Exits with status 2 where documents were refused, and 1 where what is
    written has not come as far as was asked.
    """
    if as_json:
        print_json(
            {
                "corpus": loading.corpus,
                verb: loading.written,
                "failed": loading.refused,
                "unmet": loading.unmet or None,
            }
        )
    else:
        say(f"{loading.written} documents are {verb}.")
        for refused in loading.refused[:_REFUSED_SHOWN_MAX]:
            id = "" if refused.id is None else f" ({escape(repr(refused.id))})"
            say(f"Line {refused.line}{id}: {escape(refused.message)}")
        if (more := len(loading.refused) - _REFUSED_SHOWN_MAX) > 0:
            say(f"... and {more} more; --json tells all.")
        if loading.unmet:
            say(f"Not all regions show them yet, which they will: {escape(loading.unmet)}")
    if loading.refused:
        raise typer.Exit(2)
    if loading.unmet:
        raise typer.Exit(1)


def _check_wait(wait: str) -> None:
    if wait not in list(Acknowledgement):
        raise InvalidArgument(f"must be one of {', '.join(Acknowledgement)}", "wait")


def _lines(file: Path) -> Iterable[bytes]:
    if str(file) == "-":
        return sys.stdin.buffer
    return _opened(file)


def _opened(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as lines:
            yield from lines
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be read: {error.strerror}", "file") from error


def _num_lines(file: Path) -> int:
    return 0 if str(file) == "-" else sum(1 for _ in _opened(file))
