"""Other programs' doors: what goes through them is what our engine answers to the same question.

The programs themselves are stand-ins with their interfaces; `test_real_harness.py` runs the real ones.
"""

from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from neo_lightning.answering import Engine
from neo_lightning.cli.main import main
from neo_lightning.data.facts import Turn
from neo_lightning.data.media.video import video_facts
from neo_lightning.evaluation.benchmarks import find_benchmark
from neo_lightning.evaluation.benchmarks.words import messages_of
from neo_lightning.evaluation.readers import Row
from neo_lightning.harness.authors import asked, words
from neo_lightning.harness.exported import Exported
from neo_lightning.harness.vlmevalkit import around, conversation
from neo_lightning.types import Media, PixelBudget
from tests.harness.conftest import STAND_INS

ROOT = Path(__file__).resolve().parents[2]
GREEDY = {"do_sample": False, "max_new_tokens": 5}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.fixture
def lmms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STAND_INS))
    return importlib.import_module("neo_lightning.harness.lmms_eval")


@pytest.fixture
def talks(media: dict[str, list[Path]]) -> list[list[dict[str, Any]]]:
    """Conversations of all kinds and of different lengths."""
    one, two = ({"type": "image", "image": str(path)} for path in media["image"][:2])
    clip = {"type": "video", "video": str(media["video"][0])}
    asked = [
        [text("What is three and four?")],
        [one, text("Which colour?")],
        [text("Image-1: "), one, text("Image-2: "), two, text("Are the shapes the same? Answer yes or no.")],
        [clip, text("Where does it go?")],
    ]
    return [[{"role": "user", "content": parts}] for parts in asked]


def test_an_export_answers_as_our_engine(folder: Path, engine: Engine, talks: list[Any]) -> None:
    found = Exported(str(folder), device="cpu").answer(talks, decoding=GREEDY)
    assert [said for said, _ in found] == [answer.strip() for answer in engine.answer(talks, max_new_tokens=5)]
    assert all(0 < tokens <= 5 for _, tokens in found)
    assert len({said for said, _ in found}) > 1, "a model that says one thing proves nothing"


def test_lmms_eval_asks_in_batches_and_gets_the_answers_in_order(
    lmms: ModuleType, folder: Path, engine: Engine, talks: list[Any], media: dict[str, list[Path]]
) -> None:
    model = lmms.NeoOv(str(folder), batch_size="3", system_prompt="")
    documents = [
        [{"role": m["role"], "content": [_theirs(part) for part in m["content"]]} for m in talk] for talk in talks
    ]
    model.task_dict = {"scenes": {"test": documents}}
    short, long = {"max_new_tokens": 2, "until": ["\n"]}, {"max_new_tokens": 5, "temperature": 0, "min_pixels": 4096.0}
    asked = [(short, 0), (short, 1), (long, 2), (long, 3), (short, 3)]
    requests = [
        importlib.import_module("lmms_eval.api.instance").Instance(
            ("context", lambda document: document, settings, number, "scenes", "test")
        )
        for settings, number in asked
    ]
    found = model.generate_until(requests)
    for (settings, number), result in zip(asked, found, strict=True):
        assert result.text == engine.answer(talks[number], max_new_tokens=settings["max_new_tokens"]).strip()
        assert result.token_counts.output_tokens <= settings["max_new_tokens"]
    assert [entry[2] for entry in model.cache_hook.added] == [result.text for result in found]


def _theirs(part: dict[str, str]) -> dict[str, str]:
    kind = part["type"]
    return part if kind == "text" else {"type": kind, "url": part[kind]}


def test_lmms_eval_says_how_it_is_asked(lmms: ModuleType, folder: Path) -> None:
    model = lmms.NeoOv(str(folder), system_prompt="Reason\\nstep by step.")
    told = [
        {"role": "system", "content": [text("Be brief.")]},
        {"role": "user", "content": [text("One?")]},
        {"role": "assistant", "content": [text("1")]},
    ]
    model.task_dict = {"t": {"test": [told, told[1:]]}}
    instance = importlib.import_module("lmms_eval.api.instance").Instance

    def system(settings: dict[str, Any], document: int) -> str | None:
        request = instance(("", lambda d: d, settings, document, "t", "test"))
        first, *rest = model._conversation(request, settings)
        assert [turn["role"] for turn in rest if turn["role"] == "system"] == []
        return first["content"][0]["text"] if first["role"] == "system" else None

    assert system({}, 0) == "Be brief."
    assert system({}, 1) == "Reason\nstep by step."
    assert system({"system_prompt": ""}, 0) is None
    assert model._decoding({"temperature": 0.6, "do_sample": True, "top_p": None, "patch_size": 16}) == {
        "do_sample": True,
        "max_new_tokens": 4096,
        "temperature": 0.6,
        "top_p": None,
    }


