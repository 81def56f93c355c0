"""Drawn scenes: deterministic, disjoint between splits, balanced answers, and real shards that read back."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from neo_lightning.scenes import BOARD, BOARDS, MODALITIES, PAIR, TASKS, Scene, encode_scene, generate, write_scenes
from neo_lightning.scenes.draw import COLOURS


def fingerprints(scene: Scene) -> set[str]:
    """One digest for each question together with what it asks about."""
    pixels = b"".join(np.asarray(image).tobytes() for image in (*scene.images, *scene.frames))
    return {
        hashlib.sha256(pixels + scene.preamble.encode() + question.text.encode()).hexdigest()
        for question in scene.questions
    }


@pytest.mark.parametrize("kind", [*MODALITIES, PAIR, BOARD, *TASKS, *BOARDS])
def test_same_arguments_same_scene(kind: str) -> None:
    split = "test" if kind in TASKS | BOARDS else "train"
    one, two = (generate(kind, seed=3, split=split, index=5) for _ in range(2))
    assert one.messages == two.messages
    assert fingerprints(one) == fingerprints(two)
    assert encode_scene(one) == encode_scene(two)
    others = [generate(kind, seed=3, split=split, index=index) for index in range(6, 12)]
    assert any(fingerprints(one) != fingerprints(other) for other in others)


def test_held_out_scenes_never_equal_training_scenes() -> None:
    """Also with one seed for both splits, and for text, whose space of questions is small."""
    seen: set[str] = set()
    for kind in (*MODALITIES, PAIR, BOARD):
        for index in range(400):
            seen |= fingerprints(generate(kind, seed=0, split="train", index=index))
    assert len(seen) > 2000
    for task in TASKS | BOARDS:
        held = set()
        for index in range(60):
            held |= fingerprints(generate(task, seed=0, split="test", index=index))
        assert len(held) > 30
        assert not held & seen, task


@pytest.mark.parametrize("task", TASKS | BOARDS)
def test_one_question_and_no_leak(task: str) -> None:
    """Always giving the commonest answer is no better than the declared chance, whatever the question's wording."""
    scenes = [generate(task, seed=1, split="test", index=index) for index in range(300)]
    assert all(len(scene.questions) == 1 and scene.task == task for scene in scenes)
    declared = (TASKS | BOARDS)[task]
    assert all(scene.modality == declared.modality for scene in scenes)
    if declared.modality == "text":
        return
    by_wording: dict[str, Counter[str]] = {}
    for scene in scenes:
        by_wording.setdefault(scene.questions[0].text, Counter())[scene.answers[0]] += 1
    best = sum(counter.most_common(1)[0][1] for counter in by_wording.values()) / len(scenes)
    noise = 0.035 * len(by_wording) + 0.06  # the commonest of a few equal answers, over few scenes a wording
    assert declared.chance - 0.06 < best < declared.chance + noise


@pytest.mark.parametrize("kind", [*MODALITIES, PAIR, BOARD])
def test_training_scenes_ask_several_questions(kind: str) -> None:
    scenes = [generate(kind, seed=0, split="train", index=index) for index in range(50)]
    asked = [len(scene.questions) for scene in scenes]
    assert np.mean(asked) > 1.2  # a number and a count are asked once
    assert max(asked) >= 3
    for scene in scenes:
        assert [turn["role"] for turn in scene.messages] == ["user", "assistant"] * len(scene.questions)
        assert tuple(turn["content"] for turn in scene.messages[1::2]) == scene.answers
        parts = [part["type"] for turn in scene.messages[::2] for part in turn["content"]]
        assert parts.count("image") == len(scene.images)
        assert parts.count("video") == (1 if scene.frames else 0)


def test_sides_are_whole_visual_tokens() -> None:
    """Every side is a multiple of 32 pixels, so no resize touches a scene."""
    for kind in (*MODALITIES, PAIR, BOARD):
        for index in range(60):
            scene = generate(kind, seed=0, split="train", index=index)
            for image in (*scene.images, *scene.frames):
                assert image.mode == "RGB"
                assert image.width % 32 == 0
                assert image.height % 32 == 0


