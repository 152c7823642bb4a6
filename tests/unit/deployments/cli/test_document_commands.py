"""`raygion put`, `get`, `rm` and `changes` against a region's HTTP interface."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from cluster.errors import NotFound, NotYet
from deployments.cli.main import app
from tests.support.worlds.fake_documents import FakeDocuments
from tests.support.worlds.fake_service import FakeService, app_of, on_loopback

Ask = Callable[..., Awaitable[Result]]


@contextlib.asynccontextmanager
async def command_line(documents: FakeDocuments, folder: Path) -> AsyncIterator[Ask]:
    async with on_loopback(app_of(FakeService(), documents=documents)) as url:
        config = folder / "regions.yaml"
        port = url.rpartition(":")[2]
        config.write_text(f"regions:\n  north:\n    http: {{port: {port}}}\n")

        async def ask(*words: str, stdin: str | None = None) -> Result:
            told = [*words, "--config", str(config)]
            return await asyncio.to_thread(CliRunner().invoke, app, told, stdin)

        yield ask


def written(folder: Path, *documents: dict[str, Any] | str) -> str:
    lines = [
        document if isinstance(document, str) else orjson.dumps(document).decode()
        for document in documents
    ]
    file = folder / "notes.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


GOOD = {"id": "T-1", "text": "The lift is out.", "metadata": {"state": "open"}}


async def test_a_file_is_written_and_what_is_wrong_is_told(tmp_path: Path) -> None:
    documents = FakeDocuments()
    file = written(tmp_path, GOOD, {"id": "T-2"}, "{oops", {"id": "[bold]", "text": "t"})
    async with command_line(documents, tmp_path) as ask:
        told = await ask("put", "tickets", file, "--wait", "visible")
        as_json = await ask("put", "tickets", file, "--json")

    assert told.exit_code == 2
    assert "2 documents are written." in told.stdout
    assert "Line 2 ('T-2'): text: must be a string, not missing" in told.stdout
    assert "Line 3: is not valid JSON" in told.stdout
    assert [str(request.wait) for request in documents.requests] == ["visible", "durable"]
    assert [change.document for change in documents.log] == ["T-1", "[bold]"] * 2
    reply = orjson.loads(as_json.stdout)
    assert (reply["written"], [each["line"] for each in reply["failed"]]) == (2, [3, 2])


async def test_documents_come_from_standard_input_and_the_first_lines_can_be_left_out(
    tmp_path: Path,
) -> None:
    documents = FakeDocuments()
    lines = "\n".join(orjson.dumps({"id": id, "text": "t"}).decode() for id in "abc")
    async with command_line(documents, tmp_path) as ask:
        told = await ask("put", "tickets", "-", "--skip", "2", stdin=lines)

    assert told.exit_code == 0
    assert [change.document for change in documents.log] == ["c"]


async def test_what_is_written_but_not_everywhere_yet_is_no_success(tmp_path: Path) -> None:
    documents = FakeDocuments()
    documents.unmet = NotYet("region south does not answer")
    async with command_line(documents, tmp_path) as ask:
        told = await ask("put", "tickets", written(tmp_path, GOOD), "--wait", "all")

    assert told.exit_code == 1
    assert "1 documents are written." in told.stdout
    assert "region south does not answer" in told.stdout


async def test_a_document_is_shown_and_deleted(tmp_path: Path) -> None:
    documents = FakeDocuments()
    odd = {**GOOD, "id": "a/../[b] é"}
    async with command_line(documents, tmp_path) as ask:
        await ask("put", "tickets", written(tmp_path, odd))
        shown = await ask("get", "tickets", odd["id"])
        as_json = await ask("get", "tickets", odd["id"], "--json")
        deleted = await ask("rm", "tickets", odd["id"], "T-9", "--wait", "all")
        gone = await ask("get", "tickets", odd["id"])

    assert shown.exit_code == 0
    assert "The lift is out." in shown.stdout
    assert "metadata.state" in shown.stdout
    assert orjson.loads(as_json.stdout)["id"] == odd["id"]
    assert "2 documents are deleted." in deleted.stdout
    assert [change.document for change in documents.log] == [odd["id"], odd["id"], "T-9"]
    assert isinstance(gone.exception, NotFound)


async def test_present_changes_are_told_and_where_to_go_on(tmp_path: Path) -> None:
    async with command_line(FakeDocuments(), tmp_path) as ask:
        await ask("put", "tickets", written(tmp_path, GOOD, {"id": "T-2", "text": "New.\nLine."}))
        await ask("rm", "tickets", "T-1")
        told = await ask("changes", "tickets", "--exit")
        later = await ask("changes", "tickets", "--exit", "--json", "--after", "north:2")
        none = await ask("changes", "tickets", "--exit", "--after", "north:3")

    assert [row.split("  ", 1)[1] for row in told.stdout.splitlines()] == [
        "T-1  The lift is out.",
        "T-2  New. Line.",
        "T-1  deleted",
    ]
    assert "Next: --after north:3" in told.stderr
    (change,) = map(orjson.loads, later.stdout.splitlines())
    assert (change["id"], change["deleted"]) == ("T-1", True)
    assert (none.stdout, none.exit_code) == ("", 0)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("put", "tickets", "missing.jsonl"), "file"),
        (("put", "tickets", "missing.jsonl", "--wait", "later"), "wait"),
        (("rm", "tickets", "T-1", "--wait", "later"), "wait"),
        (("changes", "tickets", "--after", "5"), "after"),
        (("get", "other", "T-1"), "corpus"),
    ],
)
async def test_wrong_words_are_refused_by_their_name(
    words: tuple[str, ...], field: str, tmp_path: Path
) -> None:
    async with command_line(FakeDocuments(), tmp_path) as ask:
        told = await ask(*words)

    assert getattr(told.exception, "field", None) == field
