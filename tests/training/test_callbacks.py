"""Logs, lists and bars around a run, and answers with pictures from real shards."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.text.tokenizer import train_tokenizer
from neo_lightning.training.callbacks import (
    CommitCheckpoint,
    Curriculum,
    DataPosition,
    RunProgress,
    SampleGenerations,
    Throughput,
)
from neo_lightning.training.callbacks.progress import row_tokens
from neo_lightning.training.callbacks.samples import picture
from neo_lightning.training.callbacks.throughput import NAMES
from neo_lightning.training.loggers import RunCSVLogger
from neo_lightning.training.module import NeoModule
from neo_lightning.types import PackedBatch, PixelBudget

from .tiny import CONFIG, TinyData, make_row, module, stage, stages, trainer


def lines(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def fit(folder: Path, *, steps: int = 12, resume: Path | None = None, data: TinyData | None = None) -> list[Any]:
    run = stages()
    own = [DataPosition(), Throughput(), Curriculum(print_table=False), CommitCheckpoint(every_n_steps=3, keep_last=0)]
    logger = RunCSVLogger(str(folder))
    fitter = trainer(folder, steps=steps, callbacks=own, logger=logger, log_every_n_steps=2)
    net = module(run)
    fitter.fit(net, datamodule=data or TinyData(run), ckpt_path=resume)
    assert float(fitter.callback_metrics["loss"]) == pytest.approx(net.metrics["loss"])  # a user's callback sees it
    return own


def test_every_number_is_logged_with_its_step(tmp_path: Path) -> None:
    fit(tmp_path)
    rows = lines(tmp_path / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [1, 2, 4, 6, 8, 10, 12]
    # these need a GPU, data, other ranks
    others = {"mfu", "memory_gib", "val_loss", "slowest_rank", "slowest_s", "balance"}
    known = {name for name in NAMES if "/" not in name} - others
    assert known | {"step", "loss/text", "loss/image"} == set(rows[0])
    assert [row["stage"] for row in rows] == ["0.0"] * 3 + ["1.0"] * 4
    per_step = [sum(make_row(2 * s + i, 24 if s < 4 else 32).info.tokens for i in range(2)) for s in range(12)]  # type: ignore[union-attr]
    assert float(rows[-1]["tokens"]) == sum(per_step)
    assert float(rows[-1]["pack_fill"]) == pytest.approx(52 / 64)
    for row in rows:
        assert float(row["tokens_per_s"]) > float(row["supervised_tokens_per_s"]) > 0
        assert 0 <= float(row["data_wait"]) < 1


def test_a_resumed_run_goes_on_in_the_same_files(tmp_path: Path) -> None:
    fit(tmp_path / "whole")
    fit(tmp_path / "cut", steps=9)
    fit(tmp_path / "cut", resume=tmp_path / "cut/checkpoints/step-00000006")
    whole, cut = (lines(tmp_path / name / "metrics.csv") for name in ("whole", "cut"))
    assert len({row["step"] for row in cut}) == len(cut)
    timeless = ("step", "loss", "loss/text", "lr", "grad_norm", "stage", "tokens", "skipped_steps")
    exact = [[{k: row[k] for k in timeless} for row in rows] for rows in (whole, cut)]
    assert exact[0] == exact[1]


def test_csv_columns_may_come_later_and_kills_lose_little(tmp_path: Path) -> None:
    log = RunCSVLogger(str(tmp_path), flush_every=2)
    log.log_metrics({"a": 0.1 + 0.2}, step=1)
    log.log_metrics({"b": torch.tensor(2.0)}, step=1)
    log.log_metrics({"a": 1.0, "b": 7.0}, step=2)
    log.log_metrics({"c": 3.0}, step=3)  # the first two are written now; this one dies with the process
    assert [row["step"] for row in lines(tmp_path / "metrics.csv")] == ["1", "2"]
    assert float(lines(tmp_path / "metrics.csv")[0]["a"]) == 0.1 + 0.2
    again = RunCSVLogger(str(tmp_path), flush_every=2)
    again.log_metrics({"a": 5.0, "c": 4.0}, step=2)  # step 2 is repeated
    again.finalize("success")
    more = RunCSVLogger(str(tmp_path))
    more.log_metrics({"val_loss": 6.0}, step=2)  # not the step, but the validation behind it that was left
    more.finalize("success")
    assert [
        (row["step"], row["a"], row["b"], row["c"], row["val_loss"]) for row in lines(tmp_path / "metrics.csv")
    ] == [
        ("1", "0.30000000000000004", "2.0", "", ""),
        ("2", "5.0", "", "4.0", "6.0"),
    ]


def test_csv_lines_are_not_kept_back_for_long(tmp_path: Path) -> None:
    """A slow run's curve is seen while it trains, not twenty logged steps later."""
    for name, seconds, seen in (("slow", 0.0, ["1", "2"]), ("quick", 1e9, [])):
        log = RunCSVLogger(str(tmp_path / name), flush_s=seconds)
        for step in (1, 2, 3):
            log.log_metrics({"a": 1.0}, step=step)
        file = tmp_path / name / "metrics.csv"
        assert ([row["step"] for row in lines(file)] if file.exists() else []) == seen


