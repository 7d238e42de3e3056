"""gumbel_mixture inside of torch.compile: one graph, the eager numbers, sound operators."""

import pytest
import torch

from fairseq_masking.methods.amos.gumbel_mixture import chunks as operators
from fairseq_masking.methods.amos.gumbel_mixture import gumbel_mixture

DEPTHS, ROWS, WIDTH, VOCAB = 3, 7, 16, 128


def leaves(device, *, rows=ROWS, bias=True):
    generator = torch.Generator().manual_seed(rows)
    shapes = [(DEPTHS, rows, WIDTH), (WIDTH,), (VOCAB, WIDTH)] + [(VOCAB,)] * bias
    return [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]


def model(impl, chunk_rows):
    """A region as models have it: the mixture's weights before the operation, an embedding's use after it."""

    def region(tensors, seed):
        hidden, vector, embedding, *bias = tensors
        weights = torch.softmax(torch.einsum("knd,d->nk", hidden, vector), dim=-1)
        tokens, embedded = gumbel_mixture(
            torch.tanh(hidden),
            weights,
            embedding,
            bias[0] if bias else None,
            hidden_scale=0.5,
            seed=seed,
            impl=impl,
            chunk_elements=chunk_rows * VOCAB,
        )
        return (embedded * embedded).sum(), tokens

    return region


def compare(region, compiled, tensors, seed):
    for requires_grad in (False, True):  # validation, training
        with torch.set_grad_enabled(requires_grad):
            expected, actual = region(tensors, seed), compiled(tensors, seed)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(total, tensors[:3]) for total, _ in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("backend", "chunk_rows", "bias"), [("inductor", 3, True), ("aot_eager", 1000, False)])
def test_one_graph_with_the_eager_numbers(backend, chunk_rows, bias, impl, device):
    torch._dynamo.reset()
    region = model(impl, chunk_rows)
    compare(region, torch.compile(region, fullgraph=True, backend=backend), leaves(device, bias=bias), 5)


def test_seeds_and_rows_that_change(impl, device):
    """A new seed each update, ragged batches: two compilations at most, for numbers met once and after."""
    torch._dynamo.reset()
    region, graphs = model(impl, chunk_rows=8), []

    def backend(graph, examples):
        graphs.append(graph)
        return graph

    compiled = torch.compile(region, fullgraph=True, backend=backend)
    for step, rows in enumerate((7, 7, 7, 5, 20, 33)):
        tensors = leaves(device, rows=rows)
        assert torch.equal(compiled(tensors, 2**40 + step)[1], region(tensors, 2**40 + step)[1])
    assert len(graphs) <= 3


def test_a_seed_on_the_device_is_an_input(impl, device):
    torch._dynamo.reset()
    region = model(impl, 1000)
    compiled = torch.compile(region, fullgraph=True, backend="aot_eager")
    for seed in (1, 2):
        compare(region, compiled, leaves(device), torch.tensor(seed, device=device))


@pytest.mark.parametrize("given", [True, False])
def test_operators_keep_their_promises(given, impl, device):
    """Schema, fake implementations and autograd, by PyTorch's own checks."""
    hidden, _, embedding, *bias_V = leaves(device, bias=given)
    weights = torch.rand(ROWS, DEPTHS, device=device).requires_grad_()
    noise_NV = torch.randn(ROWS, VOCAB, device=device) if given else None
    seed = torch.tensor(3, device=device)
    inputs = (hidden, weights, embedding, bias_V[0] if given else None, seed, noise_NV)
    settings = (0.3, -1.0, 0.5, 3 * VOCAB, impl)
    torch.library.opcheck(operators.forward, (*inputs, *settings))
    with torch.no_grad():
        embedded, *saved = operators.forward(*inputs, *settings)
        arguments = (torch.ones_like(embedded), *inputs, *saved, *settings, [False, True])
        arguments = [item.detach() if isinstance(item, torch.Tensor) else item for item in arguments]
        torch.library.opcheck(operators.backward, arguments)
