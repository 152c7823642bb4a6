"""What the command line shows: steps with their times, bars, tables, errors that say what to do."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from cluster.errors import RaygionError
from cluster.records import Record

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    """One JSON document on standard output, for machines."""
    text = orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    sys.stdout.write(text.decode() + "\n")


def print_error(error: RaygionError, *, as_json: bool) -> None:
    """The error on standard error, or as the JSON that the HTTP interface gives."""
    if as_json:
        body = {"code": error.code, "message": str(error), "retryable": error.retryable}
        print_json({"error": body})
    else:
        err.print(f"[bold red]error[/] ({error.code}): {error}", soft_wrap=True)


class Steps:
    """Long work as a list of steps, each with a spinner or a bar and the time that it took."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.seconds: dict[str, float] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}[/]"),
            console=err,
            disable=quiet,
        )

    @contextmanager
    def shown(self) -> Iterator[Steps]:
        with self._progress:
            yield self

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:
        """A step that is done when the block ends."""
        task = self._progress.add_task(title, total=total or 1, note="")
        started_s = time.monotonic()
        yield Step(self._progress, task)
        self.seconds[title] = time.monotonic() - started_s
        row = next(t for t in self._progress.tasks if t.id == task)
        self._progress.update(task, completed=row.total)


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One running step."""

    _progress: Progress
    _task: Any

    def note(self, text: str) -> None:
        """A short remark beside the step, such as "already in the store"."""
        self._progress.update(self._task, note=text)

    def count(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=max(1, total))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def _plain(value: object) -> object:
    if isinstance(value, Record):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
