"""`plan`: what a recipe will take, before it is run; the shipped recipes must fit what their heads promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neo_lightning.cli.main import main
from neo_lightning.cli.recipe import shipped


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def rows(shown: str) -> dict[str, list[str]]:
    """First cell of each line of the tables -> the others, of the first table that has it."""
    found: dict[str, list[str]] = {}
    for line in shown.splitlines():
        if row := [cell.strip() for cell in line.split("│")[1:-1]]:
            found.setdefault(row[0], row[1:])
    return found


def test_a_recipes_outlook_is_shown_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "neo_ov_2b", "--device", "h100", "--devices", "8", "--stages.sft.steps=7200", "--strict"]
    assert main([*line, "--model.activation_checkpointing=full"]) == 0
    shown = capsys.readouterr().out
    found = rows(shown)
    trained, flops, repeated, pairs, speed, tokens, days = found["sft"]
    assert trained == "2,585.5 M"
    assert tokens == f"{7200 * 128 * 36864 / 1e9:.3g} G"
    assert 10 < float(flops) < 30
    assert 32 < float(repeated.strip("+%")) < 34, "the layers' forward pass, about a third of the step"
    rate = float(speed.replace(",", ""))
    assert rate == pytest.approx(8 * 989.4e12 * 0.35 / float(flops) / 1e9, rel=0.01)
    assert float(days) == pytest.approx(7200 * 128 * 36864 / rate / 86400, rel=0.01)
    assert float(pairs.replace(",", "")) > 1000
    assert found["pretrain"][0] == "864.9 M"
    assert found["weights as kept"] == [f"{2.585453568e9 * 4 / 8 / 2**30:.2f}"] * 4
    assert float(found["most at one time"][3]) < 60
    assert "no GPU has been measured" in " ".join(shown.split())


def test_what_ranks_wait_for_each_other_is_said_for_the_recipes_way(
    micro: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["plan", str(micro), "--device", "cpu", "--stages.one.packs_per_step=8"]
    for way in ("steps", "slots", "none"):
        assert main([*line, "--devices", "2", f"--data.balance={way}"]) == 0
        shown = capsys.readouterr().out
        last = shown[shown.index("Time that is work") :]
        assert ("rows as they come" in last, f"data.balance: {way}" in last) == (True, way != "none")
        shares = [float(x.strip("%")) for x in rows(last)["one"]]
        assert len(shares) == 1 + (way != "none")
        assert 50 < shares[0] < shares[-1] or way == "none"
    assert main([*line, "--devices", "1"]) == 0
    assert "Time that is work" not in capsys.readouterr().out, "one device waits for nobody"


def test_layers_are_kept_gathered_in_the_stages_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "neo_ov_2b", "--device", "h100", "--devices", "8"]
    peaks: dict[str, list[float]] = {}
    for kept in ("false", "true", "[sft]"):
        assert main([*line, f"--trainer.strategy.init_args.keep_gathered={kept}"]) == 0
        peaks[kept] = [float(peak) for peak in rows(capsys.readouterr().out)["most at one time"]]
    assert all(y > x + 1 for x, y in zip(peaks["false"], peaks["true"], strict=True)), "GiB: a copy of the weights"
    assert peaks["[sft]"] == [*peaks["false"][:-1], peaks["true"][-1]]
    assert main([*line, "--trainer.strategy.init_args.keep_gathered=[sff]"]) == 2
    assert "keep_gathered: there is no stage 'sff'; there are: " in capsys.readouterr().err


def test_what_does_not_fit_is_said_with_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "finetune", "--model.model=neo_ov_2b", "--devices", "4", "--strict"]
    assert main([*line, "--device", "a100-40g", "--model.activation_checkpointing=none"]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"does not fit: stage sft needs [\d.]+ GiB a device, 36\.6 are there", shown)
    assert main([*line[:-1], "--device", "a100-40g", "--model.activation_checkpointing=none"]) == 0, "without --strict"


def test_on_a_cpu_a_saves_copy_lies_beside_the_peak(capsys: pytest.CaptureFixture[str]) -> None:
    """In the memory of the device there, in the host's elsewhere."""
    line = ["plan", "demo", "--devices", "1", "--model.ema=0.99", "--device"]
    assert main([*line, "cpu"]) == 0
    found = rows(capsys.readouterr().out)
    stage = len(found["most at one time"]) - 1
    peak, copy = (float(found[part][stage]) for part in ("most at one time", "in host memory: a save's copy"))
    kept = sum(
        float(found[part][stage]) for part in ("weights as kept", "optimiser's moments", "averages of the weights")
    )
    assert copy == pytest.approx(kept, abs=0.02)
    room = ["--memory", str(1.05 * (peak + copy / 2)), "--strict"]
    assert main([*line, "cpu", *room]) == 1
    assert f"needs {peak + copy:.1f} GiB" in capsys.readouterr().out
    room[1] = str(1.05 * (peak + copy / 2) + 1.6)
    assert main([*line, "l4", *room]) == 0


