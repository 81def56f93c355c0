"""Which rule should H and W start with when a NEO grows from a language model: `zero_k` or `smooth`?

    python benchmarks/init_rules.py [--seeds 3] [--steps 200 200]

A small language model first learns a text task (look up the value behind a key). A NEO is then grown from it by each
rule and trained as in the curriculum: stage 1 (patch embedding, pre-buffer, H and W), then everything. The task needs
places: an image of 2 x 2 visual tokens in one of six colours each, then questions `row, column -> colour`; chance is
1 in 6. Same data, same seeds, same learning rates, gradient clip 1.0. One table is printed: the first gradients, the
loss after each stage, and the accuracy on rows that were not trained on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.init import InitRule, grown_state
from neo_lightning.model.neo import Neo
from neo_lightning.sequence import positions_and_limits
from neo_lightning.types import IGNORE, PackedBatch

SIDE, COLOURS, QUESTIONS, DOCUMENTS = 2, 6, 6, 12
IMAGE, IMAGE_START, ASK, ROW, COLUMN, COLOUR, KEY = 0, 1, 2, 3, 6, 9, 20  # first token of each kind
CONFIG = NeoConfig(
    vocab_size=52,
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=3,
    extra_num_layers=0,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
    rope_theta=1e4,
    rope_theta_hw=100.0,
    patch_hidden_size=64,
    image_token_id=IMAGE,
    image_start_token_id=IMAGE_START,
)
PRE_BUFFER = 2


def pack(documents: list[tuple[Tensor, Tensor]], patches: Tensor, grids: Tensor) -> PackedBatch:
    """Documents of (tokens, supervised) as one row. Visual tokens are IMAGE; each document has one image or none."""
    ids = torch.cat([tokens for tokens, _ in documents])
    supervised = torch.cat([s for _, s in documents])
    starts, positions, limits, offset = [], [], [], 0
    for tokens, _ in documents:
        has_image = bool((tokens == IMAGE).any())
        grid = torch.tensor([[SIDE, SIDE]] if has_image else []).reshape(-1, 2)
        position, limit = positions_and_limits(tokens == IMAGE, grid)
        positions.append(position)
        limits.append(limit + offset)
        starts.append(torch.full_like(limit, offset))
        offset += tokens.numel()
    targets = torch.full_like(ids, IGNORE)
    targets[:-1][supervised[1:]] = ids[1:][supervised[1:]]
    return PackedBatch(
        input_ids=ids,
        positions=torch.cat(positions),
        start=torch.cat(starts),
        limit=torch.cat(limits),
        targets=targets,
        weights=(targets != IGNORE).float(),
        modality=torch.zeros_like(ids),
        visual_index=(ids == IMAGE).nonzero().squeeze(-1),
        patches=patches,
        grids=grids,
    )


def text_row(generator: torch.Generator) -> PackedBatch:
    """Documents `key value key value ... ? key -> value`."""
    documents = []
    for _ in range(DOCUMENTS):
        keys = KEY + torch.randperm(32, generator=generator)[:6]
        values = COLOUR + torch.randint(0, COLOURS, (6,), generator=generator)
        asked = torch.randint(0, 6, (4,), generator=generator)
        questions = torch.stack([torch.full((4,), ASK), keys[asked], values[asked]], 1).flatten()
        tokens = torch.cat([torch.stack([keys, values], 1).flatten(), questions])
        supervised = torch.zeros(tokens.numel(), dtype=torch.bool)
        supervised[-10::3] = True
        documents.append((tokens, supervised))
    return pack(documents, torch.zeros(4, 768, dtype=torch.uint8), torch.tensor([[2, 2]]))


def image_row(generator: torch.Generator) -> PackedBatch:
    """Documents of an image and questions `? row column -> colour`."""
    documents, patches = [], []
    levels = torch.tensor([[r, g, b] for r in (40, 210) for g in (40, 210) for b in (40, 210)], dtype=torch.uint8)
    for _ in range(DOCUMENTS):
        colours = torch.randint(0, COLOURS, (SIDE, SIDE), generator=generator)
        row, column = (torch.randint(0, SIDE, (QUESTIONS,), generator=generator) for _ in range(2))
        answers = COLOUR + colours[row, column]
        questions = torch.stack([torch.full((QUESTIONS,), ASK), ROW + row, COLUMN + column, answers], 1).flatten()
        picture = torch.cat([torch.tensor([IMAGE_START]), torch.full((SIDE * SIDE,), IMAGE)])
        tokens = torch.cat([picture, questions])
        supervised = torch.zeros(tokens.numel(), dtype=torch.bool)
        supervised[picture.numel() + 3 :: 4] = True
        documents.append((tokens, supervised))
        on_patches = colours.repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()
        patches.append(levels[on_patches].repeat_interleave(256, 1))
    return pack(documents, torch.cat(patches), torch.full((DOCUMENTS, 2), 2 * SIDE))


def train(
    model: Neo, rows: Iterable[PackedBatch], steps: int, lr: float, names: Iterable[str]
) -> tuple[list[float], dict]:
    """Losses, and the norms of the first step's gradients."""
    trained = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], betas=(0.9, 0.95), weight_decay=0.01
    )
    losses, first = [], {}
    for step, batch in zip(range(steps), rows, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 10) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        loss = model(batch).loss_sum / batch.weights.sum()
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            first = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, first


