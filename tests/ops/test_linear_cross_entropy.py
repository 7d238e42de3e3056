"""linear_cross_entropy: the chunked form against the reference, the reference against numbers by hand."""

import math

import pytest
import torch

from fairseq_masking.ops import linear_cross_entropy, reference


def problem(rows=13, width=7, vocab=29, *, dtype=torch.float64, device="cpu", ignored=0):
    generator = torch.Generator().manual_seed(rows * 1000 + vocab)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (rows,), generator=generator)
    targets[:ignored] = -100
    tensors = [tensor.to(device, dtype).requires_grad_() for tensor in (hidden, weight, bias)]
    return *tensors, targets.to(device)


def gradients(function, hidden, weight, bias, targets, upstream, **kwargs):
    for tensor in (hidden, weight, bias):
        tensor.grad = None
    losses, predictions = function(hidden, weight, bias, targets, **kwargs)
    losses.backward(upstream.to(losses))
    return losses.detach(), predictions, [tensor.grad.clone() for tensor in (hidden, weight, bias)]


def test_reference_by_hand():
    hidden = torch.tensor([[1.0, 2.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    bias = torch.tensor([0.0, 1.0, -1.0])
    losses, predictions = reference.linear_cross_entropy(hidden, weight, bias, torch.tensor([0]))
    # logits 1, 3, 2
    assert losses.item() == pytest.approx(math.log(math.e + math.e**3 + math.e**2) - 1)
    assert predictions.item() == 1


@pytest.mark.parametrize("rows", [0, 1, 13, 64])
@pytest.mark.parametrize("chunk_rows", [1, 5, 1000])
@pytest.mark.parametrize("ignored", [0, 1])
def test_chunked_equals_reference(rows, chunk_rows, ignored, device):
    tensors = problem(rows, device=device, ignored=min(ignored, rows))
    upstream = torch.linspace(-2.0, 3.0, rows, device=device)
    expected = gradients(reference.linear_cross_entropy, *tensors, upstream)
    actual = gradients(linear_cross_entropy, *tensors, upstream, chunk_elements=chunk_rows * 29)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_gradcheck(chunk_rows):
    hidden, weight, bias, targets = problem(6, 3, 5)

    def losses(*tensors):
        return linear_cross_entropy(*tensors, targets, chunk_elements=chunk_rows * 5).losses_N

    assert torch.autograd.gradcheck(losses, (hidden, weight, bias), nondet_tol=1e-12)


def test_fp32_parity(device):
    tensors = problem(200, 64, 1003, dtype=torch.float32, device=device)
    upstream = torch.ones(200, device=device)
    expected = gradients(reference.linear_cross_entropy, *tensors, upstream)
    actual = gradients(linear_cross_entropy, *tensors, upstream, chunk_elements=64 * 1003)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk_rows", [64, 1000])
def test_bf16_error_is_within_twice_plain_pytorch(chunk_rows, device):
    exact = problem(200, 64, 1003, device=device)
    low = [tensor.detach().to(torch.bfloat16).requires_grad_() for tensor in exact[:3]]
    upstream = torch.ones(200, device=device)
    truth = gradients(reference.linear_cross_entropy, *exact, upstream)
    plain = gradients(reference.linear_cross_entropy, *low, exact[3], upstream)
    ours = gradients(linear_cross_entropy, *low, exact[3], upstream, chunk_elements=chunk_rows * 1003)

    def errors(result):
        return [
            (a.double() - b).norm() / b.norm()
            for a, b in zip([result[0], *result[2]], [truth[0], *truth[2]], strict=True)
        ]

    for own, reference_error in zip(errors(ours), errors(plain), strict=True):
        assert own <= 2 * reference_error


def test_second_backward_is_right():
    hidden, weight, bias, targets = problem()
    losses = linear_cross_entropy(hidden, weight, bias, targets).losses_N
    (first,) = torch.autograd.grad(losses.sum(), hidden, retain_graph=True)
    (second,) = torch.autograd.grad(losses.sum(), hidden)
    torch.testing.assert_close(first, second)


def test_without_bias():
    hidden, weight, _, targets = problem()
    expected = reference.linear_cross_entropy(hidden, weight, None, targets)
    torch.testing.assert_close(tuple(linear_cross_entropy(hidden, weight, None, targets)), expected)
