"""Processors over a small tokenizer, media of every kind, and what training makes of the same messages."""

from __future__ import annotations

import io
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken
from transformers import AutoTokenizer

from neo_lightning.answering.conversation import read_conversation
from neo_lightning.data.text.answers import ANSWER_TOKENS, mark_answers
from neo_lightning.data.text.prompt import prompt_from_messages
from neo_lightning.data.text.tokenizer import Tokenizer, train_tokenizer
from neo_lightning.hf.image_processing_neo_chat import NEOChatImageProcessor
from neo_lightning.hf.positions_neo_chat import positions_and_units
from neo_lightning.hf.processing_neo_chat import NEOChatProcessor
from neo_lightning.hf.video_processing_neo_chat import NEOChatVideoProcessor
from neo_lightning.sequence import positions_and_limits
from neo_lightning.types import PixelBudget, VideoBudget
from tests.data.data_helpers import CORPUS, clip, encoded, picture, textured

IMAGE = PixelBudget(min_pixels=64 * 64, max_pixels=128 * 128)
VIDEO = VideoBudget(fps=2.0, max_frames=6, min_pixels=32 * 32, max_pixels=96 * 64)


LINES = ["One.\n\nTwo:\n\n\n[00:01] said: \n\nuser\n\n", "assistant\n\n\n<a [b] \n[x]:<y>"] * 40
"""Texts in which line feeds and brackets stand together: where a run of text ends then shows in its ids."""


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """With Qwen3's tokens of thinking and tools, which are not special there."""
    folder = tmp_path_factory.mktemp("qwen")
    backend = train_tokenizer([*CORPUS, *LINES], 460, folder).backend
    names = [f"<{slash}{name}>" for name in ("tool_call", "tool_response", "think") for slash in ("", "/")]
    backend.add_tokens([AddedToken(name, normalized=False) for name in names])
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def processor(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> NEOChatProcessor:
    return made(tokenizer, tmp_path_factory.mktemp("saved"))


def made(
    tokenizer: Tokenizer, folder: Path, image: PixelBudget = IMAGE, video: VideoBudget = VIDEO
) -> NEOChatProcessor:
    """A processor with these budgets."""
    tokenizer.save(folder)
    numbers = asdict(video)
    texts = {"video_prefix": numbers.pop("prefix"), "frame_label": numbers.pop("frame_label")}
    return NEOChatProcessor(
        NEOChatImageProcessor(**asdict(image)),
        AutoTokenizer.from_pretrained(folder),
        NEOChatVideoProcessor(**numbers),
        **texts,
    )


def assert_same(
    processor: NEOChatProcessor,
    messages: Any,
    tokenizer: Tokenizer,
    image: PixelBudget = IMAGE,
    video: VideoBudget = VIDEO,
) -> torch.Tensor:
    """The messages give training's ids, pixels, grids and positions; returns the ids."""
    asked = mark_answers(read_conversation(messages), tuple(ANSWER_TOKENS))
    wanted, patches = prompt_from_messages(asked, tokenizer, image, video)
    found = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert found["input_ids"].tolist() == [wanted.input_ids.tolist()]
    assert found["attention_mask"].tolist() == [[1] * len(wanted.input_ids)]
    assert torch.equal(found["mm_token_type_ids"][0] > 0, wanted.visual)
    grids = found.get("grid_hw", torch.empty(0, 2, dtype=torch.int64))
    assert grids.tolist() == (2 * wanted.grids).tolist()
    pixels = found.get("pixel_values", torch.empty(0, 768, dtype=torch.uint8))
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, patches)
    positions, _ = positions_and_units(wanted.visual[None], grids, None)
    assert torch.equal(positions[:, 0].T.int(), positions_and_limits(wanted.visual, wanted.grids)[0])
    return found["input_ids"][0]


