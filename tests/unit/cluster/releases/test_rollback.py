"""Going back to an earlier release: at once where it is loaded, and refused where it would not last
or would not be all of it.
"""

from __future__ import annotations

import functools

import pytest
from typer.testing import CliRunner

from cluster.errors import Conflict, InvalidArgument, NotFound, RaygionError
from cluster.releases.entries import LogEntry, LogState, Rollback
from cluster.releases.fold import fold
from cluster.releases.requests import RollBackTo
from cluster.releases.rollback import check_stays, earlier_release
from deployments.cli.main import app
from tests.support.fakes import Entries
from tests.support.rollout_script import Script, status

E = Entries()
ONE = [E.elect("a", 1), E.propose(1), E.commit(1)]
TWO = [*ONE, E.propose(2), E.commit(2)]
BACK = [*TWO, E.rollback(1)]
DUE = [*TWO, E.propose(3), E.commit(3, switch_at_ms=10**9)]
OPEN = [*TWO, E.propose(3, auto_commit=False)]
TO_COME = [*TWO, E.propose(3)]
ABORTED = [*OPEN, E.abort(3)]


def folded(log: list[LogEntry]) -> LogState:
    return functools.reduce(fold, log, LogState())


@pytest.mark.parametrize(
    ("log", "number", "leads_to"),
    [
        (TWO, None, 1),
        (TWO, 1, 1),
        (TWO, 2, 2),
        (BACK, None, 2),
        ([*BACK, E.rollback(1)], None, 2),
        (DUE, None, 2),
        (OPEN, None, 1),
        (ABORTED, None, 1),
        ([E.elect("a", 1)], None, Conflict),
        (ONE, None, Conflict),
        ([*ONE, E.rollback(1)], None, Conflict),
        (OPEN, 3, Conflict),
        (TO_COME, 3, Conflict),
        (ABORTED, 3, Conflict),
        (TWO, 3, NotFound),
    ],
)
def test_where_a_rollback_leads_to(
    log: list[LogEntry], number: int | None, leads_to: int | type[RaygionError]
) -> None:
    if isinstance(leads_to, int):
        assert earlier_release(folded(log), number).release.number == leads_to
    else:
        with pytest.raises(leads_to):
            earlier_release(folded(log), number)


@pytest.mark.parametrize("number", [0, -1])
def test_what_is_no_number_of_a_release_is_refused(number: int) -> None:
    with pytest.raises(InvalidArgument, match="start at 1") as refused:
        earlier_release(folded(TWO), number)
    assert refused.value.field == "release"


def test_what_is_committed_as_soon_as_it_is_prepared_would_take_over_again() -> None:
    for log in (TWO, BACK, DUE, OPEN, ABORTED):
        check_stays(folded(log), 1)
    with pytest.raises(Conflict, match=r"release 3 is being prepared .* abort it first"):
        check_stays(folded(TO_COME), 1)


def loaded(*, here: bool = True, there: tuple[int, ...] = (1, 2)) -> Script:
    """Two committed releases, the first of which this region has loaded or not; `there`: what the
    other one says of itself.
    """
    script = Script().elect()
    script.committed()
    script.committed()
    if not here:
        log = script.log
        script = Script(log=log)
        script.now_ms = 20_000
        script.elect()
    script.heartbeats(status("b", *there))
    return script


@pytest.mark.parametrize(
    ("here", "there", "missing"),
    [
        (True, (1, 2), None),
        (True, (1,), None),
        (True, (2,), "b"),
        (True, (), "b"),
        (False, (1, 2), "a"),
        (False, (2,), "a, b"),
    ],
)
def test_it_is_one_switch_where_all_regions_have_loaded_it(
    here: bool, there: tuple[int, ...], missing: str | None
) -> None:
    script = loaded(here=here, there=there)
    if missing is not None:
        with pytest.raises(Conflict, match=f"not loaded in: {missing}. Say --again .* --force"):
            script.ask(RollBackTo(release=1))
    append = script.ask(RollBackTo(release=1, force=missing is not None))
    entry = script.land(append)
    assert isinstance(entry, Rollback)
    assert entry.release == 1


@pytest.mark.parametrize(("silent_ms", "refused"), [(10_000, True), (10_001, False)])
def test_a_region_that_is_lost_keeps_nobody_from_going_back(silent_ms: int, refused: bool) -> None:
    script = loaded(there=(2,))
    script.now_ms += silent_ms
    script.heartbeats(status("b", 2))
    if refused:
        with pytest.raises(Conflict, match="not loaded in: b"):
            script.ask(RollBackTo(release=1))
    else:
        script.land(script.ask(RollBackTo(release=1)))


@pytest.mark.parametrize("auto_commit", [True, False])
def test_an_open_release_is_not_gone_back_to_and_may_be_in_the_way(auto_commit: bool) -> None:
    script = loaded()
    number = script.propose("a", "b", auto_commit=auto_commit)
    for force in (False, True):
        with pytest.raises(Conflict, match="open, not committed"):
            script.ask(RollBackTo(release=number, force=force))
    if auto_commit:
        with pytest.raises(Conflict, match=f"release {number} is being prepared"):
            script.ask(RollBackTo(release=1))
    entry = script.ask(RollBackTo(release=1, force=auto_commit)).entry
    assert isinstance(entry, Rollback)


def test_force_takes_the_lead_from_nobody() -> None:
    script = loaded()
    script.read(script.entries.elect("b", 2))
    with pytest.raises(Conflict, match="does not lead"):
        script.ask(RollBackTo(release=1, force=True))


def test_it_is_prepared_first_or_switched_at_once() -> None:
    told = CliRunner().invoke(app, ["release", "rollback", "1", "--again", "--force"])
    assert isinstance(told.exception, InvalidArgument)
    assert told.exception.field == "force"
