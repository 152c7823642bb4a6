"""What goes wrong during the noise: deaths, leftovers, cuts, clocks set anew, lapsed writers, and
rotten entries and snapshots of the release log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.releases.entries import RELEASE_LOG, Canary, Elect, LogEntry, Rollback, entry_path
from cluster.releases.log_entries import entry_bytes
from cluster.releases.release_log import snapshot_of, snapshot_path
from tests.simulation.world.faulty_store import Write
from tests.simulation.world.network import STORE
from tests.simulation.world.regions import SNAPSHOT_ENTRIES

if TYPE_CHECKING:
    from tests.simulation.harness import World


class Accidents:
    def __init__(self, world: World, gap_s: float) -> None:
        self._world = world
        self._rng = world.rng
        repeat = world.repeat
        repeat(self._lose_a_coordinator, 0.3, 2 * gap_s)
        repeat(self._bar_a_writer, 4.0, 25.0)
        repeat(self._cut_a_way, 2.0, 15.0)
        repeat(self._lose_a_gateway, 8.0, 40.0)
        repeat(self._lose_a_region, 20.0, 100.0)
        repeat(self._set_a_clock, 2.0, 20.0)
        repeat(self._let_a_lapsed_leader_write, 3.0, 25.0)
        repeat(self._spoil_a_snapshot, 2.0, 15.0)
        repeat(self._let_an_entry_rot, 4.0, 25.0)

    def _note(self, what: str) -> None:
        self._world.history.accidents.append((self._world.scheduler.now_s, what))

    def _lose_a_coordinator(self) -> None:
        region = self._rng.choice(list(self._world.regions.values()))
        coordinator = region.coordinator
        if coordinator is None or coordinator.killed:
            return
        if self._rng.random() < 0.3:
            # Taken for dead, it goes on beside its successor: for a while, or for good.
            self._note(f"{coordinator.name} is taken for dead and goes on")
            self._world.start_coordinator(region)
            if self._rng.random() < 0.7:
                self._world.scheduler.after(self._rng.uniform(0.1, 15.0), coordinator.kill)
        else:
            self._note(f"{coordinator.name} dies")
            coordinator.kill()

    def _bar_a_writer(self) -> None:
        regions = list(self._world.regions.values())
        leading = [r for r in regions if r.leads] or [r for r in regions if r.coordinator]
        if leading:
            coordinator = self._rng.choice(leading).coordinator
            assert coordinator is not None
            name, barred = coordinator.name, self._world.weather.barred
            barred.add(name)
            back_s = self._rng.choice([self._rng.uniform(1.0, 5.0), self._rng.uniform(8.0, 20.0)])
            self._note(f"writes of {name} hardly get through for {back_s:.1f} s")
            self._world.scheduler.after(back_s, lambda: barred.discard(name))

    def _cut_a_way(self) -> None:
        """Between a region and the store, or between two regions; one way or both."""
        names = list(self._world.regions)
        name = self._rng.choice(names)
        other = STORE if self._rng.random() < 0.6 else self._rng.choice(names)
        back_s = self._rng.uniform(0.5, 12.0)
        ways = self._world.network.cut(name, other, back_s)
        self._note(f"cut for {back_s:.1f} s: {', '.join(f'{a} -> {b}' for a, b in ways)}")

    def _lose_a_gateway(self) -> None:
        region = self._rng.choice(list(self._world.regions.values()))
        if region.gateway is not None:
            self._note(f"the gateway of {region.name} dies")
            self._world.lose_gateway(region, self._rng.uniform(0.2, 3.0))

    def _lose_a_region(self) -> None:
        """All of its processes; what its replicas had loaded is gone, too."""
        region = self._rng.choice(list(self._world.regions.values()))
        self._note(f"{region.name} is lost")
        self._world.lose_gateway(region, self._rng.uniform(2.0, 10.0))
        region.held.clear()
        if region.coordinator is not None:
            region.coordinator.kill()

    def _set_a_clock(self) -> None:
        region = self._rng.choice(list(self._world.regions.values()))
        region.clock.set_anew(self._rng)
        self._note(f"the clock of {region.name} is {region.clock.off_ms} ms off")

    def _let_a_lapsed_leader_write(self) -> None:
        """A leader of an epoch gone by writes without looking: it must do no harm."""
        named = (r.coordinator for r in self._world.regions.values())
        state = next((c.rollout.state for c in named if c is not None), None)
        if state is None or state.epoch < 2 or not state.proposals:
            return
        objects, now_s = self._world.objects, self._world.scheduler.now_s
        position = objects.log_length() + 1
        now_ms = int(now_s * 1000)
        told = {
            "epoch": self._rng.randint(1, state.epoch - 1),
            "commit_id": f"lapsed-{position}",
            "at_ms": now_ms,
        }
        entry: LogEntry
        if self._rng.random() < 0.5:
            release = self._rng.choice(list(state.proposals))
            entry = Rollback.model_validate({**told, "release": release, "switch_at_ms": now_ms})
        else:
            release = max(state.proposals)
            entry = Canary.model_validate({**told, "release": release, "percent": 50})
        path = f"{RELEASE_LOG}/{position:020}.json"
        self._note(f"a lapsed leader writes entry {position}")
        objects.create(Write(now_s, path, entry.to_bytes(), "lapsed"))

    def _spoil_a_snapshot(self) -> None:
        """One that is there rots, or one of another log is put in the place of it or of the next:
        whoever starts anew must not believe it.
        """
        objects, now_s = self._world.objects, self._world.scheduler.now_s
        size = SNAPSHOT_ENTRIES
        last = size * self._rng.randint(1, objects.log_length() // size + 1)
        path = snapshot_path(last)
        data = objects.content.get(path, b"")
        if data and self._rng.random() < 0.3:
            data = data.replace(b'"', b"'", 1)
        else:
            told = {"commit_id": "elsewhere", "at_ms": int(now_s * 1000), "leader": "elsewhere"}
            entries = [Elect(epoch=1000 + n, **told) for n in range(size)]
            data = snapshot_of(last - size + 1, [entry_bytes(e) for e in entries]).to_bytes()
        self._note(f"the snapshot up to entry {last} is spoilt")
        objects.replace(Write(now_s, path, data, "spoilt"))

    def _let_an_entry_rot(self) -> None:
        """Until somebody puts it back, with the end of the noise at the latest, whoever starts anew
        cannot read on from there.
        """
        content, length = self._world.objects.content, self._world.objects.log_length()
        if not length:
            return
        position = self._rng.randint(1, length)
        left_s = max(0.0, self._world.noise_s - self._world.scheduler.now_s)
        path, back_s = entry_path(position), min(left_s, self._rng.uniform(1.0, 10.0))
        whole, rotten = content[path], b"rotten"
        if whole == rotten:
            return
        content[path] = rotten
        self._note(f"entry {position} is rotten for {back_s:.1f} s")
        self._world.scheduler.after(back_s, lambda: content.update({path: whole}))
