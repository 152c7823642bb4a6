"""Brings a release to life in a region: replicas, embedders and a generator, beside those that
serve.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from actors import names, wiring
from actors.replica_counts import ReplicaCounts
from actors.shard_replica import ReplicaStatus
from cluster.artifact_cache import ArtifactCache
from cluster.artifacts import Artifacts
from cluster.catalog import Catalog
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.config import Settings
from cluster.errors import InvalidArgument, RaygionError, Unavailable
from cluster.manifests import ArtifactFile, IndexManifest, ModelManifest
from cluster.model_settings import GeneratorSettings
from cluster.object_store import ObjectStore
from cluster.region_view import CorpusView, GeneratorView, ReleaseView
from cluster.releases import Release
from cluster.replica_scaling import ReplicaLoad

log = logging.getLogger(__name__)
_LOAD_TIMEOUT_S = 600.0
_STATUS_TIMEOUT_S = 3.0
_WARM_UP = ["warm up"]
_DISMISS_AFTER_S = 10.0


class GeneratorDeployer(Protocol):
    """Runs generators. Every method may be called again for what it has done before."""

    def deploy(self, model: ModelManifest, application: str, settings: GeneratorSettings) -> None:
        """Returns when the model answers. Raises Unavailable, InvalidArgument."""
        ...

    def delete(self, application: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRelease:
    """A release as this region serves it, with what its parts are made of."""

    view: ReleaseView
    indexes: Mapping[str, IndexManifest]
    embedder: ModelManifest | None
    generator: ModelManifest | None
    """None also where it runs in other regions alone."""

    @property
    def artifacts(self) -> frozenset[tuple[ArtifactFile, ...]]:
        """The sets of files that its parts are opened from."""
        shards = (shard for index in self.indexes.values() for shard in index.shards)
        models = {m.files for m in (self.embedder, self.generator) if m is not None}
        return frozenset(models.union(*(shard.folders for shard in shards)))


class ReleaseLoader:
    """Loads and unloads releases; loads again what restarted replicas have lost.

    `load` may be called again for a release that is loaded, wholly or in part: what is there is
    kept. Not thread-safe but for `plan` and `load`.
    """

    def __init__(
        self,
        settings: Settings,
        region: str,
        store: ObjectStore,
        cache_folder: Path,
        deployer: GeneratorDeployer,
        counts: ReplicaCounts,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._region = region
        self._counts = counts
        self._clock = clock
        self._store = store
        self._cache_folder = cache_folder
        self._cache = ArtifactCache(Artifacts(store), cache_folder)
        self._cache.limit(settings.cache.bytes_max)
        self._catalog = Catalog(store)
        self._deployer = deployer
        self._loading: dict[tuple[str, str], Any] = {}
        self._statuses: dict[str, ReplicaStatus] = {}
        self._looked_s = clock.monotonic_s()
        self._made: set[str] = set()
        self._surplus: dict[str, float] = {}

    def plan(self, release: Release) -> LoadedRelease:
        """What the release will be made of here: the corpora that may be in this region, and a
        generator where it generates. Reads manifests; starts nothing.
        """
        contents = release.contents
        here = {c for c in contents.indexes if self._settings.may_hold(self._region, c)}
        indexes = {c: self._catalog.read_index(c, contents.indexes[c]) for c in sorted(here)}
        embedder = (
            None if contents.embedder is None else self._catalog.read_model(contents.embedder)
        )
        generator = (
            None if contents.generator is None else self._catalog.read_model(contents.generator)
        )
        for index in indexes.values():
            _check_fingerprint(index, embedder)
        view = ReleaseView(
            number=release.number,
            corpora={corpus: self._corpus_view(index) for corpus, index in indexes.items()},
            embedders=self._embedder_names(embedder),
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

    def load(self, planned: LoadedRelease) -> None:
        """Fetches, verifies, loads and warms up. Blocks; raises the errors of `cluster.errors`.

        When it fails, some parts are loaded and nothing is under way any more.
        """
        # The cache of this machine keeps them also while an actor that uses them is made anew.
        for files in planned.artifacts:
            self._cache.pin(files)
        loads = [
            replica.load.remote(index)
            for index in planned.indexes.values()
            for replica in self._replicas(index).values()
        ]
        workers = self._embedders(planned.embedder).values()
        loads += [worker.embed.remote(_WARM_UP) for worker in workers]
        _wait_for(loads)
        if planned.generator is not None:
            application = names.generator_application(planned.generator.version)
            self._deployer.deploy(planned.generator, application, self._settings.generator)

    def retire(self, gone: LoadedRelease, kept: Iterable[LoadedRelease]) -> None:
        """Unloads what `gone` has and none of `kept` needs."""
        kept = list(kept)
        needed = {name for k in kept for name in self._all_names(k)}
        versions = {index.version for k in kept for index in k.indexes.values()}
        for index in gone.indexes.values():
            if index.version not in versions:
                for name, replica in self._replicas(index).items():
                    if name in needed:
                        replica.unload.remote(index.version)
        for name in self._all_names(gone) - needed:
            wiring.kill(name)
        for files in gone.artifacts.difference(*(k.artifacts for k in kept)):
            self._cache.let_go(files)
        application = _application(gone)
        if application is not None and application not in map(_application, kept):
            self._deployer.delete(application)

    def mend(self, loaded: Iterable[LoadedRelease]) -> None:
        """Makes anew the actors that are gone, and lets empty replicas load what they should
        hold.
        """
        wanted: dict[str, dict[str, IndexManifest]] = {}
        handles: dict[str, Any] = {}
        for release in loaded:
            self._embedders(release.embedder)
            for index in release.indexes.values():
                for name, replica in self._replicas(index).items():
                    handles[name] = replica
                    wanted.setdefault(name, {})[index.version] = index
        self._look_at(handles)
        for name, indexes in wanted.items():
            status = self._statuses.get(name)
            held = indexes.keys() if status is None else status.index_versions
            for version in indexes.keys() - held:
                self._load_again(name, handles[name], indexes[version])
        self._dismiss()

    def resized(self, loaded: LoadedRelease) -> LoadedRelease:
        """The release with as many replicas in its view as there should be now; those that were
        added come in once they hold the index. The same object when nothing changes.
        """
        known = self._actor_names(loaded)
        corpora: dict[str, CorpusView] = {}
        for corpus, index in loaded.indexes.items():
            serving = {n for n in self._statuses if self._holds(n, index.version)}
            corpora[corpus] = self._corpus_view(index, known | serving)
        if corpora == loaded.view.corpora:
            return loaded
        return replace(loaded, view=replace(loaded.view, corpora=corpora))

    def num_serving(self, corpus: CorpusView) -> int:
        """Replicas of the corpus that held its index version when they were last asked."""
        replicas = (name for shard in corpus.shards for name in shard)
        return sum(self._holds(name, corpus.index_version) for name in replicas)

    def _holds(self, name: str, index_version: str) -> bool:
        status = self._statuses.get(name)
        return status is not None and index_version in status.index_versions

    def _look_at(self, handles: Mapping[str, Any]) -> None:
        """Asks the replicas how they are, and lets the policy see what they have done."""
        before, asked_s = self._statuses, self._looked_s
        self._statuses, self._looked_s = _statuses(handles), self._clock.monotonic_s()
        elapsed_s = max(1e-3, self._looked_s - asked_s)
        loads: dict[str, list[ReplicaLoad]] = {}
        self._counts.forget_all_but({names.corpus_of(name) for name in handles})
        for name, status in self._statuses.items():
            earlier = before.get(name)
            busy_s = status.busy_s - (earlier.busy_s if earlier is not None else 0.0)
            share = min(1.0, max(0.0, busy_s / elapsed_s))
            load = ReplicaLoad(busy_share=share, waiting=status.waiting)
            loads.setdefault(names.corpus_of(name), []).append(load)
        for corpus, of_corpus in loads.items():
            self._counts.observe(corpus, of_corpus, self._looked_s)

    def _dismiss(self) -> None:
        """Ends replicas beyond the count, after a while: queries may be on their way there."""
        now_s = self._clock.monotonic_s()
        surplus = {
            name
            for name in self._made.copy()
            if names.number_of(name) >= self._counts.count(names.corpus_of(name))
        }
        self._surplus = {name: self._surplus.get(name, now_s) for name in surplus}
        for name, since_s in self._surplus.items():
            if now_s - since_s >= _DISMISS_AFTER_S:
                wiring.kill(name)
                self._made.discard(name)

    def _load_again(self, name: str, replica: Any, index: IndexManifest) -> None:
        key = (name, index.version)
        running = self._loading.get(key)
        if running is not None:
            done, _ = ray.wait([running], timeout=0)
            if not done:
                return
        log.warning("%s has lost index %s: loading it again", name, index.version)
        self._loading[key] = replica.load.remote(index)

    def _replicas(self, index: IndexManifest) -> dict[str, Any]:
        number = self._counts.count(index.corpus)
        replicas = {
            names.replica(index.corpus, shard.shard, replica): wiring.replica_actor(
                index.corpus,
                shard.shard,
                replica,
                store=self._store,
                cache_folder=self._cache_folder,
            )
            for shard in index.shards
            for replica in range(number)
        }
        self._made |= replicas.keys()
        return replicas

    def _embedders(self, model: ModelManifest | None) -> dict[str, Any]:
        if model is None:
            return {}
        return {
            name: wiring.embedder_actor(
                model, number, store=self._store, cache_folder=self._cache_folder
            )
            for number, name in enumerate(self._embedder_names(model))
        }

    def _embedder_names(self, model: ModelManifest | None) -> tuple[str, ...]:
        if model is None:
            return ()
        replicas = self._settings.embedder.replicas
        return tuple(names.embedder(model.version, number) for number in range(replicas))

    def _actor_names(self, release: LoadedRelease) -> set[str]:
        return _replica_names(release.view.corpora.values()) | set(release.view.embedders)

    def _all_names(self, release: LoadedRelease) -> set[str]:
        """Also of the replicas that it was given since it was planned."""
        now = _replica_names(map(self._corpus_view, release.indexes.values()))
        return self._actor_names(release) | now

    def _corpus_view(self, index: IndexManifest, only: Collection[str] | None = None) -> CorpusView:
        """`only`: the replicas that may be in it; None takes all that there should be."""
        numbers = range(self._counts.count(index.corpus))
        shards = (
            tuple(names.replica(index.corpus, shard.shard, number) for number in numbers)
            for shard in index.shards
        )
        return CorpusView(
            corpus=index.corpus,
            index_version=index.version,
            dimension=index.dimension,
            metric=index.parameters.metric,
            metadata_schema=index.metadata_schema,
            has_embedder=index.embedder_fingerprint is not None,
            num_passages=index.num_passages,
            recall_at_10=index.recall_at_10,
            partition_by=index.partition_by,
            shards=tuple(
                tuple(name for name in shard if only is None or name in only) for shard in shards
            ),
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


def _replica_names(corpora: Iterable[CorpusView]) -> set[str]:
    return {name for corpus in corpora for shard in corpus.shards for name in shard}


def _application(release: LoadedRelease) -> str | None:
    """The generator's, where it runs here."""
    return None if release.view.generator is None else release.view.generator.application


