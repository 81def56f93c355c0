"""What low-rank terms (`model.low_rank`) keep of a row beside what their layer keeps anyway; see `training.memory`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.lora import Lora


@dataclass(frozen=True, kw_only=True)
class TermsOfRun:
    """The terms that a run trains."""

    ranks: Mapping[str, int] = field(default_factory=dict)
    """Weight -> rank."""
    dropout: bool = False

    @classmethod
    def of(cls, lora: Lora | None, config: NeoConfig) -> TermsOfRun:
        return cls() if lora is None else cls(ranks=lora.ranks(config), dropout=lora.dropout > 0)


def groups(config: NeoConfig) -> list[tuple[int, dict[str, int]]]:
    """Projections of a layer that share an input: its width, and the width of each output."""
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    joint = {"q_proj": q, "q_proj_hw": q, "k_proj": kv, "k_proj_hw": kv, "v_proj": kv}
    return [
        (hidden, {f"self_attn.{name}": width for name, width in joint.items()}),
        (q, {"self_attn.o_proj": hidden}),
        (hidden, {"mlp.gate_proj": inner, "mlp.up_proj": inner}),
        (inner, {"mlp.down_proj": hidden}),
    ]


def term_activations(
    config: NeoConfig, terms: TermsOfRun, layer: str, tokens: int, width: int, *, eager: bool, selective: bool
) -> int:
    """Bytes of a layer's terms between forward and backward: what lies between A and B, and copies of A and B.

    Args:
        layer: prefix of its parameters' names.
        tokens: of the row.
        width: bytes of a number.
        eager: kernels of a CPU, whose dropout keeps its draw as numbers.
        selective: all but what lies between A and B is made again.
    """
    total = 0
    for inputs, outputs in groups(config):
        rank = sum(terms.ranks.get(f"{layer}{name}.weight", 0) for name in outputs)
        total += width * tokens * rank
        if rank and not selective:
            total += width * rank * (inputs + sum(outputs.values()) * (len(outputs) > 1))
            total += tokens * inputs * (width if eager else 1) * terms.dropout
    return total