class _BadRows(TinyData):
    """Every fifth step holds a tombstone."""

    def train_dataloader(self) -> Any:
        def steps() -> Iterator[list[PackedBatch]]:
            step = self.next_step
            while True:
                row = make_row(step)
                assert row.info is not None
                if step == 7:  # the plan comes to a unit that it had not measured before
                    self.skipped.add("x/late", "too late for this")
                bad = ((f"x/{step}\udce9", "says [/b] here"),) if step % 5 == 0 else ()
                yield [replace(row, info=replace(row.info, tombstones=bad))]
                step += 1

        return steps()


def test_left_out_samples_are_listed_once(tmp_path: Path) -> None:
    data = _BadRows(stages())
    data.skipped.add("x/long", "longer than the context")
    fit(tmp_path, steps=11, data=data)
    again = _BadRows(stages())
    again.skipped.add("x/long", "longer than the context")
    own = fit(tmp_path, resume=tmp_path / "checkpoints/step-00000009", data=again)
    listed = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert listed[0] == {"step": None, "sample": "x/long", "reason": "longer than the context"}
    assert [entry["step"] for entry in listed if entry["step"] is not None] == [0, 5, 10]
    assert [entry["sample"] for entry in listed if entry["step"] is None] == ["x/long", "x/late"]
    assert own[0].reasons == {"longer than the context": 1, "too late for this": 1, "says [/b] here": 3}
    assert own[1].tombstones == 3


def test_progress_counts_tokens_over_all_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stages(4, 8)
    assert [row_tokens(run, n) for n in (0, 1, 4, 5, 12)] == [0, 48, 192, 256, 704]
    bar = RunProgress(every_n_steps=5)
    fitter = trainer(tmp_path, Throughput(), bar, save_every=0, enable_progress_bar=True)
    fitter.fit(module(run), datamodule=TinyData(run))
    told = [line for line in capsys.readouterr().out.splitlines() if " loss " in line]
    assert [line.split("step ")[1].split("/")[0] for line in told] == ["1", "5", "10", "12"]
    assert told[0].startswith("[pre_training]")
    assert told[-1].startswith("[mid_training] step 12/12")
    assert "left 0:00:00" in told[-1]


def test_old_checkpoints_go_and_stage_ends_stay(tmp_path: Path) -> None:
    run = stages()
    saver = CommitCheckpoint(every_n_steps=3, keep_last=2)
    trainer(tmp_path, callbacks=[saver]).fit(module(run), datamodule=TinyData(run))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000004",
        "step-00000009",
        "step-00000012",
    ]


def test_the_table_of_trained_parameters_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stages()
    own = [Curriculum()]
    trainer(tmp_path, callbacks=own, steps=1, enable_checkpointing=False).fit(module(run), datamodule=TinyData(run))
    printed = capsys.readouterr().out
    assert "Trained of 14.87K parameters" in printed
    first, second = (line for line in printed.splitlines() if "_training" in line)
    assert "frozen" in first
    assert "frozen" not in second