def test_what_cannot_be_shown_is_told(lmms: ModuleType, folder: Path) -> None:
    model = lmms.NeoOv(str(folder))
    model.task_dict = {"t": {"test": [[{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}]]}}
    request = importlib.import_module("lmms_eval.api.instance").Instance(("", lambda d: d, {}, 0, "t", "test"))
    with pytest.raises(ValueError, match=r"t, document 0: .*audio"):
        model.generate_until([request])


def test_lmms_eval_asks_about_sections_of_clips(
    lmms: ModuleType, folder: Path, engine: Engine, media: dict[str, list[Path]]
) -> None:
    """Each clip of a batch has its own, or none."""
    model = lmms.NeoOv(str(folder), batch_size="4", system_prompt="")
    clip, length = media["video"][0], video_facts(media["video"][0].read_bytes()).duration
    cuts = [(None, None), (None, length / 2), (length / 2, None), (0.0, length / 4)]
    parts = [{"type": "video", "url": str(clip), "start_time": start, "end_time": end} for start, end in cuts]
    model.task_dict = {"t": {"test": [[{"role": "user", "content": [part, text("Where?")]}] for part in parts]}}
    instance = importlib.import_module("lmms_eval.api.instance").Instance
    asked = [
        instance(("", lambda document: document, {"max_new_tokens": 5}, number, "t", "test")) for number in range(4)
    ]
    said = [result.text for result in model.generate_until(asked)]
    for (start, end), answer in zip(cuts, said, strict=True):
        section = None if start is end is None else (start or 0.0, math.inf if end is None else end)
        part = Media(kind="video", data=clip.read_bytes(), name="clip", section=section)
        prompt = engine.prompt([Turn(role="user", parts=(part, "Where?"))])
        assert [answer] == [found.strip() for found in engine.texts([prompt], max_new_tokens=5)]


def test_the_entry_point_names_the_manifest(lmms: ModuleType) -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, name = groups["lmms_eval.models"]["neo_ov"].partition(":")
    manifest = getattr(importlib.import_module(module), name)
    assert manifest.model_id == "neo_ov"
    path, _, cls = manifest.chat_class_path.rpartition(".")
    assert not getattr(importlib.import_module(path), cls).is_simple


def test_vlmevalkits_messages_become_turns() -> None:
    message = [
        {"type": "text", "value": "Look.", "role": "system"},
        {"type": "image", "value": "a.png"},
        {"type": "text", "value": "What?"},
        {"type": "text", "value": "Best option:(", "role": "assistant"},
    ]
    image = {"type": "image", "image": "a.png"}
    assert conversation(message, "") == [
        {"role": "system", "content": [text("Look.")]},
        {"role": "user", "content": [image, text("What?")]},
    ]
    assert conversation(message, "Reason.") == [
        {"role": "system", "content": [text("Reason.")]},
        {"role": "user", "content": [text("Look."), image, text("What?")]},
    ]
    before = [{"type": "text", "value": said, "role": role} for said, role in (("Hi", "user"), ("Yes?", "assistant"))]
    talk = conversation([*before, {"type": "text", "value": "Go on", "role": "timestamp"}], "")
    assert [(turn["role"], turn["content"]) for turn in talk] == [
        ("user", [text("Hi")]),
        ("assistant", [text("Yes?")]),
        ("user", [text("Go on")]),
    ]


