"""Write drawn scenes as WebDataset shards: `out/train/<modality>-%06d.tar` and `out/test/<task>-000000.tar`.

One process writes one whole shard, so that shards do not depend on the number of processes, and equal arguments give
equal bytes. A shard appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from neo_lightning.scenes.draw import encode_clip, encode_image
from neo_lightning.scenes.generate import Scene, Split, generate, modality_of
from neo_lightning.scenes.tasks import TASKS

SAMPLES_PER_SHARD = 500


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to write: scenes [start, stop) of a kind and split."""

    path: Path
    kind: str
    seed: int
    split: Split
    start: int
    stop: int


def encode_scene(scene: Scene) -> dict[str, bytes]:
    """A scene's members by extension: `json`, and `jpg` | `png` | `0.jpg`, `1.png`, ... | `mp4`."""
    members = {"json": json.dumps({"messages": scene.messages, "meta": scene.meta}).encode()}
    if scene.frames:
        members["mp4"] = encode_clip(scene.frames, scene.fps)
    for number, image in enumerate(scene.images):
        extension = "png" if (scene.meta["index"] + number) % 3 == 0 else "jpg"
        name = extension if len(scene.images) == 1 else f"{number}.{extension}"
        members[name] = encode_image(image, extension)
    return members


def write_shard(job: ShardJob) -> int:
    """Write one shard and its index, and return its number of samples."""
    from neo_lightning.data.index.scan import index_shard
    from neo_lightning.data.index.tar_write import (  # imports torch: only processes that write pay for it
        tar_end,
        tar_member,
    )

    job.path.parent.mkdir(parents=True, exist_ok=True)
    partial = job.path.with_suffix(".tar.partial")
    with partial.open("wb") as stream:
        for index in range(job.start, job.stop):
            scene = generate(job.kind, seed=job.seed, split=job.split, index=index)
            for extension, data in encode_scene(scene).items():
                stream.writelines(tar_member(f"{scene.key}.{extension}", data))
        stream.write(tar_end(stream.tell()))
    os.replace(partial, job.path)
    index_shard(job.path, modality_of(job.kind))
    return job.stop - job.start


def plan_shards(
    out: Path, *, seed: int, train: Mapping[str, int], held_out_per_task: int, tasks: Iterable[str] = TASKS
) -> list[ShardJob]:
    """List the shards that `write_scenes` writes."""
    jobs = []
    for kind, count in train.items():
        for number, start in enumerate(range(0, count, SAMPLES_PER_SHARD)):
            path = out / "train" / f"{kind}-{number:06d}.tar"
            jobs.append(
                ShardJob(
                    path=path,
                    kind=kind,
                    seed=seed,
                    split="train",
                    start=start,
                    stop=min(count, start + SAMPLES_PER_SHARD),
                )
            )
    if held_out_per_task:
        for kind in tasks:
            path = out / "test" / f"{kind}-000000.tar"
            jobs.append(ShardJob(path=path, kind=kind, seed=seed, split="test", start=0, stop=held_out_per_task))
    return jobs


def write_scenes(
    out: Path,
    *,
    seed: int,
    train: Mapping[str, int],
    held_out_per_task: int,
    tasks: Iterable[str] = TASKS,
    workers: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Write training shards for each modality and one held-out shard for each task; return the shards' paths.

    `train` maps a modality (text | image | multi_image | video), `pair` or `board` to its number of scenes; `tasks` are
    those that are held out; `workers` is the number of processes (None: one per core; 0: this process); `progress`
    shows a bar.
    """
    jobs = plan_shards(Path(out), seed=seed, train=train, held_out_per_task=held_out_per_task, tasks=tasks)
    columns = (TextColumn("drawing scenes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("", total=sum(job.stop - job.start for job in jobs))
        if workers == 0:
            for job in jobs:
                bar.advance(task, write_shard(job))
        else:
            # Forked by a server that has imported what they need, not by the caller, who may already run threads.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__, "neo_lightning.data.index.tar_write"])
            # clips take longest, so they start first
            with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool:
                ordered = sorted(jobs, key=lambda job: not job.path.name.startswith("video"))
                for future in as_completed([pool.submit(write_shard, job) for job in ordered]):
                    bar.advance(task, future.result())
    return [job.path for job in jobs]
