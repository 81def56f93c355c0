"""What a stage of a recipe will take: its documents as assumed, operations a token, memory, speed and days.

In: a network, a stage, the modalities of its sources, the layout and the device. Out: `StageOutlook`. No data is read:
documents are assumed to look as `document_of` says, so the figures are for planning, and `data plan` has the real ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import isqrt

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.flops import flops_per_step, layer_flops
from neo_lightning.model.lora import Lora
from neo_lightning.sequence import NEO, SequenceRule
from neo_lightning.training.devices import Device
from neo_lightning.training.memory import Layout, RowCounts, StepMemory, step_memory
from neo_lightning.training.term_memory import TermsOfRun
from neo_lightning.training.traffic import NETWORK, StepTraffic, layer_exchange, step_traffic
from neo_lightning.types import Stage

TEXT = {"text": 600, "image": 100, "multi_image": 100, "video": 100}
"""Tokens of text in a document of a modality, half of them supervised. An assumption."""
IMAGE_PIXELS = 1_500_000
"""Area of an image where the stage allows it; else 0.6 of the stage's largest. An assumption."""
IMAGES, FRAMES, STAMP = 2, 32, 10
"""Images of a multi-image document, frames of a clip, tokens of a frame's timestamp. Assumptions."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document as assumed."""

    units: int
    """Images or frames."""
    unit: int
    """Visual tokens of each."""
    text: int
    """Tokens of text."""
    rule: SequenceRule = NEO

    @property
    def tokens(self) -> int:
        return self.units * self.unit + self.text

    @property
    def pairs(self) -> int:
        """Query-key pairs: causal, and what the mask adds for each unit."""
        causal = self.tokens * (self.tokens + 1) // 2
        extra = self.rule.unit_pairs(1, self.unit - self.rule.extra_columns) if self.unit else 0
        return self.rule.pairs(causal, causal + self.units * extra)