def test_as_few_layers_are_recomputed_as_will_do(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "neo_ov_2b", "--devices", "128", "--strict"]
    assert main([*line, "--model.recomputed_layers=0"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    found = re.findall(r"--model.activation_checkpointing=selective --model.recomputed_layers=(\d+);", shown)
    layers = max(int(n) for n in found)
    assert main([*line, f"--model.recomputed_layers={layers}"]) == 0, "the way offered does fit"
    assert main([*line, f"--model.recomputed_layers={layers - 1}"]) == 1


def test_other_devices_are_described_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "finetune_small", "--model.model=neo_ov_2b"]
    assert main([*line, "--device", "h101"]) == 2
    assert "Did you mean 'h100'" in capsys.readouterr().err
    assert main([*line, "--device", "h101", "--memory", "200", "--peak", "3000", "--mfu", "0.5"]) == 0
    assert "190.5 GiB for tensors, 3000 TFLOP/s" not in capsys.readouterr().out, "a GPU keeps a reserve"
    assert main([*line, "--devices", "0"]) == 2
    assert main(["plan", "finetune_smal"]) == 2
    assert "Did you mean 'finetune_small'" in capsys.readouterr().err


def test_sources_without_a_manifest_are_guessed(micro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(micro), "--device", "cpu", "--data.manifest=nowhere.yaml"]) == 0
    found = rows(capsys.readouterr().out)
    assert found["one"][3] == "96", "text alone: documents longer than the context are cut, (192 + 1) / 2 pairs a token"
    assert found["two"][3] != "96", "with images by the name of their source"


def test_rows_that_are_shared_are_planned_in_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same tokens on as many devices: half of the activations of each, as much work, and heads exchanged."""
    recipe = tmp_path / "shared.yaml"
    text = shipped("recipes")["neo_ov_9b"].read_text()
    assert "sequence_size: 2" in text
    found = {}
    for parts in (1, 2, 4):
        recipe.write_text(text.replace("sequence_size: 2", f"sequence_size: {parts}"))
        assert main(["plan", str(recipe)]) == 0
        found[parts] = rows(shown := capsys.readouterr().out)
        assert ("devices that share a row exchange" in " ".join(shown.split())) == (parts > 1)
    kept = {parts: float(lines["activations of a row"][2]) for parts, lines in found.items()}
    assert kept[1] / kept[2] == pytest.approx(2, rel=0.1)
    assert kept[2] / kept[4] == pytest.approx(2, rel=0.1)
    assert found[1]["mid_36k"][:6] == found[2]["mid_36k"][:6], "the work of a token, and all tokens"
    recipe.write_text(text.replace("sequence_size: 2", "sequence_size: 3"))
    assert main(["plan", str(recipe), "--devices", "126"]) == 2
    assert "sequence_size 3 does not deal 32 heads and 8 key heads evenly" in capsys.readouterr().err
    assert main(["plan", str(recipe), "--devices", "128"]) == 2
    assert "sequence_size 3 does not divide the number of ranks, 128" in capsys.readouterr().err


HARDWARE = {
    "demo": ("cpu", 1),
    "finetune": ("h100", 8),
    "finetune_lora": ("rtx-4090", 1),
    "finetune_small": ("h100", 1),
    "neo_2b": ("h100", 128),
    "neo_9b": ("h100", 128),
    "neo_ov_2b": ("h100", 128),
    "neo_ov_9b": ("h100", 128),
}
"""Shipped recipe -> what its head says it runs on."""


@pytest.mark.parametrize(
    "name", sorted(shipped("recipes").keys() - {"photos", "photos_lora"})
)  # whose model is a run's
def test_a_shipped_recipe_fits_its_hardware(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    device, count = HARDWARE[name]
    preset = ["--model.model=neo_ov_2b"] if name.startswith("finetune") else []  # theirs is a folder of the user's
    status = main(["plan", name, "--device", device, "--devices", str(count), "--strict", *preset])
    assert status == 0, capsys.readouterr().out


def test_low_rank_terms_leave_most_of_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """The 9B on one device of 80 GB; of the 2B the same recipe with all weights trained needs three times as much."""
    line = ["plan", "finetune_lora", "--strict", "--device"]
    assert main([*line, "h100", "--model.model=neo_ov_9b"]) == 0
    capsys.readouterr()
    assert main([*line, "rtx-4090", "--model.model=neo_ov_2b"]) == 0
    terms = float(rows(capsys.readouterr().out)["most at one time"][0])
    whole = ["--model.lora=null", "--stages.sft.trains=[all]"]
    assert main([*line, "rtx-4090", "--model.model=neo_ov_2b", *whole]) == 1
    assert float(rows(capsys.readouterr().out)["most at one time"][0]) > 2.5 * terms
    with_all = ["--model.model=neo_ov_2b", "--stages.sft.trains=[all]"]
    assert main([*line, "rtx-4090", *with_all]) == 2
    assert "which model.lora adapts" in capsys.readouterr().err


DOCS = Path(__file__).parents[2] / "docs" / "using.md"


def test_the_manuals_memory_of_a_base_in_few_bits_is_the_plans(capsys: pytest.CaptureFixture[str]) -> None:
    """And the recipe's head promises the 9B on 24 GB."""
    table = re.findall(
        r"^\| (2B|9B) \| ([\d,]+) \| (\d+)[^|]* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
        DOCS.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(table) == 4
    for size, tokens, layers, *said in table:
        line = ["plan", "finetune_lora", "--device", "l4", "--strict", f"--model.model=neo_ov_{size.lower()}"]
        line += ["--model.init.kind=scratch", "--model.init.folder=null", f"--model.recomputed_layers={layers}"]
        line += [f"--stages.sft.context={tokens.replace(',', '')}"]
        for bits, gib in zip(("null", "8", "4"), said, strict=True):
            fits = main([*line, f"--model.lora.base_bits={bits}"])
            (shown,) = rows(capsys.readouterr().out)["most at one time"]
            assert float(shown) == pytest.approx(float(gib), abs=0.051)
            assert fits == (bits == "null" and size == "9B"), f"{size}, {bits}: on 24 GB"
