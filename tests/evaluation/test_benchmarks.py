"""What the built-in benchmarks show of a row, against the authors' prompts; and a user's own."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from neo_lightning.data.facts import SampleError
from neo_lightning.data.index import ShardSource
from neo_lightning.evaluation.benchmarks import BENCHMARKS, LIKELIEST, SAMPLED, Benchmark, Words, find_benchmark
from neo_lightning.evaluation.benchmarks.words import messages_of
from neo_lightning.evaluation.compare import published
from neo_lightning.evaluation.readers import Row
from neo_lightning.types import Media, Message
from tests.data.data_helpers import clip as clip_file

from .data import jpeg

ONE, TWO = Media(kind="image", data=jpeg(0), name="1"), Media(kind="image", data=jpeg(1), name="2")


def asked(name: str | Benchmark, *media: Media, **fields: Any) -> tuple[Message, ...]:
    benchmark = BENCHMARKS[name] if isinstance(name, str) else name
    return messages_of(benchmark.item(Row(key="0", where="", fields=fields, media=lambda: media), 0), benchmark)


def shown(messages: tuple[Message, ...]) -> str:
    """All text, media as [image] and [video]."""
    return "".join(part if isinstance(part, str) else f"[{part.kind}]" for m in messages for part in m.parts)


CHOICE = {"question": "What is it?", "A": "a cat", "B": "a dog", "answer": "A"}


def test_general_multiple_choice() -> None:
    system, user = asked("mmstar", ONE, **CHOICE, hint="Look.")
    assert (system.role, system.parts) == ("system", ("Reason step by step.",))
    assert shown((user,)) == (
        "[image]\nLook.\nWhat is it?\nA. a cat\nB. a dog\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert shown(asked("mmstar", ONE, TWO, **CHOICE)[1:]).endswith("directly.[image]\n[image]\n")


def test_short_answers_and_yes_or_no() -> None:
    assert shown(asked("docvqa", ONE, question="Total?", answer="['3']")[1:]) == (
        "[image]\nTotal?\nAnswer the question using a single word or phrase."
    )
    assert shown(asked("pope", ONE, question="Is there a cat?", answer="yes")[1:]) == "[image]\nIs there a cat?"
    assert shown(asked("hallusionbench", ONE, question="Is it?", answer="1")[1:]).endswith(
        "Is it? Please answer yes or no. Answer the question using a single word or phrase."
    )


def test_mmmu_thinks_first_and_sees_its_first_picture_twice_as_large() -> None:
    _, user = asked("mmmu", ONE, TWO, **CHOICE)
    text = shown((user,))
    assert text.startswith("Answer the preceding multiple choice question. The last line")
    assert text.endswith("What is it?\nA. a cat\nB. a dog[image]\n[image]\n")
    sizes = [Image.open(io.BytesIO(part.data)).size for part in user.parts if isinstance(part, Media)]
    assert sizes == [(140, 100), (70, 50)]
    assert 'format where X is only the answer and nothing else: "ANSWER: X"' in shown(
        asked("mmmu", question="q", answer="x")
    )


def test_rows_of_another_split_are_not_the_benchmark_s() -> None:
    splits = [{}, {"split": "validation"}, {"split": "dev"}]
    assert [BENCHMARKS["mmmu"].has(Row(key="0", where="", fields=fields)) for fields in splits] == [True, True, False]


def test_space_numbers_its_pictures_and_has_no_system_turn() -> None:
    (user,) = asked("embspatial", ONE, TWO, **CHOICE)
    assert shown((user,)).startswith("Image-1: [image]\nImage-2: [image]\nWhat is it?\nA. a cat")
    assert shown(asked("mmsi", ONE, **CHOICE)) == (
        "[image]\nWhat is it?\nOptions: A: a cat, B: a dog, \nAnswer with the option's letter from the given choices "
        "directly. Enclose the option's letter within ``."
    )
    assert shown(asked("mindcube", ONE, TWO, question="Where? A. left B. right", answer="A")).endswith(
        "Where? A. left B. right\nAnswer the question directly."
    )
    numbers = shown(asked("spar", ONE, question="How far?", answer="3.1", task="distance_prediction_oo"))
    assert numbers == "[image]\n\nHow far?\nPlease answer the question using a single word or phrase."


def test_clips(shards: Path) -> None:
    (file,) = shards.glob("motion-*.tar")
    sample = ShardSource("motion", "video", (file,)).read(0, 0)
    (clip,) = (part for part in sample.messages[0].parts if isinstance(part, Media))
    text = shown(asked("mvbench", clip, question="What moves?", candidates="['a cat', 'a dog']", answer="a dog")[1:])
    assert text.endswith(
        "question.\n[video]Question: What moves?\nOptions:\n(A) a cat\n(B) a dog\nOnly give the best option."
    )
    fields = {"question": "How many?", "answer": "2", "question_type": "object_counting"}
    (user,) = asked("vsi-bench", clip, **fields)
    frames = [part for part in user.parts if isinstance(part, Media)]
    assert [frame.kind for frame in frames] == ["image"] * len(frames)
    assert 2 <= len(frames) <= 32
    assert shown((user,)).startswith("Frame-1: [image]\nFrame-2: [image]\n")
    assert shown((user,)).endswith(
        "These are frames of a video.\nHow many?\nAnswer briefly and directly in one float number."
    )
    width, height = Image.open(io.BytesIO(frames[0].data)).size
    assert width * height == pytest.approx(720 * 960, rel=0.07), "decoded at the budget"


def test_long_clips() -> None:
    """Whose texts are told without reading the clip."""
    clip = Media(kind="video", data=b"", name="c.mp4")
    asked_in = "Where?\n(A) Left\n(B) Right"
    text = shown(asked("lvbench", clip, question=asked_in, answer="B", question_type="['a', 'b']")[1:])
    assert text == f"[video]{asked_in}\nAnswer the question with the option letter."
    options = {"question": "How many?", "candidates": ["2", "1", "0"]}
    text = shown(asked("mlvu", clip, **options, answer="1")[1:])
    assert text.startswith("Carefully watch this video and pay attention to every detail. Based on")
    assert text.endswith(
        "question.[video]Question: How many?\nOptions:\n(A) 2\n(B) 1\n(C) 0\nOnly give the best option."
    )
    text = shown(asked("longvideobench", clip, **options, correct_choice=2)[1:])
    assert text.startswith("[video]How many?\nA. 2\nB. 1\nC. 0\nAnswer with the option's letter")
    assert answer_of("longvideobench", **options, correct_choice="2") == ("C",), "a place, though an option is 2"
    with pytest.raises(SampleError, match="'3' is no place among 3 options"):
        answer_of("longvideobench", **options, correct_choice=3)
    assert answer_of("mlvu", **options, answer="2") == ("A",)
    fields = {"options": '["red", "blue"]', "answer": "B"}
    text = shown(asked("videommmu", clip, question="Which?", **fields, category="Perception")[1:])
    assert text.startswith("[video]Which?answer the following multi-choice question. The image for this question is at")
    assert text.endswith("etc.)\n\nA. red\nB. blue\nPlease ignore the Quiz question in last frame of the video.")
    applied = {**fields, "category": "Adaptation"}
    text = shown(asked("videommmu", ONE, clip, question="In <image 1>, which?", **applied)[1:])
    assert text.startswith("[video]You should watch and learn the video content. Then apply what you learned to answer")
    assert text.endswith("etc.)\nIn [image], which?\nA. red\nB. blue")
    assert shown(asked("videommmu", ONE, clip, question="Which?", **applied)[1:]).endswith("B. blue[image]")


def answer_of(name: str, **fields: Any) -> tuple[str, ...]:
    return BENCHMARKS[name].item(Row(key="0", where="", fields=fields), 0).answers


def test_a_section_of_a_clip_shows_its_own_frames() -> None:
    whole = Media(kind="video", data=clip_file(16, fps=10), name="c.mp4")
    part = replace(whole, section=(0.5, 1.2))

    def frames(medium: Media) -> list[bytes]:
        (user,) = asked("vsi-bench", medium, question="?", answer="1", question_type="object_counting")
        return [part.data for part in user.parts if isinstance(part, Media)]

    every = frames(whole)
    assert len(every) == len(set(every)) == 16
    assert frames(part) == every[5:12]
    for bad in ((1.0, 1.0), (5.0, 9.0), (-1.0, 1.0)):
        with pytest.raises(SampleError, match=r"a section from .* s of a clip of 1.60 s"):
            frames(replace(whole, section=bad))


def test_words_of_a_row_are_never_templates() -> None:
    text = shown(asked("mmstar", ONE, question="{options} <image>{media}?", A="{question}", B="b", answer="A")[1:])
    assert text.startswith("[image]\n{options} {media}?\nA. {question}\nB. b")


def test_every_built_in_benchmark_has_its_settings_and_says_whence() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert name == benchmark.name == name.lower()
        assert benchmark.title
        assert benchmark.source
        assert benchmark.image or benchmark.video, f"{name} leaves its budget to the model"
        assert dict(benchmark.decoding) in (dict(SAMPLED), dict(LIKELIEST))
    assert len(BENCHMARKS) >= 30


def test_a_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_sets.py").write_text(
        "from neo_lightning.evaluation.benchmarks import Benchmark, Words\n"
        "WORDS = Words(open='{media}How many?')\n"
        "TILES = Benchmark(name='tiles', metric='relaxed', words=WORDS, columns={'answer': 'n'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = find_benchmark("my_sets.TILES")
    assert shown(asked(mine, ONE, question="-", n=4)) == "[image]\nHow many?"
    assert mine.item(Row(key="0", where="", fields={"question": "-", "n": 4}), 0).answers == ("4",)
    with pytest.raises(ValueError, match="did you mean 'mmstar'"):
        find_benchmark("mmstr")
    with pytest.raises(ValueError, match="no_such_module"):
        find_benchmark("no_such_module.X")
    with pytest.raises(ValueError, match="expected a Benchmark"):
        find_benchmark("my_sets.Words")
    with pytest.raises(ValueError, match="no metric 'nope'"):
        Benchmark(name="x", metric="nope")
    with pytest.raises(ValueError, match="no field 'anwser'"):
        Benchmark(name="x", words=Words(), columns={"anwser": "a"})


def test_the_papers_tables_are_those_of_the_document() -> None:
    document = (Path(__file__).resolve().parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    models = published()["models"]
    found: dict[str, list[float]] = {name: [] for name in models}
    for name, cells in re.findall(r"^\| `([\w.-]+)` \| ([\d.–| ]+) \|$", document, re.MULTILINE):
        found[name] += [float(cell) for cell in cells.split(" | ") if cell != "–"]
    assert found == {name: list(model["scores"].values()) for name, model in models.items()}
    assert models["neo-ov-2b"]["scores"]["mmmu"] == 54.7
    titles = {benchmark.name for benchmark in BENCHMARKS.values()}
    compared = titles & set(models["neo-ov-2b"]["scores"])
    assert len(compared) == 29, "what can be set beside the paper's"
