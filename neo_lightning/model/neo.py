"""The NEO network: a packed row in, the weighted loss out.

    uint8 patches --patch embedding--> visual tokens --placed over the image-context tokens--> x [T, hidden]
    x --pre-buffer layers, post-LLM layers--> norm --head on supervised tokens only--> loss

Everything happens inside `Neo.forward`, the head as well, so that whatever wraps the module from outside (FSDP2,
compilation) sees all of it. Parameter names are those of the released checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.design.layer import layer_class, split_of
from neo_lightning.model.design.patch import patch_embedding
from neo_lightning.model.design.rope import design_rope, plain_order
from neo_lightning.model.init import STD, initial_state
from neo_lightning.model.layers import Layer, PackedRow, RMSNorm, Row, Split
from neo_lightning.model.low_rank import Adapters
from neo_lightning.ops.fp8 import STEP
from neo_lightning.ops.interval_attention import choose_backend, prepare_intervals
from neo_lightning.ops.joint_linear import Order, joint_linear
from neo_lightning.ops.linear_cross_entropy import linear_cross_entropy
from neo_lightning.ops.qk_norm_rope import Rope, projection_order, rope_table
from neo_lightning.types import PackedBatch, RowPart


class NeoOutput(NamedTuple):
    """What a training forward pass gives. A tuple, so that FSDP2 finds the tensors in it."""

    loss_sum: Tensor
    """Scalar float32, sum over supervised tokens of weight * nll; has the gradient."""
    nll: Tensor
    """[n] float32, negative log-likelihood of each supervised token in nats; no gradient."""
    places: Tensor
    """[n] int64, where the supervised tokens lie in the row: `batch.modality[places]` says whose loss is whose."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodeStep:
    """A step of generation: the new tokens of one or many sequences, and where to predict."""

    input_ids: Tensor
    """[T] int64."""
    row: Row
    """Rotations, and attention with a cache behind it."""
    last: Tensor | None
    """[B] int64, places whose next token is wanted; None: of all."""
    visual: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    """(visual_index, patches, grids, row_index) as in PackedBatch, or None without images."""


class VisionModel(nn.Module):
    """Names the patch embedding as the released checkpoint does."""

    def __init__(self, config: NeoConfig, attention: str) -> None:
        super().__init__()
        self.embeddings = patch_embedding(config, attention)
        if config.design.row_tokens.kind == "learned":
            self.row_vector = nn.Parameter(torch.empty(config.hidden_size))


