"""Pieces of Markdown that all tables share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.reports import Environment, Spread


def heading(title: str, where: Environment, what: str, *, timed: bool = True) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in where.versions.items())
    times = warning = ""
    if timed:
        times = f" Medians of {where.repetitions} repetitions, with least and most in brackets."
        warning = "\n\n**A quick run: these numbers mean nothing.**" if where.quick else ""
    return (
        f"### {title}\n\n{what}.{times}{warning}\n\n"
        f"{where.at}; {where.cpu}, {where.cores} cores, {where.memory_gib:.0f} GiB; load average "
        f"before the run {where.load_average_before:.2f}; Python {where.python}, {versions}."
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.least == spread.most:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.least)}–{number(spread.most)})"


def number(value: float) -> str:
    """About three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
