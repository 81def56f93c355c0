"""SWEEP.yaml -> a checked `Sweep`.

recipe: demo                          a shipped recipe or a file
folder: runs/sweeps/rates             a run's folder is FOLDER/ARM/SEED
seeds: [0, 1, 2, 3, 4]
common: {stages.sft.steps: 200}       of every run: a recipe's keys, as behind `--` on the command line
arms:                                 what differs
  slow: {stages.sft.lr: 2.0e-4}
  fast: {stages.sft.lr: 8.0e-4}       `config: FILE` or a list of them, here or in common: laid over the recipe first
baseline: slow                        what the others are compared with; the first arm where nothing is said
measures:                             the first is the headline
  - {name: held-out loss, column: val_loss, take: area, better: lower}
  - {name: steps to 90%, column: eval/scenes, take: reach, at: 0.9, better: lower}
  - {name: colour, column: eval/scenes/colour, take: last, better: higher}
expect:                               written before the runs, printed beside what came out
  - {measure: colour, better: fast, worse: slow, because: it is far from done}
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml

from .statistics import MOST_PAIRS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOCK, TABLE, PAGE = "sweep.lock", "sweep.json", "sweep.html"
"""Files of a sweep's folder, beside its arms."""
TAKES = ("last", "area", "reach")
SEEDS = 2**32
"""One more than the largest that a run takes."""
CONFIG = "config"
"""Among an arm's keys: recipes that are laid over the sweep's, as by `--config`."""
OWN_KEYS = ("seed_everything", "run", "run.dir", "run.name")
"""Of a recipe: the sweep sets them, run by run; with one for all, one run would count as several."""