def read_shard(path: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            stream = tar.extractfile(member)
            assert stream is not None
            samples.setdefault(key, {})[extension] = stream.read()
    return samples


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    train = {"text": 10, "image": 20, "multi_image": 10, "video": 4}
    paths = write_scenes(out, seed=0, train=train, held_out_per_task=3, workers=0, progress=False)
    assert all(path.is_file() for path in paths)
    assert not list(out.rglob("*.partial"))
    return out


def test_shards_read_back(shards: Path) -> None:
    assert sorted(p.name for p in (shards / "train").glob("*.tar")) == sorted(f"{m}-000000.tar" for m in MODALITIES)
    assert {p.name for p in (shards / "test").glob("*.tar")} == {f"{task}-000000.tar" for task in TASKS}
    extensions: Counter[str] = Counter()
    for modality, count in (("text", 10), ("image", 20), ("multi_image", 10), ("video", 4)):
        samples = read_shard(shards / "train" / f"{modality}-000000.tar")
        assert len(samples) == count
        for index, (key, members) in enumerate(sorted(samples.items())):
            scene = generate(modality, seed=0, split="train", index=index)
            record = json.loads(members.pop("json"))
            assert key == scene.key
            assert record["messages"] == scene.messages
            assert record["meta"]["answers"] == list(scene.answers)
            extensions.update(members.keys())
            drawn = list(scene.frames or scene.images)
            if modality == "video":
                with av.open(io.BytesIO(members["mp4"])) as container:
                    assert container.streams.video[0].codec_context.name == "h264"
                    read = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            else:
                read = [np.asarray(Image.open(io.BytesIO(members[name]))) for name in sorted(members)]
            assert len(read) == len(drawn)
            for got, want in zip(read, drawn, strict=True):
                assert np.abs(got.astype(int) - np.asarray(want).astype(int)).mean() < 6
    assert {"jpg", "png", "0.jpg", "0.png", "1.jpg", "1.png", "mp4"} <= set(extensions)


def test_clip_encodes_colour_range_as_drawn(shards: Path) -> None:
    """The clip's frames come at the declared rate, so that half a second is one part of the clip."""
    scene = generate("first_colour", seed=0, split="test", index=0)
    with av.open(io.BytesIO(encode_scene(scene)["mp4"])) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
    assert times == pytest.approx([i / scene.fps for i in range(len(scene.frames))])
    assert len(times) / scene.fps == 2.0


def test_shards_do_not_depend_on_the_number_of_processes(shards: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, seed=0, train={"image": 20, "video": 4}, held_out_per_task=0, workers=2, progress=False)
    for name in ("image-000000.tar", "video-000000.tar"):
        assert (tmp_path / "train" / name).read_bytes() == (shards / "train" / name).read_bytes()


def test_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="which_image"):
        generate("wich_image", seed=0, split="test", index=0)


def test_training_leans_and_held_out_questions_do_not() -> None:
    """In training one side says something about the answer; in held-out questions it says nothing."""

    def red_says(kind: str, split: Any) -> dict[str, float]:
        """How often the answer is yes, or the first image, where one image is known to be red."""
        names = {rgb: name for name, rgb in COLOURS.items()}
        hits: dict[str, list[bool]] = {"same_colour": [], "which_image": []}
        for index in range(4500):
            scene = generate(kind, seed=0, split=split, index=index)
            colours = [names.get(image.getpixel((32, 32))) for image in scene.images]  # every shape covers the centre
            for question in scene.questions:
                if question.task == "same_colour" and colours[0] == "red":
                    hits["same_colour"].append(question.answer == "yes")
                if question.task in ("which_image", "favourite") and len(colours) == 2 and colours[0] == "red":
                    hits["which_image"].append(question.answer == "1")
        return {task: float(np.mean(found)) for task, found in hits.items() if found}

    training = red_says("multi_image", "train")
    assert training["same_colour"] > 0.58  # 0.64 expected of about 700 scenes: three deviations
    assert training["which_image"] > 0.65
    for task in ("same_colour", "which_image"):
        assert red_says(task, "test")[task] == pytest.approx(0.5, abs=0.06)  # about 750 scenes: three deviations


def test_some_training_scenes_are_dark_and_no_held_out_one() -> None:
    for kind in ("image", "multi_image", "video"):
        scenes = [generate(kind, seed=0, split="train", index=index) for index in range(800)]
        black = [not any(np.asarray(picture).any() for picture in (*s.images, *s.frames)) for s in scenes]
        assert black == ["dark" in scene.meta for scene in scenes]
        assert 1 <= sum(black) <= 18  # 8 expected; none would be a chance of 1 in 3,000
    for task in TASKS:
        assert not any("dark" in generate(task, seed=0, split="test", index=index).meta for index in range(50))
