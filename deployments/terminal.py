"""The output of the command line: steps with their times, tables, errors that say what to do.

Everything fits a terminal of 80 columns.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from cluster.clock import SYSTEM_CLOCK
from cluster.errors import RaygionError
from cluster.records import Record

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

REUSED = "already in the store"
SHORT = 8
"""Characters of a version that are enough to tell it from others."""
_BAR_COLUMNS = 12


def keep_stderr_to_python() -> None:
    """Discards from now on whatever native code writes to standard error by itself.

    Ray's core writes there past all settings of Python's; its own log files hold the same lines.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def say(text: str) -> None:
    """A sentence on standard output, with markup; the terminal wraps it, a pipe gets one line."""
    out.print(text, soft_wrap=True)


def print_json(value: object) -> None:
    """One JSON document on standard output, for machines."""
    text = orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    sys.stdout.write(text.decode() + "\n")


def print_result(result: object, sentence: str, *, as_json: bool) -> None:
    """What a command did: as JSON for machines, or in a sentence with markup for people."""
    if as_json:
        print_json(result)
    else:
        say(sentence)


def print_error(error: RaygionError, *, as_json: bool) -> None:
    """The error on standard error, or as the JSON that the HTTP interface gives."""
    if as_json:
        body = {"code": error.code, "message": str(error), "retryable": error.retryable}
        print_json({"error": body})
    else:
        err.print(f"[bold red]error[/] ({error.code}): {escape(str(error))}", soft_wrap=True)


class Steps:
    """Long work as a list of steps, each with the time that it took and a remark.

    On a terminal a step shows what it is doing, with a bar where it counts; elsewhere it is one
    line when it is done.
    """

    def __init__(self, *, quiet: bool, console: Console = err) -> None:
        self.quiet = quiet
        self.seconds: dict[str, float] = {}
        self.notes: dict[str, str] = {}
        """The last remark of each step that had one."""
        self._console = console
        self._progress = Progress(
            _Mark(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            _Seconds(table_column=Column(no_wrap=True, justify="right")),
            _Detail(table_column=Column(ratio=1, no_wrap=True)),
            console=console,
            disable=quiet or not console.is_terminal,
            expand=True,
        )

    @contextmanager
    def shown(self) -> Iterator[Steps]:
        with self._progress:
            yield self

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step that is done when the block ends, and failed when the block raises."""
        task = self._progress.add_task(title, total=None, note="", done=0, of=0, failed=False)
        step = Step(self._progress, task, self.notes, title)
        started_s = SYSTEM_CLOCK.monotonic_s()
        try:
            yield step
        except BaseException:
            self._progress.update(task, failed=True)
            self._progress.stop_task(task)
            raise
        self.seconds[title] = SYSTEM_CLOCK.monotonic_s() - started_s
        self._progress.update(task, total=1, completed=1)
        if self._progress.disable and not self.quiet:
            note = escape(self.notes.get(title, ""))
            line = f"✓ {title}  {self.seconds[title]:.1f} s  {note}".rstrip()
            self._console.print(line, soft_wrap=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One running step."""

    _progress: Progress
    _task: Any
    _notes: dict[str, str]
    _title: str

    def note(self, text: str) -> None:
        """A short remark beside the step, such as REUSED."""
        self._notes[self._title] = text
        self._progress.update(self._task, note=text)

    def count(self, done: int, total: int) -> None:
        self._progress.update(self._task, done=done, of=total)


class _Mark(SpinnerColumn):
    def __init__(self) -> None:
        super().__init__(finished_text="[green]✓[/]")

    def render(self, task: Task) -> RenderableType:
        return Text("✗", style="red") if task.fields["failed"] else super().render(task)


class _Seconds(ProgressColumn):
    def render(self, task: Task) -> RenderableType:
        elapsed_s = task.finished_time if task.finished else task.elapsed
        return Text(f"{elapsed_s or 0:.1f} s")


class _Detail(ProgressColumn):
    """A bar and counts while the step counts, otherwise its remark."""

    def render(self, task: Task) -> RenderableType:
        done, of = task.fields["done"], task.fields["of"]
        if task.finished or of == 0:
            return Text(task.fields["note"], style="dim", overflow="ellipsis")
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(total=of, completed=done, width=_BAR_COLUMNS), f"{done}/{of}")
        return row


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table with a line under its header, if a column has a name; cells are shown as they are."""
    made = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
    )
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def size(num_bytes: int) -> str:
    """A number of bytes in words for people."""
    return f"{num_bytes} bytes" if num_bytes < 1e6 else f"{num_bytes / 1e6:,.1f} MB"


def share(value: float | None) -> str:
    """A share of one, such as a recall; nothing where it is not known."""
    return "" if value is None else f"{value:.3f}"


def utc(at_ms: int) -> str:
    """A moment, to the minute."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M")


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
