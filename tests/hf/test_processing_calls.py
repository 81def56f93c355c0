"""How the processor is called: batches, templates, tools, answers, errors; and what a folder says."""

from __future__ import annotations

import copy
import json
import pickle
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from neo_lightning.data.text.answers import mark_answers
from neo_lightning.data.text.conversation import parse_turns
from neo_lightning.data.text.serialize import make_outlines
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.hf.pictures_neo_chat import load_picture
from neo_lightning.hf.processing_neo_chat import NEOChatProcessor
from tests.data.data_helpers import clip, encoded, picture
from tests.hf.processing_support import processor, tokenizer, user

__all__ = ["processor", "tokenizer"]

SMALL, LARGE = encoded(picture(64, 64, 1)), encoded(picture(120, 90, 2), "JPEG")
CLIP = clip(12)
TALKS = [
    user("Hi"),
    user(("image", SMALL), "What is this?", ("image", LARGE)),
    user("See ", ("video", CLIP), "and", ("image", LARGE), "!"),
    user(("image", LARGE), "x" * 100),
]
ASKED = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("more", [{}, {"pad_to_multiple_of": 64}])
def test_a_batch_is_its_conversations(side: str, more: dict[str, Any], processor: NEOChatProcessor) -> None:
    batch = processor.apply_chat_template(
        TALKS, **ASKED, processor_kwargs={"padding": True, "padding_side": side, **more}
    )
    alone = [processor.apply_chat_template(talk, **ASKED) for talk in TALKS]
    longest = max(found["input_ids"].shape[1] for found in alone)
    assert batch["input_ids"].shape[1] == (-(-longest // 64) * 64 if more else longest)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        for row, found in zip(batch[name], alone, strict=True):
            own, rest = found[name].shape[1], len(row) - found[name].shape[1]
            real, padding = (row[:own], row[own:]) if side == "right" else (row[rest:], row[:rest])
            assert torch.equal(real, found[name][0])
            assert set(padding.tolist()) <= {processor.tokenizer.pad_token_id if name == "input_ids" else 0}
    for name in ("pixel_values", "grid_hw"):
        assert torch.equal(batch[name], torch.cat([found[name] for found in alone if name in found]))
    usual = processor.apply_chat_template(TALKS, **ASKED, padding=True)["attention_mask"]
    assert usual[:, -1].all(), "answers begin behind the last token"
    kinds = batch["mm_token_type_ids"][2]
    order = kinds[kinds > 0].tolist()
    assert order == sorted(order, reverse=True), "the clip stands before the image"
    assert {1, 2} == set(order)


def test_texts_and_media_may_be_given_apart(processor: NEOChatProcessor) -> None:
    """As many write it: render, then call; with media for all prompts in order, or for each."""
    prompts = processor.apply_chat_template(TALKS, add_generation_prompt=True)
    wanted = processor.apply_chat_template(TALKS, **ASKED, padding=True)
    for images in ([SMALL, LARGE, LARGE, LARGE], [[], [SMALL, LARGE], [LARGE], [LARGE]]):
        found = processor(text=prompts, images=images, videos=CLIP, padding=True, return_tensors="pt")
        assert set(found) == set(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    listed = processor(text=prompts[0])
    assert listed["input_ids"] == [wanted["input_ids"][0][wanted["attention_mask"][0] > 0].tolist()]
    assert "pixel_values" not in listed
    only = processor.apply_chat_template(TALKS[0], add_generation_prompt=True, tokenize=True)
    assert only == listed["input_ids"]
    hostile = processor.apply_chat_template(user("<IMG_CONTEXT><VIDEO_CONTEXT><|im_end|>"))
    assert processor(text=hostile)["input_ids"][0].count(processor.image_token_id) == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"text": "<IMG_CONTEXT>"}, "places for 1 images, and 0 were given"),
        ({"text": "?", "images": SMALL}, "places for 0 images, and 1 were given"),
        (
            {"text": ["<IMG_CONTEXT>", "<IMG_CONTEXT>"], "images": [[SMALL, SMALL], []]},
            r"places for \[1, 1\] images, and \[2, 0\] were given",
        ),
        ({"text": "<VIDEO_CONTEXT>", "videos": [CLIP, CLIP]}, "places for 1 videos, and 2 were given"),
        ({"images": SMALL}, "needs `text`"),
        ({"text": "a", "truncation": True, "max_length": 1}, "does not take truncation"),
        ({"text": "<IMG_CONTEXT>", "images": b"no picture"}, "image the bytes: "),
        ({"text": "<IMG_CONTEXT>", "images": "not_there.png"}, "image 'not_there.png' cannot be read: .*No such file"),
        ({"text": "<IMG_CONTEXT>", "images": torch.zeros(3, 8, 8)}, "must be uint8, found float32"),
        ({"text": "<IMG_CONTEXT>", "images": 7}, "expected a path, address, bytes, PIL image or array, found int"),
        ({"text": "<IMG_CONTEXT>", "images": encoded(picture(201, 1))}, "201x1 pixels"),
        ({"text": "<VIDEO_CONTEXT>", "videos": "not_there.mp4"}, "video 'not_there.mp4' cannot be read"),
        ({"text": "<VIDEO_CONTEXT>", "videos": b"#EXTM3U\nfile:///etc/passwd"}, "video bytes: "),
    ],
)
def test_what_cannot_be_used_is_told(call: dict[str, Any], said: str, processor: NEOChatProcessor) -> None:
    with pytest.raises(ValueError, match=said):
        processor(**call)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            [{"role": "user", "content": [{"type": "audio"}]}],
            r"messages\[0\]\.content\[0\]: expected a part of type text",
        ),
        ([{"role": "user", "content": [{"type": "image"}]}], "no image under 'image', 'path' or 'url'"),
        ([{"content": "?"}], r"messages\[0\]: expected an object with `role`"),
        ([{"role": "user", "content": 3}], "must be text or a list of parts, found int"),
        ([{"role": "oracle", "content": "?"}], "unknown role oracle"),
    ],
)
def test_a_bad_message_is_told(messages: Any, said: str, processor: NEOChatProcessor) -> None:
    with pytest.raises(Exception, match=said):  # the template's own error is jinja2's
        processor.apply_chat_template(messages, tokenize=True)


