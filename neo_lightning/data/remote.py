"""Calls of a remote shard's file system, each with a limit of time."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from neo_lightning.data.answers import Stamp


def call(shard: str, method: str, limit: float, **options: Any) -> Any:
    """Call a method of the shard's file system; one that answers asynchronously gets `limit` seconds."""
    system, path = fsspec.core.url_to_fs(shard, use_listings_cache=False)
    if isinstance(system, AsyncFileSystem):
        return sync(system.loop, getattr(system, f"_{method}"), path, timeout=max(1.0, limit), **options)
    return getattr(system, method)(path, **options)


def stamp_of(said: dict[str, Any]) -> Stamp:
    """What tells its version."""
    tag = next((str(said[key]) for key in ("ETag", "etag", "Last-Modified", "LastModified") if key in said), "")
    return Stamp(int(said["size"] or 0), tag)


def info(shard: str, limit: float) -> dict[str, Any]:
    """What the file system says about a shard.

    Raises:
        FileNotFoundError: there is none.
        OSError: no answer.
    """
    try:
        return call(shard, "info", limit)
    except FileNotFoundError as error:
        # fsspec's HTTP calls every failure a missing file
        if shard.startswith("http") and getattr(error.__cause__, "status", 0) not in (404, 410):
            raise OSError(str(error.__cause__)) from error
        raise
