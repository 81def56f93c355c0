"""OpenAI's own client over a real socket: what it sends is understood, what it reads is right."""

from __future__ import annotations

import json
import math
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from neo_lightning.answering import Engine
from neo_lightning.types import Media, Message
from tests.serving.conftest import NAME, Running, data_url, picture, serving, shown

HELLO = [{"role": "user", "content": "copy red"}]


def test_an_answer_is_the_engines(client: openai.OpenAI, engine: Engine) -> None:
    found = client.chat.completions.create(model=NAME, messages=shown(data_url(picture())), max_tokens=8)
    assert found.choices[0].message.content == engine.answer("What is this?", images=[picture()], max_new_tokens=8)
    assert found.choices[0].finish_reason in ("stop", "length")
    prompt = engine.prompt([Message(role="user", parts=(Media(kind="image", data=picture()), "What is this?"))])
    assert found.usage is not None
    assert found.usage.prompt_tokens == prompt.input_ids.numel()
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert 0 < found.usage.completion_tokens <= 8


def test_turns_are_those_of_the_conversation(client: openai.OpenAI, engine: Engine) -> None:
    """System and developer, text in parts, an earlier answer; no max_tokens: the folder's."""
    turns: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "?"}], "name": "ann"},
        {"role": "assistant", "content": "<think>x</think> two", "refusal": None, "tool_calls": []},
        *HELLO,
    ]
    found = client.chat.completions.create(model=NAME, messages=turns)  # type: ignore[arg-type]
    same = [{**turns[0], "role": "system"}, {"role": "user", "content": "One?"}, turns[2], *HELLO]
    assert found.choices[0].message.content == engine.answer(same)
    assert found.usage is not None
    assert found.usage.completion_tokens <= engine.answering.max_new_tokens


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": NAME, "messages": HELLO, "max_tokens": 12, "n": 2, "seed": 7, "temperature": 0.9}
    whole = client.chat.completions.create(**wanted)
    texts, ends, usage = ["", ""], ["", ""], None
    for chunk in client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] += choice.finish_reason or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert usage is not None
    assert whole.usage is not None
    assert usage.total_tokens == whole.usage.total_tokens
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert texts[0] != texts[1], "each choice has draws of its own"
    again = client.chat.completions.create(**{**wanted, "n": 1, "seed": 8})
    assert again.choices[0].message.content == texts[1], "choice 1 draws as seed + 1 does"


