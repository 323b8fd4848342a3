"""Packed linear layers give what plain ones give, hold their weights once, and stay away where they do not work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitvlm.model import packed_linear
from splitvlm.model.packed_linear import PackedLinear, can_pack, pack_linears
from splitvlm.model.skeleton import parameter_bytes

needs_packing = pytest.mark.skipif(not can_pack(torch.float32), reason="this build of torch does not pack weights")


class _Tied(nn.Module):
    """An embedding, a layer, and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.layer = nn.Linear(24, 24)
        self.head = nn.Linear(24, 50, bias=False)
        self.head.weight = self.embed.weight


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 40), (16, 40), (2, 7, 40), (40,), (0, 40)])
@torch.inference_mode()
def test_products_are_those_of_the_plain_layer(dtype: torch.dtype, bias: bool, shape: tuple[int, ...]) -> None:
    if not can_pack(dtype):
        pytest.skip(f"this processor does not pack {dtype}")
    plain = nn.Linear(40, 72, bias=bias, dtype=dtype)
    states = torch.randn(shape, dtype=dtype)
    packed = PackedLinear(plain)(states)
    expected = plain(states)
    assert packed.shape == expected.shape
    assert packed.dtype == dtype
    torch.testing.assert_close(packed, expected)


@needs_packing
@torch.inference_mode()
def test_a_row_is_the_same_whatever_its_neighbours_contain() -> None:
    packed = PackedLinear(nn.Linear(64, 96))
    states = torch.randn(16, 64)
    others = torch.randn(16, 64)
    others[3] = states[3]
    assert torch.equal(packed(states)[3], packed(others)[3])


@needs_packing
def test_weights_are_held_once_and_tied_ones_only_where_that_is_asked_for() -> None:
    model = _Tied()
    plain_bytes = parameter_bytes(model)
    pack_linears(model, tied=False)
    assert isinstance(model.layer, PackedLinear)
    assert type(model.head) is nn.Linear
    assert parameter_bytes(model) == plain_bytes
    pack_linears(model, tied=True)
    assert isinstance(model.head, PackedLinear)
    assert parameter_bytes(model) == plain_bytes + 4 * 50 * 24


@needs_packing
def test_weights_without_storage_stay() -> None:
    model = nn.Sequential(nn.Linear(8, 8, device="meta"), nn.Linear(8, 8))
    pack_linears(model, tied=True)
    assert [type(layer) for layer in model] == [nn.Linear, PackedLinear]


def test_nothing_is_packed_where_it_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "can_pack", lambda dtype: False)
    model = nn.Sequential(nn.Linear(8, 8))
    pack_linears(model, tied=True)
    assert type(model[0]) is nn.Linear
