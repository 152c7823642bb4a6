"""The report of an ingest, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster.documents.ingest_report import IngestReport, LeftOut


def report_lines(report: IngestReport) -> Iterator[str]:
    """One line about the documents that are in the corpus now, and one for each reason why others
    are not.
    """
    documents = report.documents
    replaced = _examples(documents.replaced, documents.replaced_examples)
    removed = f", {documents.removed} of before removed" if documents.removed else ""
    yield (
        f"From {_counted(report.files_read, 'file')}: {documents.new} new, "
        f"{documents.replaced} replaced{replaced and f' ({replaced})'}, "
        f"{documents.unchanged} unchanged{removed}."
    )
    yield from _left_out("document", report.documents_left_out)
    yield from _left_out("file", report.files_left_out)
    yield from _left_out("folder value", report.folder_values_left_out)


def _left_out(what: str, found: Sequence[LeftOut]) -> Iterator[str]:
    for group in found:
        examples = _examples(group.count, group.examples)
        yield f"Left out {_counted(group.count, what)}: {group.reason}: {examples}"


def _examples(count: int, examples: Sequence[str]) -> str:
    return ", ".join(examples) + (", ..." if count > len(examples) else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
