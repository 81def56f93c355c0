"""Attention maps are the weights with which the kernels really add values up, in every design."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neo_lightning.model.attention_maps import attention_maps
from neo_lightning.model.layers import PackedRow
from tests.model.design.arms import ARMS
from tests.model.design.support import document, prompt
from tests.model.support import small_model


@pytest.mark.parametrize("arm", ARMS)
def test_maps_are_the_weights_of_the_values(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(design=ARMS[arm], num_hidden_layers=3, extra_num_layers=1)
    asked = prompt(model.config, document(model.config, [(2, 3), (1, 2)]))
    values, attended = [], []
    attend = PackedRow.attend

    def recorded(self: PackedRow, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        o = attend(self, layer, q, k, v)
        values.append(v)
        attended.append(o[-1])
        return o

    monkeypatch.setattr(PackedRow, "attend", recorded)
    maps = attention_maps(model, asked)
    heads, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    assert maps.shape == (3, heads, len(asked))
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, heads))
    for weights, v, o in zip(maps, values, attended, strict=True):
        together = torch.einsum("hn,nhe->he", weights, v.repeat_interleave(heads // groups, 1))
        torch.testing.assert_close(o, together, atol=1e-5, rtol=1e-4)  # the sums' order


def test_text_alone_and_an_empty_prompt() -> None:
    model = small_model()
    asked = prompt(model.config, document(model.config, []))
    assert attention_maps(model, asked).shape[-1] == len(asked)
    with pytest.raises(ValueError, match="empty"):
        attention_maps(model, prompt(model.config, document(model.config, [], text=0)))
