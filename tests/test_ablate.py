"""docs/ablations.md says what the kept records say, and those are of the sweeps that are shipped."""

from __future__ import annotations

import json

import pytest

from benchmarks.ablate import KEPT, figure, table
from neo_lightning.cli.recipe import shipped
from neo_lightning.sweep.definition import read_sweep

RECORDS = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(KEPT.glob("*.json"))}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_told_as_it_is(name: str) -> None:
    said = (KEPT.parent / "ablations.md").read_text(encoding="utf-8")
    assert table(RECORDS[name]) in said
    assert f"ablations/{name}.svg" in said
    assert (KEPT / f"{name}.svg").read_text(encoding="utf-8") == figure(RECORDS[name])


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_of_the_shipped_sweep(name: str) -> None:
    sweep, record = read_sweep(shipped("recipes/ablations")[name]), RECORDS[name]
    assert {arm: dict(keys) for arm, keys in sweep.arms.items()} == {
        a: s["overrides"] for a, s in record["arms"].items()
    }
    assert [m.name for m in sweep.measures] == list(record["arms"][sweep.baseline]["measures"])
    assert [(e.better, e.worse) for e in sweep.expect] == [(e["better"], e["worse"]) for e in record["expected"]]
    for said in record["arms"].values():
        for measure in said["measures"].values():
            assert sorted(map(int, measure["values"])) == sorted(record["seeds"]), "every run came to its end"


def test_there_are_records() -> None:
    assert len(RECORDS) >= 8
