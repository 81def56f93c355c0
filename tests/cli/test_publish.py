"""`model publish`: the card says what the run's files say, and nothing leaves the machine that was not asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from neo_lightning.checkpoint.export import CARD_MARK
from neo_lightning.cli.main import main
from neo_lightning.report.card import without_folders


def shards(micro: Path) -> list[str]:
    folder = Path(yaml.safe_load(micro.read_text())["data"]["tokenizer"]).parent / "test"
    return sorted(str(path) for path in folder.glob("colour-*.tar"))


def test_the_card_says_what_the_run_says_and_a_push_without_a_network_leaves_it(
    micro: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = micro.parent / "run"
    assert main(["run", str(micro)]) == 0
    assert main(["eval", "--model", str(finished), "--data", shards(micro)[0], "--max-new-tokens", "4"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("socket.socket.connect", _refuse)
    assert main(["model", "publish", "--run", str(finished), "--licence", "apache-2.0"]) == 0
    said = capsys.readouterr().out
    assert "nothing was sent" in said
    for name in ("README.md", "config.json", "model.safetensors"):
        assert re.search(rf"^ +[\d,]+  {re.escape(name)}$", said, re.MULTILINE), name
    card = (finished / "export" / "README.md").read_text()
    assert CARD_MARK in card, "by which a new export knows it"
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["neo-ov", "vision-language", "encoder-free", "neo_lightning"],
    }
    report = json.loads((finished / "report.json").read_text())
    colour = report["evaluations"]["scenes"]["types"]["colour"]
    assert f"| colour | {100 * colour['accuracy']:.0f}% |" in body
    scores = json.loads((finished / "scores" / "scores.json").read_text())
    (score,) = scores["benchmarks"].values()
    assert (
        f"| {score['questions']} | {score['headline']} | likeliest tokens, up to 4 tokens; 4,096 to 4,096 pixels"
        in body
    )
    assert "| two | 4 | 192 | 2 | 0.001 |" in body
    assert "text 1, image 2" in body
    assert str(micro.parent) not in card, "a folder of this machine"

    assert main(["model", "publish", "--run", str(finished), "--licence", "mit", "--to", "hf://me/mine"]) == 2
    said = capsys.readouterr()
    assert "pushing to hf://me/mine failed" in said.err
    assert f"The folder is ready: {finished / 'export'}" in said.err
    assert (finished / "export" / "README.md").read_text().count("me/mine") >= 2


def test_the_card_of_another_design_promises_what_its_folder_does(
    micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its program is run, on the folder in the place of the hub's."""
    run = micro.parent / "run"
    design = "{mask: {kind: causal}, encoder: {layers: 1, hidden_size: 16, heads: 2}}"
    assert main(["run", str(micro), "--evaluation=[]", f"--model.model.design={design}"]) == 0
    assert main(["model", "publish", "--run", str(run), "--licence", "mit", "--name", "me/arm"]) == 0
    card = (run / "export" / "README.md").read_text()
    assert CARD_MARK in card
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "neo_lightning"
    assert yaml.safe_load(head)["tags"] == ["vision-language", "neo_lightning"]
    assert "differs from NEO-ov in `mask`, `encoder`" in body
    assert "pipeline(" not in body
    assert "no vision encoder" not in body
    program = body.split("```python\n")[1].split("```")[0].replace("hf://me/arm", str(run / "export"))
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(program, "card", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize("target", ["me/mine", "hf://mine", "hf://me/../x", "https://me/mine"])
def test_only_an_id_of_the_hub_is_a_target(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("export/config.json", "report.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert main(["model", "publish", "--run", str(tmp_path), "--licence", "mit", "--to", target]) == 2
    assert "hf://owner/name" in capsys.readouterr().err
    assert not (tmp_path / "export" / "README.md").exists()


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "publish", "--run", str(tmp_path), "--licence", "mit"]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_folders_of_a_machine_stay_there() -> None:
    recipe = (
        "data: {manifest: /home/me/data/my_data.yaml, tokenizer: runs/x}\nurl: s3://bucket/a/b.tar\nr: ${run.dir}/a/b"
    )
    assert without_folders(recipe) == (
        "data: {manifest: my_data.yaml, tokenizer: runs/x}\nurl: s3://bucket/a/b.tar\nr: ${run.dir}/a/b"
    )


def _refuse(*args: object) -> None:
    raise OSError("no network in this test")
