"""States of the process's random number generators as tensors, so that a checkpoint can hold them without pickling.

Training itself draws nothing; this is for callbacks and sources of a user that do.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch (and the device's), numpy and python, as integer tensors."""
    state_of_numpy: Any = np.random.get_state(legacy=True)
    _, keys, position, has_gauss, gauss = state_of_numpy
    version, words, next_gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_rest": torch.tensor([version, float("nan") if next_gauss is None else next_gauss], dtype=torch.float64),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the generators to a state that `random_state` gave."""
    torch.set_rng_state(state["torch"])
    position, has_gauss, gauss = state["numpy_rest"].tolist()
    np.random.set_state(("MT19937", state["numpy"].numpy().astype(np.uint32), int(position), int(has_gauss), gauss))
    version, next_gauss = state["python_rest"].tolist()
    words = tuple(state["python"].tolist())
    random.setstate((int(version), words, None if next_gauss != next_gauss else next_gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