def _check_fingerprint(index: IndexManifest, embedder: ModelManifest | None) -> None:
    # Vectors of different embedders never meet: equal dimensions would not tell them apart.
    if index.embedder_fingerprint is None:
        return
    if embedder is None or embedder.fingerprint != index.embedder_fingerprint:
        raise InvalidArgument(
            f"index {index.version} of corpus {index.corpus!r} was built with another embedder "
            "than the release names: build the corpus again with this one",
            "embedder",
        )


def _wait_for(refs: list[Any]) -> None:
    if not refs:
        return
    # For all of them, also when one fails: what loads later could not be unloaded.
    done, slow = ray.wait(refs, num_returns=len(refs), timeout=_LOAD_TIMEOUT_S)
    try:
        ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, RaygionError):
            raise error.cause from error
        raise Unavailable(f"a replica failed while loading: {error.cause}") from error
    except RayError as error:
        raise Unavailable(f"a replica died while loading: {error}") from error
    if slow:
        raise Unavailable(f"loading took more than {_LOAD_TIMEOUT_S:.0f} s")


def _statuses(handles: Mapping[str, Any]) -> dict[str, ReplicaStatus]:
    """What each replica says of itself that answers in time."""
    refs = {handle.status.remote(): name for name, handle in handles.items()}
    if not refs:
        return {}
    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=_STATUS_TIMEOUT_S)
    statuses: dict[str, ReplicaStatus] = {}
    for ref in done:
        try:
            statuses[refs[ref]] = ray.get(ref)
        except RayError as error:
            log.info("%s does not answer: %s", refs[ref], error)
    return statuses