def document_of(modality: str, stage: Stage, rule: SequenceRule = NEO) -> Document:
    """What a document of a modality is assumed to be under a stage's budgets; cut to the stage's context.

    Pictures are taken for squares where their rows have tokens.
    """
    area = rule.side**2
    text = min(TEXT[modality], stage.context)
    image = max(1, min(IMAGE_PIXELS, round(0.6 * stage.image.max_pixels)) // area)
    frame = max(1, stage.video.max_pixels // area)
    frames = min(FRAMES, stage.video.max_frames)
    units, unit, text = {
        "text": (0, 0, text),
        "image": (1, image, text),
        "multi_image": (IMAGES, image, text),
        "video": (frames, frame, text + STAMP * frames),
    }[modality]
    text, unit = min(text, stage.context), unit + rule.extra_columns * isqrt(unit)
    return Document(units=min(units, (stage.context - text) // max(1, unit)), unit=unit, text=text, rule=rule)


def rows_of(stage: Stage, modalities: Mapping[str, str], rule: SequenceRule = NEO) -> tuple[RowCounts, RowCounts]:
    """A stage's average row, and the fullest one: the most of each count that one modality alone would bring.

    Args:
        stage: its mixture and budgets.
        modalities: source -> modality.
        rule: how pictures lie in a row.
    """
    documents = {source: document_of(modalities[source], stage, rule) for source in stage.mixture}
    by_samples = stage.mixture_unit == "samples"
    amounts = {s: weight * (documents[s].tokens if by_samples else 1) for s, weight in stage.mixture.items()}
    shares = {source: amount / sum(amounts.values()) for source, amount in amounts.items()}

    def counts(share: Mapping[str, float]) -> RowCounts:
        a_token = {source: stage.row_tokens * part / documents[source].tokens for source, part in share.items()}
        return RowCounts(
            tokens=stage.row_tokens,
            visual=round(sum(a_token[s] * documents[s].units * documents[s].unit for s in share)),
            supervised=round(sum(a_token[s] * documents[s].text / 2 for s in share)),
            pairs=round(sum(a_token[s] * documents[s].pairs for s in share)),
            patch_pairs=round(sum(a_token[s] * documents[s].units * (4 * documents[s].unit) ** 2 for s in share)),
        )

    alone = [counts({source: 1.0}) for source in stage.mixture]
    fullest = RowCounts(
        tokens=stage.row_tokens,
        visual=max(row.visual for row in alone),
        supervised=max(row.supervised for row in alone),
        pairs=max(row.pairs for row in alone),
        patch_pairs=max(row.patch_pairs for row in alone),
    )
    return counts(shares), fullest


@dataclass(frozen=True, kw_only=True)
class StageOutlook:
    """A stage, before it has run."""

    trained: int
    """Parameters."""
    flops_per_token: float
    """Forward and backward as trained, exact pairs of the assumed documents, no recomputation."""
    repeated: float
    """Operations that activation checkpointing makes again, as a part of those: layers under `full`. Not counted: that
    those leave out `down_proj` where they are not compiled, and attention on a CPU, which `selective` repeats."""
    row: RowCounts
    """The average row."""
    memory: StepMemory
    """Of the fullest row, or a part of it."""
    needed: int
    """Bytes of a device: the most at one time, and on a CPU, whose memory is the host's, a save's copy beside it."""
    tokens_per_second: float
    """All devices, at the device's assumed efficiency, which knows nothing of what is repeated or waited for."""
    traffic: StepTraffic
    """Of a device, in a step of average rows."""
    exchange: float
    """Bytes that a device sends in one layer's forward pass to those that share its row."""
    tokens: int
    """Of the whole stage, padding included."""

    @property
    def days(self) -> float:
        """Wall time of the stage."""
        return self.tokens / self.tokens_per_second / 86_400


def stage_outlook(
    config: NeoConfig,
    sizes: Mapping[str, int],
    trained: Collection[str],
    stage: Stage,
    modalities: Mapping[str, str],
    *,
    device: Device,
    devices: int,
    layout: Layout,
    lora: Lora | None = None,
    network: float = NETWORK,
) -> StageOutlook:
    """What a stage will take.

    Args:
        config: the network.
        sizes: elements of each parameter, by name.
        trained: names of those that the stage trains.
        stage: of a recipe.
        modalities: source -> modality, for the sources of the stage's mixture.
        device: one of the devices.
        devices: how many there are; each, or each group that shares rows, works through rows of its own.
        layout: of a step; `micro_batches` follows from the stage, `copies` from the devices.
        lora: low-rank terms, whose parameters are among those of `sizes`.
        network: GB/s of a device between machines.
    """
    average, fullest = rows_of(stage, modalities, config.rule)
    parts = layout.sequence_size
    groups = devices // parts
    micro_batches = -(-stage.packs_per_step // groups)
    layout = replace(layout, micro_batches=micro_batches, copies=devices // layout.shard_size)
    terms = TermsOfRun.of(lora, config)
    flops = flops_per_step(
        config,
        tokens=average.tokens,
        patches=4 * average.visual,
        pairs=average.pairs,
        supervised=average.supervised,
        patch_pairs=average.patch_pairs,
        trained=trained.__contains__,
        ranks=terms.ranks,
    )
    again = sum(layout.mode(i) == "full" for i in range(config.num_hidden_layers))
    again *= layer_flops(config, tokens=average.tokens, pairs=average.pairs)
    per_token = flops / average.tokens
    busy = stage.packs_per_step / (layout.micro_batches * groups)  # devices without a row wait
    exchange = layer_exchange(config, average.part(parts).tokens, layout)
    modes = [layout.mode(i) for i in range(config.num_hidden_layers)]
    rate = device.tflops * 1e12 * device.mfu
    traffic = step_traffic(
        sizes,
        trained.__contains__,
        layout,
        exchanged=exchange * sum(2 + (mode != "none") for mode in modes),
        computing=micro_batches * flops / parts * (1 + again / flops) / rate,
        link=device.link,
        network=network,
    )
    memory = step_memory(config, sizes, trained.__contains__, fullest.part(parts), layout, terms)
    return StageOutlook(
        trained=sum(size for name, size in sizes.items() if name in trained),
        flops_per_token=per_token,
        repeated=again / flops,
        row=average,
        memory=memory,
        needed=memory.peak if device.name else memory.peak + memory.snapshot,
        tokens_per_second=devices * busy * rate / per_token,
        traffic=traffic,
        exchange=exchange,
        tokens=stage.steps * stage.packs_per_step * stage.row_tokens,
    )
