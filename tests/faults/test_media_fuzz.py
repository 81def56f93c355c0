"""The readers of images and clips on bytes that hypothesis changed: the documented error or none, and no hang."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neo_lightning.data.facts import MediaError
from neo_lightning.data.media.image import decode_image, image_facts
from neo_lightning.data.media.video.process import ClipDecoder
from tests.data.data_helpers import encoded, picture, textured


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    """A file with some bytes replaced, a piece cut out and a tail."""
    change = st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255))
    cut = st.tuples(st.integers(0, len(data)), st.integers(0, 40))

    def apply(changes: list[tuple[int, int]], hole: tuple[int, int], tail: bytes) -> bytes:
        out = bytearray(data)
        for place, value in changes:
            out[place] = value
        del out[hole[0] : hole[0] + hole[1]]
        return bytes(out) + tail

    return st.builds(apply, st.lists(change, max_size=12), cut, st.binary(max_size=16))


FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_fuzz_of_image_readers_raises_only_media_errors(format: str) -> None:
    @FUZZ
    @given(mutations(encoded(picture(40, 24), format)))
    def check(data: bytes) -> None:
        for size in (None, (32, 32)):
            try:
                facts = image_facts(data)
                if facts.width * facts.height < 1 << 20:
                    pixels = decode_image(data, facts, size)
                    assert tuple(pixels.shape) == (3, *(size or (facts.height, facts.width)))
            except MediaError:
                continue

    check()


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_fuzz_of_video_readers_raises_only_media_errors_and_kills_no_decoder(format: str) -> None:
    decoder = ClipDecoder(cpu_seconds=5)
    good = textured(6, size=(64, 48), format=format)
    stored = [64, 48]
    known = decoder.facts(good)
    child = decoder._child

    @FUZZ
    @given(mutations(good))
    def check(data: bytes) -> None:
        for read in (
            lambda: decoder.facts(data),
            lambda: decoder.frames(data, ticks=known["ticks"][::2], shown=stored, size=stored),
        ):
            try:
                read()
            except MediaError:
                continue

    check()
    assert decoder._child is child, "no input made the decoder crash or hang"
