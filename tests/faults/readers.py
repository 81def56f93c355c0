"""Every reader by one name, for tests of values that no list of ours knows."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from PIL import Image

from neo_lightning.data.facts import MediaError, MediaFacts, SampleFacts, Turn
from neo_lightning.data.index.table import Columns
from neo_lightning.data.media.image import decode_image, image_facts
from neo_lightning.data.media.video import decode_frames, video_facts
from tests.data.data_helpers import encoded, picture, textured

FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MP4 = textured(4)


def read(data: bytes, kind: str = "image") -> MediaFacts | None:
    """Facts of what can be shown as planned; None where a reason is given."""
    try:
        facts = image_facts(data) if kind == "image" else video_facts(data)
        if facts.ticks is not None and facts.width * facts.height >= 1 << 22:
            return facts  # a matrix that stretches it: to decode it so would take seconds
        shown = [decode_image(data, facts)] if facts.ticks is None else decode_frames(data, facts, [0])
    except MediaError as error:
        reason = str(error)
    else:
        assert tuple(shown[0].shape) == (3, facts.height, facts.width)
        turns = (Turn(role="user", parts=(0,)), Turn(role="assistant", parts=("x",)))
        Columns().add(SampleFacts(key="k", modality=kind, turns=turns, media=(facts,)))
        return facts
    assert reason.strip()
    assert "/" not in reason, "no path"
    return None


def mpo(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(picture(96, 64), "MPO", save_all=True, append_images=[picture(48, 32)], exif=exif)
