"""A sweep's file: what it means, and what is refused by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_lightning.sweep.definition import SweepError, read_sweep

FILE = """
recipe: demo
folder: runs/rates
seeds: [3, 1]
common: {stages.sft.steps: 200, stages.sft.lr: 1.0e-3}
arms:
  slow: {stages.sft.lr: 2.0e-4}
  fast:
baseline: fast
measures:
  - {column: val_loss, take: area, better: lower}
"""


def read(tmp_path: Path, text: str):
    file = tmp_path / "rates.yaml"
    file.write_text(text)
    return read_sweep(file)


def test_jobs_come_in_pairs_and_an_arm_has_the_last_word(tmp_path: Path) -> None:
    sweep = read(tmp_path, FILE)
    assert [(job.seed, job.arm) for job in sweep.jobs] == [(3, "slow"), (3, "fast"), (1, "slow"), (1, "fast")]
    assert sweep.jobs[0].overrides == {"stages.sft.steps": 200, "stages.sft.lr": 2e-4}
    assert sweep.jobs[1].overrides == {"stages.sft.steps": 200, "stages.sft.lr": 1e-3}
    assert sweep.jobs[0].folder == Path("runs/rates/slow/3")
    assert (sweep.name, sweep.baseline, sweep.measures[0].name) == ("rates", "fast", "val_loss")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("recipe: demo", "recipes: demo", "there is no key 'recipes'; known: recipe, folder"),
        ("recipe: demo", "", "`recipe` is missing"),
        ("seeds: [3, 1]", "seeds: [3, 3]", "seeds: one stands there twice"),
        ("seeds: [3, 1]", "seeds: [-1]", "seeds must be a list of whole numbers"),
        ("seeds: [3, 1]", "seeds: [true]", "seeds must be a list of whole numbers"),
        ("  slow:", "  ../slow:", r"arms\.\.\./slow: the name of an arm is that of a folder"),
        ("baseline: fast", "baseline: quick", "baseline must be one of slow, fast, found 'quick'"),
        ("take: area", "take: mean", r"measures\[0\]: take must be one of last, area, reach"),
        ("take: area", "take: reach", "`at` is the value that"),
        ("take: area", "take: area, at: 0.9", "`at` is the value that"),
        ("better: lower", "better: less", "better must be one of higher, lower"),
        ("{column: val_loss, take", "{colum: val_loss, take", "there is no key 'colum'"),
        ("measures:\n", "measures:\n  - {column: a, name: val_loss}\n", "two have one name"),
        ("baseline: fast", "expect: [{measure: loss, better: fast, worse: slow}]", "measure must be one of val_loss"),
        ("baseline: fast", "expect: [{measure: val_loss, better: fast, worse: fast}]", "not better than itself"),
        ("arms:", "arms: [", "not a readable YAML file"),
        ("arms:\n  slow: {stages.sft.lr: 2.0e-4}\n  fast:\nbaseline: fast", "arms: {}", "at least one arm"),
        (FILE, "- a", "a sweep must be a mapping, found list"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in FILE
    with pytest.raises(SweepError, match=rf"rates\.yaml.*{said}"):
        read(tmp_path, FILE.replace(old, new))
