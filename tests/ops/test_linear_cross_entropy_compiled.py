"""linear_cross_entropy inside of torch.compile: one graph, the eager numbers, sound operators."""

import pytest
import torch

from fairseq_masking.ops import linear_cross_entropy
from fairseq_masking.ops.linear_cross_entropy import chunks as operators

ROWS, WIDTH, VOCAB = 7, 16, 128


def leaves(device, *, rows=ROWS, bias=True):
    generator = torch.Generator().manual_seed(rows)
    shapes = [(rows, WIDTH), (VOCAB, WIDTH)] + [(VOCAB,)] * bias
    tensors = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
    targets = torch.randint(VOCAB, (rows,), generator=generator)
    targets[0] = -100
    return tensors, targets.to(device)


def model(impl, chunk_rows, heads=False):
    """A region as models have it: something before the operation, unequal weights of rows after it."""

    def region(tensors, targets):
        hidden, weight, *bias = tensors
        hidden = torch.tanh(hidden)
        if heads:
            hidden = torch.stack([hidden, 2 * hidden])
        losses, predictions = linear_cross_entropy(
            hidden, weight, bias[0] if bias else None, targets, impl=impl, chunk_elements=chunk_rows * VOCAB
        )
        return (losses * losses).sum(), predictions

    return region


def compare(region, tensors, targets, **options):
    torch._dynamo.reset()
    compiled = torch.compile(region, fullgraph=True, **options)
    for requires_grad in (False, True):  # validation, training
        with torch.set_grad_enabled(requires_grad):
            expected, actual = region(tensors, targets), compiled(tensors, targets)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(total, tensors) for total, _ in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("chunk_rows", [3, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_one_graph_with_the_eager_numbers(chunk_rows, bias, impl, device):
    compare(model(impl, chunk_rows), *leaves(device, bias=bias), backend="aot_eager")


def test_inductor(impl, device):
    compare(model(impl, 1000 if impl == "triton" else 3, heads=True), *leaves(device))


def test_dynamic_number_of_rows(impl, device):
    """Ragged batches: the number of masked positions changes, also past what one chunk holds."""
    torch._dynamo.reset()
    region = model(impl, chunk_rows=8)
    compiled = torch.compile(region, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (7, 5, 20, 33):
        tensors, targets = leaves(device, rows=rows)
        (total, _), (expected, _) = compiled(tensors, targets), region(tensors, targets)
        torch.testing.assert_close(
            torch.autograd.grad(total, tensors), torch.autograd.grad(expected, tensors), rtol=1e-5, atol=1e-4
        )


def test_backward_does_not_write_over_what_the_graph_keeps(impl, device):
    tensors, targets = leaves(device)
    torch._dynamo.reset()
    total, _ = torch.compile(model(impl, 1000), fullgraph=True, backend="aot_eager")(tensors, targets)
    with torch._functorch.config.patch(donated_buffer=False):
        first = torch.autograd.grad(total, tensors, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(total, tensors), first)


@pytest.mark.parametrize("chunk_rows", [3, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_operators_keep_their_promises(chunk_rows, bias, impl, device):
    """Schema, fake implementations and autograd, by PyTorch's own checks."""
    (hidden, weight, *bias_V), targets = leaves(device, bias=bias)
    inputs = (hidden, weight, bias_V[0] if bias else None, targets)
    settings = (-100, chunk_rows * VOCAB, impl)
    torch.library.opcheck(operators.forward_operator, (*inputs, *settings))
    with torch.no_grad():
        losses, _, *saved = operators.forward_operator(*inputs, *settings)
        arguments = (torch.ones_like(losses), *inputs, *saved, *settings, [True, False, bias])
        arguments = [item.detach() if isinstance(item, torch.Tensor) else item for item in arguments]
        torch.library.opcheck(operators._backward_operator, arguments)
