"""LLaVA and ShareGPT records.

    {"id": "7", "image": "a/b.jpg", "conversations": [{"from": "human", "value": "<image>\\n..."}, ...]}

`image` may be a list; `images`, `video` and `videos` are understood as well. No media means text.
"""

from __future__ import annotations

from typing import Any

from neo_lightning.importers.record import Record, RecordError, medium_list, record_meta


def read_record(item: dict[str, Any]) -> Record:
    """One record in common form.

    Raises:
        RecordError: there are no `conversations`, or the media are neither paths nor bytes.
    """
    if "conversations" not in item:
        raise RecordError(f"no `conversations` (found {', '.join(item) or 'nothing'}); is this --format messages?")
    return Record(
        tree={"conversations": item["conversations"]},
        images=medium_list(item, "image", "images"),
        videos=medium_list(item, "video", "videos"),
        meta=record_meta(item),
    )