WEATHER = {"type": "function", "function": {"name": "weather", "description": "é </tool_call>", "parameters": {}}}
CALLS = [
    {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "<|im_end|>": "<tool_call>"}}},
    {"name": "weather", "arguments": '{"city": "<|im_start|>"}'},
]
TOOL_TALK = [
    {"role": "user", "content": "Warm?"},
    {"role": "assistant", "content": "\nLet me see.", "reasoning_content": "\nTwo cities.\n", "tool_calls": CALLS},
    {"role": "tool", "content": "21 </tool_response>"},
    {"role": "tool", "content": [{"type": "text", "text": "19"}]},
    {"role": "assistant", "content": "", "tool_calls": CALLS[:1]},
    {"role": "tool", "content": "20"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.mark.parametrize("tools", [None, [WEATHER], [WEATHER, WEATHER]])
@pytest.mark.parametrize("system", [None, "", "Be <tool_call> brief."])
def test_tools_and_reasoning_are_written_as_in_training(
    tools: Any, system: str | None, processor: NEOChatProcessor, tokenizer: Tokenizer
) -> None:
    messages = [*([] if system is None else [{"role": "system", "content": system}]), *TOOL_TALK]
    turns = parse_turns({"messages": messages} | ({"tools": tools} if tools else {}), None, [], literal=False)
    (outline,) = make_outlines([mark_answers(turns, ("think", "tool_call"))], tokenizer)
    found = processor.apply_chat_template(messages, tools=tools, tokenize=True)
    assert found == [outline.ids.tolist()]


def test_an_answer_can_be_begun(processor: NEOChatProcessor) -> None:
    begun = [*user("Name a colour."), {"role": "assistant", "content": "It is re"}]
    whole = processor.apply_chat_template(begun[:1], add_generation_prompt=True)
    assert processor.apply_chat_template(begun, continue_final_message=True) == whole + "It is re"


def test_a_call_says_its_own_budgets(processor: NEOChatProcessor) -> None:
    talk = user(("image", LARGE), ("video", CLIP), "?")
    usual = processor.apply_chat_template(talk, **ASKED)
    how = {"images_kwargs": {"max_pixels": 4096, "min_pixels": 1024}, "videos_kwargs": {"num_frames": 2}}
    changed = processor.apply_chat_template(talk, **ASKED, processor_kwargs=how)
    assert (usual["grid_hw"][0].tolist(), changed["grid_hw"][0].tolist()) == ([6, 8], [2, 4])
    assert (len(usual["grid_hw"]), len(changed["grid_hw"])) == (5, 3)
    faster = processor.apply_chat_template(talk, **ASKED, fps=3)
    assert len(faster["grid_hw"]) == 7
    assert usual["input_ids"].tolist() == processor.apply_chat_template(talk, **ASKED)["input_ids"].tolist(), (
        "as before"
    )


def test_tokens_of_answers_are_shown(processor: NEOChatProcessor, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.special["<box>"], *tokenizer.encode_text("[1]"), tokenizer.special["</box>"], tokenizer.im_end_id]
    assert tokenizer.decode(ids) == "<box>[1]</box>"
    assert processor.decode(torch.tensor(ids), skip_special_tokens=True) == "<box>[1]</box>"
    assert processor.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=True) == ["<box>[1]</box>"] * 2
    assert processor.post_process_image_text_to_text([ids]) == ["<box>[1]</box>"]
    assert processor.decode(ids).endswith("<|im_end|>")


def test_sizes_say_how_many_tokens(processor: NEOChatProcessor) -> None:
    found = processor._get_num_multimodal_tokens(image_sizes=[(90, 120), (64, 64)], video_sizes=[(5, 48, 64)])
    asked = [processor(text="<IMG_CONTEXT>", images=x, return_tensors="pt") for x in (LARGE, SMALL)]
    counts = [int((x["input_ids"] == processor.image_token_id).sum()) for x in asked]
    assert (found.num_image_tokens, found.num_image_patches) == (counts, [4 * count for count in counts])
    shown = processor(text="<VIDEO_CONTEXT>", videos=CLIP, num_frames=5, return_tensors="pt")
    assert found.num_video_tokens == [int((shown["input_ids"] == processor.image_token_id).sum())]


def test_a_saved_or_copied_processor_is_the_same(processor: NEOChatProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    wanted = processor.apply_chat_template(TALKS[2], **ASKED)
    for other in (
        NEOChatProcessor.from_pretrained(tmp_path),
        copy.deepcopy(processor),
        pickle.loads(pickle.dumps(processor)),
    ):
        found = other.apply_chat_template(TALKS[2], **ASKED)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert other.to_dict() == processor.to_dict()


def test_a_token_that_is_added_later_is_one(processor: NEOChatProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    own = NEOChatProcessor.from_pretrained(tmp_path)
    before = own(text="<new>")["input_ids"][0]
    own.tokenizer.add_tokens(["<new>"], special_tokens=True)
    assert own(text="<new>")["input_ids"] == [[own.tokenizer.convert_tokens_to_ids("<new>")]]
    assert own.apply_chat_template(user("<new>"), tokenize=True)[0][-len(before) - 2 : -2] == before


def test_a_released_folder_says_it_in_its_config(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    config = {"model_type": "neo_chat", "vision_config": {"min_pixels": 4096, "max_pixels": 65536}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = NEOChatProcessor.from_pretrained(tmp_path)
    assert (own.image_processor.min_pixels, own.image_processor.max_pixels) == (4096, 65536)
    video = own.video_processor
    assert (video.fps, video.max_frames, video.min_pixels, video.max_pixels) == (1.0, 128, 4096, 230400)
    assert own.apply_chat_template(user(("image", SMALL), "?"), **ASKED)["grid_hw"].tolist() == [[4, 4]]


def test_an_address_is_fetched() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(SMALL)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert torch.equal(load_picture(f"{address}/a.png").pixels(64, 64), load_picture(SMALL).pixels(64, 64))
        with pytest.raises(ValueError, match=r"b\.png' .*404"):
            load_picture(f"{address}/b.png")
    finally:
        server.shutdown()
        server.server_close()
