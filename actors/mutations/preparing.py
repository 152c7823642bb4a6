"""From a document as a caller writes it to the mutation that is appended: checked, cut, embedded.

All that costs time is done here, once, in the region that takes the write: others read passages and
vectors from the log. A document that fails in any step fails alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.arrays import Float32Array
from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import ChunkSettings, LongPassages
from cluster.catalog.stored_tokenizer import stored_tokenizer
from cluster.clock import Deadline
from cluster.config import Settings
from cluster.documents.chunking import Chunker
from cluster.documents.live_schema import LiveSchema
from cluster.documents.write_checks import CorpusForm, fitted_writes
from cluster.embedding.embedders import Embedders
from cluster.embedding.tokenizer import EmbedderTokenizer
from cluster.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    RaygionError,
)
from cluster.logs.events import EventLog
from cluster.metadata import Metadata
from cluster.mutations.mutation import Content, Cut, Write
from cluster.mutations.requests import DocumentWrite
from cluster.serving.view import CorpusView, ReleaseView

log = EventLog(__name__)

TOGETHER_MAX = 256
"""Passages that are embedded by one call: an embedder lets a request have half of its free places,
and what is embedded by a call that fails is embedded again.
"""
_ALONE_MAX = 3
"""Documents in a row that fail alone, too, before the embedder is taken to be away."""


class Preparing:
    """Prepares the writes of all corpora of a region. For one event loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        artifacts: Artifacts,
        release: Callable[[], ReleaseView],
        embedders: Callable[[ReleaseView], Embedders],
    ) -> None:
        """`release`: the release that is current here; raises Unavailable while there is none."""
        self._settings = settings
        self._catalog = catalog
        self._artifacts = artifacts
        self._release = release
        self._embedders = embedders
        self._schemas: dict[str, LiveSchema] = {}
        self._cutters: dict[tuple[str, ChunkSettings], TextCutter] = {}

    def learn(self, corpus: str, metadata: Iterable[Metadata]) -> None:
        """Takes in the fields of documents that are in the log, so that later ones fit them."""
        schema = self._schemas.setdefault(corpus, LiveSchema({}))
        for fields in metadata:
            schema.learn(fields)

    async def prepared(
        self, corpus: str, writes: Sequence[DocumentWrite], deadline: Deadline
    ) -> list[Write | RaygionError]:
        """The mutation of each write, or the error of one that cannot be one, in order.

        Raises what concerns them all: InvalidArgument for a corpus that is not served here,
        Unavailable while nothing is, NotFound and the store's errors where the embedder's tokenizer
        cannot be read.
        """
        release = self._release()
        view = release.corpus(corpus)
        schema = self._schemas.get(corpus, LiveSchema({})).rebased(view.metadata_schema)
        self._schemas[corpus] = schema
        checked = list(fitted_writes(writes, _form(view), schema))
        to_embed = [
            write
            for write in checked
            if view.has_embedder and isinstance(write, DocumentWrite) and write.text is not None
        ]
        contents = iter(await self._embedded(corpus, release, to_embed, deadline))
        prepared: list[Write | RaygionError] = []
        for write in checked:
            if isinstance(write, RaygionError):
                prepared.append(write)
                continue
            if write.text is None:
                content: Content | RaygionError | None = None
            else:
                content = next(contents) if view.has_embedder else _own_content(write)
            prepared.append(content if isinstance(content, RaygionError) else _of(write, content))
        return prepared

    async def _embedded(
        self,
        corpus: str,
        release: ReleaseView,
        writes: Sequence[DocumentWrite],
        deadline: Deadline,
    ) -> list[Content | RaygionError]:
        """The content of each write, whose texts are cut and embedded here."""
        if not writes:
            return []
        assert release.embedder is not None, "a corpus of texts is served with its embedder"
        found: list[Content | RaygionError | None] = [None] * len(writes)
        documents: list[_CutText] = []
        cuts = await asyncio.to_thread(self._cuts, corpus, release.embedder, writes)
        for number, (write, cut) in enumerate(zip(writes, cuts, strict=True)):
            if isinstance(cut, RaygionError):
                found[number] = cut
            else:
                documents.append(_CutText(number, write.text or "", write.metadata, cut))
        embedders = self._embedders(release)
        for group in _groups(documents):
            made = await _vectors(group, embedders, deadline)
            for document, vectors in zip(group, made, strict=True):
                found[document.number] = (
                    vectors
                    if isinstance(vectors, RaygionError)
                    else document.content(vectors, release.embedder)
                )
        return [content for content in found if content is not None]

    def _cuts(
        self, corpus: str, embedder: str, writes: Sequence[DocumentWrite]
    ) -> list[tuple[Cut, ...] | RaygionError]:
        """The passages of each text. Some megabytes take a second: not for an event loop."""
        cutter = self._cutter(embedder, self._settings.corpus(corpus).chunks)
        return [cutter.cuts_or_error(write.id, write.text or "") for write in writes]

    def _cutter(self, embedder: str, chunks: ChunkSettings) -> TextCutter:
        key = (embedder, chunks)
        if key not in self._cutters:
            found = self._catalog.find_model(embedder)
            if found is None:
                raise NotFound(f"the embedder {embedder} is not in the store any more")
            tokenizer = stored_tokenizer(self._artifacts, found[0])
            chunker = Chunker.of(chunks, tokenizer)
            self._cutters[key] = TextCutter(chunker, tokenizer, chunks.long_passages)
        return self._cutters[key]


