"""Points of the design space that the tests go through, each a `model.design`."""

from __future__ import annotations

from typing import Any

WHY_NOT = {
    "pre_buffer": "its fresh pre-buffer stands in front of text as well",
    "theta": "text has h = w = t under this rope, and some of T's columns turn with another base than the backbone's",
}
"""Arms whose text differs from the backbone's at step 0, and why; "pre_buffer" is NEO-ov with its own."""

ARMS: dict[str, dict[str, Any]] = {
    "neo_ov": {},
    "1d": {"rope": {"kind": "1d"}},
    "1d_causal": {"rope": {"kind": "1d"}, "mask": {"kind": "causal"}},
    "m": {"rope": {"kind": "m"}},
    "sail": {"rope": {"kind": "m", "sections": [0, 8, 8]}, "mask": {"kind": "tags"}, "hw_heads": False},
    "interleaved_m": {"rope": {"kind": "interleaved_m"}},
    "mm": {"rope": {"kind": "mm"}},
    "theta": {"rope": {"kind": "m", "theta": {"h": 100.0, "w": 50.0}}},
    "video": {"rope": {"kind": "video"}},
    "native_causal": {"mask": {"kind": "causal"}},
    "causal_in_some": {"mask": {"causal_layers": [0, 2]}},
    "no_heads": {"rope": {"kind": "1d"}, "hw_heads": False},
    "linear": {"patch": {"kind": "linear_no_bias", "position": "none", "side": 48}},
    "conv_norm": {"patch": {"kind": "conv_norm", "position": "learned", "side": 28}},
    "ln_linear_ln": {"patch": {"kind": "ln_linear_ln", "position": "factorised", "side": 16}},
    "learned": {"patch": {"position": "learned"}},
    "rows": {"row_tokens": {"kind": "id"}, "rope": {"kind": "1d"}, "mask": {"kind": "causal"}},
    "learned_rows": {"row_tokens": {"kind": "learned"}},
    "eve_v2": {
        "modality_weights": {"parts": ["norm", "qkv", "o", "ffn"]},
        "row_tokens": {"kind": "learned"},
        "rope": {"kind": "1d"},
        "mask": {"kind": "causal"},
        "hw_heads": False,
    },
    "all_weights": {"modality_weights": {"parts": ["norm", "qkv", "o", "ffn"]}},
    "ffn": {"modality_weights": {"parts": ["ffn"], "layers": [1, 3]}},
    "norms": {"modality_weights": {"parts": ["norm", "qkv"]}, "mask": {"causal_layers": [1]}},
    "vora": {"vision_lora": {"rank": 8, "tokens": "all", "layers": [0, 3]}},
    "visual_lora": {"vision_lora": {"rank": 8, "linears": ["q_proj", "o_proj", "down_proj"]}},
    "encoder": {"encoder": {"layers": 2, "hidden_size": 16, "intermediate_size": 32, "heads": 2, "table": 4}},
}