class SweepError(ValueError):
    """A sweep's file that cannot be used; says which key."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a run."""

    name: str
    column: str
    """Of the run's metrics.csv."""
    take: Literal["last", "area", "reach"] = "last"
    """The last value; the mean over the steps (the area under the curve); or the first step that reaches `at`."""
    better: Literal["higher", "lower"] = "higher"
    """Which values of the measure are better; of `reach` fewer steps always are."""
    at: float | None = None
    """Of `reach`: the value of the column that is to be reached, from below where higher values of it are better."""

    @property
    def lower_is_better(self) -> bool:
        """Of the number, which for `reach` are steps."""
        return self.take == "reach" or self.better == "lower"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What its author thought before."""

    measure: str
    better: str
    worse: str
    because: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One run of a sweep."""

    arm: str
    seed: int
    folder: Path
    config: tuple[str, ...]
    """Files or shipped names that are laid over the recipe: those of all arms, then the arm's."""
    overrides: Mapping[str, Any]
    """Keys of the recipe, with those of the arm and of all arms."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """See the module."""

    name: str
    recipe: str
    folder: Path
    seeds: tuple[int, ...]
    arms: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any]
    baseline: str
    measures: tuple[Measure, ...]
    expect: tuple[Expectation, ...]

    @property
    def jobs(self) -> list[Job]:
        """Seed by seed, so that a sweep that is stopped has whole pairs."""
        return [
            Job(
                arm=arm,
                seed=seed,
                folder=self.folder / arm / str(seed),
                config=(*self.common.get(CONFIG, ()), *self.arms[arm].get(CONFIG, ())),
                overrides={k: v for k, v in {**self.common, **self.arms[arm]}.items() if k != CONFIG},
            )
            for seed, arm in product(self.seeds, self.arms)
        ]


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, `1` and `'1'` too: one of them would be lost without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = str(self.construct_object(key))
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} stands twice", key.start_mark)
            seen.add(name)
        return node


def read_sweep(file: Path) -> Sweep:
    """Read and check a sweep's file.

    Raises:
        SweepError: it is none; names the key.
    """
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SweepError(f"{file}: not a readable YAML file: {error}") from error
    tree = _mapping(tree, f"{file}: a sweep")
    _known(tree, [f.name for f in fields(Sweep) if f.name != "name"], f"{file}")
    for key in ("recipe", "folder", "seeds", "arms", "measures"):
        if key not in tree:
            raise SweepError(f"{file}: `{key}` is missing")
    arms = _arms(tree["arms"], file)
    measures = tuple(_measure(entry, f"{file}: measures[{i}]") for i, entry in enumerate(_list(tree, "measures", file)))
    names = [measure.name for measure in measures]
    if not arms or not measures:
        raise SweepError(f"{file}: a sweep has at least one arm and one measure")
    if len(set(names)) != len(names):
        raise SweepError(f"{file}: measures: two have one name")
    baseline = _named(tree.get("baseline", next(iter(arms))))
    _one_of(baseline, arms, f"{file}: baseline")
    return Sweep(
        name=file.stem,
        recipe=_text(tree["recipe"], f"{file}: recipe"),
        folder=Path(_text(tree["folder"], f"{file}: folder")).expanduser(),
        seeds=_seeds(tree["seeds"], file),
        arms=arms,
        common=_overrides(tree.get("common"), f"{file}: common"),
        baseline=baseline,
        measures=measures,
        expect=tuple(
            _expectation(e, arms, names, f"{file}: expect[{i}]") for i, e in enumerate(_list(tree, "expect", file))
        ),
    )


def _arms(value: Any, file: Path) -> dict[str, dict[str, Any]]:
    arms: dict[str, dict[str, Any]] = {}
    folders: dict[str, str] = {}
    for arm, keys in _mapping(value, f"{file}: arms").items():
        where = f"{file}: arms.{arm}"
        if arm not in map(_named, value):
            raise SweepError(f"{where}: YAML reads this name as no text: put it in quotes")
        if not NAME.fullmatch(arm):
            raise SweepError(
                f"{where}: the name of an arm is that of a folder: letters, digits, . _ -, at most 64, the first one "
                "a letter or a digit"
            )
        if arm.casefold() in (LOCK, TABLE, PAGE):
            raise SweepError(f"{where}: a file in the sweep's folder has this name, and the arm's folder cannot")
        if (other := folders.setdefault(arm.casefold(), arm)) != arm:
            raise SweepError(f"{where}: where a disk does not tell capitals its folder is that of {other}")
        arms[arm] = _overrides(keys, where)
    return arms


def _overrides(value: Any, where: str) -> dict[str, Any]:
    found = _mapping({} if value is None else value, where)
    for key, item in found.items():
        if key in OWN_KEYS:
            raise SweepError(f"{where}: {key}: the sweep sets it: one for several runs would make them the same run")
        try:
            json.dumps(item, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise SweepError(f"{where}: {key}: not a value of a command line ({error}): {item!r}") from error
    if CONFIG in found:
        names = found[CONFIG] if isinstance(found[CONFIG], list) else [found[CONFIG]]
        found[CONFIG] = [_text(name, f"{where}: {CONFIG}") for name in names]
    return found


def _seeds(value: Any, file: Path) -> tuple[int, ...]:
    found = value if isinstance(value, list) else []
    if not found or not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < SEEDS for s in found):
        raise SweepError(f"{file}: seeds must be a list of whole numbers from 0 to {SEEDS - 1}, found {value!r}")
    if len(set(found)) != len(found):
        raise SweepError(f"{file}: seeds: one stands there twice, which would count one run as two")
    if len(found) > MOST_PAIRS:
        raise SweepError(f"{file}: seeds: at most {MOST_PAIRS} can be tested exactly, found {len(found)}")
    return tuple(found)


def _measure(entry: Any, where: str) -> Measure:
    values = _mapping(entry, where)
    _known(values, [f.name for f in fields(Measure)], where)
    if "column" not in values:
        raise SweepError(f"{where}: `column` is missing: which column of metrics.csv")
    for key in values.keys() & {"name", "column"}:
        _text(values[key], f"{where}: {key}")
    found = Measure(**{"name": values["column"], **values})
    _one_of(found.take, TAKES, f"{where}: take")
    _one_of(found.better, ("higher", "lower"), f"{where}: better")
    number = (
        isinstance(found.at, int | float) and not isinstance(found.at, bool) and abs(found.at) <= sys.float_info.max
    )
    if not (number if found.take == "reach" else found.at is None):
        raise SweepError(
            f"{where}: `at` is the value that `take: reach` waits for, a number, and of nothing else; found "
            f"{found.at!r}"
        )
    return found


def _expectation(entry: Any, arms: Collection[str], measures: Collection[str], where: str) -> Expectation:
    values = {key: _named(value) for key, value in _mapping(entry, where).items()}
    _known(values, [f.name for f in fields(Expectation)], where)
    for key, among in (("measure", measures), ("better", arms), ("worse", arms)):
        _one_of(values.get(key), among, f"{where}: {key}")
    if values["better"] == values["worse"]:
        raise SweepError(f"{where}: an arm is not better than itself")
    for key, value in values.items():
        _text(value, f"{where}: {key}")
    return Expectation(**values)


def _list(tree: Mapping[str, Any], key: str, file: Path) -> list[Any]:
    value = [] if tree.get(key) is None else tree[key]
    if not isinstance(value, list):
        raise SweepError(f"{file}: `{key}` must be a list, found {type(value).__name__}")
    return value


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SweepError(f"{what} must be a mapping, found {type(value).__name__}")
    return {str(key): item for key, item in value.items()}


def _known(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := [key for key in values if key not in known]:
        raise SweepError(f"{where}: there is no key {unknown[0]!r}; known: {', '.join(known)}")


def _one_of(value: Any, known: Collection[str], where: str) -> None:
    if value not in list(known):  # by equality: what the file says need not be hashable
        raise SweepError(f"{where} must be one of {', '.join(known)}, found {value!r}")


def _named(value: Any) -> Any:
    """What a name refers to: that of an arm may look like a number, and is one in YAML."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        advice = f": '{value}' in quotes" if isinstance(value, int | float) else ""
        raise SweepError(f"{where} must be text, found {value!r}{advice}")
    return value
