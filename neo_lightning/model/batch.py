"""The batch of running sequences: one may join and one may leave at any token. One forward pass a step.

    join --> prompt read in parts --> a token a step, all together --> end: places are free, or kept for a like prompt

A step either reads parts of prompts (one packed row, up to `prefill` tokens, no image cut) or makes the next token of
every sequence that has been read; where there is both they take turns, so a long prompt delays a token by one part. A
sequence gets the tokens that it would get alone: it sees its own places only and draws from a generator of its own. In
bfloat16 sums are rounded otherwise in another company, which may decide between tokens that are all but equal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from neo_lightning.model.cache import Cache, Range
from neo_lightning.model.neo import DecodeStep, Neo
from neo_lightning.model.prompt import Prompt
from neo_lightning.model.rows import DecodeRow, Part, idle_step, prefill_step
from neo_lightning.model.running import Chosen, Finish, Kept, Running
from neo_lightning.model.sampling import Sampling, choose
from neo_lightning.ops.interval_attention import prepare_spans
from neo_lightning.ops.qk_norm_rope import Rope
from neo_lightning.sequence import advance

TABLE = 1024
"""Rotations are made for multiples of so many times."""
MOST_KEPT = 256
"""Sequences that have left: a prompt is compared with each when it joins."""


class RunningBatch:
    """See the head of this file. The model's weights must stay as they are while the batch lives."""

    def __init__(
        self,
        model: Neo,
        *,
        cache_tokens: int | None = None,
        keep: int = 0,
        prefill: int | None = None,
        use: Callable[[str | None], None] | None = None,
    ) -> None:
        """
        Args:
            model: in whatever dtype and on whatever device it is; gradients are off.
            cache_tokens: most tokens in the cache, of all sequences and what is kept; None: no bound.
            keep: most tokens of sequences that have left, for prompts that begin alike; at most `MOST_KEPT` are kept.
            prefill: most tokens of prompts in a step; None: no bound.
            use: makes the model use an adapter, None being none; needed where a sequence names one.
        """
        self._model, self._keep, self._prefill, self._use = model, keep, prefill, use
        self.cache = Cache(most=cache_tokens)
        self.running: list[Running] = []
        self.kept: list[Kept] = []
        """Oldest first."""
        self._order = model.order(model.head_weight.device)
        self._rope = model.rope(torch.zeros(0, 3, device=model.head_weight.device))
        self._memo: dict[int, Tensor] | None = {} if model.head_weight.device.type == "cpu" else None
        self._decoded: str | None = ""
        self._read_last = False

    def join(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        sampling: Sampling,
        stop_ids: Collection[int] = (),
        seed: int = 0,
        logprobs: int | None = None,
        adapter: str | None = None,
    ) -> Running | None:
        """A new sequence, or None where it finds no room now; see `generate` for the arguments.

        Raises:
            ValueError: the prompt cannot be used, or would not find room in an empty cache.
        """
        if prompt.rule != self._model.config.rule:
            raise ValueError(f"the prompt is laid out by {prompt.rule}, the model wants {self._model.config.rule}")
        size = len(prompt) + max_new_tokens - 1  # the last token is not fed
        if self.cache.most is not None and size > self.cache.most:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens and the answer up to {max_new_tokens}: more than the "
                f"{self.cache.most} that the cache holds"
            )
        found = self._places(prompt, size, adapter)
        if found is None:
            return None
        places, cached = found
        sequence = Running(
            prompt=prompt,
            most=max_new_tokens,
            sampling=sampling,
            stop_ids=frozenset(stop_ids),
            generator=torch.Generator().manual_seed(seed),
            logprobs=logprobs,
            adapter=adapter,
            places=places,
            fed=cached,
            cached=cached,
        )
        self.running.append(sequence)
        return sequence

    def leave(self, sequence: Running, finish: Finish = "cancelled") -> None:
        """Take a sequence out; its places are free at once, or kept."""
        sequence.finish = finish
        self.running.remove(sequence)
        count = sequence.fed
        if not self._keep or not count:
            self.cache.give(sequence.places)
            return
        self.cache.give(sequence.places, keep=count)
        said = torch.tensor(sequence.tokens, dtype=torch.long)
        keys = torch.cat([sequence.prompt.keys, said])[:count].clone()
        self.kept.append(Kept(keys=keys, adapter=sequence.adapter, places=sequence.places))
        while len(self.kept) > MOST_KEPT or sum(kept.places.size for kept in self.kept) > self._keep:
            self._evict(self.kept[0])

    @torch.no_grad()
    def step(self) -> list[tuple[Running, Chosen]]:
        """One forward pass: the tokens that it made, and of whom. A token that ends an answer is not part of it; then,
        and with the last token of the longest answer, the sequence has left and has its `finish`.

        Without sequences the pass is made all the same, over one token of no meaning: ranks that share a model make as
        many passes as each other.
        """
        reading = [sequence for sequence in self.running if not sequence.read]
        decoding = [sequence for sequence in self.running if sequence.read]
        if reading and not (decoding and self._read_last):
            self._read_last = True
            return self._read(self._alike(reading))
        self._read_last = False
        if decoding:
            return self._decode(self._next(decoding))
        self._model(idle_step(self._model))
        return []

    # ---- places

    def _places(self, prompt: Prompt, size: int, adapter: str | None) -> tuple[Range, int] | None:
        """Room for a sequence, and how many of its first tokens are in it."""
        best = 0
        source: tuple[Range, Kept | None, int] | None = None
        others: list[tuple[Tensor, Range, Kept | None]] = [
            (k.keys, k.places, k) for k in self.kept if k.adapter == adapter
        ]
        if self._keep:
            others += [(s.prompt.keys[: s.fed], s.places, None) for s in self.running if s.adapter == adapter]
        for keys, there, kept in others:
            if (count := prompt.common(keys)) > best:
                best, source = count, (there, kept, keys.numel())
        if source is not None and source[1] is not None and source[2] == best and self.cache.extend(source[0], size):
            self.kept.remove(source[1])  # the next turn of a conversation
            return source[0], best
        if not self.cache.would_fit(size, [sequence.places for sequence in self.running]):
            return None  # and nothing is evicted in vain
        while (places := self.cache.take(size, grow=True)) is None:
            others_kept = [kept for kept in self.kept if source is None or kept is not source[1]]
            if others_kept:
                self._evict(others_kept[0])
            else:  # only what it would begin with is left, and in the way
                self._evict(self.kept[0])
                source, best = None, 0
        if source is not None:
            self.cache.copy(source[0], places, best)
            if source[1] is not None:
                self.kept.remove(source[1])
                if source[2] == best:
                    self.cache.give(source[0])
                else:
                    self.kept.append(source[1])  # used last
        return places, best

    def _evict(self, kept: Kept) -> None:
        self.kept.remove(kept)
        self.cache.give(kept.places)

    # ---- steps

    def _alike(self, sequences: Sequence[Running]) -> list[Running]:
        """Those with the adapter of the first, which the model uses from now on."""
        adapter = sequences[0].adapter
        if self._use is not None:
            self._use(adapter)
        elif adapter is not None:
            raise ValueError(f"the adapter {adapter!r} is not loaded")
        return [sequence for sequence in sequences if sequence.adapter == adapter]

    def _next(self, decoding: list[Running]) -> list[Running]:
        """The sequences of one adapter; adapters take turns."""
        names = list(dict.fromkeys(sequence.adapter for sequence in decoding))
        after = names.index(self._decoded) + 1 if self._decoded in names else 0
        self._decoded = names[after % len(names)]
        return self._alike([sequence for sequence in decoding if sequence.adapter == self._decoded])

    def _read(self, reading: list[Running]) -> list[tuple[Running, Chosen]]:
        parts: list[tuple[Running, Part]] = []
        left = self._prefill
        for sequence in reading:
            size = len(sequence.prompt) if left is None else left
            end = sequence.prompt.part(sequence.fed, size)
            if left is not None and parts and end - sequence.fed > left:
                break
            parts.append((sequence, Part(sequence.prompt, sequence.places.start, sequence.fed, end)))
            left = None if left is None else left - (end - sequence.fed)
            if left is not None and left <= 0:
                break
        ended = [end == len(sequence.prompt) for sequence, (_, _, _, end) in parts]
        logits = self._model(prefill_step(self._model, self.cache, [part for _, part in parts], ended))
        for sequence, part in parts:
            sequence.fed = part.end
        return self._choose([s for (s, _), whole in zip(parts, ended, strict=True) if whole], logits)

    def _decode(self, decoding: list[Running]) -> list[tuple[Running, Chosen]]:
        model, config, device = self._model, self._model.config, self._model.head_weight.device
        ids = [sequence.tokens[-1] for sequence in decoding]
        times = [s.prompt.time + len(s.tokens) - 1 for s in decoding]
        places = [sequence.places.start + sequence.fed for sequence in decoding]
        numbers = torch.tensor([ids, times, places], device=device)
        ranges = [(s.places.start, place + 1) for s, place in zip(decoding, places, strict=True)]
        row = DecodeRow(
            rope=self._turned(numbers[1], max(times)),
            order=self._order,
            memo=self._memo,
            cache=self.cache,
            place=numbers[2],
            spans=prepare_spans(ranges, 3 * config.num_attention_heads * config.head_dim, device),
        )
        logits = model(DecodeStep(input_ids=numbers[0], row=row, last=None))
        for sequence in decoding:
            sequence.fed += 1
        return self._choose(decoding, logits)

    def _turned(self, t: Tensor, longest: int) -> Rope:
        """Rotations of text tokens at times t [B], from a table that grows: to make them costs as much as a layer."""
        if longest >= self._rope.turn.shape[0]:
            times = torch.arange(-(-(longest + 1) // TABLE) * TABLE, device=t.device)
            further = torch.tensor(advance(self._model.config.rule), device=t.device)
            self._rope = self._model.rope(times[:, None] * further)
        return Rope(self._rope.turn.index_select(0, t), self._rope.members)

    def _choose(self, sequences: list[Running], logits: Tensor) -> list[tuple[Running, Chosen]]:
        """The next token of each, and what comes of it; logits [B, V]."""
        tokens = [0] * len(sequences)
        for sampling in dict.fromkeys(sequence.sampling for sequence in sequences):
            rows = [i for i, sequence in enumerate(sequences) if sequence.sampling == sampling]
            part = logits if len(rows) == len(sequences) else logits[rows]
            uniform = seen = None
            if sampling.temperature:
                draws = [torch.rand((), generator=sequences[i].generator) for i in rows]
                uniform = torch.stack(draws).to(logits.device)
            if sampling.repetition_penalty != 1.0:
                seen = torch.stack([self._seen(sequences[i], logits) for i in rows])
            for i, token in zip(rows, choose(part, sampling, seen, uniform).tolist(), strict=True):
                tokens[i] = token
        return [(s, self._next_token(s, token, row)) for s, token, row in zip(sequences, tokens, logits, strict=True)]

    def _next_token(self, sequence: Running, token: int, logits: Tensor) -> Chosen:
        chosen = Chosen(token=token)
        if sequence.logprobs is not None:
            logprobs = logits.float().log_softmax(-1)
            best = logprobs.topk(sequence.logprobs)
            top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            chosen = Chosen(token=token, logprob=float(logprobs[token]), top=top)
        if token in sequence.stop_ids:
            self.leave(sequence, "stop")
            return chosen
        sequence.tokens.append(token)
        if sequence.seen is not None:
            sequence.seen[token] = True
        if len(sequence.tokens) == sequence.most:
            self.leave(sequence, "length")
        return chosen

    @staticmethod
    def _seen(sequence: Running, logits: Tensor) -> Tensor:
        if sequence.seen is None:
            sequence.seen = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
            sequence.seen[sequence.prompt.input_ids.to(logits.device)] = True
        return sequence.seen
