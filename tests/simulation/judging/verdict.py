"""All checkers together."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.judging import answer_checkers as answers
from tests.simulation.judging import checkers as log
from tests.simulation.judging.history import History

Checker = Callable[[History], list[str]]
CHECKERS: tuple[Checker, ...] = (
    log.log_is_consecutive_and_immutable,
    log.epochs_never_go_back,
    log.one_incarnation_leads_an_epoch,
    log.requests_have_the_effect_that_was_told,
    log.what_makes_no_sense_is_refused,
    log.rollbacks_without_force_last,
    log.commits_wait_for_their_targets,
    log.nobody_is_left_out_for_what_passes,
    log.everybody_agrees_at_a_position,
    log.a_canarys_share_goes_to_what_may_have_it,
    log.what_serves_is_never_retired,
    log.the_quiet_time_ends_well,
    answers.staleness_is_never_less_than_the_true_one,
    answers.sessions_never_go_back,
    answers.bounds_are_kept,
    answers.strong_answers_are_linearizable,
    answers.a_majority_agrees_on_quorum_answers,
    answers.named_releases_are_served_as_named,
    answers.answers_are_of_one_release,
    answers.only_what_came_into_force_serves,
    answers.only_what_is_loaded_serves,
    answers.nothing_is_forwarded_twice,
    answers.deadlines_shrink_on_the_way,
    answers.eventual_is_served_where_it_can_be,
    answers.honest_requests_are_not_called_wrong,
    answers.in_the_quiet_all_are_answered_alike,
)


def violations(history: History) -> dict[str, list[str]]:
    """By the name of the checker; empty when all holds."""
    found = {checker.__name__: checker(history) for checker in CHECKERS}
    return {name: problems for name, problems in found.items() if problems}
