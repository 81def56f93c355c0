"""A sweep's file: what it means, and what is refused by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_lightning.sweep.definition import SweepError, read_sweep
from neo_lightning.sweep.jobs import arguments, claim

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


def test_recipes_are_laid_over_for_all_and_then_for_an_arm(tmp_path: Path) -> None:
    text = FILE.replace("common: {", "common: {config: [a, b.yaml], ").replace("slow: {", "slow: {config: c, ")
    slow, fast, *_ = read(tmp_path, text).jobs
    assert (slow.config, fast.config) == (("a", "b.yaml", "c"), ("a", "b.yaml"))
    assert slow.overrides == {"stages.sft.steps": 200, "stages.sft.lr": 2e-4}
    line = arguments(slow, Path("demo.yaml"))
    assert line[:4] == ["demo.yaml", "--config=a", "--config=b.yaml", "--config=c"], "before any key"
    assert not any("config" in part for part in line[4:])


def test_a_run_of_another_overlay_is_not_gone_on_with(tmp_path: Path) -> None:
    over, recipe = tmp_path / "over.yaml", tmp_path / "recipe.yaml"
    over.write_text("a: 1\n")
    recipe.write_text("{}\n")
    text = FILE.replace("folder: runs/rates", f"folder: {tmp_path}/runs").replace(
        "slow: {", f"slow: {{config: {over}, "
    )
    sweep = read(tmp_path, text)
    claim(sweep.jobs, recipe)
    claim(sweep.jobs, recipe)
    over.write_text("a: 2\n")
    with pytest.raises(SweepError, match=r"slow/3 holds a run of another sweep: the recipe, or what is laid over it,"):
        claim(sweep.jobs, recipe)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("slow: {", "slow: {config: [0], ", r"arms\.slow: config must be text, found 0"),
        ("slow: {", "slow: {config: {a: 1}, ", r"arms\.slow: config must be text"),
        ("recipe: demo", "recipes: demo", "there is no key 'recipes'; known: recipe, folder"),
        ("recipe: demo", "", "`recipe` is missing"),
        ("seeds: [3, 1]", "seeds: [3, 3]", "seeds: one stands there twice"),
        ("seeds: [3, 1]", "seeds: [-1]", "seeds must be a list of whole numbers"),
        ("seeds: [3, 1]", "seeds: [true]", "seeds must be a list of whole numbers"),
        ("seeds: [3, 1]", f"seeds: [{2**32}]", "seeds must be a list of whole numbers from 0 to 4294967295"),
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
        # what would invent replicates, or put a run where nobody looks for it
        ("common: {", "common: {seed_everything: 7, ", "common: seed_everything: the sweep sets it"),
        ("fast:\n", "fast: {run.dir: here}\n", r"arms\.fast: run\.dir: the sweep sets it"),
        ("fast:\n", "fast: {run.name: one}\n", r"arms\.fast: run\.name: the sweep sets it"),
        ("fast:\n", "fast: {run: {dir: here}}\n", r"arms\.fast: run: the sweep sets it"),
        # what would break the table when everything is trained
        (
            "column: val_loss",
            "column: val_loss, name: 90",
            r"measures\[0\]: name must be text, found 90: '90' in quotes",
        ),
        ("column: val_loss", "column: 4", r"measures\[0\]: column must be text, found 4"),
        ("column: val_loss", "column: [a]", r"measures\[0\]: column must be text"),
        ("take: area", "take: [area]", "take must be one of last, area, reach"),
        ("take: area", "take: reach, at: .nan", "`at` is the value that .* found nan"),
        ("take: area", "take: reach, at: .inf", "`at` is the value that .* found inf"),
        ("take: area", f"take: reach, at: 1{'0' * 400}", "`at` is the value that .* found 1000"),
        ("take: area", "take: reach, at: true", "`at` is the value that .* found True"),
        ("take: area", "take: area, at: high", "`at` is the value that .* found 'high'"),
        ("  slow:", "  Sweep.HTML:", r"arms\.Sweep\.HTML: a file in the sweep's folder has this name"),
        ("  slow:", "  off:", r"arms\.False: YAML reads this name as no text: put it in quotes"),
        ("  slow:", "  sweep.json:", r"arms\.sweep\.json: a file in the sweep's folder"),
        ("  slow:", "  sweep.lock:", r"arms\.sweep\.lock: a file in the sweep's folder"),
        ("  slow:", f"  {'a' * 65}:", "the name of an arm is that of a folder"),
        ("seeds: [3, 1]", f"seeds: {list(range(21))}", "seeds: at most 20 can be tested exactly, found 21"),
        ("baseline: fast", "expect: [{measure: val_loss, better: [fast], worse: slow}]", "better must be one of slow"),
        ("baseline: fast", "expect: [{measure: {a: b}, better: fast, worse: slow}]", "measure must be one of val_loss"),
        ("baseline: fast", "baseline: [fast]", "baseline must be one of slow, fast"),
        ("folder: runs/rates", "folder:", "folder must be text, found None"),
        ("recipe: demo", "recipe: [demo]", "recipe must be text"),
        ("fast:\n", "fast: {stages.sft.lr: .nan}\n", r"arms\.fast: stages\.sft\.lr: not a value of a command line"),
        ("fast:\n", "fast: {stages.sft.lr: 2026-01-01}\n", r"stages\.sft\.lr: not a value of a command line"),
        ("fast:\n", "fast: 0\n", r"arms\.fast must be a mapping, found int"),
        # what YAML would lose without a word
        ("  fast:", "  slow:", "the key 'slow' stands twice"),
        ("  slow: {stages.sft.lr: 2.0e-4}\n  fast:", "  1:\n  '1':", "the key '1' stands twice"),
        ("  fast:", "  Slow:", r"arms\.Slow: where a disk does not tell capitals its folder is that of slow"),
        ("baseline: fast", "seeds: [0]", "the key 'seeds' stands twice"),
        ("stages.sft.lr: 1.0e-3", "stages.sft.steps: 100", "the key 'stages.sft.steps' stands twice"),
        ("seeds: [3, 1]", "seeds: [2026-13-41]", "not a readable YAML file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in FILE
    with pytest.raises(SweepError, match=rf"(?s)rates\.yaml.*{said}"):
        read(tmp_path, FILE.replace(old, new))


def test_keys_that_merge_are_no_doubles(tmp_path: Path) -> None:
    """`<<` brings keys that the mapping may set anew, also where an anchor that has merged is merged again."""
    text = FILE.replace(
        "  slow: {stages.sft.lr: 2.0e-4}\n  fast:",
        "  slow: &slow {stages.sft.lr: 2.0e-4, export: false}\n"
        "  fast: &fast {<<: *slow, stages.sft.lr: 8.0e-4}\n"
        "  both: {<<: [*fast, *slow], export: true}",
    )
    arms = read(tmp_path, text).arms
    assert arms["fast"] == {"stages.sft.lr": 8e-4, "export": False}
    assert arms["both"] == {"stages.sft.lr": 8e-4, "export": True}


def test_an_arm_may_be_called_by_a_number(tmp_path: Path) -> None:
    text = FILE.replace("slow:", "4:").replace("fast:", "16:").replace("baseline: fast", "baseline: 16")
    sweep = read(tmp_path, text + "expect: [{measure: val_loss, better: 4, worse: 16, because: it is 1/4}]\n")
    assert (list(sweep.arms), sweep.baseline, sweep.expect[0].better) == (["4", "16"], "16", "4")
