"""Adapters behind one server: each answers as the model merged with it, asked as it was trained, also side by side."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neo_lightning.answering import Engine, load, put_adapter, write_adapter_folder
from neo_lightning.checkpoint.adapters import Adapter
from neo_lightning.model.lora import targetable
from neo_lightning.types import PixelBudget
from tests.serving.conftest import NAME, Running, data_url, picture, serving, shown

LARGE = picture((256, 256))
HOLD = {"max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def adapters(folder: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two adapters: one that is asked with other budgets, one that says nothing of how it is asked."""
    config, found = engine.model.config, {}
    for seed, name in enumerate(("wide", "silent")):
        generator = torch.Generator().manual_seed(seed)
        pairs = {}
        for module in targetable(config)[2:]:
            out, inner = engine.model.get_submodule(module).weight.shape  # type: ignore[union-attr]
            pairs[module] = (
                torch.randn(2, int(inner), generator=generator),
                0.2 * torch.randn(int(out), 2, generator=generator),
            )
        budget = PixelBudget(min_pixels=65536, max_pixels=65536)
        answering = replace(engine.answering, image=budget, max_new_tokens=3)
        adapter = Adapter(rank=2, alpha=4.0, pairs=pairs)
        found[name] = tmp_path_factory.mktemp(name)
        write_adapter_folder(adapter, config, found[name], folder, answering)
    for file in found["silent"].iterdir():
        if not file.name.startswith("adapter_"):
            file.unlink()
    return found


@pytest.fixture(scope="module")
def beside(folder: Path, adapters: dict[str, Path]) -> Iterator[Running]:
    engine = load(folder)
    asked = {name: put_adapter(engine, source, name) for name, source in adapters.items()}
    with serving(engine, adapters=asked) as running:
        yield running


def test_each_answers_as_the_merged_model_does(beside: Running, folder: Path, adapters: dict[str, Path]) -> None:
    client = beside.client()
    merged = {NAME: load(folder), **{name: load(folder, adapter=source) for name, source in adapters.items()}}

    def ask(name: str) -> tuple[str, str, int]:
        found = client.chat.completions.create(model=name, messages=shown(data_url(LARGE)), **HOLD)  # type: ignore[call-overload]
        return name, found.choices[0].message.content, found.usage.prompt_tokens

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, [*merged, *reversed(merged)]))
    wanted = {n: e.answer("What is this?", images=[LARGE], max_new_tokens=8) for n, e in merged.items()}
    assert len(set(wanted.values())) == 3, "else nothing is asked"
    for name, said, _ in found:
        assert said == wanted[name], name
    tokens = {name: count for name, _, count in found}
    assert tokens["wide"] > tokens["silent"] == tokens[NAME]


def test_the_list_says_how_each_is_asked(beside: Running) -> None:
    found = {model.id: model.model_dump() for model in beside.client().models.list()}
    assert [found[name]["neo"]["decoding"]["max_tokens"] for name in (NAME, "wide", "silent")] == [5, 3, 5]
    assert found["wide"]["parent"] == NAME


def test_what_is_seen_is_that_models(beside: Running) -> None:
    client = beside.client()
    rooms = {}
    for name in (None, "wide"):
        body = {"messages": shown(data_url(LARGE))} | ({"model": name} if name else {})
        found = client.post(f"{beside.address}/v1/neo/seen", body=body, cast_to=object)
        rooms[name] = found["media"][0]["tokens"]  # type: ignore[index]
    assert rooms["wide"] > rooms[None]
