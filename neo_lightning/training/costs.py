"""What documents cost in each stage, for a plan that makes rows and steps of like cost."""

from __future__ import annotations

from collections.abc import Mapping

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.flops import cost_ratio
from neo_lightning.model.lora import Lora
from neo_lightning.training.build import network
from neo_lightning.training.stages import trained_names
from neo_lightning.types import CostRatio, Stage


def document_costs(config: NeoConfig, stages: Mapping[str, Stage], lora: Lora | None = None) -> dict[str, CostRatio]:
    """Stage -> what its documents cost this network: gradients of what is frozen are not made.

    Raises:
        ValueError: a stage's `trains` names nothing.
    """
    names = [name for name, _ in network(config, lora).named_parameters()]
    ranks = lora.ranks(config) if lora else {}
    found = {}
    for name, stage in stages.items():
        try:
            trained = trained_names(names, stage.trains, config.extra_num_layers)
        except ValueError as error:
            raise ValueError(f"stage {name!r}: {error}") from error
        found[name] = cost_ratio(config, trained.__contains__, ranks)
    return found
