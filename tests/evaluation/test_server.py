"""Questions to a server: what it is sent, what it may refuse, and when it is asked again."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator

import pytest

from neo_lightning.data.facts import RetryError, SampleError
from neo_lightning.evaluation.running.server import ChatServer
from neo_lightning.types import Media, Message

from .chat_server import chat_server
from .data import jpeg

ASKED = (
    Message(role="system", parts=("Be brief.",)),
    Message(role="user", parts=(Media(kind="image", data=jpeg(0)), "What?", Media(kind="video", data=b"clip"))),
)


def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with chat_server(lambda _: "red") as (url, asked):
        assert ChatServer(f"{url}/", "m").answer(ASKED, {"temperature": 0.6, "max_new_tokens": 9}, 7) == "red"
    (request,) = asked
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer sesame"
    assert (request["model"], request["temperature"], request["max_tokens"], request["seed"]) == ("m", 0.6, 9, 7)
    system, user = request["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(jpeg(0)).decode()}"}},
        {"type": "text", "text": "What?"},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,Y2xpcA=="}},
    ]


def test_what_may_pass_is_tried_again() -> None:
    replies: Iterator[str | int] = iter([503, 429, "red"])
    waited: list[float] = []
    with chat_server(lambda _: next(replies)) as (url, asked):
        assert ChatServer(url, "m", wait=waited.append).answer(ASKED, {}) == "red"
    assert (len(asked), waited) == (3, [2, 4])


def test_a_server_that_does_not_answer_ends_it_for_now() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    waited: list[float] = []
    with pytest.raises(RetryError, match="tried 6 times"):
        ChatServer(url, "m", wait=waited.append).answer(ASKED, {})
    assert len(waited) == 5


@pytest.mark.parametrize(
    ("status", "kind"), [(400, SampleError), (413, SampleError), (401, ValueError), (404, ValueError)]
)
def test_a_refusal_is_told(status: int, kind: type[Exception]) -> None:
    with (
        chat_server(lambda _: status) as (url, asked),
        pytest.raises(kind, match=f"{status}.*no such thing") as caught,
    ):
        ChatServer(url, "m").answer(ASKED, {})
    assert type(caught.value) is kind
    assert len(asked) == 1


def test_no_server_at_all() -> None:
    with pytest.raises(ValueError, match="expected an address"):
        ChatServer("localhost:8000", "m")


def test_a_section_is_not_sent_as_the_whole_clip() -> None:
    part = Media(kind="video", data=b"clip", name="a.mp4", section=(1.0, 2.0))
    with pytest.raises(SampleError, match=r"a\.mp4: a section of a clip cannot be asked about through a server"):
        ChatServer("http://localhost:9/v1", "m").answer([Message(role="user", parts=(part, "What?"))], {}, 0)
