"""Steps on a terminal of 80 columns, and in a pipe."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from cluster.errors import Unavailable
from deployments.terminal import Steps, table

WIDTH = 80
CLEAR_LINE = "\x1b[2K"
TITLE = "Propose, prepare and commit a release"


@pytest.fixture
def screen() -> Iterator[io.StringIO]:
    with io.StringIO() as text:
        yield text


def terminal(screen: io.StringIO) -> Console:
    return Console(file=screen, width=WIDTH, height=24, force_terminal=True, color_system=None)


def run_steps(steps: Steps) -> None:
    with steps.shown():
        with steps.step(TITLE) as step:
            step.note("release 1, already in the store")
        with steps.step("Embed") as step:
            step.count(812, 3240)


def test_steps_fit_a_terminal(screen: io.StringIO) -> None:
    run_steps(Steps(quiet=False, console=terminal(screen)))
    *_, first, last, _end = screen.getvalue().replace(CLEAR_LINE, "\n").splitlines()
    assert first.startswith(f"✓ {TITLE} 0.0 s release 1, already in the store")
    assert last.startswith("✓ Embed")
    assert (len(first), len(last)) == (WIDTH, WIDTH)


def test_steps_in_a_pipe_are_a_line_each(screen: io.StringIO) -> None:
    run_steps(Steps(quiet=False, console=Console(file=screen, width=WIDTH)))
    assert screen.getvalue().splitlines() == [
        f"✓ {TITLE}  0.0 s  release 1, already in the store",
        "✓ Embed  0.0 s",
    ]


def test_a_failed_step_is_not_ticked_off(screen: io.StringIO) -> None:
    steps = Steps(quiet=False, console=terminal(screen))

    def fail() -> None:
        with steps.shown(), steps.step("Embed") as step:
            step.count(812, 3240)
            raise Unavailable("gone")

    with pytest.raises(Unavailable):
        fail()
    (shown,) = [line for line in screen.getvalue().splitlines() if "✗ Embed" in line]
    assert "━" in shown
    assert "812/3240" in shown
    assert "✓" not in screen.getvalue()
    assert steps.seconds == {}


def test_quiet_steps_print_nothing_and_keep_the_times(screen: io.StringIO) -> None:
    steps = Steps(quiet=True, console=terminal(screen))
    run_steps(steps)
    assert screen.getvalue() == ""
    assert list(steps.seconds) == [TITLE, "Embed"]
    assert steps.notes == {TITLE: "release 1, already in the store"}


def test_tables_show_what_looks_like_markup(screen: io.StringIO) -> None:
    terminal(screen).print(table("Hits", ("id", "text"), [("[1]", "a [bold] word")]))
    assert "[1]" in screen.getvalue()
    assert "a [bold] word" in screen.getvalue()
