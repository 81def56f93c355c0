"""ms-swift's grounding records: `<ref-object>` and `<bbox>` in text stand for names and boxes under `objects`.

    {"objects": {"ref": ["ball"], "bbox": [[8, 8, 48, 56]], "bbox_type": "real" or "norm1", "image_id": [0]}}
    <ref-object> -> <ref>ball</ref>        <bbox> -> <box>[[125, 125, 750, 875]]</box>

Coordinates are written in thousandths of the image's width and height as shown (`real`: they are pixels, `norm1`: parts
of 1). A source's `answer_tokens` say whether `<ref>` and `<box>` are tokens or characters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neo_lightning.importers.error import RecordError

PLACE = re.compile(r"<(ref-object|bbox)>")
_GRID = 1000


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """What the places in a record's text stand for, each kind in the order of the text."""

    refs: tuple[str, ...]
    boxes: tuple[tuple[float, ...], ...]
    """(x1, y1, x2, y2), or a point (x, y)."""
    image_ids: tuple[int, ...]
    """For each box, the image in whose pixels it is given."""
    parts_of_one: bool
    """Coordinates are parts of the image's sides (`norm1`)."""


def read_boxes(objects: Any) -> Boxes:
    """The boxes of a record.

    Raises:
        RecordError: `objects` is laid out otherwise.
    """
    if not isinstance(objects, dict):
        raise RecordError("`objects` must be an object with `ref` and `bbox`, whose places the text marks")
    refs, boxes = objects.get("ref") or [], objects.get("bbox") or []
    ids = objects.get("image_id") or [0] * len(boxes)
    kind = objects.get("bbox_type") or "real"
    if not isinstance(refs, list) or not all(isinstance(ref, str) for ref in refs):
        raise RecordError("`objects.ref` must be a list of names")
    if not isinstance(boxes, list) or not all(_is_box(box) for box in boxes):
        raise RecordError("`objects.bbox` must be a list of boxes of 4 numbers or points of 2")
    if not isinstance(ids, list) or len(ids) != len(boxes) or not all(type(i) is int and i >= 0 for i in ids):
        raise RecordError("`objects.image_id` must give the number of an image for each box, counted from 0")
    if kind not in ("real", "norm1"):
        raise RecordError(f"`objects.bbox_type` is {kind!r} (known: real, norm1)")
    return Boxes(refs=tuple(refs), boxes=tuple(map(tuple, boxes)), image_ids=tuple(ids), parts_of_one=kind == "norm1")


def fill(messages: list[dict[str, Any]], boxes: Boxes, sizes: Sequence[tuple[int, int]]) -> None:
    """Put names and boxes in their places.

    Args:
        messages: changed in place.
        sizes: (width, height) of each image, as shown.

    Raises:
        RecordError: places and objects differ in number, or a box lies outside its image.
    """
    texts = [text for message in messages for text in _texts(message)]
    found = [kind for text in texts for kind in PLACE.findall(text)]
    for kind, key, given in (("ref-object", "ref", boxes.refs), ("bbox", "bbox", boxes.boxes)):
        if found.count(kind) != len(given):
            raise RecordError(f"text has {found.count(kind)} `<{kind}>`, `objects.{key}` holds {len(given)}")
    spelled = {
        "ref-object": iter([f"<ref>{ref}</ref>" for ref in boxes.refs]),
        "bbox": iter([f"<box>[{_thousandths(i, boxes, sizes)}]</box>" for i in range(len(boxes.boxes))]),
    }
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            message["content"] = PLACE.sub(lambda match: next(spelled[match[1]]), content)
            continue
        for part in content:
            if part["type"] == "text":
                part["text"] = PLACE.sub(lambda match: next(spelled[match[1]]), part["text"])


def _texts(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part.get("text", "") for part in content]


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and all(type(x) in (int, float) and math.isfinite(x) for x in box)
    return numbers and len(box) in (2, 4)


def _thousandths(number: int, boxes: Boxes, sizes: Sequence[tuple[int, int]]) -> list[int]:
    box, image = boxes.boxes[number], boxes.image_ids[number]
    if boxes.parts_of_one:
        sides: tuple[float, float] = (1.0, 1.0)
    elif image < len(sizes):
        sides = sizes[image]
    else:
        raise RecordError(f"`objects.bbox[{number}]` is of image {image}, the record has {len(sizes)}")
    done = [round(x / sides[i % 2] * _GRID) for i, x in enumerate(box)]
    if min(done) < 0 or max(done) > _GRID:
        size = "0 to 1" if boxes.parts_of_one else f"an image of {sides[0]} x {sides[1]}"
        raise RecordError(f"`objects.bbox[{number}]` is {list(box)}, outside of {size}")
    return done
