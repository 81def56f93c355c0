"""Text generation: prompts with images and video in, tokens out.

All prompts of a batch, whatever their lengths, go through the model as one packed row (no padding is computed); their
keys and values go into a cache [B, K, S, .] padded to the longest prompt plus the answer. Then every step feeds one
token per sequence. Trade-off: finished sequences stay in the batch until the last one ends, so answers of like length
belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neo_lightning.model.layers import PackedRow, Row
from neo_lightning.model.neo import DecodeStep, Neo
from neo_lightning.model.sampling import Sampling, choose
from neo_lightning.ops.interval_attention import cached_attention
from neo_lightning.ops.joint_linear import Order
from neo_lightning.sequence import advance, next_position, positions_and_limits, row_places


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One document to go on from."""

    input_ids: Tensor
    """[N] int64, at least one token."""
    visual: Tensor
    """[N] bool: which tokens are visual."""
    grids: Tensor
    """[I, 2] rows and columns of each image or frame in visual tokens."""
    patches: Tensor
    """[P, 768] uint8 (or normalised floats), as in PackedBatch; [0, 768] without images."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Keys and values of every layer, for B sequences of up to S tokens."""

    sequences: int
    places: int
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Layer -> keys [B, K, S, D] and values [B, K, S, E]."""

    def store(self, layer: int, k: Tensor, v: Tensor, sequence: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Put k [T, K, D] and v [T, K, E] at (sequence [T], place [T]); returns the layer's whole cache."""
        if layer not in self.layers:
            shape = (self.sequences, k.shape[1], self.places)
            self.layers[layer] = k.new_zeros(*shape, k.shape[2]), v.new_zeros(*shape, v.shape[2])
        keys, values = self.layers[layer]
        keys[sequence, :, place] = k
        values[sequence, :, place] = v
        return keys, values


@dataclass(frozen=True, eq=False, kw_only=True)
class PrefillRow(PackedRow):
    """The prompts as one packed row, whose keys and values are kept."""

    cache: Cache
    sequence: Tensor
    """[T] which prompt a token belongs to."""
    place: Tensor
    """[T] its place there."""

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """See `Row`."""
        self.cache.store(layer, k_TKD, v_TKE, self.sequence, self.place)
        return super().attend(layer, q_THD, k_TKD, v_TKE)


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodeRow(Row):
    """One new token of each sequence; it sees all of its sequence so far."""

    cache: Cache
    place: Tensor
    """[B] where the new token goes in its sequence."""
    visible: Tensor
    """[B, longest] bool: places up to and including the new token."""

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """See `Row`."""
        every = torch.arange(self.place.numel(), device=self.place.device)
        keys, values = self.cache.store(layer, k_TKD, v_TKE, every, self.place)
        longest = self.visible.shape[1]
        scale = v_TKE.shape[-1] ** -0.5
        return cached_attention(q_THD, keys[:, :, :longest], values[:, :, :longest], self.visible, scale=scale)


def generate(
    model: Neo,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    stop_ids: Collection[int] = (),
    seed: int = 0,
    on_token: Callable[[int, int], None] | None = None,
    all_ended: Callable[[list[bool]], bool] = all,
) -> list[list[int]]:
    """Go on from every prompt.

    Args:
        model: in whatever dtype and on whatever device it is; gradients are off.
        prompts: any number, of any lengths.
        max_new_tokens: most tokens of an answer.
        temperature, top_p, top_k, repetition_penalty: see `Sampling`.
        stop_ids: tokens that end an answer; the ending token is not part of it.
        seed: of the random draws; prompt number i draws from its own generator, seeded by seed + i.
        on_token: called with (prompt number, token) for every new token, as it comes.
        all_ended: whether to stop, of which answers have ended; ranks that share a model agree here, since each step
            wants all of them.

    Returns:
        The new tokens of each prompt.

    Raises:
        ValueError: an empty prompt, images that do not match a prompt's visual tokens, or a bad setting.
    """
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty)
    answers: list[list[int]] = [[] for _ in prompts]
    steps = stream(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_ids=stop_ids,
        seed=seed,
        all_ended=all_ended,
    )
    for tokens in steps:
        for i, token in enumerate(tokens):
            if token is not None:
                answers[i].append(token)
                if on_token is not None:
                    on_token(i, token)
    return answers


