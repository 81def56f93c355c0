"""One object with its tensors, sent from one process to another: a file in memory, handed over through their pipe.

The tensors' bytes are written once and mapped by the receiver, who may write to them. A parcel is one descriptor,
however many tensors it holds, and lies in no folder: torch's way takes a descriptor for each tensor, or names in
/dev/shm, which containers keep small and killed processes leave behind. The price is that both ends are Unix processes
and children of one program: what comes is unpickled.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, BinaryIO

import torch

_ALIGNMENT = 64
"""Of each tensor's first byte."""


def send(pipe: Connection, item: Any) -> None:
    """Send `item`, which is anything that can be pickled. Dense tensors on the CPU go beside the pickle."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=5, buffer_callback=buffers.append).dump(item)
    parts = [pickled.getbuffer(), *(buffer.raw() for buffer in buffers)]
    with _memory_file() as file:
        for part in parts:
            file.write(part)
            file.write(bytes(-part.nbytes % _ALIGNMENT))
        file.flush()
        pipe.send([part.nbytes for part in parts])
        send_handle(pipe, file.fileno(), None)


def receive(pipe: Connection) -> Any:
    """The next item.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    sizes = pipe.recv()
    descriptor = recv_handle(pipe)
    try:
        whole = memoryview(mmap.mmap(descriptor, 0))
    finally:
        os.close(descriptor)
    parts, at = [], 0
    for size in sizes:
        parts.append(whole[at : at + size])
        at += size + -size % _ALIGNMENT
    return pickle.loads(parts[0], buffers=parts[1:])


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Tensors as arrays, whose bytes pickle leaves to the caller."""
        if type(value) is torch.Tensor:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _memory_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("neo_lightning"), "w+b")
    return tempfile.TemporaryFile()  # type: ignore[return-value]
