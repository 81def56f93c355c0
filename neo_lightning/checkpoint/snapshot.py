"""A copy of tensors in host memory, which a thread writes while training moves the originals on.

In: tensors on the host or a GPU. Out: tensors on the host, in buffers that are made once and used for every save. From
a GPU they are pinned and filled on a stream of their own, beside the computation: only what overwrites the originals
has to wait (`before_update`). On a CPU the copy is there when the call returns; sharing memory instead would not do, as
an optimiser writes in place. The price: so much host memory as a rank's weights and optimiser state take.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Snapshot:
    """The buffers, and the copy that is under way. Copies follow each other: one is read until the next is taken."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Begin a copy; what is returned may be read after `wait`."""
        self._buffers = {name: self._buffer(name, tensor) for name, tensor in tensors.items()}
        device = next((tensor.device for tensor in tensors.values() if tensor.is_cuda), None)
        if device is None:
            self._copy(tensors)
            return self._buffers
        if self._stream is None:
            self._stream, self._copied = torch.cuda.Stream(device), torch.cuda.Event()
        assert self._copied is not None
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            self._copy(tensors)
            self._copied.record(self._stream)
        return self._buffers

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        there = self._buffers.get(name)
        if there is not None and there.shape == tensor.shape and there.dtype == tensor.dtype:
            return there
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)

    def _copy(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self._buffers[name].copy_(tensor, non_blocking=True)

    def before_update(self) -> None:
        """What the device does from here on comes after the copy. The host does not wait."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)

    def wait(self) -> None:
        """The host waits for the copy; from any thread."""
        if self._copied is not None:
            self._copied.synchronize()
