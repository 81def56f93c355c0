"""Media on their way into prompts: which prompt shows which, what stands in their places, which tokens are theirs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

MERGED = 4
"""Patches of a visual token."""


@dataclass
class Medium:
    """An image or a clip as it enters a prompt."""

    type: int
    """In `mm_token_type_ids`: 1 for an image, 2 for a clip."""
    text: str
    """What stands in its place."""
    patches: Tensor
    """[P, 768] uint8."""
    grids: Tensor
    """[n, 2] rows and columns of patches of the image, or of each frame."""
    metadata: Any = None
    """Of a clip."""


def of_prompts(media: Any, places: list[int], kind: str, is_one: Callable[[Any], bool]) -> list[list[Any]]:
    """Media for each prompt: one medium, a list for all prompts in order, or a list for each.

    Args:
        places: how many each prompt has a place for.
        is_one: whether a value is one medium, and not a list of them.

    Raises:
        ValueError: places and media do not come out even.
    """
    given = [] if media is None else [media] if is_one(media) else list(media)
    if any(not is_one(item) for item in given):
        given = [[item] if is_one(item) else list(item) for item in given]
        if (counts := [len(item) for item in given]) != places:
            raise ValueError(f"the prompts have places for {places} {kind}s, and {counts} were given")
        return given
    if len(given) != sum(places):
        raise ValueError(f"the prompts have places for {sum(places)} {kind}s, and {len(given)} were given")
    return [[given.pop(0) for _ in range(count)] for count in places]


def images_of(found: Mapping[str, Any], text: Callable[[Mapping[str, Any], int], str]) -> Iterator[Medium]:
    """The images that an image processor gave; `text` says what stands in the place of each."""
    sizes = found["grid_hw"].prod(1).tolist()
    for number, patches in enumerate(found["pixel_values"].split(sizes)):
        yield Medium(1, text(found, number), patches, found["grid_hw"][number : number + 1])


def clips_of(found: Mapping[str, Any], text: Callable[[Mapping[str, Any], int], str]) -> Iterator[Medium]:
    """The clips that a video processor gave with their metadata, likewise."""
    metadata = found["video_metadata"]
    grids = found["grid_hw"].split([len(clip.moments) for clip in metadata])
    patches = found["pixel_values"].split([int(grid.prod(1).sum()) for grid in grids])
    for number, clip in enumerate(metadata):
        yield Medium(2, text(found, number), patches[number], grids[number], clip)


def shown_types(row: list[int], image_token_id: int, media: list[Medium]) -> list[int]:
    """For each id of a row what it shows: 0 text, else the type of its medium."""
    types = (medium.type for medium in media for _ in range(int(medium.grids.prod(1).sum()) // MERGED))
    return [next(types) if number == image_token_id else 0 for number in row]
