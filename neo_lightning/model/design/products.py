"""The matrix products of every arm in the order in which data passes them, for `model.flops`.

A `Step` holds products that share their input. Where visual tokens have weights of their own, a product is two, each of
its tokens; a row token counts as text here, as its number does not show in the counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.design.axes import within
from neo_lightning.model.design.layer import HW, PARTS


@dataclass(frozen=True, kw_only=True)
class Step:
    """Products of one input."""

    products: dict[str, int]
    """Parameter -> forward operations of the product with it."""
    others: tuple[str, ...] = ()
    """Parameters without a product that lie on the way: norms, biases."""
    attention: int = 0
    """Forward operations of scores and weighted values behind the products."""

    @property
    def forward(self) -> int:
        return sum(self.products.values()) + self.attention


def layer_path(config: NeoConfig, layer: int, tokens: int, visual: int, pairs: int) -> list[Step]:
    """A decoder layer: all tokens of its rows, the visual ones among them, and pairs that its mask lets through."""
    design, d, width = config.design, config.head_dim, config.hidden_size
    q, kv, mlp = config.num_attention_heads * d, config.num_key_value_heads * d, config.intermediate_size
    inputs = {"q_proj": q, "q_proj_hw": q, "k_proj": kv, "k_proj_hw": kv, "v_proj": kv}
    norms = [f"{side}_norm{axis}" for side in "qk" for axis in ("", "_h", "_w")]
    if not design.hw_heads:
        inputs = {name: rows for name, rows in inputs.items() if name not in HW}
        norms = [name for name in norms if name not in HW]
    weights, lora = design.modality_weights, design.vision_lora
    own = {n for part in weights.parts for n in PARTS[part]} if within(weights.layers, layer) else set()
    adapted = lora.linears if lora.rank and within(lora.layers, layer) else ()
    prefix = f"language_model.model.layers.{layer}."

    def products(module: str, names: dict[str, int], inputs: int) -> dict[str, int]:
        found = {}
        for name, outputs in names.items():
            where, cost = f"{module}.{name}", 2 * inputs * outputs
            both = where in own
            found[f"{prefix}{where}.weight"] = (tokens - visual * both) * cost
            if both:
                found[f"{prefix}visual.{where}.weight"] = visual * cost
        return found

    def others(*names: str) -> tuple[str, ...]:
        doubled = (f"visual.{name}" for name in names if name in own)
        return tuple(f"{prefix}{name}.weight" for name in (*names, *doubled))

    def updates(names: dict[str, int], inputs: int) -> tuple[dict[str, int], list[Step]]:
        """Low-rank updates: the first factors, which share the layer's input, and a step of the second."""
        n, names = visual if lora.tokens == "visual" else tokens, {k: v for k, v in names.items() if k in adapted}
        first = {f"{prefix}vision_lora.{name}.lora_a": 2 * n * inputs * lora.rank for name in names}
        second = {f"{prefix}vision_lora.{name}.lora_b": 2 * n * lora.rank * rows for name, rows in names.items()}
        return first, [Step(products=second)] if second else []

    path = []
    for before, module, names, rows, after in (
        ("input_layernorm", "self_attn", inputs, width, [f"self_attn.{name}" for name in norms]),
        ("", "self_attn", {"o_proj": width}, q, []),
        ("post_attention_layernorm", "mlp", {"gate_proj": mlp, "up_proj": mlp}, width, []),
        ("", "mlp", {"down_proj": width}, mlp, []),
    ):
        if before:
            path.append(Step(products={}, others=others(before)))
        first, second = updates(names, rows)
        path += [Step(products={**products(module, names, rows), **first}, others=others(*after)), *second]
        if names is inputs:
            path.append(Step(products={}, attention=2 * pairs * config.num_attention_heads * (2 + design.hw_heads) * d))
    return path


def vision_path(config: NeoConfig, patches: int, patch_pairs: int) -> list[Step]:
    """From pixels to visual tokens."""
    patch, visual, middle, width = config.design.patch, patches // 4, config.patch_hidden_size, config.hidden_size
    square, prefix = 3 * patch.side**2, "vision_model.embeddings."

    def step(name: str, cost: int, *others: str, bias: bool = True) -> Step:
        names = (f"{name}.bias", *others) if bias else others
        return Step(products={f"{prefix}{name}.weight": cost}, others=tuple(prefix + other for other in names))

    if config.design.encoder.layers:
        return _encoder_path(config, patches, patch_pairs)
    where = {"learned": ("table",), "factorised": ("rows", "columns")}.get(patch.position, ())
    position = tuple(f"position.{name}" for name in where)
    if patch.kind == "conv_gelu_conv":
        conv = step("patch_embedding", 2 * patches * square // 4 * middle, *position)
        return [conv, step("dense_embedding", 2 * patches * middle * width)]
    if patch.kind.startswith("linear"):
        return [step("patch_embedding", 2 * visual * square * width, *position, bias=patch.kind == "linear")]
    first = 2 * visual * square * middle
    if patch.kind == "conv_norm":
        return [
            step("patch_embedding", first, *position, "norm.weight"),
            step("dense_embedding", 2 * visual * middle * width),
        ]
    pixels = Step(products={}, others=tuple(f"{prefix}norm_pixels.{kind}" for kind in ("weight", "bias")))
    norms = [f"norm_{name}.{kind}" for name in ("patch", "place") for kind in ("weight", "bias")]
    last = step("dense_embedding", 2 * visual * middle * width, bias=False)
    return [pixels, step("patch_embedding", first, *norms, *position), last]


def _encoder_path(config: NeoConfig, patches: int, patch_pairs: int) -> list[Step]:
    """Blocks are trained or frozen whole: their norms and scales are not looked at."""
    encoder, side, width = config.design.encoder, config.design.patch.side // 2, config.hidden_size
    n, inner, prefix = encoder.hidden_size, encoder.intermediate_size, "vision_model.embeddings."

    def product(name: str, rows: int, inputs: int, outputs: int, attention: int = 0) -> Step:
        return Step(products={f"{prefix}{name}.weight": 2 * rows * inputs * outputs}, attention=attention)

    path = [product("encoder.patch_embedding", patches, 3 * side**2, n)]
    for block in (f"encoder.blocks.{i}." for i in range(encoder.layers)):
        path += [
            product(f"{block}qkv_proj", patches, n, 3 * n, attention=4 * patch_pairs * n),
            product(f"{block}o_proj", patches, n, n),
            product(f"{block}up_proj", patches, n, inner),
            product(f"{block}down_proj", patches, inner, n),
        ]
    visual = patches // 4
    up, out = ("projector.up_proj", 4 * n), ("projector.out_proj", width)
    return [*path, *(product(name, visual, inputs, width) for name, inputs in (up, out))]
