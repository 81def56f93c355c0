"""NEO-ov is what it was before there was a design space: the same operations, as often, in training and in decoding.

The numbers were counted without `model/design`, before it was merged.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from neo_lightning.model.generate import Prompt, generate
from neo_lightning.model.neo import Neo
from tests.model.support import random_batch, random_document, random_patches, small_model

TRAINING = {
    "_softmax": 4,
    "_softmax_backward_data": 4,
    "_to_copy": 9,
    "_unsafe_view": 61,
    "add": 38,
    "add_": 21,
    "addcmul": 1,
    "addcmul_": 17,
    "addmm": 2,
    "addmm_": 1,
    "arange": 14,
    "baddbmm": 4,
    "bitwise_or": 1,
    "bmm": 20,
    "cat": 33,
    "clamp_": 1,
    "clone": 72,
    "copy_": 7,
    "cos": 1,
    "cumsum": 1,
    "div": 5,
    "div_": 18,
    "embedding": 1,
    "embedding_dense_backward": 1,
    "empty": 1,
    "empty_like": 6,
    "eq": 2,
    "exp_": 1,
    "flip": 1,
    "floor_divide": 8,
    "full": 6,
    "full_like": 1,
    "gather": 1,
    "ge": 3,
    "gelu": 1,
    "gelu_backward": 1,
    "index": 5,
    "index_add": 1,
    "index_copy": 1,
    "index_fill": 1,
    "index_put_": 1,
    "index_select": 16,
    "linalg_vector_norm": 9,
    "logsumexp": 1,
    "lt": 1,
    "masked_fill_": 1,
    "mm": 69,
    "mul": 128,
    "mul_": 46,
    "mv": 18,
    "neg": 4,
    "new_empty": 8,
    "new_empty_strided": 1,
    "new_zeros": 9,
    "ones_like": 2,
    "polar": 1,
    "pow": 3,
    "pow_": 9,
    "prod": 1,
    "promote_types": 27,
    "reciprocal": 1,
    "remainder": 6,
    "repeat_interleave": 1,
    "rsqrt_": 17,
    "scatter_add_": 1,
    "silu": 4,
    "silu_backward": 4,
    "sin": 1,
    "slice_backward": 1,
    "stack": 2,
    "sub": 4,
    "sub_": 1,
    "sum": 12,
    "zeros": 2,
    "zeros_like": 1,
}
DECODING = {
    "_softmax": 16,
    "_unsafe_view": 16,
    "add": 30,
    "add_": 52,
    "argmax": 4,
    "bmm": 32,
    "cat": 31,
    "clone": 16,
    "div_": 36,
    "embedding": 4,
    "index_copy_": 32,
    "index_select": 19,
    "linalg_vector_norm": 36,
    "mm": 164,
    "mul": 84,
    "mul_": 84,
    "pow_": 36,
    "promote_types": 36,
    "rsqrt_": 52,
    "silu": 16,
}


class CountOperations(TorchDispatchMode):
    """Every operation that reaches the dispatcher, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def training(model: Neo) -> Counter[str]:
    batch = random_batch(model.config, [[(2, 3)], [], [(1, 2)]])
    with CountOperations() as counter:
        model(batch).loss_sum.backward()
    return counter.found


def decoding(model: Neo) -> Counter[str]:
    """Of four further tokens: a call with six less a call with two."""
    document = random_document(model.config, [(2, 3)], 5, 0)
    ids, grids = document
    prompt = Prompt(
        input_ids=ids, visual=ids == model.config.image_token_id, grids=grids, patches=random_patches([document])
    )
    found = []
    for tokens in (2, 6):
        with CountOperations() as counter:
            generate(model, [prompt], max_new_tokens=tokens)
        found.append(counter.found)
    found[1].subtract(found[0])
    return +found[1]


def test_a_training_step_takes_the_same_operations() -> None:
    assert training(small_model()) == TRAINING


def test_a_decoding_step_takes_no_more_operations() -> None:
    more = decoding(small_model())
    more.subtract(DECODING)
    assert +more == Counter(), "a step of decoding does more than it did"


def test_no_layer_of_the_design_space_is_built() -> None:
    kinds = {type(module).__module__ for module in small_model().modules()}
    assert not any(".design" in kind for kind in kinds)
    assert small_model(design={"hw_heads": False, "rope": {"kind": "1d"}}).layers[0].__module__.endswith("design.layer")


if __name__ == "__main__":
    with torch.random.fork_rng():
        print(dict(sorted(training(small_model()).items())))
        print(dict(sorted(decoding(small_model()).items())))
