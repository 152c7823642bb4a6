"""The checks of every request, whether it came over HTTP, from the Python client or from another
region. Searches are checked against the release that will serve them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.errors import InvalidArgument
from cluster.generation.generator import ROLES, ChatMessage, GenerationRequest
from cluster.query.answers import AnswerRequest
from cluster.query.filters import check_filter, is_encodable
from cluster.query.search import REPLY_BYTES_MAX, SearchEffort, SearchRequest
from cluster.serving.view import CorpusView, ReleaseView
from cluster.shards.index_parameters import EF_SEARCH_MAX
from cluster.vectors.checks import check_vectors

BATCH_MAX = 1024
TEXT_CHARS_MAX = 8192
MAX_TOKENS_MAX = 32_768
PENALTY_MAX = 2.0
TEMPERATURE_MAX = 2.0
SEED_MIN, SEED_MAX = -(2**63), 2**63 - 1
STOPS_MAX = 4
STOP_CHARS_MAX = 256
MESSAGES_MAX = 2048
"""Most messages of a conversation, its question included."""
CONVERSATION_CHARS_MAX = 262_144
"""Most characters of a conversation, over all messages and the question."""
PROMPT_MESSAGES_MAX = MESSAGES_MAX + 2
"""Messages of a prompt made from a conversation, which may also have a system text and the
beginning of the answer.
"""
PROMPT_CHARS_MAX = 4_194_304
"""Characters of such a prompt, passages included."""
NPROBE_MAX = 65_536
HITS_MAX = 131_072
"""Most hits that one request may ask for: `top_k` times the length of the batch."""


def in_rows(request: SearchRequest, corpus: CorpusView) -> SearchRequest:
    """The request with flat vectors cut into rows. Raises InvalidArgument when they do not fit."""
    if request.vectors is None or request.vectors.ndim != 1:
        return request
    if len(request.vectors) == 0 or len(request.vectors) % corpus.dimension:
        raise InvalidArgument(
            f"holds {len(request.vectors)} numbers, not a multiple of the index's dimension "
            f"{corpus.dimension}",
            "vectors",
        )
    return replace(request, vectors=request.vectors.reshape(-1, corpus.dimension))


def check_search(request: SearchRequest, corpus: CorpusView) -> None:
    """Raises InvalidArgument naming the field that is wrong."""
    request.check_terms()
    if (request.queries is None) == (request.vectors is None):
        raise InvalidArgument("give either texts or vectors to search for", "query")
    if request.queries is not None:
        _check_texts(request.queries)
        _check_has_embedder(corpus, "query")
    if request.embedded is not None and len(request.embedded.vectors) != len(request.queries or ()):
        raise InvalidArgument("needs one vector for each text of `queries`", "embedded.vectors")
    if request.vectors is not None:
        check_vectors(request.vectors, corpus.dimension)
        if len(request.vectors) > BATCH_MAX:
            raise InvalidArgument(f"a batch holds at most {BATCH_MAX} vectors", "vectors")
    asked = request.vectors if request.queries is None else request.queries
    assert asked is not None
    check_hits(len(asked), request.top_k)
    _check_effort(request.effort)
    if request.filter is not None:
        check_filter(request.filter, corpus.metadata_schema)
    for name in request.fields or ():
        if name not in corpus.metadata_schema:
            known = ", ".join(sorted(corpus.metadata_schema)) or "none"
            raise InvalidArgument(f"there is no field {name!r}; there is: {known}", "fields")


def check_embedding(
    request: SearchRequest, release: ReleaseView, dimension: int | None = None
) -> None:
    """Raises InvalidArgument naming the field that is wrong. `dimension`: the length that the
    caller expects of the vectors, if it says any.
    """
    request.check_terms()
    _check_texts(request.queries or ())
    if release.embedder is None:
        raise InvalidArgument(
            "its corpora brought their own vectors: there is no embedder", "model"
        )
    if request.corpus is not None:
        _check_has_embedder(release.corpus(request.corpus), "model")
    if dimension not in (None, release.embedding_dimension):
        raise InvalidArgument(
            f"is not supported, other than as {release.embedding_dimension}, which these vectors "
            "have",
            "dimensions",
        )


def check_hits(num_queries: int, top_k: int) -> None:
    """Raises InvalidArgument when a request asks for more hits than fit into one reply."""
    if num_queries * top_k > HITS_MAX:
        raise InvalidArgument(
            f"asks for {num_queries} x {top_k} hits; one request may ask for {HITS_MAX}", "top_k"
        )


def reply_too_large() -> InvalidArgument:
    """The error for a request whose hits are longer than `REPLY_BYTES_MAX`."""
    return InvalidArgument(
        f"the reply would be longer than {REPLY_BYTES_MAX >> 20} MiB; ask for fewer hits, or "
        "without texts and metadata (`include`)",
        "top_k",
    )


def check_retrieval(corpus: CorpusView) -> None:
    """Raises InvalidArgument when a question cannot be looked up in the corpus."""
    _check_has_embedder(corpus, "question")


def check_answer(request: AnswerRequest) -> None:
    """Raises InvalidArgument naming the field that is wrong."""
    request.check_terms()
    _check_unicode(request.question, "question")
    if not request.question.strip():
        raise InvalidArgument("the question is empty", "question")
    if request.retrieve and len(request.question) > TEXT_CHARS_MAX:
        raise InvalidArgument(f"more than {TEXT_CHARS_MAX} characters", "question")
    asked = ChatMessage(role="user", content=request.question)
    _check_messages((*request.history, asked), MESSAGES_MAX, CONVERSATION_CHARS_MAX)
    _check_sampling(request)


def check_generation(request: GenerationRequest) -> None:
    """Raises InvalidArgument naming the field that is wrong."""
    if not request.messages:
        raise InvalidArgument("is empty", "messages")
    begun = ChatMessage(role="assistant", content=request.begun)
    _check_messages((*request.messages, begun), PROMPT_MESSAGES_MAX, PROMPT_CHARS_MAX)
    _check_sampling(request)


def _check_messages(messages: Sequence[ChatMessage], most: int, chars_max: int) -> None:
    if len(messages) > most:
        raise InvalidArgument(f"are more than {most}", "messages")
    if sum(len(message.content) for message in messages) > chars_max:
        raise InvalidArgument(f"have more than {chars_max} characters together", "messages")
    for message in messages:
        if message.role not in ROLES:
            raise InvalidArgument(f"a role must be one of {', '.join(ROLES)}", "messages")
        _check_unicode(message.content, "messages")


def _check_sampling(request: AnswerRequest | GenerationRequest) -> None:
    if not 1 <= request.max_tokens <= MAX_TOKENS_MAX:
        raise InvalidArgument(f"must be in 1 ... {MAX_TOKENS_MAX}", "max_tokens")
    if not 0.0 <= request.temperature <= TEMPERATURE_MAX:
        raise InvalidArgument(f"must be in 0 ... {TEMPERATURE_MAX:g}", "temperature")
    if not 0.0 < request.top_p <= 1.0:
        raise InvalidArgument("must be over 0 and at most 1", "top_p")
    for field in ("presence_penalty", "frequency_penalty"):
        if not -PENALTY_MAX <= getattr(request, field) <= PENALTY_MAX:
            raise InvalidArgument(f"must be in -{PENALTY_MAX:g} ... {PENALTY_MAX:g}", field)
    if request.seed is not None and not SEED_MIN <= request.seed <= SEED_MAX:
        raise InvalidArgument("does not fit in 64 bits", "seed")
    if len(request.stop) > STOPS_MAX:
        raise InvalidArgument(f"holds more than {STOPS_MAX} texts", "stop")
    for text in request.stop:
        _check_unicode(text, "stop")
        if not 1 <= len(text) <= STOP_CHARS_MAX:
            raise InvalidArgument(f"each text has 1 ... {STOP_CHARS_MAX} characters", "stop")


def _check_effort(effort: SearchEffort) -> None:
    bounds = (("ef_search", effort.ef_search, EF_SEARCH_MAX), ("nprobe", effort.nprobe, NPROBE_MAX))
    for field, value, most in bounds:
        if value is not None and not 1 <= value <= most:
            raise InvalidArgument(f"must be in 1 ... {most}", field)


def _check_unicode(text: str, field: str) -> None:
    if not is_encodable(text):
        raise InvalidArgument("is not valid Unicode", field)


def _check_texts(texts: Sequence[str]) -> None:
    if not 1 <= len(texts) <= BATCH_MAX:
        raise InvalidArgument(f"a batch holds 1 ... {BATCH_MAX} queries", "queries")
    for text in texts:
        _check_unicode(text, "query")
        if not text.strip():
            raise InvalidArgument("a query is empty", "query")
        if len(text) > TEXT_CHARS_MAX:
            raise InvalidArgument(f"a query has more than {TEXT_CHARS_MAX} characters", "query")


def _check_has_embedder(corpus: CorpusView, field: str) -> None:
    if not corpus.has_embedder:
        raise InvalidArgument(
            f"corpus {corpus.corpus!r} brought its own vectors and has no embedder: "
            "search it with a vector",
            field,
        )
