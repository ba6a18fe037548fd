"""Narrow attention and encoder layers against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from wichan.estimators.learned import seeded
from wichan.nn.attention import attention, packed_attention
from wichan.nn.convolution import ConvEnhancer
from wichan.nn.encoder import EncoderLayer


def parts(shape: tuple[int, ...], scale: float = 1.0, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [scale * torch.randn(*shape, dtype=dtype, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("scale", [1.0, 30.0])  # scores of some thousand: the exponential needs its maximum taken off
@pytest.mark.parametrize("shape", [(2, 3, 17, 8), (1, 1, 1, 4), (5, 4, 280, 8)])
def test_narrow_attention_equals_torchs(shape: tuple[int, ...], scale: float) -> None:
    query, key, value = parts(shape, scale)
    want = functional.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(attention(query, key, value), want, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gradients_equal_torchs(scale: float) -> None:
    ours = [part.requires_grad_() for part in parts((2, 2, 9, 4), scale)]
    theirs = [part.detach().clone().requires_grad_() for part in ours]
    attention(*ours).square().sum().backward()
    functional.scaled_dot_product_attention(*theirs).square().sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-9, atol=1e-9 * scale**2)


def test_gradients_equal_finite_differences() -> None:
    stacked = torch.stack([part.mT for part in parts((1, 2, 5, 3))], dim=2).requires_grad_()
    assert torch.autograd.gradcheck(packed_attention, (stacked,))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_encoder_layer_equals_torchs(norm: str) -> None:
    with seeded(0):
        ours = EncoderLayer(32, 4, 64, norm=norm).double().eval()
        peer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=norm == "pre").double().eval()
    pairs = {
        "self_attn.in_proj_weight": ours.attention.in_weight,
        "self_attn.in_proj_bias": ours.attention.in_bias,
        "self_attn.out_proj.weight": ours.attention.out.weight,
        "self_attn.out_proj.bias": ours.attention.out.bias,
        "linear1.weight": ours.feed_forward[0].weight,
        "linear1.bias": ours.feed_forward[0].bias,
        "linear2.weight": ours.feed_forward[2].weight,
        "linear2.bias": ours.feed_forward[2].bias,
        "norm1.weight": ours.attention_norm.weight,
        "norm1.bias": ours.attention_norm.bias,
        "norm2.weight": ours.feed_forward_norm.weight,
        "norm2.bias": ours.feed_forward_norm.bias,
    }
    peer.load_state_dict({name: value.detach() for name, value in pairs.items()})
    tokens = parts((3, 21, 32))[0]
    with torch.no_grad():
        assert torch.allclose(ours(tokens), peer(tokens), rtol=0, atol=1e-12)


def test_convolutions_can_start_as_the_identity() -> None:
    with seeded(0):
        enhancer = ConvEnhancer()
    image = parts((2, 12, 14), dtype=torch.float32)[0]
    before = enhancer(image)
    enhancer.start_as_identity()
    assert not torch.equal(before, image)
    assert torch.equal(enhancer(image), image)
