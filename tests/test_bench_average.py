"""The mean of adapters, what is cut off of it, and an adapter made wider."""

from __future__ import annotations

import pytest
import torch

from bench.average_adapters import A, B, Tensors, averaged
from bench.widen_adapter import widened
from llmarking.errors import InputError


def change(seed: int, rank: int, layer: str = "layer") -> Tensors:
    torch.manual_seed(seed)
    return {layer + A: torch.randn(rank, 12), layer + B: torch.randn(20, rank)}


def test_the_mean_of_changes_is_kept_where_the_rank_allows() -> None:
    one, two = change(1, 3), change(2, 4)
    mean, kept = averaged([(one, 2.0), (two, 0.5)], [0.25, 0.75], rank=7)
    wanted = 0.25 * 2.0 * one["layer" + B] @ one["layer" + A]
    wanted += 0.75 * 0.5 * two["layer" + B] @ two["layer" + A]
    found = mean["layer" + B].float() @ mean["layer" + A].float()
    # Factors are rounded to bfloat16.
    assert torch.allclose(found, wanted, atol=0.02 * float(wanted.abs().max()))
    assert kept == pytest.approx(1.0)


def test_the_smallest_singular_values_are_cut_off() -> None:
    one = change(1, 6)
    mean, kept = averaged([(one, 1.0)], [1.0], rank=2)
    values = torch.linalg.svdvals(one["layer" + B] @ one["layer" + A])
    assert mean["layer" + A].shape == (2, 12)
    assert mean["layer" + B].shape == (20, 2)
    assert kept == pytest.approx(float(values[:2].square().sum() / values.square().sum()), rel=1e-4)


def test_adapters_of_different_layers_are_refused() -> None:
    with pytest.raises(InputError, match="different layers"):
        averaged([(change(1, 2), 1.0), (change(1, 2, "other"), 1.0)], [0.5, 0.5], rank=2)


def test_a_widened_adapter_does_the_same_and_its_new_directions_can_move() -> None:
    one = change(1, 3)
    wide = widened(one, 6)
    assert wide["layer" + A].shape == (6, 12)
    assert wide["layer" + B].shape == (20, 6)
    assert torch.equal(wide["layer" + B] @ wide["layer" + A], one["layer" + B] @ one["layer" + A])
    # B begins at zero, so its gradient is that of A's rows: none of those may be zero.
    assert (wide["layer" + A][3:].norm(dim=1) > 0).all()


@pytest.mark.parametrize("rank", [2, 3, 7])
def test_a_rank_that_can_not_hold_the_adapter_is_refused(rank: int) -> None:
    with pytest.raises(InputError, match=f"--rank {rank}: take a multiple of 3"):
        widened(change(1, 3), rank)
