"""Brings a release to life in a region: replicas, embedders and a generator, beside those that
serve.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from actors.coordinator.loading.fleet import Actors, Fleet, Kind, machines_of
from actors.coordinator.loading.generator_deployer import GeneratorDeployer
from actors.coordinator.loading.loaded_release import LoadedRelease, shards_of
from actors.coordinator.loading.replica_counts import ReplicaCounts
from actors.models.embedder_actor import embedder_actor
from actors.runtime import names, wiring
from actors.shards.replica import ReplicaStatus
from actors.shards.replica_actor import replica_actor
from cluster.artifacts.cache import ArtifactCache
from cluster.balance.replica_scaling import ReplicaLoad
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import IndexManifest, ModelManifest
from cluster.clock import SYSTEM_CLOCK, Clock, Deadline
from cluster.config import Settings
from cluster.errors import Unavailable
from cluster.logs.events import EventLog
from cluster.regions.status import MachineSummary
from cluster.releases.contents import read_manifests
from cluster.releases.entries import Release
from cluster.serving.view import CorpusView, GeneratorView, ReleaseView

log = EventLog(__name__)
_LOAD_TIMEOUT_S = 600.0
_LOOK_S = 0.5
"""Time between two looks at a load that is under way, and at whether somebody still waits for it.
"""
_WARM_UP = ["warm up"]


class ReleaseLoader:
    """Loads and unloads releases; loads again what restarted replicas have lost, and keeps replicas
    and embedders spread over the machines.

    `load` may be called again for a release that is loaded, wholly or in part: what is there is
    kept. Not thread-safe but for `plan`, `load` and `wait_for_generator`.
    """

    def __init__(
        self,
        settings: Settings,
        region: str,
        catalog: Catalog,
        cache: ArtifactCache,
        deployer: GeneratorDeployer,
        counts: ReplicaCounts,
        clock: Clock = SYSTEM_CLOCK,
        actors: Actors = wiring,
    ) -> None:
        self._settings = settings
        self._region = region
        self._counts = counts
        self._clock = clock
        self._cache = cache
        self._cache.limit(settings.cache.bytes_max)
        self._catalog = catalog
        self._deployer = deployer
        self._fleet = Fleet(actors, clock)
        self._loading: dict[tuple[str, str], Any] = {}
        self._busy_s: dict[str, float] = {}
        """Busy time of each replica, as it said when it was asked last."""
        self._looked_s = clock.monotonic_s()

    def plan(self, release: Release) -> LoadedRelease:
        """The contents of the release in this region: the corpora that may be in this region, and a
        generator where it generates. Reads manifests; starts nothing.
        """
        contents = release.contents
        here = {c for c in contents.indexes if self._settings.may_hold(self._region, c)}
        manifests = read_manifests(self._catalog, contents, here)
        manifests.check_embedder()
        indexes, embedder = manifests.indexes, manifests.embedder
        generator = manifests.generator
        view = ReleaseView(
            number=release.number,
            corpora={corpus: self._corpus_view(index) for corpus, index in indexes.items()},
            embedders=() if embedder is None else self._embedders_to_be(embedder),
            embedder=None if embedder is None else embedder.version,
            embedding_dimension=None if embedder is None else embedder.dimension,
            generator=None if generator is None else self._generator_view(generator),
            prompt=contents.prompt,
            evidence=contents.evidence,
            elsewhere=frozenset(contents.indexes.keys() - here),
        )
        return LoadedRelease(
            view=view,
            indexes=indexes,
            embedder=embedder,
            generator=generator if self._generates else None,
        )

    def load(self, planned: LoadedRelease, give_up: threading.Event) -> LoadedRelease:
        """Fetches, verifies, loads and warms up; returns the release with those in its view that
        have it. Its generator is only begun to be started, see `wait_for_generator`. Blocks; raises
        what a part raises, and Unavailable soon after `give_up` was set.

        When it fails, some parts are loaded. `retire` unloads these, and what is still under way.
        """
        # The cache of this machine keeps them also while an actor that uses them is made anew.
        for files in planned.artifacts:
            self._cache.pin(files)
        filled = {
            name: self._fleet.fill(name, kind) for name, kind in self._kinds([planned]).items()
        }
        loads = [
            replica.load.remote(index)
            for index in planned.indexes.values()
            for shard in index.shards
            for replica in filled[names.shard(index.corpus, shard.shard)].values()
        ]
        if planned.embedder_group is not None:
            workers = filled[planned.embedder_group].values()
            loads += [worker.embed.remote(_WARM_UP, _LOAD_TIMEOUT_S) for worker in workers]
        _wait_for(loads, give_up)
        if (generator := planned.generator) is not None:
            application = names.generator_application(generator.version)
            self._deployer.start(generator, application, self._settings.generator, give_up)
        return planned.with_members(lambda group: tuple(filled[group]))

    def wait_for_generator(self, loaded: LoadedRelease, give_up: threading.Event) -> None:
        """Blocks until the generator of a release that `load` returned answers, if it has one here.
        Raises Unavailable, also soon after `give_up` was set.
        """
        if (generator := loaded.generator) is not None:
            application = names.generator_application(generator.version)
            self._deployer.wait_until_running(generator, application, give_up)

    def retire(self, gone: LoadedRelease, kept: Iterable[LoadedRelease]) -> None:
        """Unloads what `gone` has and none of `kept` needs."""
        kept = list(kept)
        needed = self._kinds(kept).keys()
        versions = {index.version for k in kept for index in k.indexes.values()}
        for index in gone.indexes.values():
            if index.version not in versions:
                for group in needed & set(shards_of(index)):
                    for replica in self._fleet.handles(group):
                        replica.unload.remote(index.version)
        self._fleet.drop(self._kinds([gone]).keys() - needed)
        for files in gone.artifacts.difference(*(k.artifacts for k in kept)):
            self._cache.unpin(files)
        application = gone.application
        if application is not None and application not in {k.application for k in kept}:
            self._deployer.delete(application)

    def retire_strays(self, kept: Iterable[LoadedRelease]) -> None:
        """Unloads whatever none of `kept` needs, as far as `mend` has seen it."""
        kept = list(kept)
        kinds = self._kinds(kept)
        self._fleet.drop(self._fleet.groups() - kinds.keys())
        needed = {held for each in kept for held in each.versions.items()}
        for group, kind in kinds.items():
            for name, replica in self._fleet.fill(group, kind).items():
                status = self._fleet.status(name)
                if isinstance(status, ReplicaStatus):
                    for version in status.index_versions:
                        if (group, version) not in needed:
                            replica.unload.remote(version)
        for application in self._deployer.applications() - {each.application for each in kept}:
            self._deployer.delete(application)

    def mend(self, loaded: Iterable[LoadedRelease]) -> None:
        """Makes anew the actors that are gone, lets empty replicas load what they should hold, and
        moves one actor to a better place if there is one.
        """
        loaded = list(loaded)
        kinds = self._kinds(loaded)
        handles = {
            name: handle
            for group, kind in kinds.items()
            for name, handle in self._fleet.fill(group, kind).items()
        }
        wanted: dict[str, dict[str, IndexManifest]] = {}
        for release in loaded:
            for index in release.indexes.values():
                for group in shards_of(index):
                    wanted.setdefault(group, {})[index.version] = index
        self._fleet.look()
        self._observe()
        self._loading = {key: load for key, load in self._loading.items() if key[0] in handles}
        for name, handle in handles.items():
            for index in wanted.get(names.group_of(name), {}).values():
                if self._answers(name) and not self._holds(name, index.version):
                    self._load_again(name, handle, index)

        def serves(name: str) -> bool:
            versions = wanted.get(names.group_of(name), {})
            return self._answers(name) and all(self._holds(name, version) for version in versions)

        self._fleet.spread(kinds, serves)

    def resized(self, loaded: LoadedRelease) -> LoadedRelease:
        """The release with the members in its view that there are now; those that were added come
        in once they hold what they should. The same object when nothing changes.
        """
        known = {n for c in loaded.view.corpora.values() for shard in c.shards for n in shard}
        known |= set(loaded.view.embedders)
        versions = loaded.versions

        def ready(group: str) -> tuple[str, ...]:
            version = versions.get(group)
            return tuple(
                name
                for name in self._fleet.members(group)
                if name in known
                or (self._answers(name) if version is None else self._holds(name, version))
            )

        resized = loaded.with_members(ready)
        return loaded if resized.view == loaded.view else resized

    def num_serving(self, corpus: CorpusView) -> int:
        """Replicas of the corpus that held its index version when they were last asked."""
        replicas = (name for shard in corpus.shards for name in shard)
        return sum(self._holds(name, corpus.index_version) for name in replicas)

    @property
    def nodes(self) -> Collection[str]:
        """The nodes that were alive at the last look."""
        return self._fleet.nodes

    @property
    def settled_nodes(self) -> Collection[str]:
        """The nodes to which an actor may be moved, because they are not likely to go soon."""
        return self._fleet.settled_nodes

    def machines(self, gateways: Mapping[str, str]) -> tuple[MachineSummary, ...]:
        """The machines with the actors that run on them, as seen last. `gateways`: the node of each
        gateway, by name.
        """
        return machines_of(self._fleet.nodes, self._fleet.placements(), gateways)

    def _answers(self, name: str) -> bool:
        return self._fleet.status(name) is not None

    def _holds(self, name: str, index_version: str) -> bool:
        status: ReplicaStatus | None = self._fleet.status(name)
        return status is not None and index_version in status.index_versions

    def _observe(self) -> None:
        """Lets the policy see what the replicas have done since it looked last."""
        before, asked_s = self._busy_s, self._looked_s
        self._busy_s, self._looked_s = {}, self._clock.monotonic_s()
        elapsed_s = max(1e-3, self._looked_s - asked_s)
        loads: dict[str, list[ReplicaLoad]] = {}
        for name in self._fleet.placements():
            status = self._fleet.status(name)
            if isinstance(status, ReplicaStatus):
                self._busy_s[name] = status.busy_s
                share = (status.busy_s - before.get(name, 0.0)) / elapsed_s
                load = ReplicaLoad(busy_share=min(1.0, max(0.0, share)), waiting=status.waiting)
                loads.setdefault(names.corpus_of(name), []).append(load)
        self._counts.forget_all_but(loads.keys())
        for corpus, of_corpus in loads.items():
            self._counts.observe(corpus, of_corpus, self._looked_s)

    def _load_again(self, name: str, replica: Any, index: IndexManifest) -> None:
        key = (name, index.version)
        running = self._loading.get(key)
        if running is not None:
            done, _ = ray.wait([running], timeout=0)
            if not done:
                return
        log.warning(
            "replica.lacks_index",
            "{replica} lacks index {index}: loading it",
            replica=name,
            index=index.version,
        )
        self._loading[key] = replica.load.remote(index)

    def _kinds(self, releases: Iterable[LoadedRelease]) -> dict[str, Kind]:
        """The groups of actors that the releases need."""
        kinds: dict[str, Kind] = {}
        for release in releases:
            if release.embedder is not None:
                kinds[names.embedders(release.embedder.version)] = self._embedder_kind(
                    release.embedder
                )
            for index in release.indexes.values():
                for group in shards_of(index):
                    kinds[group] = self._shard_kind(index, group)
        return kinds

    def _shard_kind(self, index: IndexManifest, group: str) -> Kind:
        def make(name: str, node: str) -> Any:
            return replica_actor(name, names.number_of(group), node, self._cache)

        return Kind(self._counts.count(index.corpus), make)

    def _embedder_kind(self, model: ModelManifest) -> Kind:
        def make(name: str, node: str) -> Any:
            return embedder_actor(name, model, node, self._cache)

        return Kind(self._num_embedders, make)

    @property
    def _num_embedders(self) -> int:
        return self._settings.embedder.count(len(self._fleet.nodes))

    def _embedders_to_be(self, model: ModelManifest) -> tuple[str, ...]:
        return self._to_be(names.embedders(model.version), self._num_embedders)

    def _to_be(self, group: str, wanted: int) -> tuple[str, ...]:
        """The names of the group's members once there are as many as wanted."""
        members = list(self._fleet.members(group))
        free = (names.member(group, number) for number in itertools.count())
        while len(members) < wanted:
            members.append(next(name for name in free if name not in members))
        return tuple(members)

    def _corpus_view(self, index: IndexManifest) -> CorpusView:
        count = self._counts.count(index.corpus)
        return CorpusView(
            corpus=index.corpus,
            index_version=index.version,
            dimension=index.dimension,
            metric=index.parameters.metric,
            metadata_schema=index.metadata_schema,
            has_embedder=index.embedder_fingerprint is not None,
            num_passages=index.num_passages,
            recall_at_10=index.recall_at_10,
            recall_at_10_least=index.recall_at_10_least,
            partition_by=index.partition_by,
            held=index.held,
            shards=tuple(self._to_be(group, count) for group in shards_of(index)),
        )

    @property
    def _generates(self) -> bool:
        return self._settings.regions[self._region].generates

    def _generator_view(self, model: ModelManifest) -> GeneratorView:
        weights = (".safetensors", ".bin", ".pt", ".gguf")
        return GeneratorView(
            application=names.generator_application(model.version) if self._generates else None,
            model=model.name,
            tokenizer_files=tuple(f for f in model.files if not f.path.endswith(weights)),
            context_tokens_max=self._settings.generator.context_tokens_max,
        )


def _wait_for(refs: list[Any], give_up: threading.Event) -> None:
    # For all of them, also when one fails, so that a next attempt finds nothing under way.
    if not refs:
        return
    deadline, slow = Deadline.after(_LOAD_TIMEOUT_S), refs
    while slow and not deadline.expired():
        _, slow = ray.wait(slow, num_returns=len(slow), timeout=_LOOK_S)
        if give_up.is_set():
            raise Unavailable("nobody wants the release any more")
    try:
        ray.get([ref for ref in refs if ref not in slow])
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise Unavailable(f"a replica died while loading: {error}") from error
    if slow:
        raise Unavailable(f"loading took more than {_LOAD_TIMEOUT_S:.0f} s")
