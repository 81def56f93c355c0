"""A user's own source, found by its dotted name."""

from __future__ import annotations

from data_helpers import encoded, picture

from neo_lightning.data.facts import SampleFacts, Turn
from neo_lightning.data.media.image import image_facts
from neo_lightning.types import Media, Message, Sample


class Squares:
    modality = "image"

    def __init__(self, count: int = 10) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def facts(self, index: int) -> SampleFacts:
        turns = (Turn(role="user", parts=(0, "\nNumber?")), Turn(role="assistant", parts=(str(index),)))
        media = (image_facts(self._picture(index)),)
        return SampleFacts(key=f"square-{index}", modality="image", turns=turns, media=media)

    def read(self, index: int) -> Sample:
        medium = Media(kind="image", data=self._picture(index))
        messages = (
            Message(role="user", parts=(medium, "\nNumber?")),
            Message(role="assistant", parts=(str(index),)),
        )
        return Sample(key=f"square-{index}", modality="image", messages=messages)

    def _picture(self, index: int) -> bytes:
        return encoded(picture(64, 64, index))
