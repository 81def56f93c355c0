"""`neo-lightning eval` through its own main: from a table, a manifest and a server to scores and a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import neo_lightning
from neo_lightning.answering import Answering, write_folder
from neo_lightning.cli.main import main
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.model.config import NeoConfig
from neo_lightning.types import Media, Message, PixelBudget
from tests.evaluation.chat_server import chat_server, text_of
from tests.evaluation.conftest import random_model
from tests.evaluation.data import base64_jpeg, choices, jpeg, write_tsv

SMALL = ["--min-pixels", "4096", "--max-pixels", "9216", "--max-new-tokens", "4"]


@pytest.fixture(scope="module")
def model(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model in a run's export, whose answers differ from picture to picture."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = Tokenizer.load(scenes / "tokenizer")
    config = NeoConfig(
        vocab_size=448,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        extra_num_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        patch_hidden_size=8,
        tie_word_embeddings=False,
        image_token_id=tokenizer.context_id,
        image_start_token_id=tokenizer.img_start_id,
    )
    budget = PixelBudget(min_pixels=4096, max_pixels=9216)
    write_folder(random_model(config, 0), folder / "export", scenes / "tokenizer", Answering(image=budget))
    return folder


def letters(right: int) -> Any:
    """A server's answers to `choices`: the first `right` questions rightly, the others with the other letter."""

    def answer(request: dict[str, Any]) -> str:
        found = re.search(r'"number" (\d+)', text_of(request))
        assert found is not None
        number = int(found[1])
        return f"The answer is {'AB'[(number + (number >= right)) % 2]}."

    return answer


def result(out: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((out / "scores.json").read_text(encoding="utf-8"))["benchmarks"][name])


def test_from_a_table_to_a_page(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = choices(7)
    rows[2]["question"] = "<script>alert(1)</script> Which?"
    rows[5]["image"] = "!" * 80
    write_tsv(tmp_path / "MMStar.tsv", rows)
    line = ["eval", "--model", str(model), "--benchmark", "mmstar", "--data", str(tmp_path), "--limit", "6", *SMALL]
    assert main([*line, "--preset", "greedy", "--compare", "neo-ov-2b"]) == 0
    out = model / "scores"
    said = capsys.readouterr()
    assert "NEO-ov 2B" in said.out
    assert "58.6" in said.out
    for line_of_settings in (
        "MMStar, settings: image.max_pixels: 16777216 -> 9216",
        "MMStar, settings: decoding.temperature: 0.6 -> 0.0",
        "MMStar, settings: rows: all -> the first 6",
    ):
        assert line_of_settings in said.out
    assert "not whole: MMStar: the first 6 of 7 rows" in said.err
    assert "neither base64 nor a file's name" in said.err
    found = result(out, "mmstar")
    assert (found["questions"], found["unread"]["total"], found["limit"]) == (5, 1, 6)
    assert found["score"] is not None
    low, high = found["interval"]
    assert low <= found["score"] <= high
    assert set(found["categories"]) == {"kind 0", "kind 1", "kind 2"}
    settings = found["settings"]
    assert settings["prompt"]["choice"].endswith("from the given choices directly.")
    assert settings["image"] == {"min_pixels": 4096, "max_pixels": 9216}
    assert (settings["decoding"]["max_new_tokens"], settings["preset"], settings["seed"]) == (4, "greedy", 0)
    assert re.fullmatch(r"[0-9a-f]{64}", settings["data"]["sha256"])
    assert found["versions"]["torch"] not in ("", "unknown")
    page = (out / "scores.html").read_text(encoding="utf-8")
    wrong = len(found["mistakes"])
    assert page.count("data:image/jpeg;base64,") == wrong > 0
    assert page.count("✗") == wrong
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page), "nothing is loaded"
    assert "default-src 'none'" in page
    for text in ("MMStar", "kind 1", "truth: A", "rows are not in the score", "max_new_tokens: 4"):
        assert text in page


