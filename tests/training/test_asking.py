"""A model that is asked while it trains: gathered once or for every token, on ranks that end at different tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.model.generate import generate
from neo_lightning.model.neo import Neo
from neo_lightning.model.prompt import Prompt
from neo_lightning.training.asking import asked, cache_bytes
from neo_lightning.training.build import Init
from neo_lightning.training.callbacks import SampleGenerations
from neo_lightning.training.ema import EMA
from neo_lightning.training.module import NeoModule
from neo_lightning.training.strategy import NeoStrategy
from neo_lightning.types import PixelBudget
from tests.data.data_helpers import chat, encoded, make_tokenizer, picture, write_tar
from tests.forks import Server

from . import tiny
from .messages import Messages

CONTEXT = 160
GROUPS = tiny.CONFIG.num_hidden_layers + 1
"""What FSDP2 gathers at once: each layer, and the root."""


class Shows(SampleGenerations):
    """Notes what is shown, and how many samples this rank has read."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.noted: list[tuple[int, list[str], list[int], list[str]]] = []

    def _log(self, trainer: Any, shown: Any, prompts: Any, answers: list[str]) -> None:
        lengths = [prompt.input_ids.numel() for prompt in prompts]
        self.noted.append((trainer.global_step, [item.tag for item in shown], lengths, answers))


class Asks(Callback):
    """After the last step: questions dealt to the ranks, and what they send."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step < 4:
            return
        before = own_weights(pl_module.model)
        averages = trainer.optimizers[0].state
        weights = {name: full(averages[p][EMA]) for name, p in pl_module.model.named_parameters()}
        whole = Neo(pl_module.config)
        whole.load_state_dict(weights)
        self.found = {}
        for room in (0.5, 0.0):
            with Messages() as outside, asked(trainer, pl_module, room=room) as (engine, ranks):
                with Messages() as inside:
                    lengths = self.ask(engine, whole, ranks)
                lengths = ranks.gather([lengths])
            gathers = [sum(m.operator == "_allgather_base_" for m in part.seen) for part in (outside, inside)]
            self.found[room] = {"lengths": lengths, "before": gathers[0] - gathers[1], "while": gathers[1]}
            self.found[room]["messages"] = len(inside.seen)
        assert all(torch.equal(a, b) for a, b in zip(before, own_weights(pl_module.model), strict=True))

    @staticmethod
    def ask(engine: Any, whole: Neo, ranks: Any) -> int:
        """This rank's two answers are those of the averages, whole; their longest length."""
        none = {"grids": torch.empty(0, 2).int(), "patches": torch.empty(0, 768, dtype=torch.uint8)}
        ids = [torch.arange(3 + ranks.rank, 5 + 4 * ranks.rank + n) for n in range(2)]
        prompts = [Prompt(input_ids=row, visual=torch.zeros(len(row), dtype=torch.bool), **none) for row in ids]
        most = 4 + 8 * ranks.rank
        free = generate(whole, prompts, max_new_tokens=12)
        ends = {answer[most - 2] for answer in free}
        alone = generate(whole, prompts, max_new_tokens=12, stop_ids=ends)
        found = generate(engine.model, prompts, max_new_tokens=12, stop_ids=ends, all_ended=engine._all_ended)
        assert found == alone, f"rank {ranks.rank}: {found} and of the whole model {alone}"
        return max(map(len, alone))


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_weights(model: torch.nn.Module) -> list[Tensor]:
    """This rank's part."""
    if hasattr(model, "reshard"):
        model.reshard()
    parts = (p.detach() for p in model.parameters())
    return [(p.to_local() if isinstance(p, DTensor) else p).clone() for p in parts]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions of different lengths about pictures, one longer than the context."""
    folder = tmp_path_factory.mktemp("asked")
    make_tokenizer(folder)
    members = {}
    for i in range(6):
        words = " left" * (200 if i == 3 else 1 + 2 * i)
        members[f"q{i}.json"] = chat(f"<image>What{words}?", f"number {i}")
        members[f"q{i}.png"] = encoded(picture(64, 32, i), "PNG")
    write_tar(folder / "q.tar", members)
    (folder / "m.yaml").write_text("sources:\n  q: {modality: image, shards: q.tar}\n")
    return folder


def train(ranks: int, data: str, folder: str, *, asks: bool = True, shards: dict[str, str] | None = None) -> None:
    """One of the ranks: four steps of two stages."""
    torch.set_num_threads(1)
    tokenizer, budget = Tokenizer.load(data), PixelBudget(min_pixels=1024, max_pixels=4096)
    one = tiny.stage(2, lr=1e-4, context=CONTEXT, mixture={"q": 1.0}, image=budget)
    run = {"one": one, "two": replace(one, lr=1e-5)}
    ids = {"image_token_id": tokenizer.context_id, "image_start_token_id": tokenizer.img_start_id}
    config = replace(tiny.CONFIG, vocab_size=tokenizer.vocab_size, **ids)
    varied = Init(std=0.5)  # a smaller one says the same to every question
    net = NeoModule(run, model=config, init=varied, ema=0.5)  # type: ignore[arg-type]
    shows, watch = Shows(shards=shards, per_modality=6, max_new_tokens=5), Asks()
    callbacks = (shows, watch) if asks else ()
    rows = NeoDataModule(f"{data}/m.yaml", run, data)
    fitter = tiny.trainer(Path(folder), *callbacks, steps=4, save_every=0, devices=ranks, strategy=NeoStrategy())
    fitter.fit(net, datamodule=rows)
    assert net.report is not None
    found = {"loss": net.report.loss, "shown": shows.noted, "read": len(shows._shown)}
    found |= {"asked": getattr(watch, "found", None)}
    (Path(folder) / f"{ranks}-{fitter.global_rank}-{asks}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(forks: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ranks noted, by `ranks-rank-asked`; and the output of two."""
    folder = tmp_path_factory.mktemp("found")
    outputs = {}
    for ranks in (1, 2):
        call = "tests.training.test_asking:train_twice"
        status, outputs[ranks] = forks.run(call, ranks, str(data), str(folder), ranks=ranks)
        assert status == 0, outputs[ranks]
    notes = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    return notes | {"output": outputs[2]}