def test_without_a_seed_answers_differ(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": NAME, "messages": HELLO, "max_tokens": 12, "temperature": 2.0}
    found = {client.chat.completions.create(**wanted).choices[0].message.content for _ in range(4)}
    assert len(found) > 1


def test_stop_ends_in_front_of_the_text(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": NAME, "messages": HELLO, "max_tokens": 24}
    whole = client.chat.completions.create(**wanted).choices[0].message.content or ""
    stop = whole[len(whole) // 2 :][:3]
    found = client.chat.completions.create(**wanted, stop=[stop, "never said"]).choices[0]
    assert found.message.content == whole[: whole.index(stop)]
    assert found.finish_reason == "stop"
    streamed = client.chat.completions.create(**wanted, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == found.message.content


def test_logprobs_are_the_models(client: openai.OpenAI, engine: Engine) -> None:
    found = client.chat.completions.create(model=NAME, messages=HELLO, max_tokens=6, logprobs=True, top_logprobs=3)
    choice = found.choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert b"".join(bytes(token.bytes or ()) for token in tokens).decode(errors="replace") == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob), "greedy takes the likeliest"
        assert math.exp(token.logprob) <= 1
    score = engine.score("copy red", choice.message.content or "")
    if score.tokens == len(tokens):  # the text is tokenised as it was made
        assert sum(token.logprob for token in tokens) == pytest.approx(score.log_probability, abs=1e-3)
    none = client.chat.completions.create(model=NAME, messages=HELLO, max_tokens=2)
    assert none.choices[0].logprobs is None


def test_a_clip(client: openai.OpenAI, engine: Engine, media: dict[str, list[Path]]) -> None:
    clip = media["video"][0].read_bytes()
    asked = shown(data_url(clip, "video/mp4"), kind="video_url")
    found = client.chat.completions.create(model=NAME, messages=asked, max_tokens=8)  # type: ignore[arg-type]
    assert found.choices[0].message.content == engine.answer("What is this?", videos=[clip], max_new_tokens=8)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError) as told:
        client.models.retrieve("other")
    assert told.value.code == "model_not_found"


REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"messages": []}, "messages", "a list of messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "must be one of"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "messages", "role user"),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "messages[0].content[0].type",
        "video_url",
    ),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "found nothing"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls", "nothing that"),
    ({"messages": shown("ftp://x/y")}, "messages[0].content[0]", "expected a data:"),
    ({"messages": shown("data:image/png;base64,!!!")}, "messages[0].content[0]", "no base64"),
    ({"messages": shown(data_url(b"no picture"))}, "messages", "messages[0].content[0]"),
    ({"temperature": -1}, "temperature", "from 0"),
    ({"temperature": "hot"}, "temperature", "found 'hot'"),
    ({"top_p": 0}, "top_p", "found 0"),
    ({"max_tokens": 0}, "max_tokens", "from 1"),
    ({"max_tokens": True}, "max_tokens", "found True"),
    ({"n": 99}, "n", "from 1 to 16"),
    ({"stop": ["a"] * 17}, "stop", "up to 16"),
    ({"stop": [""]}, "stop", "1 to 256"),
    ({"seed": 1.5}, "seed", "whole number"),
    ({"logprobs": 3}, "logprobs", "true or false"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
    ({"stream": True, "stream_options": {"include_usage": "no"}}, "include_usage", "true or false, found 'no'"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "no field"),
    ({"temperature": 10**400}, "temperature", "from 0 to 100"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "as 0 only"),
    ({"tools": [{"type": "function"}]}, "tools", "as [] only"),
    ({"response_format": {"type": "json_object"}}, "response_format", "text"),
    ({"temprature": 0}, "temprature", "no field"),
    ({"max_tokens": 5000}, "messages", "room for 4096"),
    ({"messages": [{"role": "user", "content": "red " * 5000}]}, "messages", "room for 4096"),
]


@pytest.mark.parametrize(("changes", "param", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused_says_where(client: openai.OpenAI, changes: dict[str, Any], param: str, words: str) -> None:
    body = {"model": NAME, "messages": HELLO, **changes}
    with pytest.raises(openai.BadRequestError) as told:
        client.post("/chat/completions", body=body, cast_to=dict)  # type: ignore[type-var]
    assert told.value.param == param
    assert words in told.value.message
    assert isinstance(told.value.body, dict)
    assert told.value.body["type"] == "invalid_request_error"


def test_what_has_no_effect_is_taken(client: openai.OpenAI) -> None:
    plain: dict[str, Any] = {"model": NAME, "messages": HELLO, "max_tokens": 4}
    more: dict[str, Any] = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "frequency_penalty": 0.0,
        "logit_bias": {}, "response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "stop": None,
    }  # fmt: skip
    found = client.chat.completions.create(**plain, **more)
    assert found.choices[0].message.content == client.chat.completions.create(**plain).choices[0].message.content


def test_the_engines_own_decoding_may_be_asked_for(client: openai.OpenAI, engine: Engine) -> None:
    """What `eval --base-url` sends beyond OpenAI's fields."""
    more = {"top_k": 3, "repetition_penalty": 1.5}
    found = client.chat.completions.create(
        model=NAME, messages=HELLO, max_tokens=8, temperature=1.0, seed=3, extra_body=more
    )
    assert found.choices[0].message.content == engine.answer(
        "copy red",
        max_new_tokens=8,
        temperature=1.0,
        seed=3,
        **more,  # type: ignore[arg-type]
    )


def test_vlmevalkits_messages(running: Running, engine: Engine) -> None:
    """The body that its OpenAI wrapper posts: pictures with a detail, text in parts, n, and text alone."""
    photo = {"type": "image_url", "image_url": {"url": data_url(picture()), "detail": "low"}}
    content = [photo, {"type": "text", "text": "Which?"}, photo, {"type": "text", "text": "A or B"}]
    for messages in ([{"role": "user", "content": content}], [{"role": "user", "content": content[1::2]}]):
        body = {"model": NAME, "messages": messages, "n": 1, "temperature": 0, "max_tokens": 6}
        request = urllib.request.Request(
            f"{running.address}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": "Bearer sk-x"},
        )
        with urllib.request.urlopen(request, timeout=300) as reply:
            said = json.load(reply)["choices"][0]["message"]["content"]
        assert said == engine.answer(messages, max_new_tokens=6)