def test_answers_are_those_of_the_engine_asked_alike(model: Path, tmp_path: Path) -> None:
    file = write_tsv(tmp_path / "MMStar.tsv", choices(5))
    line = ["eval", "--model", str(model), "--benchmark", "mmstar", "--data", str(file), "--out", str(tmp_path / "out")]
    assert main([*line, *SMALL, "--preset", "greedy", "--batch-size", "2"]) == 0
    lines = (tmp_path / "out" / "mmstar" / "graded.jsonl").read_text(encoding="utf-8").splitlines()
    engine = neo_lightning.load(model / "export", min_pixels=4096, max_pixels=9216)
    for number, record in enumerate(map(json.loads, lines)):
        words = (
            f'\nWhich colour\nis "number" {number}?\nA. red\nB. blue\n'
            "Answer with the option's letter from the given choices directly."
        )
        asked = [
            Message(role="system", parts=("Reason step by step.",)),
            Message(role="user", parts=(Media(kind="image", data=jpeg(number)), words)),
        ]
        assert record["answer"] == engine.answer(asked, temperature=0.0, repetition_penalty=1.0, max_new_tokens=4)
    assert len(lines) == 5


def test_from_a_manifest(model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "held.yaml"
    manifest.write_text(f"sources: {{held: {{modality: image, shards: '{scenes}/test/colour-*.tar'}}}}")
    line = ["eval", "--model", str(model / "export"), "--data", str(manifest), "--source", "held"]
    assert main([*line, "--metric", "anls", "--max-new-tokens", "3", "--out", str(tmp_path / "out")]) == 0
    found = result(tmp_path / "out", "held")
    assert (found["questions"], found["headline"]) == (2, "ANLS")
    assert found["settings"]["image"] == {"min_pixels": 4096, "max_pixels": 9216}, "the model folder's"
    assert found["settings"]["decoding"]["temperature"] == 0
    assert main([*line[:-1], "hold", "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'held'" in capsys.readouterr().err
    (shard,) = (scenes / "test").glob("copy-*.tar")
    line = ["eval", "--model", str(model / "export"), "--data", str(shard), "--max-new-tokens", "3"]
    assert main([*line, "--out", str(tmp_path / "text")]) == 0
    assert result(tmp_path / "text", shard.stem)["headline"] == "exact match"


def test_two_models_on_servers_question_by_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tsv(tmp_path / "MMStar.tsv", choices(20))
    data = ["eval", "--benchmark", "mmstar", "--data", str(tmp_path)]
    for name, right in (("weak", 8), ("strong", 18)):
        with chat_server(letters(right)) as (url, asked):
            line = [*data, "--model", name, "--base-url", url, "--out", str(tmp_path / name)]
            assert main([*line, "--compare", str(tmp_path / "weak")] if name == "strong" else line) == 0
            assert len(asked) == 20
            assert asked[0]["top_k"] == 20
            assert main(line) == 0, "what is answered is not asked again"
            assert len(asked) == 20
    assert result(tmp_path / "weak", "mmstar")["score"] == 0.4
    strong = result(tmp_path / "strong", "mmstar")
    assert strong["score"] == 0.9
    assert strong["interval"] == pytest.approx([0.698966, 0.972134], abs=1e-6), "Wilson of 18 in 20"
    assert strong["settings"]["image"] == "the server's own"
    assert [mistake["key"] for mistake in strong["mistakes"]] == ["18", "19"]
    said = capsys.readouterr().out
    assert "+50.0 (+" in said
    line = [*data, "--model", "strong", "--base-url", "http://127.0.0.1:9/v1", "--out", str(tmp_path / "strong")]
    assert main([*line, "--compare", str(tmp_path / "weak" / "scores.json")]) == 2, "another server is another model"
    assert "scores of another model" in capsys.readouterr().err


def test_the_page_of_a_comparison(tmp_path: Path) -> None:
    write_tsv(tmp_path / "MMStar.tsv", choices(20))
    for name, right in (("weak", 8), ("strong", 18)):
        with chat_server(letters(right)) as (url, _):
            line = ["eval", "--benchmark", "mmstar", "--data", str(tmp_path), "--model", name, "--base-url", url]
            more = ["--compare", str(tmp_path / "weak"), "--seed", "1"] if name == "strong" else []
            assert main([*line, "--out", str(tmp_path / name), *more]) == 0
    page = (tmp_path / "strong" / "scores.html").read_text(encoding="utf-8")
    assert "Beside weak" in page
    assert re.search(r'<span class="above">\+50\.0</span><small>\+\d\d\.\d to \+\d\d\.\d, 20 questions</small>', page)
    assert "<li>seed: 0 -&gt; 1</li>" in page


def test_a_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"index": i, "question": f"Why {i}?", "answer": "sun<AND>rain", "category": "rec,ocr", "image": base64_jpeg(i)}
        for i in range(4)
    ]
    write_tsv(tmp_path / "MMVet.tsv", rows)

    def answer(request: dict[str, Any]) -> str:
        if request["model"] != "judge":
            return "Because of the sun."
        return "no idea" if "Why 3?" in text_of(request) else "0.5"

    with chat_server(answer) as (url, asked):
        line = ["eval", "--benchmark", "mmvet", "--data", str(tmp_path), "--model", "m", "--base-url", url]
        assert main([*line, "--out", str(tmp_path / "out")]) == 2
        assert "give --judge-url URL" in capsys.readouterr().err
        assert not asked, "refused before anything is asked"
        line += ["--judge-url", url, "--judge-model", "judge", "--out", str(tmp_path / "out")]
        assert main(line) == 0
        assert [request["model"] for request in asked].count("judge") == 4
        assert "Reference: sun<AND>rain" in text_of(asked[-1])
        assert main(line) == 0
        assert len(asked) == 8, "neither asked nor judged again"
    found = result(tmp_path / "out", "mmvet")
    assert (found["score"], found["questions"]) == (0.5, 3)
    assert list(found["unread"]["by_reason"]) == ["the judge gave no grade: …"]


def test_a_question_that_the_server_refuses_is_counted(tmp_path: Path) -> None:
    write_tsv(tmp_path / "MMStar.tsv", choices(5))
    with chat_server(lambda request: 400 if '"number" 2' in text_of(request) else "A") as (url, _):
        line = ["eval", "--benchmark", "mmstar", "--data", str(tmp_path), "--model", "m", "--base-url", url]
        assert main([*line, "--out", str(tmp_path / "out")]) == 0
    found = result(tmp_path / "out", "mmstar")
    assert (found["questions"], found["unread"]["total"]) == (4, 1)
    assert "the server refuses: 400" in found["unread"]["first"][0]["reason"]


def test_a_user_s_own_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_benchmarks.py").write_text(
        "from neo_lightning.evaluation.benchmarks import Benchmark, Words\n\n"
        "COLOURS = Benchmark(\n"
        "    name='colours',\n"
        "    metric='choice',\n"
        "    words=Words(choice='{media}{question}{options}\\nOne letter, please.'),\n"
        ")\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_tsv(tmp_path / "any.tsv", choices(4))
    with chat_server(letters(3)) as (url, asked):
        line = ["eval", "--benchmark", "my_benchmarks.COLOURS", "--data", "any.tsv", "--model", "m", "--base-url", url]
        assert main(line) == 0
    assert text_of(asked[0]).endswith("One letter, please.")
    assert result(tmp_path / "scores" / "m", "colours")["score"] == 0.75


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--benchmark mmstr --data {d}", "did you mean 'mmstar'"),
        ("--benchmark mmstar", "--data is missing"),
        ("--data {d}", "name a --benchmark NAME"),
        ("--benchmark mmstar --data {d} --source x", "do not go together"),
        ("--benchmark mmstar --data {d} --metric anls", "--metric goes with --source"),
        ("--benchmark mmstar --data {d} --limit 0", "at least 1"),
        ("--benchmark pope --data {d}", "no POPE"),
        (
            "--benchmark mmstar --data {d} --compare nowhere",
            "no such scores.json, and the papers' tables have neo-ov-2b",
        ),
        ("--benchmark mmstar --data {d} --judge-url http://x", "go together"),
        ("--benchmark mmstar --data {d}", "is no model folder (config.json) and has no export"),
        ("--benchmark mmstar --data {d} --base-url http://x --fps 1", "the server has its own"),
    ],
)
def test_what_is_wrong_is_said(more: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tsv(tmp_path / "MMStar.tsv", choices(2))
    (tmp_path / "MMStar2.tsv").write_text("a\tb\n")
    assert main(["eval", "--model", str(tmp_path), *more.format(d=tmp_path).split()]) == 2
    assert said in capsys.readouterr().err


def test_answers_given_otherwise_are_not_mixed(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_tsv(tmp_path / "MMStar.tsv", choices(2))
    line = ["eval", "--model", str(model), "--benchmark", "mmstar", "--data", str(file), "--out", str(tmp_path / "out")]
    assert main([*line, *SMALL]) == 0
    assert main([*line, *SMALL, "--seed", "1"]) == 2
    assert "answers that were given otherwise: seed: 0 -> 1" in capsys.readouterr().err
    write_tsv(file, choices(3))
    assert main([*line, *SMALL]) == 2
    assert "data.rows: 2 -> 3" in capsys.readouterr().err


def test_the_list_of_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list"]) == 0
    said = capsys.readouterr().out
    assert "omnispatial" in said
    assert "HallusionBench" in said