def train_twice(ranks: int, data: str, folder: str) -> None:
    train(ranks, data, folder)
    train(ranks, data, folder, asks=False)


def test_samples_of_two_ranks_are_those_of_one(found: dict[str, Any]) -> None:
    one, two, other = found["1-0-True"], found["2-0-True"], found["2-1-True"]
    assert [step for step, *_ in one["shown"]] == [4], "one device: every 500 steps, and at the end"
    assert [step for step, *_ in two["shown"]] == [2, 4], "several: at the ends of stages"
    assert two["shown"][-1] == one["shown"][-1]
    _, tags, lengths, answers = two["shown"][-1]
    assert tags == [f"samples/q_{i}" for i in (0, 1, 2, 4, 5)]
    assert len(set(lengths)) == 5
    assert len(set(answers)) > 1
    assert (two["read"], other["read"], other["shown"]) == (6, 0, []), "one rank reads"


def test_a_question_longer_than_the_context_is_left_out_and_named(found: dict[str, Any]) -> None:
    assert "sample generations: q3 is left out: its question has" in found["output"]
    assert f"tokens, the stage's context {CONTEXT}" in found["output"]


def test_asking_changes_no_bit_of_the_training(found: dict[str, Any]) -> None:
    for rank in ("1-0", "2-0"):
        assert found[f"{rank}-True"]["loss"] == found[f"{rank}-False"]["loss"]


def test_weights_are_gathered_once_and_not_for_every_token(found: dict[str, Any]) -> None:
    for rank in range(2):
        gathered, each = (found[f"2-{rank}-True"]["asked"][room] for room in ("0.5", "0.0"))
        assert gathered["lengths"] == each["lengths"]
        short, long = sorted(each["lengths"])
        assert short < long, "the ranks' answers end at different tokens"
        assert (gathered["before"], gathered["while"]) == (GROUPS, 0)
        assert gathered["messages"] == long + 2, "the ranks agree whether to stop, and send nothing else"
        assert each["before"] == 0
        layers = GROUPS - 1
        assert each["while"] == layers * (long + 1) + 1, "every layer for every token, the root once"
        assert each["messages"] == each["while"] + long + 2, "and the ranks agree whether to stop"


def test_samples_that_cannot_be_read_end_every_rank(forks: Server, data: Path, tmp_path: Path) -> None:
    pattern = {"q": str(tmp_path / "none-*.tar")}
    status, output = forks.run("tests.training.test_asking:train_on", 2, str(data), str(tmp_path), pattern, ranks=2)
    assert status != 0
    assert "sample generations, on rank 0: " in output
    assert output.count("none-*.tar") >= 2


def train_on(ranks: int, data: str, folder: str, shards: dict[str, str]) -> None:
    train(ranks, data, folder, shards=shards)


def test_a_cache_has_two_numbers_for_a_key_and_one_for_a_value() -> None:
    config = tiny.CONFIG
    per_token = config.num_hidden_layers * config.num_key_value_heads * 3 * config.head_dim
    assert cache_bytes(config, 10, 2) == 2 * 10 * per_token