def stream(
    model: Neo,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    seed: int = 0,
    all_ended: Callable[[list[bool]], bool] = all,
) -> Iterator[list[int | None]]:
    """Yield, step by step, the new token of each prompt (None once its answer has ended); see `generate`."""
    if not prompts or max_new_tokens < 1:
        return
    sampling = sampling or Sampling()
    device = model.head_weight.device
    cache = Cache(sequences=len(prompts), places=max(p.input_ids.numel() for p in prompts) + max_new_tokens)
    with torch.no_grad():
        step, position = _prefill(model, prompts, cache, device)
        logits = model(step)
    draws = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))] if sampling.temperature else None
    seen = _seen(prompts, logits) if sampling.repetition_penalty != 1.0 else None
    lengths = torch.tensor([p.input_ids.numel() for p in prompts], device=device)
    longest = max(p.input_ids.numel() for p in prompts)
    further = torch.tensor(advance(model.config.rule), device=device)
    stops, ended = frozenset(stop_ids), [False] * len(prompts)
    for made in range(max_new_tokens):
        uniform = None if draws is None else torch.stack([torch.rand((), generator=g) for g in draws]).to(device)
        tokens = choose(logits, sampling, seen, uniform)
        values = tokens.tolist()
        ended = [e or token in stops for e, token in zip(ended, values, strict=True)]
        if all_ended(ended):
            return
        yield [None if e else token for e, token in zip(ended, values, strict=True)]
        if made + 1 == max_new_tokens:
            return
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        longest += 1
        with torch.no_grad():
            logits = model(_decode(model, step.row.order, tokens, position, cache, lengths, longest))
        position, lengths = position + further, lengths + 1


def _prefill(model: Neo, prompts: Sequence[Prompt], cache: Cache, device: torch.device) -> tuple[DecodeStep, Tensor]:
    """The prompts as one packed row, and the position of each one's next token [B, 3]."""
    rule = model.config.rule
    sizes = torch.tensor([p.input_ids.numel() for p in prompts])
    for i, prompt in enumerate(prompts):
        if prompt.input_ids.numel() == 0:
            raise ValueError(f"prompt {i} is empty: generation needs at least one token to go on from")
        if prompt.patches.shape[0] != 4 * int(prompt.visual.sum()):
            raise ValueError(
                f"prompt {i} has {int(prompt.visual.sum())} visual tokens, which need four patches each, "
                f"but {prompt.patches.shape[0]} patches"
            )
    parts = [positions_and_limits(p.visual.cpu(), p.grids.cpu(), rule) for p in prompts]
    ends = sizes.cumsum(0)
    sequence = torch.repeat_interleave(torch.arange(len(prompts)), sizes)
    start = (ends - sizes)[sequence]
    positions = torch.cat([part[0] for part in parts])
    limit = torch.cat([part[1] for part in parts]) + start
    visual_index = torch.cat([p.visual.cpu() for p in prompts]).nonzero().squeeze(-1)
    rows = [row_places(p.visual.cpu(), p.grids.cpu(), rule) for p in prompts]
    row_index = torch.cat([own + first for own, first in zip(rows, ends - sizes, strict=True)]).to(device)
    visual = None
    if visual_index.numel():
        with_images = [p for p in prompts if p.patches.shape[0]]
        grids = torch.cat([p.grids.cpu().int().reshape(-1, 2) for p in with_images]) * 2
        patches = torch.cat([p.patches.to(device) for p in with_images])
        visual = visual_index.to(device), patches, grids.to(device), row_index
    bounds = start.int().to(device), limit.int().to(device)
    row = model.row(positions.to(device), *bounds, visual_index.to(device), row_index)
    prefill = PrefillRow(
        **vars(row),
        cache=cache,
        sequence=sequence.to(device),
        place=(torch.arange(sequence.numel()) - start).to(device),
    )
    input_ids = torch.cat([p.input_ids.to(device) for p in prompts])
    behind = torch.stack([next_position(p.visual.cpu(), p.grids.cpu(), rule) for p in prompts])
    step = DecodeStep(input_ids=input_ids, row=prefill, last=(ends - 1).to(device), visual=visual)
    return step, behind.to(device)


def _decode(
    model: Neo, order: Order, tokens: Tensor, positions: Tensor, cache: Cache, place: Tensor, longest: int
) -> DecodeStep:
    """One new token for each sequence; `longest` is the largest of `place` plus one, known on the host."""
    visible = torch.arange(longest, device=place.device) <= place[:, None]
    row = DecodeRow(rope=model.rope(positions), order=order, cache=cache, place=place, visible=visible)
    return DecodeStep(input_ids=tokens, row=row, last=torch.arange(tokens.numel(), device=tokens.device))


def _seen(prompts: Sequence[Prompt], logits: Tensor) -> Tensor:
    """[B, V] bool: the tokens of each prompt."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        seen[i, prompt.input_ids.to(logits.device)] = True
    return seen