def test_picture_puts_patches_back() -> None:
    image = torch.randint(0, 256, (3, 32, 64), dtype=torch.uint8)
    patches = image.view(3, 2, 16, 4, 16).permute(1, 3, 0, 2, 4).reshape(8, 768)
    other = torch.zeros(4, 768, dtype=torch.uint8)
    whole = picture(torch.cat([patches, other]), torch.tensor([[1, 2], [1, 1]]))
    assert whole.shape == (3, 32, 64 + 4 + 32)
    assert torch.equal(whole[:, :, :64], image)
    assert (whole[:, :, 64:68] == 128).all()


def _shards(folder: Path) -> None:
    """Sixteen coloured squares with a question, as WebDataset shards."""
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    with tarfile.open(folder / "squares.tar", "w") as tar:
        for i in range(16):
            name = list(colours)[i // 8]
            buffer = io.BytesIO()
            Image.new("RGB", (64, 32 + 32 * (i % 3)), colours[name]).save(buffer, "PNG")
            turns = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": name}]
            members = {"json": json.dumps({"conversations": turns}).encode(), "png": buffer.getvalue()}
            for extension, content in members.items():
                info = tarfile.TarInfo(f"square{i:02d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_answers_with_pictures_from_real_shards(tmp_path: Path) -> None:
    """The real data module, training, a resume, and generations in TensorBoard."""
    _shards(tmp_path)
    tokenizer = train_tokenizer(["user assistant Which colour? red blue"] * 10, 300, tmp_path / "tokenizer")
    (tmp_path / "manifest.yaml").write_text("sources:\n  squares: {modality: image, shards: squares.tar}\n")
    budget = PixelBudget(min_pixels=1024, max_pixels=8192)
    run = {"only": stage(6, mixture={"squares": 1.0}, context=96, image=budget, lr=1e-2)}
    config = replace(CONFIG, vocab_size=tokenizer.vocab_size, image_token_id=tokenizer.context_id)

    def go(folder: Path, resume: Path | None = None) -> tuple[NeoModule, Any, float]:
        data = NeoDataModule(str(tmp_path / "manifest.yaml"), run, str(tmp_path / "tokenizer"), validation=["squares"])
        held_out = None if resume else {"image": str(tmp_path / "squares.tar")}
        samples = SampleGenerations(held_out, 3, per_modality=2, max_new_tokens=5)
        board = TensorBoardLogger(str(folder), name="", version="")
        net = NeoModule(run, model=config)  # type: ignore[arg-type]
        fitter = trainer(folder, Throughput(), samples, steps=6, logger=board)
        fitter.fit(net, datamodule=data, ckpt_path=resume)
        return net, data, fitter.validate(net, datamodule=data, verbose=False)[0]["val_loss"]

    first, _, before = go(tmp_path / "a")
    second, data, after = go(tmp_path / "b", tmp_path / "a/checkpoints/step-00000003")
    assert data.next_step == 6
    assert first.report == second.report
    assert before == after
    assert 0 < after < 6
    events = EventAccumulator(str(tmp_path / "a"), size_guidance={"images": 0})
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["samples/image_0", "samples/image_1"]
    assert [event.step for event in events.Images("samples/image_0")] == [3, 6]
    shown = Image.open(io.BytesIO(events.Images("samples/image_0")[0].encoded_image_string))
    assert shown.getpixel((10, 10))[0] > 250  # the red square, as it lies in the shard
    text = events.Tensors("samples/image_1/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "Which colour?" in text
    assert "**truth**\n\n    blue" in text
    assert "loss" in events.Tags()["scalars"]
    own = EventAccumulator(str(tmp_path / "b"), size_guidance={"images": 0})
    own.Reload()
    assert sorted(own.Tags()["images"]) == ["samples/squares_0", "samples/squares_1"]  # without shards: validation's
