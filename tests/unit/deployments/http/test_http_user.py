"""`user` reaches the query path from every interface."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from cluster.errors import InvalidArgument
from deployments.http.openai.chat import parse_chat
from deployments.http.schemas.answer import parse_answer
from deployments.http.schemas.binary import parse_binary
from deployments.http.schemas.search import parse_search

MESSAGES = [{"role": "user", "content": "Why?"}]


def test_every_interface_takes_a_user() -> None:
    search, _ = parse_search(orjson.dumps({"query": "why", "user": "ada"}))
    answer, _ = parse_answer(orjson.dumps({"question": "why", "user": "ada"}))
    asked = {"model": "raygion", "messages": MESSAGES, "user": "ada"}
    chat = parse_chat(orjson.dumps(asked)).request
    binary, _ = parse_binary(b"user=ada", np.zeros(4, np.float32).tobytes())
    assert {search.user, answer.user, chat.user, binary.user} == {"ada"}


def test_a_user_may_be_left_out() -> None:
    search, _ = parse_search(orjson.dumps({"query": "why"}))
    answer, _ = parse_answer(orjson.dumps({"question": "why"}))
    asked = {"model": "raygion", "messages": MESSAGES, "user": None}
    chat = parse_chat(orjson.dumps(asked)).request
    assert {search.user, answer.user, chat.user} == {""}


@pytest.mark.parametrize("user", [7, ["ada"], "x" * 1025])
def test_a_user_is_a_text_of_some_length(user: object) -> None:
    for parse, body in (
        (parse_search, {"query": "why"}),
        (parse_answer, {"question": "why"}),
        (parse_chat, {"model": "raygion", "messages": MESSAGES}),
    ):
        with pytest.raises(InvalidArgument) as caught:
            parse(orjson.dumps({**body, "user": user}))
        assert caught.value.field == "user"
