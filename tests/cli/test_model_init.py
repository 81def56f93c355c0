"""`model init --qwen3` and `init: {kind: qwen3}`: every size from the backbone, the ids from the tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from neo_lightning.answering import load
from neo_lightning.checkpoint.load import load_config, load_model
from neo_lightning.cli.main import main
from neo_lightning.data.text.tokenizer import Tokenizer
from tests.tiny_models import tiny_qwen3


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def qwen3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of sizes that no preset has."""
    folder = tmp_path_factory.mktemp("qwen3")
    tiny_qwen3(folder, tie_word_embeddings=request.param)
    return folder


def test_a_backbone_of_any_size_becomes_a_model(qwen3: Path, scenes: Path, tmp_path: Path) -> None:
    line = ["model", "init", "--qwen3", str(qwen3), "--tokenizer", str(scenes / "tokenizer"), "--dtype", "float32"]
    for options, layers in (([], 12), (["--pre-buffer", "1"], 1), (["--pre-buffer", "0"], 0)):
        out = tmp_path / f"with-{layers}"
        assert main([*line, *options, "--out", str(out)]) == 0
        config, tokenizer = load_config(out), Tokenizer.load(out)
        assert (config.extra_num_layers, config.post_layers, config.hidden_size) == (layers, 3, 48)
        assert (config.image_token_id, config.image_start_token_id) == (tokenizer.context_id, tokenizer.img_start_id)
        theirs = Qwen3ForCausalLM.from_pretrained(qwen3)
        ours = load_model(out).layers[layers].self_attn.q_proj.weight
        assert torch.equal(ours, theirs.model.layers[0].self_attn.q_proj.weight)
        assert load(out).answer("Hello", max_new_tokens=2) is not None


@pytest.mark.slow
def test_a_recipe_takes_every_size_from_its_backbone(qwen3: Path, micro: Path, tmp_path: Path) -> None:
    text = micro.read_text()
    start, end = text.index("model:\n"), text.index("data:")
    micro.write_text(text[:start] + f"model: {{init: {{kind: qwen3, folder: {qwen3}}}}}\n" + text[end:])
    assert main(["run", str(micro), "--stages.one.steps=1", "--stages.two.steps=1", "--evaluation=[]"]) == 0
    config = load_config(tmp_path / "run" / "export")
    assert (config.extra_num_layers, config.post_layers, config.hidden_size) == (12, 3, 48)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--qwen3", "{scenes}", "--pre-buffer", "-1"], ["--pre-buffer N (0 or more) goes with --qwen3"]),
        (["--pre-buffer", "2"], ["--pre-buffer N (0 or more) goes with --qwen3"]),
        (["--qwen3", "{qwen3}", "--model", "neo_ov_2b"], ["does not fit", "every size is taken from the Qwen3"]),
        (["--qwen3", "{scenes}"], ["config.json is missing"]),
        (["--model", "{qwen3}"], ["`neo-lightning model init --qwen3 {qwen3}"]),
    ],
)
def test_what_does_not_go_together_says_what_does(
    options: list[str], said: list[str], qwen3: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [option.format(qwen3=qwen3, scenes=scenes) for option in options]
    line = ["model", "init", *given, "--tokenizer", str(scenes / "tokenizer"), "--out", str(tmp_path / "out")]
    assert main(line) == 2
    error = capsys.readouterr().err
    for part in said:
        assert part.format(qwen3=qwen3) in error
