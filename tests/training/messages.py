"""What ranks send to each other, as torch's collectives see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Message:
    """One collective of this rank."""

    operator: str
    """`_allgather_base_`, `_reduce_scatter_base_`, `allreduce_`, ..."""
    elements: int
    """Of the largest tensor it was given."""
    group: str
    """Name of the process group."""


class Messages(TorchDispatchMode):
    """All collectives of this thread inside the block, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Message] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            leaves = tree_leaves((args, kwargs or {}))
            group = next(x for x in leaves if not isinstance(x, Tensor) and _is_group(x))
            elements = max(x.numel() for x in leaves if isinstance(x, Tensor))
            name = dist.ProcessGroup.unbox(group).group_name
            self.seen.append(Message(func.overloadpacket.__name__, elements, name))
        return func(*args, **(kwargs or {}))


def _is_group(x: Any) -> bool:
    try:
        return bool(dist.ProcessGroup.unbox(x))
    except Exception:  # whatever else an operator takes
        return False
