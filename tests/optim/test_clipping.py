"""Norm and clipped gradients are those of fairseq's ``clip_grad_norm_``."""

import pytest
import torch
from fairseq import utils
from torch import Tensor, nn

from fairseq_masking.optim import clip_grad_norm


def parameters(device: torch.device, dtype: torch.dtype = torch.float32, count: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for index in range(count):
        parameter = nn.Parameter(torch.zeros(3 + index, 7, device=device, dtype=dtype))
        if index != 4:
            parameter.grad = torch.randn(3 + index, 7, generator=generator).to(device, dtype)
        made.append(parameter)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_norm", [0, 0.5, 2.0, 1e6])
@pytest.mark.parametrize("count", [1, 20])
def test_equals_fairseq_s(dtype: torch.dtype, max_norm: float, count: int, device: torch.device) -> None:
    ours, theirs = parameters(device, dtype, count), parameters(device, dtype, count)
    norm = clip_grad_norm(ours, max_norm)
    expected = utils.clip_grad_norm_(theirs, max_norm)
    assert norm.dtype == expected.dtype == torch.float32
    assert norm.shape == expected.shape == ()
    torch.testing.assert_close(norm, expected, rtol=1e-7, atol=0)
    for left, right in zip(ours, theirs, strict=True):
        if right.grad is None:
            assert left.grad is None
        else:
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-7, atol=0)


def test_norm_against_fp64_and_its_clipping(device: torch.device) -> None:
    made = parameters(device)
    gradients = [p.grad.clone() for p in made if p.grad is not None]
    exact = torch.cat([gradient.double().flatten() for gradient in gradients]).norm()
    torch.testing.assert_close(clip_grad_norm(made, 0.5).double(), exact, rtol=1e-6, atol=0)
    clipped = torch.cat([p.grad.double().flatten() for p in made if p.grad is not None])
    torch.testing.assert_close(clipped.norm().item(), 0.5, rtol=1e-5, atol=0)


def test_the_norm_over_shards_decides(device: torch.device) -> None:
    whole, shard = parameters(device), parameters(device)
    norm = clip_grad_norm(shard, 1.0, lambda own: own * 3)
    alone = clip_grad_norm(whole, 1.0)
    torch.testing.assert_close(norm, 3 * alone)
    torch.testing.assert_close(shard[0].grad * 3, whole[0].grad, rtol=1e-5, atol=0)


def test_without_gradients(device: torch.device) -> None:
    assert clip_grad_norm([], 1.0) == 0
    assert clip_grad_norm([nn.Parameter(torch.ones(3, device=device))], 1.0) == 0
