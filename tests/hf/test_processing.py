"""The processor's ids, pixels and positions are training's, bit for bit."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neo_lightning.data.facts import Turn
from neo_lightning.data.media.video import video_facts
from neo_lightning.data.text.answers import MARKS
from neo_lightning.data.text.prompt import prompt_from_messages
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.hf.processing_neo_chat import NEOChatProcessor
from neo_lightning.hf.prompt_text_neo_chat import BREAK, MARK
from neo_lightning.types import Media, PixelBudget, VideoBudget
from tests.data.data_helpers import clip, encoded, picture, textured
from tests.hf.processing_support import (
    IMAGE,
    VIDEO,
    assert_same,
    clips,
    made,
    pictures,
    processor,
    tokenizer,
    user,
)

__all__ = ["processor", "tokenizer"]

PICTURES = pictures()
CLIPS = clips()


def test_text(processor: NEOChatProcessor, tokenizer: Tokenizer) -> None:
    assert_same(processor, user("What colour is it?"), tokenizer)
    assert_same(processor, [{"role": "user", "content": "What colour?"}], tokenizer)
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]},
        {"role": "assistant", "content": "\n\n  <think>\nA cafe\u0301?\n</think>\n\n<box>[1, 2]</box>"},
        {"role": "user", "content": ""},
    ]
    ids = assert_same(processor, talk, tokenizer).tolist()
    assert ids.count(tokenizer.special["<think>"]) == ids.count(tokenizer.special["</box>"]) == 1


@pytest.mark.parametrize("texts", [("<|im_", "end|>"), (f"a{MARK}", f"{MARK}<{MARK}img>"), (BREAK, f"b{BREAK}\n")])
def test_text_that_stands_together(texts: tuple[str, str], processor: NEOChatProcessor, tokenizer: Tokenizer) -> None:
    ids = assert_same(processor, user(*texts), tokenizer)
    assert int((ids == tokenizer.im_end_id).sum()) == 1


HOSTILE = [*sorted(MARKS), "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<VIDEO_CONTEXT>", "<img>", "</img>"]
PIECES = [*HOSTILE, MARK, *BREAK, BREAK, "<", "im", "g>", "assistant", "\n", " ", "a", "é", "e\u0301", "<|im_", "end|>"]
TEXT = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXT, min_size=2, max_size=2), said=TEXT, system=TEXT)
def test_nobodys_text_spells_a_token(
    processor: NEOChatProcessor, tokenizer: Tokenizer, texts: list[str], said: str, system: str
) -> None:
    """Not by itself, not together with what stands beside it, and not by the invisible characters."""
    messages = [
        {"role": "system", "content": system},
        *user(texts[0], texts[1]),
        {"role": "assistant", "content": said},
        *user(texts[1], ("image", PICTURES["tiny"]), texts[0]),
    ]
    ids = assert_same(processor, messages, tokenizer)
    assert int((ids == tokenizer.im_start_id).sum()) == 5
    assert int((ids == tokenizer.img_start_id).sum()) == 1


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture(kind: str, processor: NEOChatProcessor, tokenizer: Tokenizer) -> None:
    assert_same(processor, user(("image", PICTURES[kind]), "What is this?"), tokenizer)


@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip(kind: str, processor: NEOChatProcessor, tokenizer: Tokenizer) -> None:
    ids = assert_same(processor, user("Look: ", ("video", CLIPS[kind]), "What happens?"), tokenizer)
    assert int((ids == tokenizer.img_start_id).sum()) > (kind != "one frame")


@pytest.mark.parametrize(
    ("least", "most"), [(1024, 1024), (3000, 5000), (128 * 128, 300 * 300), (600 * 600, 2000 * 2000)]
)
@pytest.mark.parametrize("size", [(37, 211), (640, 480), (33, 31)])
def test_budgets_and_odd_sizes(
    least: int, most: int, size: tuple[int, int], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    image, video = PixelBudget(min_pixels=least, max_pixels=most), replace(VIDEO, min_pixels=1024, max_pixels=most)
    own = made(tokenizer, tmp_path, image, video)
    even = size[0] // 2 * 2, size[1] // 2 * 2
    parts = ("image", encoded(picture(*size), "JPEG")), "or", ("video", clip(3, size=even)), "?"
    assert_same(own, user(*parts), tokenizer, image, video)


@pytest.mark.parametrize(
    "video",
    [
        replace(VIDEO, fps=None, max_frames=4),
        replace(VIDEO, fps=0.3),
        replace(VIDEO, fps=50.0, max_frames=3, prefix="", frame_label="<img>{time} "),
        replace(VIDEO, prefix="{frames} of <|im_end|>{end} at {fps}", frame_label="\n{time}\n"),
    ],
)
def test_frames_and_words_of_a_clip(video: VideoBudget, tokenizer: Tokenizer, tmp_path: Path) -> None:
    own = made(tokenizer, tmp_path, IMAGE, video)
    assert_same(own, user("a", ("video", textured(60)), ("video", CLIPS["mp4"]), "b"), tokenizer, IMAGE, video)


@pytest.mark.parametrize("kind", ["mp4", "variable rate", "starts late", "frames lean on each other"])
@pytest.mark.parametrize("section", [(0.0, 0.25), (0.3, 0.35), (0.2, math.inf), (0.9, 1.5)])
def test_a_section_of_a_clip(
    kind: str, section: tuple[float, float], processor: NEOChatProcessor, tokenizer: Tokenizer
) -> None:
    """Whole frames lie in it, or parts of one, or its end is open."""
    facts = video_facts(CLIPS[kind])
    part = Media(kind="video", data=CLIPS[kind], name=kind, section=section)
    asked = [Turn(role="user", parts=(part, "?"))]
    told = {"videos_kwargs": {"video_metadata": [{"section": section}]}, "add_generation_prompt": True}
    messages = user(("video", CLIPS[kind]), "?")
    if section[0] >= facts.duration:
        with pytest.raises(ValueError, match=r"video bytes: a section from 0.9 to 1.5 s of a clip of"):
            processor.apply_chat_template(messages, tokenize=True, return_dict=True, **told)
        return
    wanted, patches = prompt_from_messages(asked, tokenizer, IMAGE, VIDEO)
    found = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **told)
    assert found["input_ids"].tolist() == [wanted.input_ids.tolist()]
    assert torch.equal(found["pixel_values"], patches)


def test_several_images_share_their_budget(processor: NEOChatProcessor, tokenizer: Tokenizer) -> None:
    large = [encoded(picture(300, 200 + 20 * i, i), "JPEG") for i in range(4)]
    one = assert_same(processor, user(("image", large[0]), "?"), tokenizer)
    labelled = [part for i, x in enumerate(large) for part in (f"Image-{i + 1}: ", ("image", x), "\n")]
    four = assert_same(processor, user(*labelled, "Which?"), tokenizer)
    each = [int((ids == tokenizer.context_id).sum()) for ids in (one, four)]
    assert each[1] / 4 < each[0], "smaller"
    mixed = [*user(("image", large[0]), "?", ("video", CLIPS["mp4"])), {"role": "assistant", "content": "x"}]
    assert_same(processor, [*mixed, *user("and", ("video", CLIPS["one frame"]), ("image", large[1]))], tokenizer)


def test_all_forms_of_a_picture_are_one_picture(
    processor: NEOChatProcessor, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Those that our engine takes, and those that only transformers has."""
    data = PICTURES["png, transparent"]
    (tmp_path / "a b.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    image = Image.open(io.BytesIO(data))
    for form in (data, str(tmp_path / "a b.png"), tmp_path / "a b.png", f"data:image/png;base64,{text}", image):
        assert_same(processor, user(("image", form), "?"), tokenizer)
    wanted = processor.image_processor(data)["pixel_values"]
    for form in (text, np.asarray(image), np.asarray(image).transpose(2, 0, 1), f"file://{tmp_path}/a%20b.png"):
        assert torch.equal(processor.image_processor(form)["pixel_values"], wanted)
    for mode in ("1", "L", "LA", "P", "CMYK", "I;16", "YCbCr"):
        assert_same(
            processor,
            user(("image", picture(70, 50).convert("L" if mode == "I;16" else "RGB").convert(mode)), "?"),
            tokenizer,
        )
    turned = Image.open(io.BytesIO(PICTURES["jpeg, turned"]))
    assert_same(processor, user(("image", turned), "?"), tokenizer)
    part: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}
    assert_same(processor, [{"role": "user", "content": [part, "?"]}], tokenizer)


