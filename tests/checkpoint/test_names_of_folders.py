"""Models and tokenizers by name: what is missing is said at once, with what makes it, and no network is asked."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import neo_lightning
from neo_lightning.checkpoint.load import load_config, load_model, load_state
from neo_lightning.checkpoint.qwen3 import qwen3_config
from neo_lightning.checkpoint.read import model_folder
from neo_lightning.cli.main import main
from neo_lightning.data.text.tokenizer import Tokenizer, TokenizerError, add_special_tokens
from neo_lightning.training.build import Init, read_config
from tests.model.support import GOLDEN

MISSING = [
    "runs/tokenizer",
    "models/neo-ov-2b",
    "Qwen/Qwen3-1.7B-Base",
    "./a/b",
    "~/nowhere/model",
    "/nowhere",
    "a/b/c",
]
LOADERS: list[Callable[[str], Any]] = [
    neo_lightning.load,
    load_model,
    load_config,
    load_state,
    qwen3_config,
    Tokenizer.load,
    lambda name: add_special_tokens(name, "out"),
    lambda name: read_config(name),
    lambda name: read_config(None, Init(kind="qwen3", folder=name)),
    lambda name: read_config(None, Init(kind="released", folder=name)),
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Every address that anybody tries to reach; each try fails. The working directory is empty."""
    tried: list[Any] = []

    def refuse(*args: Any, **_: Any) -> None:
        tried.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tried


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_folder_is_an_error_at_once(name: str, asked: list[Any]) -> None:
    for load in LOADERS:
        with pytest.raises(ValueError, match="no such folder") as error:
            load(name)
        assert name in str(error.value)
        assert "`neo-lightning " in str(error.value), "the command that makes it"
        assert ("hf://Qwen/Qwen3-1.7B-Base" in str(error.value)) == name.startswith("Qwen/")
    assert not asked


@pytest.mark.parametrize(
    "line",
    [
        "chat --model runs/demo/export --prompt x",
        "model info runs/demo/export",
        "model import --model runs/demo/export --out out",
        "model export --run runs/demo --out out",
        "model init --qwen3 models/qwen3 --tokenizer {words} --out out",
        "model init --tokenizer runs/tokenizer --out out",
        "data tokenizer --from models/qwen3 --out out",
        "run finetune",
        "run neo_ov_2b --trainer.accelerator=cpu --trainer.devices=1 --trainer.num_nodes=1 --trainer.precision=32-true",
        "plan neo_ov_2b --model.model=models/neo",
    ],
)
def test_no_command_asks_the_network(
    line: str, asked: list[Any], words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("NEO_MODEL", "NEO_QWEN3", "NEO_TOKENIZER", "NEO_DATA"):
        monkeypatch.delenv(variable, raising=False)
    assert main(line.format(words=words).split()) == 2
    error = capsys.readouterr().err
    assert "no such folder" in error or "no committed checkpoint" in error
    assert "neo-lightning" in error or "lightning run" in error
    assert not asked


@pytest.fixture
def words(tmp_path: Path) -> Path:
    from tests.data.data_helpers import make_tokenizer

    (tmp_path / "words").mkdir()
    make_tokenizer(tmp_path / "words")
    return tmp_path / "words"


def test_what_is_named_as_a_repository_is_fetched(monkeypatch: pytest.MonkeyPatch, words: Path) -> None:
    import huggingface_hub

    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / file, words / file)
    wanted = []

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        wanted.append((name, allow_patterns))
        return str(words)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load_config("hf://owner/name") == load_config(GOLDEN)
    assert Tokenizer.load("hf://owner/name").vocab_size
    assert [name for name, _ in wanted] == ["owner/name", "owner/name"]
    assert wanted[1][1] == ["tokenizer*.json"], "a tokenizer needs no weights"


def test_a_repository_that_cannot_be_fetched_says_why(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(Path.cwd()))
    with pytest.raises(ValueError, match="hf://nobody/nothing: fetching it from Hugging Face failed"):
        load_model("hf://nobody/nothing")
    for name in ("hf://nobody", "hf://../up", "hf://a/b/c", "hf://"):
        with pytest.raises(ValueError, match="is named hf://owner/name"):
            model_folder(name)
    assert not asked


def test_a_file_and_a_run_are_told_from_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a file"):
        model_folder(GOLDEN / "config.json")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=f"neo-lightning model export --run {tmp_path}"):
        load_model(tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"its model is {tmp_path}/export"):
        load_model(tmp_path)


def test_the_home_folder_is_understood(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(words.parent))
    assert Tokenizer.load("~/words").vocab_size == Tokenizer.load(words).vocab_size


def test_a_tokenizer_of_another_model_says_what_extends_it(words: Path) -> None:
    tree = json.loads((words / "tokenizer.json").read_text())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if t["content"].startswith("<|")]
    (words / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(TokenizerError, match="`neo-lightning data tokenizer --from FOLDER"):
        Tokenizer.load(words)
