"""Reading and writing model folders: exact round trips, and errors that name everything that is wrong."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from neo_lightning.checkpoint.export import export_model
from neo_lightning.checkpoint.load import load_config, load_model, load_state
from neo_lightning.checkpoint.names import HEAD
from tests.model.support import GOLDEN, golden_config, small_model

LAYER = "language_model.model.layers.0.self_attn"


@pytest.fixture
def folder(tmp_path):
    """A copy of the golden model that a test may break."""
    target = tmp_path / "model"
    target.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, target / name)
    return target


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_released_folder_round_trip_is_bit_exact(tmp_path):
    model = load_model(GOLDEN)
    export_model(model, model.config, tmp_path / "out")
    before, after = load_file(GOLDEN / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_config(tmp_path / "out") == golden_config()


def test_sharded_round_trip_and_replacement_of_an_older_export(tmp_path):
    model = small_model(tie_word_embeddings=True)
    export_model(model, model.config, tmp_path / "out", shard_bytes=200_000)
    shards = sorted(file.name for file in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 3
    assert all((tmp_path / "out" / name).stat().st_size < 250_000 for name in shards)
    state = load_state(tmp_path / "out")
    assert HEAD not in state
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    export_model(model, model.config, tmp_path / "out", dtype=torch.bfloat16)
    files = sorted(file.name for file in (tmp_path / "out").iterdir() if not file.name.endswith("_neo_chat.py"))
    assert files == ["config.json", "model.safetensors"]
    again = load_model(tmp_path / "out", dtype=torch.bfloat16)
    assert all(torch.equal(p, model.state_dict()[n].bfloat16()) for n, p in again.named_parameters())
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("line", "kept"), [("A model, trained with neo_lightning 0.1.0.", False), ("Mine.", True)])
def test_a_new_export_takes_the_old_ones_card_away_and_nobody_elses_text(tmp_path, line, kept):
    model = small_model()
    export_model(model, model.config, tmp_path)
    (tmp_path / "README.md").write_text(f"# x\n\n{line}\n")
    export_model(model, model.config, tmp_path)
    assert (tmp_path / "README.md").exists() is kept


def test_export_copies_the_tokenizer_and_refuses_a_folder_without_one(tmp_path):
    model = small_model()
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ValueError, match="no tokenizer there"):
        export_model(model, model.config, tmp_path / "out", tmp_path / "tokenizer")
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    export_model(model, model.config, tmp_path / "out", tmp_path / "tokenizer")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_export_refuses_tensors_of_another_model(tmp_path):
    model = small_model()
    with pytest.raises(ValueError, match=r"unexpected: language_model\.model\.layers\.3\.mlp"):
        export_model(model, replace(model.config, num_hidden_layers=3), tmp_path / "out")


def test_every_missing_extra_and_misshaped_tensor_is_listed(folder):
    def change(tensors):
        del tensors[f"{LAYER}.q_proj.weight"], tensors["language_model.model.norm.weight"]
        tensors["language_model.model.layers.9.mlp.up_proj.weight"] = torch.zeros(2)
        tensors[f"{LAYER}.k_norm_h.weight"] = torch.zeros(5)

    rewrite(folder, change)
    with pytest.raises(ValueError, match="2 missing, 1 unexpected, 1 of another shape") as error:
        load_model(folder)
    for expected in (
        f"missing: {LAYER}.q_proj.weight",
        "missing: language_model.model.norm.weight",
        "unexpected: language_model.model.layers.9.mlp.up_proj.weight",
        f"shape: {LAYER}.k_norm_h.weight is [5], expected [16]",
    ):
        assert expected in str(error.value)


def test_a_sensenova_u1_is_refused_by_its_name(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "fm_head_dim": 1536}))
    with pytest.raises(ValueError, match=r"config\.json: this is a SenseNova-U1.*fm_head_dim"):
        load_config(folder)
    (folder / "config.json").write_text(json.dumps({**config, "llm_config": {}}))  # its own lacks fields of NEO's
    rewrite(folder, lambda tensors: tensors.update({f"{LAYER}.q_proj_mot_gen.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=rf"this is a SenseNova-U1.*1 of its tensors.*{LAYER}\.q_proj_mot_gen"):
        load_model(folder)


def test_quantised_weights_are_refused_and_not_listed_one_by_one(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "torchao"}}))
    with pytest.raises(
        ValueError, match=r"config\.json: the weights are quantised \(torchao\), which transformers reads"
    ):
        load_model(folder)


def test_a_neo_is_recognised_by_its_q_proj_hw(folder):
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "q_proj_hw" in name])
    with pytest.raises(ValueError, match="this is no NEO, whose layers have a q_proj_hw"):
        load_model(folder)


def test_integer_weights_are_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({f"{LAYER}.q_proj.weight": torch.zeros(128, 64, dtype=torch.int8)}))
    with pytest.raises(ValueError, match=r"q_proj\.weight is torch\.int8"):
        load_state(folder)


def test_a_tied_folder_may_repeat_the_embeddings_as_head_but_not_contradict_them(tmp_path):
    model = small_model(tie_word_embeddings=True)
    export_model(model, model.config, tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({HEAD: model.head_weight.detach().clone()}))
    assert torch.equal(load_model(tmp_path).head_weight, model.head_weight)
    rewrite(tmp_path, lambda tensors: tensors.update({HEAD: model.head_weight.detach() + 1}))
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        load_model(tmp_path)


class Trap:
    def __reduce__(self):
        return (open, ("trap-was-sprung", "w"))


def test_pickled_weights_are_named_and_never_opened(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"pickled weights only \(pytorch_model\.bin\)"):
        load_model(folder)
    assert not (folder / "trap-was-sprung").exists()


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/etc/outside.safetensors", "sub/x.safetensors", 7, "x.bin"]
)
def test_an_index_cannot_leave_its_folder(folder, shard):
    shutil.copyfile(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ValueError, match=r"expected the name of a \.safetensors file in"):
        load_model(folder)


def test_an_index_has_to_agree_with_its_files(folder):
    names = list(load_file(folder / "model.safetensors"))
    weight_map = dict.fromkeys([*names[1:], "invented"], "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="invented") as error:
        load_model(folder)
    assert names[0] in str(error.value)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(ValueError, match=r"gone\.safetensors is missing"):
        load_model(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "not valid JSON"),
        ("config.json", b"[1]", "expected a JSON object"),
        ("config.json", b'{"model_type": "qwen3"}', "neo-lightning model init --qwen3"),
        ("config.json", b'{"model_type": "llama"}', "expected model_type 'neo_chat', found 'llama'"),
        ("model.safetensors", b"\xff" * 100, "not a readable safetensors file"),
        ("model.safetensors", b"", "not a readable safetensors file"),
    ],
)
def test_damaged_files_are_named(folder, file, content, message):
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_model(folder)
    assert file in str(error.value)
