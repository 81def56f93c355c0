"""Pictures that hold more than a picture, and values of Pillow that no list of ours knows: a reason or a picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin, PngImagePlugin

from neo_lightning.data.media.image import decode_image, image_facts
from tests.data.data_helpers import encoded, picture
from tests.faults.readers import FUZZ, mpo, read


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_several_pictures_in_one_jpeg_are_decoded_as_the_first() -> None:
    with Image.open(io.BytesIO(mpo())) as opened:
        assert opened.format == "MPO", "what no list of formats held"
    facts = read(mpo(6))
    assert facts is not None
    assert (facts.format, facts.width, facts.height) == ("JPEG", 64, 96)
    damaged = mpo().replace(b"MPF\0II*\0", b"MPF\0\xff\xff\xff\xff")
    assert damaged != mpo()
    assert read(damaged) is not None, "the first picture is sound"


def test_large_profiles_and_texts_of_a_png_are_passed_over() -> None:
    profile = np.random.RandomState(0).bytes(1_400_000)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a" * 3_000_000, zip=True)
    plain = np.asarray(picture(96, 64))
    for data in (encoded(picture(96, 64), icc_profile=profile), encoded(picture(96, 64), pnginfo=text)):
        with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
            Image.open(io.BytesIO(data), formats=("PNG",))
        assert np.array_equal(decode_image(data, image_facts(data)).permute(1, 2, 0).numpy(), plain)


@given(
    st.sampled_from(["LAB", "HSV", "F", "I", "BGR;15", "I;32", "", "XYZ9", "RGB", "L"]),
    st.sampled_from(["MPO", "JPEG", "NEW", None, 7]),
    st.sampled_from([0, 1, 5, 9, -1, 2**31, "6", (6, 6), b"\6", None, 6.0]),
    st.sampled_from([{}, {"transparency": "?"}, {"exif": 5}, {"exif": b"\xff" * 40}, {"dpi": None}]),
)
@FUZZ
def test_values_of_pillow_that_no_list_knows(mode: str, format: Any, orientation: Any, info: dict[str, Any]) -> None:
    class Changed(JpegImagePlugin.JpegImageFile):
        def _open(self) -> None:
            super()._open()
            self._mode, self.format = mode, format
            self.info.update(info)

    def get(self: Image.Exif, tag: int, default: Any = None) -> Any:
        return orientation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JpegImagePlugin, "JpegImageFile", Changed)
        if orientation is not None:
            patch.setattr(Image.Exif, "get", get)
        facts = read(encoded(picture(40, 24), "JPEG"))
        if facts is not None:
            assert facts.format == "JPEG"
            assert 1 <= facts.orientation <= 8
