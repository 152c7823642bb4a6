"""All checkers of documents together."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.documents import answer_checkers as answers
from tests.simulation.documents import checkers as documents
from tests.simulation.documents.history import DocumentHistory

DocumentChecker = Callable[[DocumentHistory], list[str]]
DOCUMENT_CHECKERS: tuple[DocumentChecker, ...] = (
    documents.logs_are_consecutive_and_ascend,
    documents.no_acknowledged_write_is_lost,
    documents.no_write_is_applied_twice,
    documents.refused_writes_change_nothing,
    documents.equal_watermarks_are_equal_documents,
    documents.digests_are_those_of_the_documents,
    documents.watermarks_never_go_back,
    documents.sessions_see_their_writes,
    documents.demanded_versions_were_there,
    documents.the_quiet_time_ends_well,
    answers.staleness_of_documents_is_never_less_than_the_true_one,
    answers.bounds_on_documents_are_kept,
    answers.sessions_of_documents_never_go_back,
    answers.strong_answers_have_all_documents,
    answers.gateways_never_go_back,
    answers.answers_hold_what_their_watermark_says,
    answers.honest_questions_are_not_called_wrong,
)


def document_violations(history: DocumentHistory) -> dict[str, list[str]]:
    """By the name of the checker; empty when all holds."""
    found = {checker.__name__: checker(history) for checker in DOCUMENT_CHECKERS}
    return {name: problems for name, problems in found.items() if problems}
