"""Where heads look: the attention of a prompt's last token, behind which the answer begins.

    softmax_n(q_N . k_n / sqrt(head_dim)),  N the last token, n = 1 .. N: it sees the whole prompt under every mask

Reading is through the layers themselves, with a `Row` that looks at queries and keys on their way to the kernel, so it
holds for every design.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neo_lightning.model.layers import PackedRow
from neo_lightning.model.neo import Neo
from neo_lightning.model.prompt import Prompt


@dataclass(frozen=True, eq=False, kw_only=True)
class _WatchedRow(PackedRow):
    """One document, of whose last token the attention is kept."""

    seen: list[Tensor]
    """A layer's after the other, each [H, T] float32."""

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """See `Row`."""
        q_KGD = q_THD[-1].float().unflatten(0, (k_TKD.shape[1], -1))
        scores_KGT = torch.einsum("kgd,tkd->kgt", q_KGD, k_TKD.float()) * v_TKE.shape[-1] ** -0.5
        self.seen.append(scores_KGT.softmax(-1).flatten(0, 1))
        return super().attend(layer, q_THD, k_TKD, v_TKE)


@torch.no_grad()
def attention_maps(model: Neo, prompt: Prompt) -> Tensor:
    """How each head's last token weighs the prompt's tokens.

    Args:
        model: whole, on any device and in any dtype.
        prompt: ends with a text token, as every prompt that asks does.

    Returns:
        [layers, heads, N] float32 on the host, the pre-buffer's layers first; each head's N numbers sum to 1.

    Raises:
        ValueError: an empty prompt, or one whose images do not match its visual tokens.
    """
    prompt.check("the prompt")
    device = model.head_weight.device
    positions, limit = (bounds.to(device) for bounds in prompt.layout)
    of_units: tuple[Tensor, ...] = ()
    visual: tuple[Any, ...] = ()
    if prompt.visual.any():
        of_units = prompt.visual.nonzero().squeeze(-1).to(device), prompt.row_places.to(device)
        visual = of_units[0], prompt.patches.to(device), (prompt.grids.int() * 2).to(device), of_units[1]
    row = model.row(positions, torch.zeros_like(limit), limit, *of_units)
    watched = _WatchedRow(**vars(row), seen=[])
    model.hidden(model.embed(prompt.input_ids.to(device), *visual), watched)
    return torch.stack(watched.seen).cpu()
