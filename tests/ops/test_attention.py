"""self_attention against softmax(QK^T / sqrt(C)) V written out, forward and backward, on every path."""

import pytest
import torch

from fairseq_masking.ops import attention, self_attention
from fairseq_masking.ops.attention import keep_mask

BATCH, LENGTH, HEADS, WIDTH = 3, 5, 2, 4


def written_out(projected, bias, mask, scale):
    query, key, value = (projected[:, :, part] for part in range(3))
    logits = torch.einsum("bthc,bshc->bhts", query, key) / WIDTH**0.5
    if bias is not None:
        logits = logits.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else logits + bias
    weights = logits.softmax(-1)
    if mask is not None:
        weights = weights * mask.view(weights.shape) * scale
    return torch.einsum("bhts,bshc->bthc", weights, value).reshape(BATCH, LENGTH, HEADS * WIDTH)


def biases(kind):
    if kind == "padding":
        visible = torch.ones(BATCH, 1, 1, LENGTH, dtype=torch.bool)
        visible[1, ..., 3:] = False
        return visible
    if kind == "relative":
        return torch.randn(1, HEADS, LENGTH, LENGTH, dtype=torch.float64)
    return None


@pytest.mark.parametrize("kind", [None, "padding", "relative"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_equals_the_formula(kind, dropout):
    torch.manual_seed(0)
    projected = torch.randn(BATCH, LENGTH, 3, HEADS, WIDTH, dtype=torch.float64)
    bias, upstream = biases(kind), torch.randn(BATCH, LENGTH, HEADS * WIDTH, dtype=torch.float64)
    results = []
    for compute in ("ours", "formula"):
        leaf = projected.clone().requires_grad_()
        torch.manual_seed(9)
        if compute == "ours":
            context = self_attention(leaf, bias, dropout) if dropout else self_attention(leaf, bias)
        else:
            shape = torch.Size((BATCH * HEADS, LENGTH, LENGTH))
            mask, scale = keep_mask(shape, dropout) if dropout else (None, None)
            context = written_out(leaf, bias, mask, scale)
        context.backward(upstream)
        results.append((context.detach(), leaf.grad))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_gradcheck_of_the_lean_path():
    projected = torch.randn(2, 3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    mask, scale = keep_mask(torch.Size((4, 3, 3)), 0.3)
    assert torch.autograd.gradcheck(lambda leaf: attention._LeanAttention.apply(leaf, None, mask, scale), (projected,))


def test_a_second_derivative_is_refused():
    """When it is asked for; a graph of the first one may be made."""
    projected = torch.randn(BATCH, LENGTH, 3, HEADS, WIDTH, requires_grad=True)
    loss = self_attention(projected, None, 0.3).square().sum()
    (gradient,) = torch.autograd.grad(loss, projected, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_learned_bias_gets_its_gradient_with_dropout():
    projected = torch.randn(BATCH, LENGTH, 3, HEADS, WIDTH)
    bias = torch.zeros(1, HEADS, LENGTH, LENGTH, requires_grad=True)
    self_attention(projected, bias, 0.2).square().sum().backward()
    assert bias.grad is not None and bias.grad.abs().max() > 0
