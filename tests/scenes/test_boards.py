"""Boards: what is asked is there and even, sizes that are held out stay held out, and the folder of a set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neo_lightning.cli.main import main
from neo_lightning.scenes import BOARDS, Scene, generate
from neo_lightning.scenes.boards import CELL, NEW, OLD, Board
from neo_lightning.scenes.draw import COLOURS


def seen(picture: Image.Image) -> dict[str, tuple[int, int]]:
    """Colour -> row and column from 1, read off the middle of each cell."""
    pixels = np.asarray(picture)
    found = {}
    for row in range(picture.height // CELL):
        for column in range(picture.width // CELL):
            middle = tuple(int(x) for x in pixels[CELL * row + CELL // 2, CELL * column + CELL // 2])
            found |= {name: (row + 1, column + 1) for name, rgb in COLOURS.items() if rgb == middle}
    return found


def scenes(kind: str, count: int = 200) -> list[Scene]:
    split: Any = "test" if kind in BOARDS else "train"
    return [generate(kind, seed=4, split=split, index=index) for index in range(count)]


def test_every_answer_is_what_the_picture_shows() -> None:
    """Read off the pixels by other code, for all kinds of a training board."""
    asked: Counter[str] = Counter()
    for scene in scenes("board"):
        if "dark" in scene.meta:
            continue
        places = seen(scene.images[0])
        assert len(places) == 5
        by_place = {place: colour for colour, place in places.items()}
        for question in scene.questions:
            words, answer = question.text.strip(".?").split(), question.answer
            asked[question.task] += 1
            if question.task == "cell":
                assert by_place[int(words[4]), int(words[6])] == answer
            elif question.task == "where":
                assert answer == "row {} column {}".format(*places[words[2]])
            elif question.task in ("same_row", "same_column"):
                axis = question.task == "same_column"
                assert (places[words[1]][axis] == places[words[3]][axis]) == (answer == "yes")
            elif question.task == "nearest":
                one = np.array(places[words[-1]])
                far = {c: ((one - p) ** 2).sum() for c, p in places.items() if c != words[-1]}
                assert sorted(far, key=lambda c: far[c])[0] == answer
                assert sorted(far.values())[0] < sorted(far.values())[1]
            elif question.task == "in_row":
                assert answer == str(sum(row == int(words[-1]) for row, _ in places.values()))
    assert set(asked) == set(Board.kinds)


def test_no_answer_can_be_read_from_an_earlier_turn() -> None:
    """A conversation names colours, places or shapes of all, each once; or asks one thing of each kind besides."""
    found: Counter[tuple[str, ...]] = Counter()
    for scene in scenes("board"):
        kinds = [question.task for question in scene.questions]
        assert len({question.text for question in scene.questions}) == len(kinds)
        found[tuple(sorted(kinds))] += 1
    beside = ("in_row", "nearest", "same_column", "same_row")
    assert set(found) == {(kind,) * 5 for kind in ("cell", "shape_of", "where")} | {beside}
    assert min(found.values()) > 30  # of 200, a quarter each


def test_sizes_that_are_held_out_are_in_no_other_board() -> None:
    def sizes(kind: str) -> set[tuple[int, int]]:
        return {(s.images[0].height // CELL, s.images[0].width // CELL) for s in scenes(kind)}

    assert sizes("cell_new") == set(NEW)
    for kind in ("board", "cell", "where"):
        assert sizes(kind) == set(OLD)
    assert {side for size in OLD for side in size} == {side for size in NEW for side in size}


def test_a_question_may_come_before_its_picture() -> None:
    def first(scene: Scene) -> str:
        return str(scene.messages[0]["content"][0]["type"])

    assert {first(scene) for scene in scenes("cell_before")} == {"text"}
    assert {first(scene) for scene in scenes("cell")} == {"image"}
    before = Counter(first(scene) for scene in scenes("board"))
    assert 0.4 < before["text"] / before.total() < 0.6
    assert all(len(scene.messages[0]["content"]) == 2 for scene in scenes("board"))


def test_a_set_of_boards_has_its_manifest_and_its_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["data", "scenes", "--set", "boards", "--out", str(tmp_path / "b"), "--held-out", "2", "--workers", "0"]
    assert main([*line, "--train", "board=12,text=12"]) == 0
    assert {path.name.split("-")[0] for path in (tmp_path / "b" / "test").glob("*.tar")} == {*BOARDS, "copy", "pattern"}
    assert main(["data", "stats", str(tmp_path / "b" / "manifest.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "board" in shown
    assert "text" in shown
    assert json.loads((tmp_path / "b" / "scenes.json").read_text())["set"] == "boards"
    assert main([*line, "--train", "video=3"]) == 2
    assert "expected KIND=N with text, board, got 'video=3'" in capsys.readouterr().err