class Decoder(nn.Module):
    """Holds the token embeddings, the layers and the final norm."""

    def __init__(self, config: NeoConfig, fp8: bool) -> None:
        super().__init__()
        # no random numbers, which torch would draw: a large table takes its time, and the meta device imports sympy
        table = torch.zeros(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = nn.ModuleList(layer_class(config)(config, i, fp8) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class LanguageModel(nn.Module):
    """Holds the decoder, and the head where it is not tied to the embeddings."""

    def __init__(self, config: NeoConfig, fp8: bool) -> None:
        super().__init__()
        self.model = Decoder(config, fp8)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


class Neo(nn.Module):
    """NEO / NEO-ov for any config. Fresh parameters are uninitialised: `init_weights` or loading fills them."""

    def __init__(self, config: NeoConfig, *, attention: str = "auto", fp8: bool = False) -> None:
        """
        Args:
            config: the sizes.
            attention: backend of `ops.interval_attention`.
            fp8: multiply with the layers' projections in 8-bit floats (`ops.fp8`); embeddings and head stay as is.

        Raises:
            ValueError: no such backend, or widths that 8-bit products do not take.
        """
        super().__init__()
        choose_backend(attention, torch.device("cpu"))
        widths = {name: getattr(config, name) for name in ("hidden_size", "intermediate_size", "head_dim")}
        if fp8 and any(width % STEP for width in widths.values()):
            raise ValueError(f"fp8 takes widths in multiples of {STEP}, the model's are {widths}")
        self.config, self.attention = config, attention
        self.share: Callable[[PackedRow], Row] | None = None
        """From rotations of a part's tokens and the mask of the whole row to a `Row` in which tokens of one part see
        those of the others: set from outside where ranks share rows (`training.sequence`)."""
        self.adapters = Adapters()
        """Low-rank terms that lie beside the weights (`model.lora`); none at first."""
        self.vision_model = VisionModel(config, attention)
        self.language_model = LanguageModel(config, fp8)

    @torch.no_grad()
    def init_weights(self, seed: int = 0, *, std: float = STD, closed_hw: bool = False) -> None:
        """Fill every parameter afresh, on whatever device it is; see `model.init.initial_state`.

        From the meta device: `model.to_empty(device=...)`, then this. The same seed gives the same model anywhere.
        """
        parameters = dict(self.named_parameters())
        shapes = {name: p.shape for name, p in parameters.items()}
        for name, value in initial_state(shapes, self.config, seed, std=std, closed_hw=closed_hw):
            parameters[name].copy_(value)

    def lay_together(self) -> None:
        """Make weights that share an input neighbours in memory, for a model that answers: see `ops.joint_linear`."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.lay_together()

    @property
    def embeddings(self) -> nn.Module:
        """The patch embedding, or what the design has in its place."""
        return self.vision_model.embeddings

    @property
    def layers(self) -> nn.ModuleList:
        """All decoder layers, the pre-buffer first."""
        return self.language_model.model.layers

    @property
    def head_weight(self) -> Tensor:
        """[V, E]: the head's own weight, or the embedding table when tied."""
        language = self.language_model
        return language.model.embed_tokens.weight if self.config.tie_word_embeddings else language.lm_head.weight

    def forward(self, inputs: PackedBatch | DecodeStep) -> Any:
        """Train on a packed row, or predict.

        Args:
            inputs: a micro-batch, a part of one where `share` is set, or a generation step.

        Returns:
            NeoOutput for a batch; [B, V] logits for a step.
        """
        if not isinstance(inputs, PackedBatch):
            x = self.hidden(self.embed(inputs.input_ids, *(inputs.visual or ())), inputs.row)
            x = x if inputs.last is None else x.index_select(0, inputs.last)
            return joint_linear(x, (self.head_weight,))
        whole = self.row(inputs.positions, inputs.start, inputs.limit, inputs.visual_index, inputs.row_index)
        row: Row = whole
        visual: tuple[Any, ...] = inputs.visual_index, inputs.patches, inputs.grids, inputs.row_index
        if isinstance(inputs, RowPart):
            if self.share is None:
                raise ValueError("a part of a row came, and nothing says how to reach the others: set `Neo.share`")
            row, visual = self.share(whole), (*visual, inputs.first_row, inputs.before)
        x = self.hidden(self.embed(inputs.input_ids, *visual), row)
        places = inputs.places
        loss_sum, nll = linear_cross_entropy(
            x.index_select(0, places), self.head_weight, inputs.targets[places], inputs.weights[places]
        )
        return NeoOutput(loss_sum, nll, places)

    def rope(self, positions: Tensor) -> Rope:
        """Rotations of tokens at positions [T, 3]."""
        config = self.config
        if not config.native_rope:
            return design_rope(config, positions)
        return rope_table(positions, config.head_dim, config.rope_theta, config.rope_theta_hw)

    def order(self, device: torch.device) -> Order:
        """How the projections of q, k and v lie in their one product."""
        config = self.config
        if not config.design.hw_heads:
            return plain_order(config, device)
        return projection_order(config.num_attention_heads, config.num_key_value_heads, config.head_dim, device)

    def row(self, positions: Tensor, start: Tensor, limit: Tensor, *of_units: Tensor) -> PackedRow:
        """Rotations and mask of a packed row: positions [T, 3] of the tokens that are here, bounds [T] int32 of all,
        places of units' tokens."""
        other = None
        if layers := self.config.causal_layers:
            causal = torch.arange(1, start.numel() + 1, dtype=torch.int32, device=start.device)
            other = layers, causal, prepare_intervals(start, causal, self.attention)
        return PackedRow(
            rope=self.rope(positions),
            order=self.order(positions.device),
            start=start,
            limit=limit,
            backend=choose_backend(self.attention, start.device),
            prepared=prepare_intervals(start, limit, self.attention),
            other=other,
            split=self.split(start.numel(), *of_units),
        )

    def split(self, tokens: int, *of_units: Tensor) -> Split | None:
        """A row's tokens by kind, where layers want to know; arguments of `row`."""
        return split_of(tokens, torch.cat(of_units)) if self.config.design.splits and of_units else None

    def embed(
        self,
        input_ids: Tensor,
        visual_index: Tensor | None = None,
        patches: Tensor | None = None,
        grids: Tensor | None = None,
        row_index: Tensor | None = None,
        first_row: int = 0,
        before: int = 0,
    ) -> Tensor:
        """Token embeddings [T, E] with the visual tokens in their places; see `RowPart` for `first_row` and `before`.

        Units behind the last place (the blank one of a row without pixels) are embedded and left out: the patch
        embedding then runs, and has a gradient of zero, on every rank.
        """
        x = self.language_model.model.embed_tokens(input_ids)
        if visual_index is None or patches is None or grids is None:
            return x
        # what a design has in the place of NEO-ov's knows no cut images, as ranks share rows of NEO-ov alone
        visual = self.embeddings(patches, grids, 2 * first_row) if first_row else self.embeddings(patches, grids)
        if row_index is not None and self.config.design.row_tokens.kind == "learned":
            vector = self.vision_model.row_vector.to(x.dtype)
            x = x.index_copy(0, row_index, vector.expand(row_index.numel(), -1))
        return x.index_copy(0, visual_index, visual[before : before + visual_index.numel()].to(x.dtype))

    def hidden(self, x: Tensor, row: Row) -> Tensor:
        """[T, E] embeddings through all layers and the final norm."""
        for number, layer in enumerate(self.layers):
            x = layer(x, row.at(number))
        return self.language_model.model.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., E] normalised hidden states -> [..., V]."""
        return F.linear(hidden, self.head_weight)
