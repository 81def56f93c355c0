"""Fault 42: a model folder that wants its own code run. There is no option to allow it: no code is ever looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from neo_lightning.checkpoint.load import load_model
from neo_lightning.cli.main import main
from neo_lightning.data.text.tokenizer import Tokenizer, TokenizerError
from neo_lightning.exits import USER_ERROR
from tests.data.data_helpers import make_tokenizer
from tests.model.support import GOLDEN, golden_config

CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and its tokenizer, with code of their own that the configs name for everything."""
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, tmp_path / name)
    make_tokenizer(tmp_path)
    change(tmp_path / "config.json", auto_map=dict.fromkeys(("AutoConfig", "AutoModel"), "modeling_own.Own"))
    change(tmp_path / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    for name in ("modeling_own", "own", "__init__", "setup"):
        (tmp_path / f"{name}.py").write_text(CODE)
    return tmp_path


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_fault_42_code_beside_a_known_network_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_model(folder).config == golden_config()
    assert Tokenizer.load(folder).vocab_size
    assert main(["model", "info", str(folder)]) == 0
    assert not (folder / "ran").exists()


def test_fault_42_a_network_that_needs_its_code_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder / "config.json", model_type="my_own")
    (folder / "tokenizer.json").unlink()
    assert main(["model", "info", str(folder)]) == USER_ERROR
    assert "expected model_type 'neo_chat', found 'my_own'" in capsys.readouterr().err
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        Tokenizer.load(folder)
    assert not (folder / "ran").exists()