@dataclass(frozen=True, slots=True)
class TextCutter:
    """Cuts texts as a build of the corpus does."""

    chunker: Chunker
    tokenizer: EmbedderTokenizer
    long_passages: LongPassages

    def cuts(self, text: str) -> tuple[Cut, ...]:
        """Raises InvalidArgument for a passage that is longer than the embedder reads, where such
        ones are refused.
        """
        cuts = tuple(self.chunker.spans(text))
        tokens_max = self.tokenizer.tokens_max
        if self.chunker.tokens_max > tokens_max and self.long_passages is LongPassages.REFUSE:
            longest = max(self.tokenizer.count([text[begin:end] for begin, end in cuts]), default=0)
            if longest > tokens_max:
                raise InvalidArgument(
                    f"has a passage of {longest:,} tokens, and the embedder reads {tokens_max}; "
                    "leave `chunks.tokens_max` of the corpus out, or write "
                    f"`chunks.long_passages: {LongPassages.AVERAGE}`",
                    "text",
                )
        return cuts

    def cuts_or_error(self, document: str, text: str) -> tuple[Cut, ...] | RaygionError:
        """What `cuts` gives or raises. A text on which the splitter itself fails, fails alone."""
        try:
            return self.cuts(text)
        except RaygionError as error:
            return error
        except Exception as error:
            log.error(
                "documents.cannot_be_cut",
                "the text of {document} cannot be cut into passages: {error}",
                document=document,
                error=error,
                traceback_of=error,
            )
            return RaygionError("the text cannot be cut into passages; the region's log says more")


@dataclass(frozen=True, slots=True)
class _CutText:
    """The passages of a document, before they are embedded."""

    number: int
    """Place among the writes."""
    text: str
    metadata: Metadata
    cuts: tuple[Cut, ...]

    @property
    def passages(self) -> list[str]:
        return [self.text[begin:end] for begin, end in self.cuts]

    def content(self, vectors: Float32Array, embedder: str) -> Content:
        return Content(
            text=self.text,
            metadata=self.metadata,
            cuts=self.cuts,
            vectors=vectors,
            embedder=embedder,
        )


def _groups(documents: Sequence[_CutText]) -> Iterator[list[_CutText]]:
    """Documents that are embedded together: as many as have `TOGETHER_MAX` passages, or one."""
    group: list[_CutText] = []
    num_passages = 0
    for document in documents:
        if group and num_passages + len(document.cuts) > TOGETHER_MAX:
            yield group
            group, num_passages = [], 0
        group.append(document)
        num_passages += len(document.cuts)
    if group:
        yield group


async def _vectors(
    group: Sequence[_CutText], embedders: Embedders, deadline: Deadline
) -> list[Float32Array | RaygionError]:
    """The vectors of each document. When the embedder fails on all of them together, each is tried
    alone, since one text may be what it fails on.
    """
    texts = [passage for document in group for passage in document.passages]
    try:
        vectors = await _embedded_texts(texts, embedders, deadline)
    except (Overloaded, DeadlineExceeded) as error:
        return [error] * len(group)
    except RaygionError as error:
        return [error] if len(group) == 1 else await _each_alone(group, embedders, deadline)
    ends = np.cumsum([len(document.cuts) for document in group])
    return [_finite(of_document) for of_document in np.split(vectors, ends[:-1])]


async def _each_alone(
    group: Sequence[_CutText], embedders: Embedders, deadline: Deadline
) -> list[Float32Array | RaygionError]:
    made: list[Float32Array | RaygionError] = []
    for document in group:
        last = made[-_ALONE_MAX:]
        if len(last) == _ALONE_MAX and all(isinstance(one, RaygionError) for one in last):
            return [*made, *[last[-1]] * (len(group) - len(made))]
        made += await _vectors([document], embedders, deadline)
    return made


async def _embedded_texts(
    texts: Sequence[str], embedders: Embedders, deadline: Deadline
) -> Float32Array:
    """float32 [n, d]; one document may have more passages than go into a call."""
    made = [
        await embedders.embed_passages(texts[first : first + TOGETHER_MAX], deadline)
        for first in range(0, len(texts), TOGETHER_MAX)
    ]
    return made[0] if len(made) == 1 else np.concatenate(made)


def _finite(vectors: Float32Array) -> Float32Array | RaygionError:
    if np.isfinite(vectors).all():
        return vectors
    return InvalidArgument("the embedder makes no finite vector of a passage of it", "text")


def _form(view: CorpusView) -> CorpusForm:
    return CorpusForm(
        corpus=view.corpus,
        dimension=view.dimension,
        metric=view.metric,
        has_embedder=view.has_embedder,
    )


def _own_content(write: DocumentWrite) -> Content:
    """The content of a document that brings its vector: its text is one passage, even an empty
    one.
    """
    assert write.text is not None
    assert write.vector is not None
    return Content(
        text=write.text,
        metadata=write.metadata,
        cuts=((0, len(write.text)),),
        vectors=write.vector[np.newaxis],
    )


def _of(write: DocumentWrite, content: Content | None) -> Write:
    return Write(
        document=write.id,
        content=content,
        key=write.key,
        if_version=write.if_version,
        timestamp_ms=write.timestamp_ms,
    )
