from __future__ import annotations

from typing import Any

import pytest

from neo_lightning.data.facts import SampleError
from neo_lightning.data.text.conversation import parse_turns


def parse(tree: dict[str, Any], *kinds: str, caption: str | None = None, literal: bool = False) -> list[Any]:
    return [(t.role, t.parts) for t in parse_turns(tree, caption, kinds, literal=literal)]


def llava(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


def openai(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_llava_roles_and_placeholders() -> None:
    tree = llava(("system", "Be kind."), ("human", "<image>\nLeft of <image>?"), ("gpt", "Yes"))
    assert parse(tree, "image", "image") == [
        ("system", ("Be kind.",)),
        ("user", (0, "\nLeft of ", 1, "?")),
        ("assistant", ("Yes",)),
    ]


def test_openai_parts_take_media_in_order_and_their_text_is_literal() -> None:
    url = {"type": "image_url", "image_url": {"url": "https://example.org/never-fetched.jpg"}}
    parts = [{"type": "text", "text": "a <image>"}, {"type": "video"}, url]
    assert parse(openai(("user", parts), ("assistant", "b")), "video", "image") == [
        ("user", ("a <image>", 0, 1)),
        ("assistant", ("b",)),
    ]


def test_one_medium_without_a_place_goes_in_front_of_the_first_question() -> None:
    tree = openai(("system", "s"), ("user", "What?"), ("assistant", "That."), ("user", "And?"), ("assistant", "No."))
    assert parse(tree, "image")[1] == ("user", (0, "\n", "What?"))
    assert parse({}, "image", caption="A cat.") == [("assistant", (0, "A cat."))]
    assert parse({"text": "A clip."}, "video") == [("assistant", (0, "A clip."))]


def test_text_sources_take_placeholders_literally() -> None:
    assert parse({"text": "the <video> tag"}, literal=True) == [("assistant", ("the <video> tag",))]


@pytest.mark.parametrize(
    ("tree", "kinds", "message"),
    [
        (llava(("human", "<image>"), ("gpt", "a")), (), "1 image, the sample holds no media"),
        (llava(("human", "<image><image>"), ("gpt", "a")), ("image",), "2 images, the sample holds 1 image"),
        (llava(("human", "a"), ("gpt", "a")), ("image", "image"), "no media, the sample holds 2 images"),
        (llava(("human", "<video>"), ("gpt", "a")), ("image",), "1 video, the sample holds 1 image"),
        (llava(("human", "<image><video>"), ("gpt", "a")), ("video", "image"), r"\[image, video\]"),
        (llava(("human", "a")), (), "no assistant"),
        (llava(("judge", "a"), ("gpt", "b")), (), "unknown role 'judge'"),
        (llava(("human", "a\0"), ("gpt", "b")), (), "NUL"),
        (llava(("human", "a\ud800"), ("gpt", "b")), (), "surrogate"),
        ({"conversations": []}, (), "list of messages"),
        ({"conversations": ["a"]}, (), "object with `from` and `value`"),
        ({**llava(("gpt", "b")), **openai(("assistant", "b"))}, (), "both"),
        (openai(("user", [{"type": "audio"}]), ("assistant", "b")), (), "audio"),
        (openai(("user", 3), ("assistant", "b")), (), "string or a list"),
        ({"title": "a"}, (), "no `conversations`"),
        ({"text": 3}, (), "no `conversations`"),
    ],
)
def test_what_does_not_come_out_even_is_an_error(tree: dict[str, Any], kinds: tuple[str, ...], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        parse(tree, *kinds)


def test_a_conversation_and_a_caption_are_ambiguous() -> None:
    with pytest.raises(SampleError, match="both"):
        parse(llava(("human", "a"), ("gpt", "b")), caption="c")