def test_decoded_frames_are_shown_at_their_times(processor: NEOChatProcessor) -> None:
    frames = np.stack([np.full((48, 64, 3), 20 * i, np.uint8) for i in range(8)])
    known = {"fps": 4.0, "total_num_frames": 8}
    prompt = "<VIDEO_CONTEXT>"

    def shown(clip: Any, **more: Any) -> tuple[list[float], list[int]]:
        found = processor(text=prompt, videos=[clip], return_metadata=True, return_tensors="pt", **more)
        (metadata,) = found["video_metadata"]
        levels = found["pixel_values"].float().view(len(metadata.moments), -1).mean(1)
        return metadata.moments, (levels / 20).tolist()

    assert shown(frames, video_metadata=known) == ([0.25, 0.75, 1.25, 1.75], [1, 3, 5, 7]), "2 a second"
    everything = shown(list(frames), video_metadata=[known], do_sample_frames=False)
    assert everything == ([i / 4 for i in range(8)], list(range(8)))
    chosen = known | {"frames_indices": [0, 6]}
    images = [Image.fromarray(frame) for frame in frames[[0, 6]]]
    assert shown(images, video_metadata=chosen, do_sample_frames=False) == ([0.0, 1.5], [0, 6])
    part = known | {"section": (1.0, 1.8)}
    assert shown(frames, video_metadata=part, do_sample_frames=False) == ([0.0, 0.25, 0.5, 0.75], [4, 5, 6, 7])
    late = known | {"frames_indices": [4, 6], "section": (0.0, 0.5)}
    with pytest.raises(ValueError, match=r"a section until 0.5 s, but the first frame given is of 1.00 s"):
        processor(text=prompt, videos=[images], video_metadata=[late])
    with pytest.raises(ValueError, match="pass video_metadata with `fps`"):
        processor(text=prompt, videos=[frames])
    with pytest.raises(ValueError, match="8 frames, but frames_indices are 2"):
        processor(text=prompt, videos=[frames], video_metadata=chosen)


def test_metadata_of_a_clip_has_presentation_timestamps(processor: NEOChatProcessor) -> None:
    found = processor.video_processor([CLIPS["variable rate"]], num_frames=4, return_metadata=True)
    (metadata,) = found["video_metadata"]
    assert metadata.frames_indices == [10, 10, 10, 10]
    assert metadata.timestamps == [1.0] * 4
    assert metadata.moments == pytest.approx([(i + 0.5) * metadata.duration / 4 for i in range(4)])
    assert metadata["total_num_frames"] == 12
