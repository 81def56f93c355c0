"""Rotations of the arms: shares and order of the axes, bases; inner products see differences of places alone."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.model.design.rope import axes_of_pairs, design_rope, norm_rope, plain_order
from neo_lightning.ops.qk_norm_rope import qk_norm_rope, rope_table
from tests.model.support import relative, small_config

THW = "thw"


@pytest.mark.parametrize(
    ("kind", "pairs", "sections", "axes"),
    [
        ("1d", 8, None, "tttttttt"),
        ("m", 8, None, "tthhhwww"),
        ("m", 8, (0, 4, 4), "hhhhwwww"),
        ("interleaved_m", 8, None, "thwthwtt"),
        ("interleaved_m", 8, (4, 2, 2), "thwthwtt"),
        ("mm", 16, None, "tthhhwwwtthhhwww"),
        ("video", 8, None, "hwhwhwtt"),
    ],
)
def test_which_axis_turns_a_pair(kind: str, pairs: int, sections: tuple[int, int, int] | None, axes: str) -> None:
    assert "".join(THW[axis] for axis in axes_of_pairs(kind, pairs, sections)) == axes


def test_shares_at_the_real_width_are_the_papers() -> None:
    for kind, shares in {
        "m": (16, 24, 24),
        "interleaved_m": (24, 20, 20),
        "mm": (16, 24, 24),
        "video": (16, 24, 24),
    }.items():
        axes = axes_of_pairs(kind, 64)
        assert tuple(axes.count(axis) for axis in range(3)) == shares, kind


def test_native_written_as_an_arm_is_the_native_table() -> None:
    config = small_config()
    positions = torch.randint(0, 4000, (50, 3), generator=torch.Generator().manual_seed(0))
    table = rope_table(positions, config.head_dim, config.rope_theta, config.rope_theta_hw)
    arm = design_rope(config, positions)
    assert torch.equal(arm.members, table.members)
    assert torch.allclose(arm.turn, table.turn, atol=1e-7)


@pytest.mark.parametrize("kind", ["1d", "m", "interleaved_m", "mm", "video"])
@pytest.mark.parametrize("hw_heads", [True, False])
def test_inner_products_see_differences_of_places_alone(kind: str, hw_heads: bool) -> None:
    config = small_config(design={"rope": {"kind": kind, "theta": {"w": 300.0}}, "hw_heads": hw_heads})
    d = config.head_dim
    x = torch.randn(2, 1, d * (1 + hw_heads), generator=torch.Generator().manual_seed(1))

    def product(shift: int) -> torch.Tensor:
        rope = design_rope(config, torch.tensor([[3, 5, 2], [7, 1, 9]]) + shift)
        if not hw_heads:
            q, k = norm_rope(x, torch.ones(d), rope, 1e-6)
        else:
            q, k = qk_norm_rope(x, (torch.ones(d), torch.ones(d // 2), torch.ones(d // 2)), rope, 1e-6)
        return (q * k).sum()

    assert relative(product(0), product(1000)) < 1e-4
    assert relative(product(0)[None], x[0].mul(x[1]).sum()[None]) > 1e-3, "and they do turn"


def test_an_axis_may_have_its_own_base() -> None:
    config = small_config(design={"rope": {"kind": "m", "theta": {"t": 50.0, "h": 20.0, "w": 10.0}}})
    turn = design_rope(config, torch.tensor([[1, 1, 1]])).turn[0]
    angles = torch.atan2(turn[:, 1], turn[:, 0]).double()
    d = config.head_dim
    axes = axes_of_pairs("m", d // 2)
    wanted = [{0: 50.0, 1: 20.0, 2: 10.0}[axis] ** (-2 * k / d) for k, axis in enumerate(axes)]
    wanted += [base ** (-4 * k / d) for base in (20.0, 10.0) for k in range(d // 4)]
    assert torch.allclose(angles, torch.tensor(wanted, dtype=torch.float64), atol=1e-6)


def test_the_order_of_projections_without_h_and_w() -> None:
    config = small_config(design={"rope": {"kind": "1d"}, "hw_heads": False})
    order, d = plain_order(config, torch.device("cpu")), config.head_dim
    rows = (config.num_attention_heads + 2 * config.num_key_value_heads) * d
    assert order.rows[:4].tolist() == [0, d // 2, 1, d // 2 + 1]
    assert torch.equal(order.rows[order.inverse], torch.arange(rows))
    assert order.rows[-d:].tolist() == list(range(rows - d, rows)), "values stay as they are"
