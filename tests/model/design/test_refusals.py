"""What makes no sense is refused with its reason; what a recipe says wrongly, with the nearest right word."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neo_lightning.model.batch import RunningBatch
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.design.axes import Design
from neo_lightning.model.design.refusals import REFUSALS
from neo_lightning.model.lora import add_adapter
from neo_lightning.model.neo import Neo
from neo_lightning.model.prompt import Prompt
from neo_lightning.model.sampling import Sampling
from tests.model.design.arms import ARMS
from tests.model.support import small_config

# one for each row of REFUSALS, in its order
SENSELESS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"patch": {"side": 27}}, {}),
    ({"patch": {"table": 0}}, {}),
    ({"patch": {"kind": "linear"}}, {"hidden_size": 62}),
    ({"hw_heads": False}, {}),
    ({"rope": {"kind": "mm", "sections": [4, 6, 6]}}, {}),
    ({"rope": {"kind": "m", "sections": [4, 4, 4]}}, {}),
    ({"rope": {"kind": "interleaved_m", "sections": [2, 8, 6]}}, {}),
    ({"rope": {"kind": "m", "theta": {"x": 10.0}}}, {}),
    ({"mask": {"kind": "all_images"}}, {}),
    ({"mask": {"kind": "causal", "causal_layers": [0]}}, {}),
    ({"mask": {"causal_layers": [4]}}, {}),
    ({"mask": {"causal_layers": [0, 1, 2, 3]}}, {}),
    ({"pre_buffer": {"mask": "causal"}}, {"extra_num_layers": 0}),
    ({"modality_weights": {"parts": ["ffn"], "layers": [2, 5]}}, {}),
    ({"modality_weights": {"layers": [0, 2]}}, {}),
    ({"vision_lora": {"rank": 4, "layers": [3, 3]}}, {}),
    ({"vision_lora": {"rank": 4, "linears": []}}, {}),
    ({"vision_lora": {"rank": 4, "linears": ["q_proj_hw"]}}, {}),
    ({"vision_lora": {"rank": 4}, "modality_weights": {"parts": ["ffn"]}}, {}),
    ({"encoder": {"layers": 1}, "patch": {"position": "none"}}, {}),
    ({"encoder": {"layers": 1, "heads": 5}}, {}),
]


def test_every_refusal_is_reached() -> None:
    assert len(SENSELESS) == len(REFUSALS)


@pytest.mark.parametrize("number", range(len(SENSELESS)))
def test_a_combination_that_makes_no_sense_is_refused_with_the_reason(number: int) -> None:
    design, sizes = SENSELESS[number]
    with pytest.raises(ValueError, match=r"^model\.design: ") as refused:
        small_config(design=design, **sizes)
    assert REFUSALS[number][1] in str(refused.value)


def test_no_arm_that_makes_sense_is_refused() -> None:
    for design in ARMS.values():
        assert small_config(design=design).design == Design.from_dict(design)


@pytest.mark.parametrize(
    ("design", "said"),
    [
        ({"rop": {}}, r"model.design: there is no key 'rop'. Did you mean 'rope'?"),
        ({"patch": {"kind": "liner"}}, r"model.design.patch.kind is 'liner'.*Did you mean 'linear'?"),
        ({"modality_weights": {"parts": ["fnn"]}}, r"model.design.modality_weights.parts is 'fnn'.*'ffn'"),
        ({"mask": "causal"}, r"model.design.mask must be a mapping of keys, found 'causal'"),
        ({"hw_heads": 1}, r"model.design.hw_heads must be of type bool, found 1"),
        ({"patch": {"side": 32.0}}, r"model.design.patch.side must be of type int"),
        ({"encoder": {"layers": None}}, r"model.design.encoder.layers must have a value"),
    ],
)
def test_a_slip_in_a_recipe_is_named(design: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Design.from_dict(design)


@pytest.mark.parametrize("arm", ARMS)
def test_a_design_goes_through_config_json_and_back(arm: str) -> None:
    config = small_config(design=ARMS[arm])
    written = config.to_dict()
    assert NeoConfig.from_dict(written) == config
    assert ("design" in written) == (written["model_type"] == "neo_design") == (arm != "neo_ov")


def test_low_rank_terms_are_refused_where_no_layer_would_look_at_them() -> None:
    term = {"rank": 2, "scale": 1.0}
    with pytest.raises(ValueError, match="low-rank terms lie in NEO-ov's layers"):
        add_adapter(Neo(small_config(design=ARMS["ffn"])), "cats", [], **term)
    assert add_adapter(Neo(small_config(design=ARMS["causal_in_some"])), "cats", [], **term) == {}


def test_a_prompt_of_another_rule_is_refused() -> None:
    model = Neo(small_config(design=ARMS["causal_in_some"]))
    none = torch.zeros(0, 2, dtype=torch.int32)
    prompt = Prompt(input_ids=torch.ones(2).long(), visual=torch.zeros(2).bool(), grids=none, patches=none)
    with pytest.raises(ValueError, match="the prompt is laid out by SequenceRule"):
        RunningBatch(model).join(prompt, max_new_tokens=1, sampling=Sampling())


def test_fp8_is_refused_with_layers_that_do_not_compute_in_it() -> None:
    with pytest.raises(ValueError, match="fp8 computes NEO-ov's layers"):
        Neo(small_config(design=ARMS["ffn"]), fp8=True)