def test_key(engine: Engine) -> None:
    with serving(engine, key="secret") as running:
        asked: dict[str, Any] = {"model": NAME, "messages": HELLO, "max_tokens": 2}
        with pytest.raises(openai.AuthenticationError) as told:
            running.client("wrong").chat.completions.create(**asked)
        assert told.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            running.client("wrong").models.list()
        assert running.client("secret").chat.completions.create(**asked).choices
        with urllib.request.urlopen(f"{running.address}/health", timeout=60) as reply:
            assert json.load(reply)["status"] == "ok", "asked by machines that have no key"


def test_health_and_metrics(engine: Engine) -> None:
    with serving(engine) as running:
        client = running.client()
        client.chat.completions.create(model=NAME, messages=HELLO, max_tokens=4)  # type: ignore[arg-type]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="x", messages=HELLO)  # type: ignore[arg-type]
        with urllib.request.urlopen(f"{running.address}/metrics", timeout=60) as reply:
            text = reply.read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    chat = 'neo_lightning_requests_total{endpoint="/v1/chat/completions",status="%d"}'
    assert values[chat % 200] == values[chat % 404] == "1"
    assert values["neo_lightning_first_token_seconds_count"] == "1"
    assert values['neo_lightning_token_seconds_bucket{le="+Inf"}'] == "1"
    assert {"neo_lightning_running", "neo_lightning_waiting"} <= values.keys()


def test_seen(running: Running, engine: Engine, media: dict[str, list[Path]]) -> None:
    clip = data_url(media["video"][0].read_bytes(), "video/mp4")
    asked = shown(data_url(picture((200, 100))))
    asked[0]["content"].append({"type": "video_url", "video_url": {"url": clip}})
    found: Any = running.client().post("/neo/seen", body={"messages": asked}, cast_to=dict)  # type: ignore[type-var]
    image, video = found["media"]
    assert (image["width"], image["height"]) == (200, 100)
    assert image["rows"] * 32 == image["shown_height"]
    assert image["tokens"] == image["rows"] * image["columns"]
    assert video["tokens"] == video["rows"] * video["columns"] * len(video["seconds"]) > 0
    assert video["seconds"] == sorted(video["seconds"])
    assert video["seconds"][-1] < video["duration"]
    told = running.client().chat.completions.create(model=NAME, messages=asked, max_tokens=1)  # type: ignore[arg-type]
    assert told.usage is not None
    assert told.usage.prompt_tokens == found["tokens"]


def test_attention(running: Running) -> None:
    answer = "it is red"
    asked = [*shown(data_url(picture())), {"role": "assistant", "content": answer}]
    body = {"messages": asked, "start": 6, "end": 9}
    found: Any = running.client().post("/neo/attention", body=body, cast_to=dict)  # type: ignore[type-var]
    assert "red" in "".join(found["tokens"])
    (medium,) = found["media"]
    (weights,) = medium["units"]
    weights = torch.tensor(weights)
    assert list(weights.shape) == [medium["rows"], medium["columns"]]
    assert 0 < float(weights.sum()) < 1
    for wrong in ({"layer": 99}, {"start": 50, "end": 51}, {"layer": ""}, {"layer": []}, {"start": "0"}, {"end": None}):
        with pytest.raises(openai.BadRequestError):
            running.client().post("/neo/attention", body={**body, **wrong}, cast_to=dict)  # type: ignore[type-var]
