"""What a recipe says, as far as an outlook needs it (`neo-lightning plan`): parsed, with nothing opened or built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    from ..data.plan import Balance
    from ..evaluation.context import Evaluation
    from ..model.config import NeoConfig
    from ..model.lora import Lora
    from ..training.devices import Device
    from ..training.memory import Layout
    from ..training.outlook import StageOutlook
    from ..types import Stage


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a recipe says, as far as an outlook needs it."""

    config: NeoConfig
    lora: Lora | None
    sizes: Mapping[str, int]
    """Elements of each parameter."""
    stages: Mapping[str, Stage]
    modalities: Mapping[str, str]
    """Source -> modality."""
    layout: Layout
    """Of stages whose layers are not kept gathered."""
    kept: frozenset[str]
    """Stages whose layers are."""
    devices: int
    balance: Balance
    """How rows and steps are made (`data.balance`)."""
    evaluations: Sequence[Evaluation]
    """Those that are asked while training."""

    def layout_of(self, name: str) -> Layout:
        """Of a stage."""
        return replace(self.layout, keep_gathered=name in self.kept)

    def outlook(self, name: str, device: Device, **changes: Any) -> StageOutlook:
        """A stage's outlook; `changes` are other values of `stage`, `layout`, `devices` or `network`."""
        from ..training.outlook import stage_outlook
        from ..training.stages import trained_names
        from ..training.traffic import NETWORK

        stage = changes.get("stage", self.stages[name])
        return stage_outlook(
            self.config,
            self.sizes,
            trained_names(self.sizes, stage.trains, self.config.extra_num_layers),
            stage,
            self.modalities,
            device=device,
            devices=changes.get("devices", self.devices),
            layout=changes.get("layout", self.layout_of(name)),
            lora=self.lora,
            network=changes.get("network", NETWORK),
        )

    def work_shares(self, balance: Balance) -> dict[str, float]:
        """Stage -> expected share of the ranks' time that is work; the rest waits for the rank with the dearest row."""
        from ..training.balance import assumed_share
        from ..training.costs import document_costs

        ratios = document_costs(self.config, self.stages)
        how: Any = {"ranks": self.devices, "lockstep": self.layout.shard_size, "balance": balance}
        return {n: assumed_share(n, stage, self.modalities, ratios[n], **how) for n, stage in self.stages.items()}


def read_recipe(argv: list[str], devices: int | None, *, gpu: bool) -> Planned:
    """Parse a recipe with its overrides, without building its trainer or data.

    Raises:
        UserError: as for `run`; or the number of devices is not positive or no multiple of the strategy's shard_size.
        ValueError: the strategy's sizes do not fit the devices or the model's heads.
    """
    from ..model.lora import Lora
    from ..training.build import Init, bytes_at_rest, freeze, network, read_config
    from ..training.memory import Layout
    from ..training.parallel import stages_kept
    from ..training.sequence import check_sizes, key_repeats
    from ..training.stages import check_stages
    from .arguments import parse
    from .parser import NeoCLI, build_stage

    class ParseOnly(NeoCLI):
        def instantiate_classes(self) -> None:
            """Build nothing."""

    found = ParseOnly(parse(argv)).config
    model, trainer, data = (found[key].as_dict() for key in ("model", "trainer", "data"))
    config = read_config(model.get("model"), Init(**(model.get("init") or {})))
    lora = Lora(**model["lora"]) if model.get("lora") else None
    built = network(config, lora)
    sizes = {name: p.numel() for name, p in built.named_parameters()}
    stages = {name: build_stage(name, stage.as_dict()) for name, stage in found["stages"].items()}
    bf16, at_rest = str(trainer.get("precision")).startswith("bf16"), {}
    if lora is not None:
        check_stages(built, stages, config.extra_num_layers)
        freeze(built, stages, lora, bf16=bf16)
        at_rest = bytes_at_rest(built, sizes)
    count = _devices(trainer) if devices is None else devices
    given = strategy_sizes(trainer)
    shard_size = given[0] or count
    if count < 1:
        raise UserError(f"--devices must be at least 1, got {count}")
    if count % shard_size:
        raise UserError(f"--devices must be a multiple of the strategy's shard_size {shard_size}, got {count}")
    check_sizes(*given, count)
    key_repeats(config, given[1])
    return Planned(
        config=config,
        lora=lora,
        sizes=sizes,
        stages=stages,
        modalities=_modalities(data.get("manifest"), stages),
        layout=Layout(
            shard_size=shard_size,
            sequence_size=given[1],
            bf16=bf16,
            checkpointing=model.get("activation_checkpointing", "none"),
            optimizer=model.get("optimizer", "adamw"),
            averaged=model.get("ema") is not None,
            recomputed_layers=model.get("recomputed_layers", 0),
            kernels="triton" if gpu else "eager",
            at_rest=at_rest,
        ),
        kept=stages_kept(strategy_args(trainer).get("keep_gathered", False), stages),
        devices=count,
        balance=data.get("balance") or "slots",
        evaluations=_asked_while_training(found["evaluation"]),
    )


def _asked_while_training(entries: Any) -> list[Evaluation]:
    """The evaluations of a parsed recipe, built, as far as they are asked while training."""
    from jsonargparse import ArgumentParser

    from ..evaluation.context import Evaluation

    parser = ArgumentParser()
    parser.add_argument("--evaluation", type=list[Evaluation])
    given = parser.parse_object({"evaluation": [entry.as_dict() for entry in entries or ()]})
    return [entry for entry in parser.instantiate_classes(given).evaluation if entry.while_training]


def _devices(trainer: Mapping[str, Any]) -> int:
    here, nodes = trainer.get("devices"), trainer.get("num_nodes") or 1
    if not str(here).isdecimal():
        raise UserError(f"the recipe's trainer.devices is {here!r}: say how many with --devices")
    return int(str(here)) * int(nodes)


def strategy_sizes(trainer: Mapping[str, Any]) -> tuple[int | None, int]:
    """Ranks that share one copy of the model (None: all), and that share a row, as a recipe's trainer says."""
    given = strategy_args(trainer)
    return given.get("shard_size"), given.get("sequence_size", 1)


def strategy_args(trainer: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a recipe's trainer gives its strategy."""
    strategy = trainer.get("strategy")
    return (strategy.get("init_args") if isinstance(strategy, dict) else None) or {}


def _modalities(manifest: Any, stages: Mapping[str, Stage]) -> dict[str, str]:
    """Source -> modality as the manifest says; without one, by the source's name, else `image`."""
    from pathlib import Path

    from omegaconf import OmegaConf

    from ..types import MODALITIES

    said: dict[str, Any] = {}
    if manifest and Path(str(manifest)).is_file():
        said = OmegaConf.to_container(OmegaConf.load(manifest), resolve=False).get("sources") or {}  # type: ignore[union-attr,assignment]
    by_name = sorted(MODALITIES, key=len, reverse=True)  # multi_image before image
    sources = {source for stage in stages.values() for source in stage.mixture}
    guessed = {source: next((m for m in by_name if m in source), "image") for source in sources}
    return {
        s: modality if (modality := (said.get(s) or {}).get("modality")) in MODALITIES else guessed[s] for s in sources
    }
