"""Bad shards, samples, stores and recipes, by the numbers of the table of faults: what must happen, on real files.

REFUSE is a ShardError, ManifestError or PlanError before the first step (exit status 2), RETRY a RetryError at the
deadline (exit status 75), DROP a sample that is listed with its reason while all others are kept.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from neo_lightning.cli.main import main
from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.facts import RetryError, ShardError
from neo_lightning.data.index import ShardSource, iterate_samples, sample_ids
from neo_lightning.data.manifest import ManifestError, load_manifest
from neo_lightning.data.plan import PlanError
from neo_lightning.data.store import Store, StoreOptions
from neo_lightning.data.text.serialize import build_sequence, make_layout, make_outlines
from neo_lightning.data.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from neo_lightning.exits import TRY_AGAIN, USER_ERROR
from neo_lightning.types import PixelBudget, Stage, VideoBudget
from tests.data.data_helpers import chat, encoded, make_tokenizer, picture, write_tar
from tests.data.shard_server import ShardServer

PNG = encoded(picture())
GOOD = {f"s{i}.{e}": d for i in range(3) for e, d in (("json", chat("<image>What?", f"number {i}")), ("png", PNG))}
IMPATIENT = StoreOptions(deadline=0.2)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def opened(shard: Path, modality: str = "image") -> ShardSource:
    return ShardSource("a", modality, (shard,), store=Store(IMPATIENT))


def keys(source: ShardSource) -> list[str]:
    return [source.facts(*at).key for at in sample_ids(source)]


def refused(shard: Path, *said: str) -> None:
    """The shard is refused before the first step, saying its name and all this."""
    with pytest.raises(ShardError) as error:
        opened(shard)
    for part in (shard.name, *said):
        assert part in str(error.value)


def dropped(folder: Path, bad: dict[str, bytes], *said: str, modality: str = "image") -> None:
    """The sample `bad` is left out and says all this; its neighbours are kept."""
    source = opened(write_tar(folder / "a.tar", GOOD | bad), modality)
    assert keys(source) == ["s0", "s1", "s2"]
    assert [key for key, _ in source.skipped] == ["bad"]
    for part in said:
        assert part in source.skipped[0][1]


def tar_of(path: Path, *infos: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def test_fault_01_a_cut_tar_is_refused_with_its_byte(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", GOOD).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        second = tar.getmembers()[1]
    cut = tmp_path / "cut.tar"
    for size in (second.offset, second.offset + 100, second.offset_data + second.size // 2):
        cut.write_bytes(whole[:size])
        refused(cut, f"cut at byte {size}")


def test_fault_02_a_damaged_or_zeroed_header_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", GOOD)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        at = tar.getmembers()[3].offset
    for damage in (bytes(512), whole[at : at + 10] + b"#" + whole[at + 11 : at + 512]):
        path.write_bytes(whole[:at] + damage + whole[at + 512 :])
        refused(path, f"byte {at}")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>busy</html>" + b" " * 600])
def test_fault_03_no_shard_in_a_shards_place_is_retried_and_an_empty_tar_is_empty(
    tmp_path: Path, content: bytes, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(RetryError, match=r"a\.tar"):
        opened(tmp_path / "a.tar")
    assert main(["run", str(recipe(tmp_path, words)), "--data.manifest", str(tmp_path / "m.yaml")]) == TRY_AGAIN
    assert "a.tar" in capsys.readouterr().err
    assert opened(write_tar(tmp_path / "empty.tar", {})).shard_parts == 0


def test_fault_04_duplicate_and_scattered_keys_are_refused(tmp_path: Path) -> None:
    for names in (["x.json", "x.json"], ["x.json", "y.json", "x.json"], ["x.jpg", "y.json", "x.json"]):
        tar_of(tmp_path / "a.tar", *map(tarfile.TarInfo, names))
        refused(tmp_path / "a.tar", "x")
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", GOOD)
    with pytest.raises(ShardError, match=r"key 's[012]' lies in both .*a\.tar and .*b\.tar"):
        ShardSource("a", "image", (tmp_path / "a.tar", tmp_path / "b.tar"))


def test_fault_05_dots_follow_one_rule_or_are_refused(tmp_path: Path) -> None:
    members = {"v1.2/s.json": chat("<image>What?", "a"), "v1.2/s.png": PNG}
    assert keys(opened(write_tar(tmp_path / "a.tar", members))) == ["v1.2/s"]
    for name in ("v1.2/img.0001.2.jpg", "img.v2.jpg", ".jpg"):
        refused(tar_of(tmp_path / "a.tar", tarfile.TarInfo(name)), name)
    # webdataset merges these into one sample
    refused(tar_of(tmp_path / "a.tar", *map(tarfile.TarInfo, ("v1.2/img.0001.jpg", "v1.2/img.0002.jpg"))), "v1.2/img")


def test_fault_06_nothing_is_extracted_or_followed_and_names_are_escaped(tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    climbing = {"../../x.json": chat("<image>What?", "a"), "../../x.png": PNG}
    assert keys(opened(write_tar(inside / "a.tar", climbing))) == ["../../x"]
    assert not list(tmp_path.glob("x.*"))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo("evil\x1b[2J\n.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        source = opened(tar_of(inside / "b.tar", info))
        assert source.shard_parts == 0
        ((_, reason),) = source.skipped
        assert "link or a device" in reason
        assert reason.isprintable()


def test_fault_07_pickles_and_commands_are_refused(tmp_path: Path) -> None:
    for extension in ("pyd", "pkl", "pickle", "pth", "pt", "npy", "cls", "eps"):
        refused(tar_of(tmp_path / "a.tar", tarfile.TarInfo(f"x.{extension}")), extension, "nothing is ever unpickled")
    marker = tmp_path / "ran"
    for shards in (f"pipe:touch {marker}", f"pipe://touch {marker}", f"simplecache::file://{marker}"):
        (tmp_path / "m.yaml").write_text(f"sources: {{a: {{modality: image, shards: '{shards}'}}}}")
        with pytest.raises(ManifestError):
            load_manifest(tmp_path / "m.yaml")
    assert not marker.exists()


def test_fault_23_halves_of_a_sample_are_left_out(tmp_path: Path) -> None:
    dropped(tmp_path, {"bad.json": chat("<image>What?", "a")}, "places for 1 image", "no media")
    dropped(tmp_path, {"bad.png": PNG}, "no `conversations`")


def test_fault_24_places_and_media_have_to_match(tmp_path: Path) -> None:
    dropped(tmp_path, {"bad.json": chat("<image><image>What?", "a"), "bad.png": PNG}, "2 images", "1 image")
    bad = {"bad.json": chat("<image>What?", "a"), "bad.0.png": PNG, "bad.1.png": PNG}
    dropped(tmp_path, bad, "places for 1 image", "2 images", modality="multi_image")
    dropped(tmp_path, {"bad.json": chat("<video>What?", "a"), "bad.png": PNG}, "1 video", "1 image")


def test_fault_25_text_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    latin = chat("<image>What?", "a").replace(b"What", b"Wh\xe4t")
    dropped(tmp_path, {"bad.json": latin, "bad.png": PNG}, "not UTF-8 at byte")
    dropped(tmp_path, {"bad.json": chat("<image>a\0b", "a"), "bad.png": PNG}, "NUL")
    half = chat("<image>What?", "a").replace(b"What", rb"\ud800")
    dropped(tmp_path, {"bad.json": half, "bad.png": PNG}, "surrogate")


def test_fault_26_special_tokens_in_text_are_text(tmp_path: Path, words: Path) -> None:
    tokenizer = Tokenizer.load(words)
    evil = " ".join(SPECIAL_TOKENS)
    shard = write_tar(tmp_path / "a.tar", {"x.json": chat(f"<image>{evil}", evil), "x.png": PNG})
    source = opened(shard)
    facts = source.facts(0, 0)
    (outline,) = make_outlines([facts.turns], tokenizer)
    budget = PixelBudget(min_pixels=1024, max_pixels=4096)
    layout = make_layout(outline, facts.media, tokenizer, budget, VideoBudget())
    ids = build_sequence(layout, tokenizer).input_ids.tolist()
    counts = [ids.count(i) for i in (tokenizer.im_start_id, tokenizer.im_end_id, tokenizer.img_start_id)]
    assert counts == [2, 2, 1]
    assert ids.count(tokenizer.context_id) == 4
    assert tokenizer.decode(ids, skip_special_tokens=False).count("<img>") == 3, "the text still says it"


def test_fault_28_a_missing_shard_is_refused_before_and_retried_during_a_run(
    tmp_path: Path, words: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = recipe(tmp_path, words)
    assert main(["run", str(file)]) == USER_ERROR
    assert "a.tar' matches no file" in capsys.readouterr().err
    shard = write_tar(tmp_path / "a.tar", GOOD)
    (tmp_path / "my_vanish.py").write_text(
        "from pathlib import Path\n"
        "from lightning.pytorch import Callback\n"
        "class Vanish(Callback):\n"
        "    def __init__(self, shard: str) -> None: self.shard = shard\n"
        "    def on_fit_start(self, *args): Path(self.shard).unlink()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    vanish = f"--trainer.callbacks+={{class_path: my_vanish.Vanish, init_args: {{shard: {shard}}}}}"
    assert main(["run", str(file), vanish, "--data.num_workers=1"]) == TRY_AGAIN
    assert "No such file" in capsys.readouterr().err


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    (tmp_path / "remote").mkdir()
    write_tar(tmp_path / "remote" / "a.tar", GOOD)
    with ShardServer(tmp_path / "remote") as server:
        yield server


def test_fault_29_a_slow_failing_or_short_store_is_asked_again(server: ShardServer, tmp_path: Path) -> None:
    server.fail, server.short, server.page, server.seconds = 1, 1, 1, 0.05
    options = StoreOptions(cache=str(tmp_path / "cache"), deadline=10)
    source = ShardSource("a", "image", (f"{server.url}/a.tar",), store=Store(options))
    assert [s.key for s in iterate_samples(source)] == ["s0", "s1", "s2"]
    assert len(server.requests) == 4
    # other ranks wait in a collective meanwhile: ten minutes by default with NCCL, thirty with gloo
    assert StoreOptions().deadline < 600


def test_fault_30_a_replaced_shard_stops_the_run(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", GOOD)
    source = opened(path)
    data = bytearray(path.read_bytes())
    data[data.rindex(PNG) + 60] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"a\.tar: the bytes of \['s2\.png'\] are not those that were indexed"):
        list(iterate_samples(source))
    path.write_bytes(bytes(data)[:3000])
    with pytest.raises(ShardError, match="was replaced after it was indexed"):
        list(iterate_samples(source))


def stage(**changes: object) -> Stage:
    small = PixelBudget(min_pixels=1024, max_pixels=4096)
    given = {"steps": 2, "context": 128, "packs_per_step": 1, "mixture": {"a": 1}, "lr": 1e-3, "image": small}
    return Stage(**{**given, **changes})  # type: ignore[arg-type]


def test_fault_40_changed_data_under_a_checkpoint_is_refused_with_the_difference(tmp_path: Path, words: Path) -> None:
    write_tar(tmp_path / "a.tar", GOOD)
    (tmp_path / "m.yaml").write_text("sources: {a: {modality: image, shards: a.tar}}")

    def module(tokenizer: Path = words, **changes: object) -> NeoDataModule:
        return NeoDataModule(str(tmp_path / "m.yaml"), {"one": stage(**changes)}, str(tokenizer))

    trained = module()
    trained.next_step = 1
    state = json.loads(json.dumps(trained.state_dict()))
    module().load_state_dict(state)
    with pytest.raises(PlanError, match="context was 128, is 160"):
        module(context=160).load_state_dict(state)
    other = Tokenizer.load(words)
    other.backend.add_special_tokens(["<new>"])
    other.save(tmp_path / "other")
    with pytest.raises(PlanError, match="tokenizer: was"):
        module(tmp_path / "other").load_state_dict(state)
    write_tar(tmp_path / "a.tar", GOOD | {"s1.png": encoded(picture(seed=9))})
    with pytest.raises(PlanError, match="source a: was"):
        module().load_state_dict(state)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("manifest:", "manifst:", ["data.manifst", "Did you mean 'manifest'"]),
        ("steps: 2", "steps: many", ["steps", "int", "many"]),
        ("mixture: {a: 1}", "mixture: {a: -1}", ["stages.one", "'a' must be positive"]),
        ("mixture: {a: 1}", "mixture: {a: 0}", ["stages.one", "'a' must be positive"]),
        ("mixture: {a: 1}", "mixture: {b: 1}", ["one", "no source 'b'", "known: a"]),
    ],
)
def test_fault_41_a_wrong_recipe_is_refused_with_file_key_and_what_would_work(
    right: str, wrong: str, said: list[str], tmp_path: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "a.tar", GOOD)
    file = recipe(tmp_path, words)
    file.write_text(file.read_text().replace(right, wrong))
    assert main(["run", str(file)]) == USER_ERROR
    error = capsys.readouterr().err
    for part in ("recipe.yaml", *said):
        assert part in error


def test_fault_41_a_wrong_manifest_is_refused_too(
    tmp_path: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe(tmp_path, words)
    (tmp_path / "m.yaml").write_text("sources: {a: {modality: image, shard: a.tar}}")
    assert main(["run", str(file)]) == USER_ERROR
    error = capsys.readouterr().err
    for part in ("m.yaml", "'shard'", "did you mean 'shards'"):
        assert part in error


def recipe(folder: Path, tokenizer: Path) -> Path:
    """A run of two steps on `folder/a.tar`."""
    (folder / "m.yaml").write_text(
        "sources: {a: {modality: image, shards: a.tar}}\nstore: {deadline: 0.3}\n", encoding="utf-8"
    )
    file = folder / "recipe.yaml"
    file.write_text(
        f"""
run: {{name: micro, dir: {folder / "run"}}}
stages:
  one: {{steps: 2, context: 192, packs_per_step: 1, mixture: {{a: 1}}, lr: 1e-3,
         image: {{min_pixels: 1024, max_pixels: 4096}}}}
model:
  model: {{vocab_size: 448, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, extra_num_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, patch_hidden_size: 8}}
data: {{manifest: {folder / "m.yaml"}, tokenizer: {tokenizer}}}
trainer: {{accelerator: cpu, devices: 1, log_every_n_steps: 1}}
export: false
""",
        encoding="utf-8",
    )
    return file
