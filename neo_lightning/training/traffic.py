"""What a device sends in a step where several share the work, and how long it waits for it.

In: the parameters, what a stage trains, the layout, seconds of computing. Out: `StepTraffic`. Ring collectives: a
gather or a reduction of B bytes over n ranks moves B (n - 1) / n through each of them, a sum twice that.

    forward     gather of each layer        hidden behind the layers before it, but for the root's (embeddings, head)
    backward    gather of each layer again, unless it was kept; reduction of its gradients; the root's come last,
                behind nothing
    once a step sum over copies: layers' behind the last backward pass, the root's behind nothing

Ranks that share rows (`training.sequence`) exchange heads twice a layer, in both directions: there the layer waits.

Within a machine bytes go at `link`, between machines at `network`; a group of ranks over several machines is as fast as
the network. Left out: latency, messages that slow each other down, gathers that slow kernels down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neo_lightning.model.config import NeoConfig
from neo_lightning.training.memory import FLOAT, Layout
from neo_lightning.training.sequence import key_repeats

PER_MACHINE = 8
"""Devices that a machine holds."""
NETWORK = 50.0
"""GB/s of a device between machines: 400 Gbit/s for each, as in the makers' reference designs for H100."""
BACKWARD = 2 / 3
"""Part of a step's computing that the backward pass takes."""
_LAYERS = "language_model.model.layers."


@dataclass(frozen=True, kw_only=True)
class StepTraffic:
    """One device in one step."""

    shared: float
    """Bytes of gathers and reductions among the ranks that share a copy."""
    copied: float
    """Bytes of the sum over copies."""
    exchanged: float
    """Bytes among the ranks that share rows."""
    computing: float
    """Seconds of it."""
    waiting: float
    """Seconds that computing waits for messages."""

    @property
    def waits(self) -> float:
        """Waiting as a part of the step."""
        return self.waiting / (self.computing + self.waiting)


def step_traffic(
    sizes: Mapping[str, int],
    trained: Callable[[str], bool],
    layout: Layout,
    *,
    exchanged: float = 0.0,
    computing: float,
    link: float,
    network: float,
) -> StepTraffic:
    """Messages of a step.

    Args:
        sizes: elements of each parameter, by name.
        trained: whether the parameter of a name is trained.
        layout: ranks, copies, precision, micro-batches.
        exchanged: bytes of a micro-batch among the ranks that share its row.
        computing: seconds of the whole step's computing.
        link: GB/s of a device within a machine.
        network: GB/s of a device between machines.
    """
    ranks, copies, rows = layout.shard_size, layout.copies, layout.micro_batches
    layers = layout.gathered({name: size for name, size in sizes.items() if name.startswith(_LAYERS)})
    root = layout.gathered(sizes) - layers
    moved = sum(size for name, size in sizes.items() if name.startswith(_LAYERS) and trained(name))
    moved_root = sum(size for name, size in sizes.items() if trained(name)) - moved
    part, again = (ranks - 1) / ranks, 2 * (copies - 1) / copies / ranks
    inside = 1e9 * (link if ranks <= PER_MACHINE else network)
    between = 1e9 * (link if ranks * copies <= PER_MACHINE else network)

    forward, gathered_root = part * layers, part * root
    reduced, reduced_root = (part * FLOAT * n for n in (moved, moved_root))
    summed, summed_root = (again * FLOAT * n for n in (moved, moved_root))
    there, back = (1 - BACKWARD) * computing / rows, BACKWARD * computing / rows
    again_gathered = 0 if layout.keep_gathered else forward
    backward = (again_gathered + reduced) / inside
    waiting = (rows - 1) * max(0.0, backward - back) + max(0.0, max(backward, summed / between) - back)
    waiting += rows * (max(0.0, forward / inside - there) + (gathered_root + reduced_root) / inside)
    waiting += rows * exchanged / (1e9 * (link if layout.sequence_size <= PER_MACHINE else network))
    return StepTraffic(
        exchanged=rows * exchanged,
        shared=rows * (forward + again_gathered + gathered_root + reduced + reduced_root),
        copied=summed + summed_root,
        computing=computing,
        waiting=waiting + summed_root / between,
    )


def layer_exchange(config: NeoConfig, tokens: int, layout: Layout) -> float:
    """Bytes that a rank sends in one layer's forward pass to those that share its row, of which it has so many tokens:
    q, k and v there, the output back. The backward pass sends as much, and a recomputed layer once more.
    """
    parts = layout.sequence_size
    q, kv = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    return (parts - 1) / parts * tokens * layout.width * (3 * q + 3 * kv * key_repeats(config, parts))
