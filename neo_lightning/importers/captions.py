"""Rows of columns: what Hugging Face data sets hold in Parquet, and metadata files beside pictures say.

image | images | video | videos     bytes, {bytes, path}, a path, or a list of them; `file_name` and `file_names` too
messages | conversations            as in JSON (also as a string of JSON)
texts                               [{"user": ..., "assistant": ...}, ...]; the media go in front of the first
                                    question unless `<image>` or `<video>` says where
text | caption                      one medium's caption, or a document; another column's name can be given
"""

from __future__ import annotations

import json
from typing import Any

from neo_lightning.data.index.tar import VIDEO_EXTENSIONS
from neo_lightning.importers import llava, messages
from neo_lightning.importers.record import Record, RecordError, medium_list, record_meta

CAPTIONS = ("text", "caption")
COLUMNS = (
    *("id", "meta", "image", "images", "video", "videos", "file_name", "file_names"),
    *("messages", "conversations", "texts", *CAPTIONS),
)
"""Columns that are read; the others stay where they are."""


def read_record(item: dict[str, Any], caption: str | None = None) -> Record:
    """One record in common form. `caption` names the caption's column, where it is none of CAPTIONS.

    Raises:
        RecordError: there is no text, or more than one, or the media are neither paths nor bytes.
    """
    item = _by_kind(_without_nulls(item))
    texts = [name for name in ("messages", "conversations", "texts") if item.get(name)]
    if caption is None and texts == ["messages"]:
        return messages.read_record({**item, "messages": _parsed(item["messages"])})
    if caption is None and texts == ["conversations"]:
        return llava.read_record({**item, "conversations": _parsed(item["conversations"])})
    images, videos = medium_list(item, "image", "images"), medium_list(item, "video", "videos")
    if caption is None and texts == ["texts"]:
        tree: dict[str, Any] = {
            "messages": _pairs(_parsed(item["texts"]), ["image"] * len(images) + ["video"] * len(videos))
        }
    elif caption is None and texts:
        raise RecordError(f"both `{texts[0]}` and `{texts[1]}` hold the conversation")
    else:
        tree = {"text": _caption(item, caption)}
    return Record(tree=tree, images=images, videos=videos, meta=record_meta(item))


def _by_kind(item: dict[str, Any]) -> dict[str, Any]:
    """`file_name` and `file_names` become images, or videos by their extension."""
    names = medium_list(item, "file_name", "file_names")
    for name in names:
        kind = "videos" if str(name).lower().endswith(VIDEO_EXTENSIONS) else "images"
        if item.get(kind.removesuffix("s")) or (item.get(kind) and len(names) == 1):
            raise RecordError(f"both `file_name` and `{kind}` name media")
        item = {**item, kind: [*item.get(kind, []), name]}
    return item


def _without_nulls(value: Any) -> Any:
    """Parquet gives every struct all fields of its column; those without a value are not there."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"a conversation that is a string must be JSON: {error}") from error


def _pairs(pairs: Any, kinds: list[str]) -> list[dict[str, Any]]:
    """Questions and answers -> messages."""
    if not isinstance(pairs, list) or not all(
        isinstance(p, dict) and isinstance(p.get("user"), str) and isinstance(p.get("assistant"), str) for p in pairs
    ):
        raise RecordError("`texts` must be a list of {user, assistant}")
    turns: list[dict[str, Any]] = []
    for pair in pairs:
        turns += [{"role": "user", "content": pair["user"]}, {"role": "assistant", "content": pair["assistant"]}]
    if kinds and not any("<image>" in turn["content"] or "<video>" in turn["content"] for turn in turns):
        turns[0]["content"] = "".join(f"<{kind}>" for kind in kinds) + "\n" + turns[0]["content"]
    return turns


def _caption(item: dict[str, Any], caption: str | None) -> str:
    names = [name for name in ((caption,) if caption else CAPTIONS) if isinstance(item.get(name), str)]
    if len(names) != 1:
        raise RecordError(
            f"both `{names[0]}` and `{names[1]}` are there; say with --caption which one is meant"
            if names
            else f"no text under {caption or 'messages, conversations, texts, text or caption'!r} (found "
            f"{', '.join(item) or 'nothing'}); --caption names the column"
        )
    return item[names[0]]
