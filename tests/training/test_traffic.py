"""Messages of a step, reckoned by hand; `test_ranks.py` counts those of processes."""

from __future__ import annotations

import pytest

from neo_lightning.training.memory import Layout
from neo_lightning.training.traffic import StepTraffic, step_traffic

SIZES = {"language_model.model.layers.0.a": 600, "language_model.model.layers.1.a": 400, "language_model.b": 200}
"""1,000 elements in layers, and 200 at the root."""


def reckon(layout: Layout, computing: float = 1.0, frozen: str = "-", **more: float) -> StepTraffic:
    return step_traffic(
        SIZES,
        lambda name: frozen not in name,
        layout,
        computing=computing,
        **{"link": 10.0, "network": 1.0, **more},
    )


def test_one_device_sends_nothing_and_waits_for_nothing() -> None:
    found = reckon(Layout(shard_size=1))
    assert (found.shared, found.copied, found.waiting, found.waits) == (0, 0, 0, 0)


def test_bytes_are_those_of_rings() -> None:
    """bf16: 2 bytes gathered; gradients in 4. Layers are gathered twice a micro-batch, the root once."""
    found = reckon(Layout(shard_size=4, copies=8, micro_batches=3))
    assert found.shared == pytest.approx(3 * 3 / 4 * (2 * 2 * 1000 + 2 * 200 + 4 * 1200))
    assert found.copied == pytest.approx(2 * 7 / 8 * 4 * 1200 / 4), "once a step, whatever the micro-batches"
    frozen = reckon(Layout(shard_size=4, copies=8), frozen="layers.0")
    assert frozen.copied == pytest.approx(2 * 7 / 8 * 4 * 600 / 4), "what is frozen has no gradient to send"
    assert frozen.waiting == pytest.approx(reckon(Layout(shard_size=4, copies=8)).waiting), "the root's is waited for"
    assert reckon(Layout(shard_size=4, bf16=False)).shared == pytest.approx(3 / 4 * 4 * (2 * 1000 + 200 + 1200))


def test_what_computing_hides_is_not_waited_for() -> None:
    layout = Layout(shard_size=4, copies=8)
    root = 3 / 4 * (2 * 200 + 4 * 200) / 10e9 + 2 * 7 / 8 * 4 * 200 / 4 / 1e9
    assert reckon(layout).waiting == pytest.approx(root), "the root's, in front of the first layer and behind the last"
    bare = reckon(layout, computing=1e-12)
    gathers, reduced = 3 / 4 * 2 * 1000 / 10e9, 3 / 4 * 4 * 1000 / 10e9
    summed = 2 * 7 / 8 * 4 * 1000 / 4 / 1e9
    assert bare.waiting == pytest.approx(root + gathers + max(gathers + reduced, summed), rel=1e-3)
    assert bare.waits == pytest.approx(1, abs=1e-3)


def test_a_group_over_several_machines_is_as_fast_as_the_network() -> None:
    inside, across = (reckon(Layout(shard_size=n), computing=1e-12).waiting for n in (8, 9))
    assert across / inside == pytest.approx(10 * (8 / 9) / (7 / 8), rel=1e-3)
    near, far = (reckon(Layout(shard_size=1, copies=n, bf16=False), computing=1e-12).waiting for n in (8, 9))
    assert far / near == pytest.approx(10 * (8 / 9) / (7 / 8), rel=1e-3)


def test_what_is_exchanged_of_rows_is_waited_for_at_the_bandwidth_of_those_who_share_them() -> None:
    near, far = (
        reckon(Layout(shard_size=16, sequence_size=n, micro_batches=3), exchanged=6e9).waiting
        - reckon(Layout(shard_size=16, sequence_size=n, micro_batches=3)).waiting
        for n in (8, 16)
    )
    assert (near, far) == pytest.approx((3 * 6 / 10, 3 * 6 / 1))
