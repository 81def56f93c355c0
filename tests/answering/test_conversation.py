"""What people hand over, and what they are told where it cannot be used: the place in the conversation, the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from neo_lightning.answering import Engine
from neo_lightning.answering.conversation import lay_out, read_conversation
from neo_lightning.types import Media


def media(*kinds: Any) -> list[Media]:
    return [Media(kind=kind, data=bytes([n]), name=str(n)) for n, kind in enumerate(kinds)]


def shown(text: str, given: list[Media]) -> str:
    return "".join(part if isinstance(part, str) else f"({part.kind} {part.name})" for part in lay_out(text, given))


@pytest.mark.parametrize(
    ("text", "kinds", "expected"),
    [
        ("Why?", [], "Why?"),
        ("Why?", ["image"], "(image 0)Why?"),
        ("Why?", ["video"], "(video 0)Why?"),
        ("Why?", ["image", "image"], "Image-1: (image 0)\nImage-2: (image 1)\nWhy?"),
        ("Why?", ["image", "video", "image"], "Image-1: (image 0)\n(video 1)Image-2: (image 2)\nWhy?"),
        ("<image>\nWhy?", ["image"], "(image 0)\nWhy?"),
        ("a <image> b <image>", ["image", "image"], "a (image 0) b (image 1)"),
        ("<video>, then <image>", ["image", "video"], "(video 1), then (image 0)"),
        ("<Image> <img>", [], "<Image> <img>"),
    ],
)
def test_where_media_stand(text: str, kinds: list[str], expected: str) -> None:
    assert shown(text, media(*kinds)) == expected


def test_equal_images_are_numbered_one_by_one() -> None:
    same = [Media(kind="image", data=b"x", name="a")] * 2
    assert shown("Why?", same) == "Image-1: (image a)\nImage-2: (image a)\nWhy?"


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("conversation", "beside", "said"),
    [
        ("Why?", {"images": ["nowhere.png"]}, ["images[0]", "cannot read nowhere.png", "No such file"]),
        ("Why?", {"images": ["https://x.org/a.png"]}, ["images[0]", "https://x.org/a.png", "nothing is downloaded"]),
        ("Why?", {"images": [3]}, ["images[0]", "a path, bytes, a PIL image or a tensor", "int"]),
        ("Why?", {"images": [torch.zeros(3, 4, 4)]}, ["images[0]", "[3, H, W] uint8", "torch.float32"]),
        ("Why?", {"images": [torch.zeros(4, 4, 3, dtype=torch.uint8)]}, ["[4, 4, 3]"]),
        ("Why?", {"videos": [torch.zeros(3, 4, 4, dtype=torch.uint8)]}, ["videos[0]", "a path or bytes", "Tensor"]),
        ("Why?", {"images": [b"junk"]}, ["images[0]:"]),
        ("Why?", {"images": (x for x in [b"x"])}, ["images: expected a list", "generator"]),
        ("Why?", {"images": [Image.new("F", (9, 9))]}, ["images[0]", "mode F", "uint8"]),
        ("Why?", {"images": [Image.new("RGB", (0, 0))]}, ["images[0]", "(0, 0)"]),
        ("Why?", {"images": ["a\0b"]}, ["images[0]", "null byte"]),
        ("Why?", {"images": ["~nobody-has-this-name/a.png"]}, ["images[0]", "~nobody-has-this-name", "No such file"]),
        ("Why?", {"images": ["data:image/png;base64,!" + "A" * 9999]}, ["images[0]", "cannot read data:image/png"]),
        ("Why \ud800?", {}, ["half of a character", "\\ud800"]),
        (["Why?", None], {}, ["conversation 1", "a question or a list of messages", "nothing"]),
        ([3], {}, ["int"]),
        ([{"role": "system", "content": "Be brief."}], {}, ["the last message must be the user's"]),
        ([{"role": "user", "content": [{"type": ["image"]}]}], {}, ["messages[0].content[0]", "['image']"]),
        ("Why?", {"videos": [b"junk"]}, ["videos[0]:"]),
        (user("a", {"type": "image", "image": b"junk"}), {}, ["messages[0].content[1]:"]),
        (user({"type": "image"}), {}, ["messages[0].content[0]", "no image under 'image', 'path' or 'url'"]),
        (user({"type": "audio", "audio": b""}), {}, ["messages[0].content[0]", "'audio'"]),
        (user(7), {}, ["messages[0].content[0]", "'int'"]),
        ([{"role": "tool", "content": "x"}], {}, ["messages[0]", "unknown role 'tool'", "system, user, assistant"]),
        ([{"role": "user"}], {}, ["messages[0]", "`role` and `content`"]),
        ([{"role": "user", "content": None}], {}, ["messages[0]", "`content` must be text or a list of parts"]),
        (user("a"), {"images": [b"x"]}, ["each medium is a part of its own"]),
        (["a", "b"], {"images": [b"x"]}, ["of many conversations each has its own media"]),
        (
            ["a", user({"type": "image", "image": "gone.png"})],
            {},
            ["conversation 1: messages[0].content[0]", "gone.png"],
        ),
        (["a", user({"type": "image", "image": b"junk"})], {}, ["conversation 1: messages[0].content[0]:"]),
        ([*user("a"), {"role": "assistant", "content": "b"}], {}, ["the last message must be the user's"]),
        ([], {}, ["an empty list"]),
        (None, {}, ["found nothing"]),
        (b"Why?", {}, ["found bytes"]),
    ],
)
def test_errors_name_the_place(conversation: Any, beside: dict[str, Any], said: list[str], engine: Engine) -> None:
    for ask in (engine.answer, engine.stream):
        with pytest.raises(ValueError, match=r"\w") as error:
            ask(conversation, **beside)
        for part in said:
            assert part in str(error.value)


def test_paths_of_messages_count_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (message,) = read_conversation(user({"type": "image", "path": "a.png"}), folder=tmp_path)
    (part,) = message.parts
    assert isinstance(part, Media)
    assert (part.data, part.name) == (b"x", "a.png")
