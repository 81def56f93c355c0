"""The terminal chat: streaming, several turns, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from neo_lightning.checkpoint.load import load_model
from neo_lightning.cli.chat import printable
from neo_lightning.cli.main import main
from neo_lightning.data.text.prompt import prompt_from_messages
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.model.generate import generate
from neo_lightning.model.prompt import Prompt
from neo_lightning.types import Media, Message, PixelBudget, VideoBudget
from tests.tiny_models import tiny_config


@pytest.fixture(scope="module")
def model(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model, made by `model init`."""
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config(Tokenizer.load(scenes / "tokenizer"), min_pixels=64 * 64)
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    line = ["model", "init", "--model", str(folder), "--tokenizer", str(scenes / "tokenizer"), "--seed", "1"]
    assert main([*line, "--out", str(folder / "made"), "--dtype", "float32"]) == 0
    return folder / "made"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "red.png"
    Image.new("RGB", (70, 50), "red").save(file)
    return file


def answer(folder: Path, messages: list[Message], most: int = 4096 * 1024) -> str:
    """What the model says, without the chat and its engine."""
    model, tokenizer = load_model(folder), Tokenizer.load(folder)
    budget = PixelBudget(min_pixels=min(64 * 64, most), max_pixels=most)
    sequence, patches = prompt_from_messages(messages, tokenizer, budget, VideoBudget())
    prompt = Prompt(input_ids=sequence.input_ids, visual=sequence.visual, grids=sequence.grids, patches=patches)
    (ids,) = generate(model, [prompt], max_new_tokens=6, stop_ids=[tokenizer.im_end_id, tokenizer.pad_id])
    return tokenizer.decode(ids)


def test_several_turns_about_a_picture(
    model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["What is this?", "/nonsense", f"/image {picture}.missing", "And this?"])

    def typed(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    assert main(["chat", "--model", str(model), "--image", str(picture), "--max-new-tokens", "6"]) == 0
    shown = Media(kind="image", data=picture.read_bytes())
    asked = [Message(role="user", parts=(shown, "What is this?"))]
    first = answer(model, asked)
    assert printable("a\x1b[2J\tb\n\x9b") == "a[2J\tb\n"
    asked += [Message(role="assistant", parts=(first,)), Message(role="user", parts=("And this?",))]
    second = answer(model, asked)
    assert first
    assert second
    said = capsys.readouterr().out
    assert f"{printable(first)}\n" in said
    assert said.endswith(f"{printable(second)}\n")
    assert "cannot read" in said, "a wrong file name does not end the conversation"


def test_one_question(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--model", str(model), "--prompt", "Hello", "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out == printable(answer(model, [Message(role="user", parts=("Hello",))])) + "\n"


def test_what_is_wrong_is_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--model", str(model), "--image", "nowhere.png", "--prompt", "x"]) == 2
    assert "nowhere.png" in capsys.readouterr().err
    assert main(["chat", "--model", "/nowhere", "--prompt", "x"]) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_an_override_is_shown_and_used(model: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["chat", "--model", str(model), "--image", str(picture), "--prompt", "Hello", "--max-new-tokens", "6"]
    asked = [Message(role="user", parts=(Media(kind="image", data=picture.read_bytes()), "Hello"))]
    assert main(line) == 0
    assert capsys.readouterr().err == "", "nothing is said where the folder's values are used"
    budgets = ["--max-pixels", "1024", "--max-frames", "7", "--fps", "0"]
    assert main([*line, *budgets]) == 0
    shown = capsys.readouterr()
    for change in ("image.max_pixels: 4194304 -> 1024", "image.min_pixels: 4096 -> 1024", "video.max_frames: 128 -> 7"):
        assert change in shown.err
    assert "video.fps: 1.0 -> None" in shown.err
    assert shown.out == printable(answer(model, asked, most=1024)) + "\n"


def test_places_and_files_have_to_come_out_even(model: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["chat", "--model", str(model), "--image", str(picture), "--max-new-tokens", "2"]
    assert main([*line, "--prompt", "<image> and <image>"]) == 2
    assert "the text has 2 <image>, and 1 were given" in capsys.readouterr().err
    assert main([*line, "--prompt", "<image> <video>"]) == 2
    assert "the text has 1 <video>, and 0 were given" in capsys.readouterr().err


def test_messages_of_a_file(model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {"type": "image_url", "image_url": {"url": picture.name}}
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "A: "}, shown, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "Sure?"},
    ]
    (tmp_path / "asked.json").write_text(json.dumps(turns), encoding="utf-8")
    line = ["chat", "--model", str(model), "--messages", str(tmp_path / "asked.json"), "--max-new-tokens", "6"]
    assert main(line) == 0
    media = Media(kind="image", data=picture.read_bytes())
    asked = [
        Message(role="system", parts=("Be brief.",)),
        Message(role="user", parts=("A: ", media, "What?")),
        Message(role="assistant", parts=("Red.",)),
        Message(role="user", parts=("Sure?",)),
    ]
    assert capsys.readouterr().out == printable(answer(model, asked)) + "\n"
    picture.unlink()
    assert main(line) == 2
    assert "messages[1].content[1]: cannot read red.png" in capsys.readouterr().err
