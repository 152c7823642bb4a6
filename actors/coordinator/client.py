"""The coordinator as a blocking client sees it: the command line, the demo, tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.runtime import names
from actors.runtime.calls import NAMESPACE
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import Conflict, DeadlineExceeded, OutcomeUnknown, RaygionError, Unavailable
from cluster.progress import Note
from cluster.regions.status import RegionSummary
from cluster.releases.entries import LogState, Proposal, ReleaseStatus
from cluster.releases.requests import ReleaseRequest

_POLL_S = 0.2
_CALL_TIMEOUT_S = 90.0
_LOOK_TIMEOUT_S = 10.0
T = TypeVar("T")


class CoordinatorClient:
    """Calls the coordinator of the region whose Ray cluster this process has joined.

    Raises the errors of `cluster.errors`. Unavailable: no coordinator answers, and a requested
    change was not made. OutcomeUnknown: the coordinator may have begun the change, so look at the
    release log. The `wait_*` methods keep waiting while the coordinator restarts.
    """

    def __init__(self, sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep) -> None:
        """`sleep` is the wait between two looks of a `wait_*` method, in seconds."""
        self._sleep = sleep

    def request(self, request: ReleaseRequest) -> int:
        """Has the release log changed. Returns the number of the release that the request is about:
        of a proposal the new one, of a roll-back the one that is current from the switch on.
        """
        return cast(int, self._change("request", request))

    def scale(self, corpus: str, replicas: int) -> None:
        """Asks for so many replicas of each shard of a corpus. Raises NotFound, InvalidArgument."""
        self._change("scale", corpus, replicas)

    def wait_until_scaled(self, corpus: str, replicas: int, timeout_s: float) -> None:
        """Returns when every shard of the corpus has at least so many replicas, all serving."""

        def scaled() -> bool:
            found = [c for r in self.status().resident for c in r.corpora if c.corpus == corpus]
            return all(
                c.replicas >= replicas * c.shards and c.replicas_serving == c.replicas
                for c in found
            )

        self._wait(scaled, timeout_s, f"{replicas} replicas a shard of {corpus}")

    def log_state(self) -> LogState:
        """The state of all releases as the coordinator has read it, which may be much."""
        return cast(LogState, self._call("log_state"))

    def status(self) -> RegionSummary:
        return cast(RegionSummary, self._call("status"))

    def wait_until_leading(self, region: str, timeout_s: float) -> None:
        """Returns when the region's coordinator leads, or another region does."""
        self._wait(lambda: self._call("leader") is not None, timeout_s, f"{region} to lead")

    def wait_until_committed(self, number: int, timeout_s: float, note: Note | None = None) -> None:
        """Returns when the release is committed. Raises Conflict when it was aborted. `note`
        gets the reasons for which preparing it fails meanwhile.
        """

        def committed() -> bool:
            self._note_failures(number, note)
            proposal = self._proposal(number)
            return proposal is not None and proposal.status is ReleaseStatus.COMMITTED

        self._wait(committed, timeout_s, f"release {number} to be committed")

    def wait_until_prepared(self, number: int, timeout_s: float, note: Note | None = None) -> None:
        """Returns when nobody has to be waited for any more before the open release is committed.
        Otherwise like `wait_until_committed`.
        """

        def prepared() -> bool:
            self._note_failures(number, note)
            proposal = self._proposal(number)
            if proposal is None:
                return False
            return not proposal.waits_for(self.regions_prepared(number))

        self._wait(prepared, timeout_s, f"release {number} to be prepared")

    def regions_prepared(self, number: int) -> frozenset[str]:
        return cast("frozenset[str]", self._call("regions_prepared", number))

    def wait_until_serving(self, number: int, timeout_s: float) -> RegionSummary:
        """Returns when the release is current here and every replica serves."""

        def serving() -> RegionSummary | None:
            summary = self.status()
            return summary if summary.release == number and summary.healthy else None

        return self._wait(serving, timeout_s, f"release {number} to be served")

    def _note_failures(self, number: int, note: Note | None) -> None:
        if note is not None:
            failures = cast("dict[str, str]", self._call("failures", number))
            failed = "; ".join(f"{region}: {why}" for region, why in sorted(failures.items()))
            note(f"release {number}" + (f", tried again ({failed})" if failed else ""))

    def _proposal(self, number: int) -> Proposal | None:
        """None while the coordinator has not read so far, as one that has just started anew.
        Raises Conflict for a release that was aborted.
        """
        proposal = cast("Proposal | None", self._call("proposal", number))
        if proposal is not None and proposal.status is ReleaseStatus.ABORTED:
            raise Conflict(f"release {number} was aborted: {proposal.reason}")
        return proposal

    def _wait(self, look: Callable[[], T | None], timeout_s: float, what: str) -> T:
        """The value of `look`, once it is not None."""
        deadline = Deadline.after(timeout_s)
        while True:
            trouble: Unavailable | None = None
            try:
                if found := look():
                    return found
            except Unavailable as error:
                trouble = error
            if deadline.expired():
                raise DeadlineExceeded(f"waited {timeout_s:.0f} s for {what}") from trouble
            self._sleep(_POLL_S)

    def _call(self, method: str, *args: object) -> Any:
        try:
            return _asked(_coordinator(), method, args, _CALL_TIMEOUT_S)
        except (RayActorError, GetTimeoutError) as error:
            raise _no_answer() from error

    def _change(self, method: str, *args: object) -> Any:
        coordinator = _coordinator()
        try:
            # Of one that is away now it is certain that nothing is done.
            _asked(coordinator, "ping", (), _LOOK_TIMEOUT_S)
        except (RayActorError, GetTimeoutError) as error:
            raise _no_answer() from error
        try:
            return _asked(coordinator, method, args, _CALL_TIMEOUT_S)
        except (RayActorError, GetTimeoutError) as error:
            raise OutcomeUnknown(
                "the coordinator went away at work on it; look with `raygion release list`"
            ) from error


def _coordinator() -> Any:
    try:
        return ray.get_actor(names.COORDINATOR, namespace=NAMESPACE)
    except ValueError as error:
        raise Unavailable("no region runs on this Ray cluster; start one first") from error


def _asked(coordinator: Any, method: str, args: tuple[object, ...], timeout_s: float) -> Any:
    try:
        call = getattr(coordinator, method)
    except AttributeError as error:
        raise Conflict(
            "the region's coordinator is of another version of Raygion: start the region again"
        ) from error
    try:
        return ray.get(call.remote(*args), timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, RaygionError):
            raise error.cause from error
        raise


def _no_answer() -> Unavailable:
    return Unavailable("the coordinator does not answer; try again shortly")