@pytest.fixture
def kit(folder: Path, tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Runs the kit on tables of these rows, and gives the answers to each."""

    def run(tables: dict[str, list[str]], *further: str) -> list[list[str]]:
        for name, rows in tables.items():
            column = "video" if name.startswith("Clips") else "image_path"
            lines = [f"{number}\t{row}" for number, row in enumerate(rows)]
            (tmp_path / f"{name}.tsv").write_text("\n".join([f"index\tquestion\t{column}", *lines]) + "\n")
        line = ["eval", "--harness", "vlmevalkit", "--model", str(folder), "--benchmark", ",".join(tables)]
        line += ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--max-new-tokens", "5", *further]
        line += ["--", "--judge", "exact_matching"]
        start = f"import sys; sys.path.insert(0, {str(STAND_INS / 'kit')!r}); from neo_lightning.cli.main import main; "
        subprocess.run([sys.executable, "-c", f"{start}sys.exit(main({line!r}))"], check=True, cwd=ROOT)
        found = [(tmp_path / "out" / "neo" / f"neo_{name}.txt").read_text().splitlines() for name in tables]
        assert all(line.split("\t")[:2] == ["exact_matching", str(n)] for said in found for n, line in enumerate(said))
        return [[line.split("\t")[2] for line in said] for said in found]

    return run


def test_vlmevalkit_is_started_with_our_model(
    kit: Callable[..., list[list[str]]], engine: Engine, media: dict[str, list[Path]]
) -> None:
    """And a clip is shown in as many frames as its data set says, also behind one that has a rate."""
    clip = media["video"][0]
    one = [f"Where does it go?\t{clip}"]
    tables = {"Mine": [f"Which colour?\t{path}" for path in media["image"]], "Clips_4fps": one, "Clips_2frame": one}
    pictures, rate, count = kit(tables, "--max-frames", "6")
    expected = [engine.answer("Which colour?", images=[path], max_new_tokens=5).strip() for path in media["image"]]
    assert pictures == expected

    def said(**frames: Any) -> str:
        changed = engine.asked(engine.answering.changed(**frames))
        shown = [{"type": "video", "video": str(clip)}, text("Where does it go?")]
        talk = [{"role": "system", "content": [text("Watch.")]}, {"role": "user", "content": shown}]
        return changed.answer([talk], max_new_tokens=5)[0].strip()

    assert rate == [said(fps=4.0, max_frames=6)]
    assert count == [said(fps=0, max_frames=2)]
    assert rate != count


def test_without_vlmevalkit_it_says_where_it_belongs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["eval", "--harness", "vlmevalkit", "--model", str(folder), "--benchmark", "Mine"]
    assert main(line) == 2
    assert re.search(r"VLMEvalKit is not installed.*--no-deps", capsys.readouterr().err)
    assert main([*line, "--limit", "3"]) == 2
    assert "--limit does not go with --harness" in capsys.readouterr().err


ROW = {"index": "1", "question": "<image> Is it red?", "hint": "Look.", "A": "red", "B": "blue", "C": float("nan")}
NAMES = {
    "mmmu": ("MMMU_DEV_VAL", "MCQ"), "mmbench": ("MMBench_DEV_EN", "MCQ"), "mmstar": ("MMStar", "MCQ"),
    "seed-i": ("SEEDBench_IMG", "MCQ"), "realworldqa": ("RealWorldQA", "MCQ"), "ai2d": ("AI2D_TEST", "MCQ"),
    "pope": ("POPE", "Y/N"), "hallusionbench": ("HallusionBench", "Y/N"), "docvqa": ("DocVQA_VAL", "VQA"),
    "infovqa": ("InfoVQA_VAL", "VQA"), "chartqa": ("ChartQA_TEST", "VQA"), "textvqa": ("TextVQA_VAL", "VQA"),
    "ocrbench": ("OCRBench", "VQA"), "mmvet": ("MMVet", "VQA"), "blink": ("BLINK", "MCQ"), "3dsr": ("3DSRBench", "MCQ"),
    "embspatial": ("EmbSpatialBench", "MCQ"),
}  # fmt: skip
"""Our name of a benchmark -> VLMEvalKit's, and its type there."""
NUMBERED = ("blink", "3dsr", "embspatial")
"""Where ours puts `Image-1: ` in front of each of several pictures, as lmms-eval's tasks for neo_ov do."""


@pytest.mark.parametrize(
    ("name", "pictures"), [(name, n) for name in NAMES for n in (1, 3) if n == 1 or name not in NUMBERED]
)
def test_the_authors_preset_asks_as_our_own_evaluation(
    name: str, pictures: int, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    benchmark, (dataset, kind) = find_benchmark(name), NAMES[name]
    how = asked(dataset)
    assert {"temperature": 0.0, "repetition_penalty": 1.0, **how.decoding} == {
        "do_sample": benchmark.decoding["temperature"] > 0,
        **benchmark.decoding,
    }
    assert (how.system_prompt, how.enlarge) == (benchmark.system, benchmark.enlarge)
    assert PixelBudget(**how.images) == benchmark.image
    line = {name: value for name, value in ROW.items() if kind == "MCQ" or name not in ("A", "B", "hint")}
    if kind != "MCQ":
        line["question"] = "Is it red?"
    images = media["image"][:pictures]
    shown = [{"type": "image", "value": str(path)} for path in images]
    theirs = conversation(around(shown, words(line, dataset, kind)), how.system_prompt)[-1]["content"]
    given = Row(key="1", where="", fields={**line, "C": "", "answer": "A"}, media=lambda: tuple(
        Media(kind="image", data=path.read_bytes(), name=path.name) for path in images
    ))  # fmt: skip
    ours = messages_of(benchmark.item(given, 0), benchmark)[-1].parts

    def told(parts: Iterable[Any]) -> str:
        return "".join(part if isinstance(part, str) else "<image>" for part in parts)

    assert told(part.get("text", part) for part in theirs) == told(ours)