def stream(make: Callable[[torch.Generator], PackedBatch], seed: int) -> Iterable[PackedBatch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield make(generator)


@torch.no_grad()
def accuracy(model: Neo, seed: int, rows: int = 20) -> float:
    """Share of answers whose likeliest token is right, on fresh rows."""
    right = total = 0
    for _, batch in zip(range(rows), stream(image_row, seed), strict=False):
        row = model.row(batch.positions, batch.start, batch.limit)
        x = model.hidden(model.embed(batch.input_ids, batch.visual_index, batch.patches, batch.grids), row)
        asked = batch.targets != IGNORE
        right += int((model.logits(x[asked]).argmax(-1) == batch.targets[asked]).sum())
        total += int(asked.sum())
    return right / total


def one_run(rule: InitRule, seed: int, steps: tuple[int, int], lr: tuple[float, float]) -> dict[str, float]:
    """Grow and train; the backbone depends on the seed alone."""
    backbone = Neo(CONFIG)
    backbone.init_weights(seed, std=CONFIG.hidden_size**-0.5)
    everything = [name for name, _ in backbone.named_parameters()]
    text, _ = train(backbone, stream(text_row, 1000 + seed), 300, 2e-3, everything)
    config = replace(CONFIG, num_hidden_layers=CONFIG.num_hidden_layers + PRE_BUFFER, extra_num_layers=PRE_BUFFER)
    model = Neo(config)
    parameters = dict(model.named_parameters())
    shapes = {name: p.shape for name, p in parameters.items()}
    state = {name: p.detach() for name, p in backbone.named_parameters()}
    with torch.no_grad():
        for name, value in grown_state(shapes, config, state.__getitem__, rule, seed):
            parameters[name].copy_(value)
    behind = tuple(f"layers.{i}." for i in range(PRE_BUFFER, config.num_hidden_layers))
    stage_1 = [
        name
        for name in parameters
        if name.startswith("vision_model")
        or (".layers." in name and not any(b in name for b in behind))
        or any(part in name for part in ("_hw.", "_norm_h.", "_norm_w."))
    ]
    rows = stream(image_row, 2000 + seed)
    first_stage, gradients = train(model, rows, steps[0], lr[0], stage_1)
    after_1 = accuracy(model, 3000 + seed)
    second_stage, _ = train(model, rows, steps[1], lr[1], parameters)

    def norm(part: str) -> float:
        return math.sqrt(sum(g * g for n, g in gradients.items() if part in n and any(b in n for b in behind)))

    return {
        "text loss": sum(text[-20:]) / 20,
        "|g| k_proj_hw": norm("k_proj_hw"),
        "|g| H/W k norms": math.hypot(norm("k_norm_h"), norm("k_norm_w")),
        "|g| all": math.sqrt(sum(g * g for g in gradients.values())),
        "loss stage 1": sum(first_stage[-20:]) / 20,
        "accuracy 1": after_1,
        "loss stage 2": sum(second_stage[-20:]) / 20,
        "accuracy 2": accuracy(model, 3000 + seed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs=2, default=(200, 200), metavar=("STAGE1", "STAGE2"))
    parser.add_argument("--lr", type=float, nargs=2, default=(2e-3, 1e-3), metavar=("STAGE1", "STAGE2"))
    arguments = parser.parse_args()
    head = None
    rules: tuple[InitRule, ...] = ("zero_k", "smooth")
    for seed in range(arguments.seeds):
        for rule in rules:
            row = one_run(rule, seed, tuple(arguments.steps), tuple(arguments.lr))
            if head is None:
                head = list(row)
                print("| rule | seed | " + " | ".join(head) + " |\n|" + "---|" * (len(head) + 2))
            print(f"| {rule} | {seed} | " + " | ".join(f"{row[name]:.3g}" for name in head) + " |", flush=True)


if __name__ == "__main__":
    main()
