"""Citations for clients that drop keys they do not know: as `url_citation` annotations of the
message, the only form that OpenAI's chat has for them; and, for clients that keep nothing but the
text, as a list of sources under it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from cluster.query.answers import AnswerEvent, AnswerResult, Citation, Token

_MARK = re.compile(r"\[([1-9]\d{0,3})\]", re.ASCII)
"""A passage as prompts number it, and as a model names it in its answer."""
_LINK = re.compile(r"https?://[^\s/]", re.ASCII)


def annotations_of(text: str, citations: Sequence[Citation]) -> list[dict[str, object]]:
    """One annotation for each mark such as `[1]` that names a citation, and one of the whole text
    for each citation without a mark: the model has read it, too. In the order of the citations.
    """
    marks: dict[int, list[tuple[int, int]]] = {}
    for found in _MARK.finditer(text):
        marks.setdefault(int(found[1]), []).append(found.span())
    return [
        {
            "type": "url_citation",
            "url_citation": {
                **position,
                "url": _url(cited.id),
                "title": cited.title or cited.id,
            },
        }
        for number, cited in enumerate(citations, 1)
        for position in _positions(marks.get(number) or [(0, len(text))])
    ]


async def with_sources_listed(
    events: AsyncGenerator[AnswerEvent, None],
) -> AsyncGenerator[AnswerEvent, None]:
    """The events of an answer under which the ids of its citations stand, one a line."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, AnswerResult) and event.citations:
                lines = (
                    f"[{number}] {cited.id}" for number, cited in enumerate(event.citations, 1)
                )
                listed = "\n".join(("\n\nSources:", *lines))
                yield Token(text=listed)
                yield replace(event, answer=event.answer + listed)
            else:
                yield event


def _positions(spans: Sequence[tuple[int, int]]) -> Iterator[dict[str, int]]:
    for start, end in spans:
        yield {"start_index": start, "end_index": end}


def _url(passage_id: str) -> str:
    """The id itself where it is a link; otherwise a URI that no browser opens."""
    if _LINK.match(passage_id):
        return quote(passage_id, safe="/:?#[]@!$&'()*+,;=%~")
    return f"raygion:{quote(passage_id, safe='')}"


class UrlCitationReply(BaseModel):
    start_index: int = Field(description="First character of the part of `content` that cites.")
    end_index: int = Field(description="The character behind that part.")
    url: str = Field(description="The passage's id if it is a link, otherwise `raygion:` and it.")
    title: str = Field(description="The title of the passage, else its id.")


class AnnotationReply(BaseModel):
    type: Literal["url_citation"]
    url_citation: UrlCitationReply