def user(*parts: Any) -> list[dict[str, Any]]:
    """One turn: text, and media as (type, value)."""
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": p[0], p[0]: p[1]} for p in parts]
    return [{"role": "user", "content": content}]


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def pictures() -> dict[str, bytes]:
    """Files of pictures, by what is odd about them."""
    transparent = np.asarray(picture(70, 50, 3).convert("RGBA")).copy()
    transparent[:20, :, 3], transparent[20:40, :, 3] = 0, 100
    colours = picture(90, 61, 4).quantize(16)
    deep = (np.arange(64 * 48).reshape(48, 64) * 20).astype(np.uint16)
    two_colours = Image.new("RGB", (64, 48), (200, 10, 30))
    two_colours.paste((10, 200, 30), (0, 0, 20, 30))
    animation = io.BytesIO()
    picture(60, 40, 5).save(animation, "GIF", save_all=True, append_images=[picture(60, 40, 6)])
    return {
        "jpeg": encoded(picture(100, 75), "JPEG"),
        "jpeg, grey": encoded(picture(101, 77).convert("L"), "JPEG"),
        "jpeg, CMYK": encoded(picture(101, 77).convert("CMYK"), "JPEG"),
        "jpeg, turned": encoded(picture(120, 75), "JPEG", exif=exif(6)),
        "jpeg, mirrored": encoded(picture(120, 75), "JPEG", exif=exif(4)),
        "jpeg at a half": encoded(picture(300, 290), "JPEG"),
        "jpeg at an eighth, turned": encoded(picture(2100, 2050), "JPEG", exif=exif(5)),
        "jpeg, progressive": encoded(picture(211, 97), "JPEG", progressive=True),
        "png": encoded(picture(63, 65)),
        "png, transparent": encoded(Image.fromarray(transparent)),
        "png, grey": encoded(picture(33, 31).convert("L")),
        "png, one bit": encoded(picture(64, 64).convert("1")),
        "png, 16 bits": encoded(Image.fromarray(deep)),
        "png, palette with a transparent colour": encoded(colours, transparency=3),
        "png, grey with a transparent level": encoded(
            picture(64, 64).convert("L").quantize(4).convert("L"), transparency=0
        ),
        "png, colour with a transparent one": encoded(two_colours, transparency=(200, 10, 30)),
        "png, turned": encoded(picture(64, 33), exif=exif(8)),
        "webp": encoded(picture(64, 90), "WEBP"),
        "webp, transparent": encoded(Image.fromarray(transparent), "WEBP"),
        "gif": animation.getvalue(),
        "gif that leaves a part open": b"GIF89a" + struct.pack("<HH", 90, 70) + animation.getvalue()[10:],
        "bmp": encoded(picture(40, 50), "BMP"),
        "tiff": encoded(picture(40, 50), "TIFF"),
        "long": encoded(picture(600, 5), "JPEG"),
        "tiny": encoded(picture(1, 1)),
    }


def turned(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """With a display matrix in the track's header, of which these are the entries that turn and mirror."""
    at = mp4.index(b"tkhd") + 44
    return mp4[:at] + struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30) + mp4[at + 36 :]


def oblong(shape: str) -> bytes:
    """A clip whose pixels are so wide, of a picture that is no mirror of itself."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=3, options={"x264-params": f"sar={shape}"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for seed in range(3):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture(96, 64, seed)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def clips() -> dict[str, bytes]:
    """Files of clips, by what is odd about them."""
    plain = oblong("1/1")
    matrices = [
        (-1, 0, 0, 1),
        (-1, 0, 0, -1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, 1, -1, 0),
        (0, -1, -1, 0),
        (0, -1, 1, 0),
    ]
    return {
        "mp4": clip(12),
        "webm": clip(12, format="webm", codec="libvpx-vp9"),
        "variable rate": clip(12, ticks=[60 * i for i in range(10)] + [600, 5940], format="matroska"),
        "starts late": clip(12, ticks=[6000 + 100 * i for i in range(12)], format="matroska"),
        "frames lean on each other": textured(40, gop=12),
        "transport stream": textured(24, format="mpegts"),
        "high definition": clip(6, size=(1280, 578)),
        "oblong pixels, turned": turned(oblong("16/11"), 0, 1, -1, 0),
        "one frame": clip(1),
        **{f"turned by {matrix}": turned(plain, *matrix) for matrix in matrices},
    }
