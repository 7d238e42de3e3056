"""linear_cross_entropy: both implementations against the reference, the reference against numbers by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from peak_memory import peak_bytes
from torch.utils.flop_counter import FlopCounterMode

from fairseq_masking.ops.linear_cross_entropy import linear_cross_entropy, reference, torch_rows

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:overflow encountered")


def problem(rows=13, width=7, vocab=29, *, dtype=torch.float64, device="cpu", ignored=0, bias=True, scale=1.0):
    generator = torch.Generator().manual_seed(rows * 1000 + vocab)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64)
    bias_V = torch.randn(vocab, generator=generator, dtype=torch.float64) if bias else None
    targets = torch.randint(vocab, (rows,), generator=generator)
    targets[:ignored] = -100
    tensors = [
        None if tensor is None else tensor.to(device, dtype).requires_grad_() for tensor in (hidden, weight, bias_V)
    ]
    return *tensors, targets.to(device)


def gradients(function, hidden, weight, bias, targets, upstream, **kwargs):
    leaves = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    losses, predictions = function(hidden, weight, bias, targets, **kwargs)
    grads = torch.autograd.grad(losses, leaves, upstream.to(losses))
    return losses.detach(), predictions, list(grads)


def relative_errors(result, truth):
    return [
        ((ours.double() - exact.double()).norm() / exact.double().norm()).item()
        for ours, exact in zip([result[0], *result[2]], [truth[0], *truth[2]], strict=True)
    ]


def test_reference_by_hand():
    hidden = torch.tensor([[1.0, 2.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    bias = torch.tensor([0.0, 1.0, -1.0])
    losses, predictions = reference(hidden, weight, bias, torch.tensor([0]))
    # logits 1, 3, 2
    assert losses.item() == pytest.approx(math.log(math.e + math.e**3 + math.e**2) - 1)
    assert predictions.item() == 1


def test_reference_gradcheck():
    hidden, weight, bias, targets = problem(6, 3, 5, ignored=1)

    def losses(*tensors):
        return reference(*tensors, targets)[0]

    assert torch.autograd.gradcheck(losses, (hidden, weight, bias))


@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_chunked_gradcheck(chunk_rows):
    hidden, weight, bias, targets = problem(6, 3, 5, ignored=1)

    def losses(*tensors):
        return linear_cross_entropy(*tensors, targets, chunk_elements=chunk_rows * 5).losses_N

    assert torch.autograd.gradcheck(losses, (hidden, weight, bias), nondet_tol=1e-12)


@pytest.mark.parametrize("rows", [0, 1, 13, 64])
@pytest.mark.parametrize("chunk_rows", [1, 5, 1000])
@pytest.mark.parametrize("ignored", [0, 1])
def test_chunked_equals_reference_in_fp64(rows, chunk_rows, ignored, device):
    tensors = problem(rows, device=device, ignored=min(ignored, rows))
    upstream = torch.linspace(-2.0, 3.0, rows, device=device)
    expected = gradients(reference, *tensors, upstream)
    actual = gradients(linear_cross_entropy, *tensors, upstream, chunk_elements=chunk_rows * 29)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


# vocabularies: within one block of the kernels, a multiple of their blocks, several blocks and a rest;
# each with all rows, and with a bias and without
@pytest.mark.parametrize(
    ("vocab", "rows", "chunk_rows", "bias"),
    [
        (vocab, rows, chunk_rows, (column + row) % 2 == 0)
        for column, vocab in enumerate((1, 29, 64, 1003, 2048, 4501))
        for row, (rows, chunk_rows) in enumerate(((0, 4), (1, 4), (13, 5), (13, 1000)))
    ],
)
def test_fp32_parity(vocab, rows, chunk_rows, bias, impl, device):
    tensors = problem(
        rows, 16, vocab, dtype=torch.float32, device=device, ignored=min(2, rows // 2), bias=bias, scale=0.3
    )
    upstream = torch.linspace(-2.0, 3.0, rows, device=device)
    expected = gradients(reference, *tensors, upstream)
    actual = gradients(linear_cross_entropy, *tensors, upstream, impl=impl, chunk_elements=chunk_rows * vocab)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("chunk_rows", "vocab"), [(20, 1003), (1000, 2112)])
def test_half_precision_is_within_twice_plain_pytorch(dtype, chunk_rows, vocab, impl, device):
    exact = problem(70, 64, vocab, device=device, scale=0.3)
    low = [tensor.detach().to(dtype).requires_grad_() for tensor in exact[:3]]
    upstream = torch.linspace(0.5, 1.5, 70, device=device)
    truth = gradients(reference, *exact, upstream)
    plain = gradients(reference, *low, exact[3], upstream)
    ours = gradients(linear_cross_entropy, *low, exact[3], upstream, impl=impl, chunk_elements=chunk_rows * vocab)
    assert [grad.dtype for grad in ours[2]] == [dtype] * 3
    for own, of_pytorch in zip(relative_errors(ours, truth), relative_errors(plain, truth), strict=True):
        assert own <= 2 * of_pytorch


def test_many_chunks_add_up_in_half_precision(impl, device):
    """Terms of 1/2, added one by one in bf16, would stay at 128."""
    hidden = torch.ones(300, 4, dtype=torch.bfloat16, device=device)
    weight, bias = (torch.zeros(*shape, dtype=torch.bfloat16, device=device) for shape in ((2, 4), (2,)))
    targets = torch.zeros(300, dtype=torch.int64, device=device)
    losses, _ = linear_cross_entropy(
        hidden, weight.requires_grad_(), bias.requires_grad_(), targets, impl=impl, chunk_elements=2
    )
    losses.sum().backward()
    expected = torch.tensor([-150.0, 150.0], device=device).bfloat16()
    torch.testing.assert_close(weight.grad, expected[:, None].expand(2, 4))
    torch.testing.assert_close(bias.grad, expected)


def test_all_ignored(impl, device):
    *tensors, targets = problem(dtype=torch.float32, device=device, ignored=13)
    losses, _, grads = gradients(linear_cross_entropy, *tensors, targets, torch.ones(13, device=device), impl=impl)
    assert not losses.any()
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_ignored_label_may_be_a_token(chunk_rows, impl, device):
    hidden, weight, bias, targets = problem(dtype=torch.float32, device=device)
    targets[::3] = 1
    upstream = torch.linspace(1.0, 2.0, 13, device=device)
    kwargs = {"ignore_index": 1}
    expected = gradients(reference, hidden, weight, bias, targets, upstream, **kwargs)
    kwargs |= {"impl": impl, "chunk_elements": chunk_rows * 29}
    actual = gradients(linear_cross_entropy, hidden, weight, bias, targets, upstream, **kwargs)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_several_heads_over_one_weight(chunk_rows, impl, device):
    flat, weight, bias, _ = problem(3 * 13, dtype=torch.float32, device=device)
    targets = problem(dtype=torch.float32, device=device, ignored=2)[3]
    heads = flat.detach().view(3, 13, 7).requires_grad_()
    upstream = torch.linspace(-1.0, 2.0, 39, device=device)
    kwargs = {"impl": impl, "chunk_elements": chunk_rows * 29}
    losses, predictions, grads = gradients(
        linear_cross_entropy, heads, weight, bias, targets, upstream.view(3, 13), **kwargs
    )
    expected = gradients(reference, flat, weight, bias, targets.repeat(3), upstream)
    assert losses.shape == predictions.shape == (3, 13)
    torch.testing.assert_close((losses.flatten(), predictions.flatten()), expected[:2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads[0].view(39, 7), expected[2][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads[1:], expected[2][1:], rtol=1e-5, atol=1e-5)


def test_one_row_without_dimensions(impl, device):
    hidden, weight, bias, targets = problem(1, dtype=torch.float32, device=device)
    output = linear_cross_entropy(hidden[0], weight, bias, targets[0], impl=impl)
    assert output.losses_N.shape == ()
    torch.testing.assert_close(output.losses_N, reference(hidden, weight, bias, targets)[0][0])


def test_gradients_of_a_tied_embedding_add_up(impl, device):
    _, weight, bias, targets = problem(dtype=torch.float32, device=device)
    tokens = torch.arange(13, device=device)

    def tied(function, **kwargs):
        losses = function(torch.tanh(weight[tokens]), weight, bias, targets, **kwargs)[0]
        return torch.autograd.grad(losses.sum(), weight)

    expected = tied(reference)
    torch.testing.assert_close(tied(linear_cross_entropy, impl=impl), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first", [0, 3, 2047, 2048, 3000])
def test_the_first_of_equal_maxima_is_predicted(first, impl, device):
    bias = torch.full((4501,), -1.0, device=device)
    bias[[first, 3001, 4096, 4500]] = 2.0
    hidden, weight = torch.zeros(2, 4, device=device), torch.ones(4501, 4, device=device)
    targets = torch.tensor([0, 4500], device=device)
    assert linear_cross_entropy(hidden, weight, bias, targets, impl=impl).predictions_N.tolist() == [first] * 2


@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_very_large_logits(chunk_rows, impl, device):
    tensors = problem(13, 16, 4501, dtype=torch.float32, device=device, scale=3000.0)
    tensors[3][:6] = reference(*tensors)[1][:6]  # losses near 0 beside losses near 1e4
    upstream = torch.linspace(-2.0, 3.0, 13, device=device)
    expected = gradients(reference, *tensors, upstream)
    actual = gradients(linear_cross_entropy, *tensors, upstream, impl=impl, chunk_elements=chunk_rows * 4501)
    assert expected[0].max() > 1e4
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vocab", [29, 4501])
def test_infinite_logits(vocab, impl, device):
    hidden, weight, bias, targets = problem(5, 16, vocab, dtype=torch.float32, device=device)
    targets[:] = 3
    impossible = bias.detach().clone()
    impossible[4:] = -math.inf  # whole blocks of the kernels hold nothing else
    impossible.requires_grad_()
    upstream = torch.ones(5, device=device)
    expected = gradients(reference, hidden, weight, impossible, targets, upstream)
    actual = gradients(linear_cross_entropy, hidden, weight, impossible, targets, upstream, impl=impl)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    for value, everywhere in [(math.inf, False), (math.nan, False), (-math.inf, True)]:
        broken = bias.detach().clone()
        broken[slice(None) if everywhere else vocab - 1] = value
        losses, predictions = linear_cross_entropy(hidden, weight, broken, targets, impl=impl)
        assert losses.isnan().all()  # as PyTorch: it cannot go unnoticed
        assert ((predictions >= 0) & (predictions < vocab)).all()


def test_strided_input(impl, device):
    hidden, weight, bias, targets = problem(12, 8, 29, dtype=torch.float32, device=device, ignored=1)
    expected = gradients(reference, hidden, weight, bias, targets, torch.ones(12, device=device))

    def strided(tensor):
        wide = torch.stack([tensor.detach()] * 2, dim=-1)
        return wide.movedim(-1, 0).flip(0)[1].requires_grad_(tensor.is_floating_point())

    tensors = [strided(tensor) for tensor in (hidden.t(), weight.t(), bias, targets)]
    tensors[:2] = [tensor.detach().t().requires_grad_() for tensor in tensors[:2]]
    one = torch.ones((), device=device).expand(12)
    for chunk_rows in (5, 12):
        actual = gradients(linear_cross_entropy, *tensors, one, impl=impl, chunk_elements=chunk_rows * 29)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_only_the_gradients_asked_for(wanted, chunk_rows, impl, device):
    *tensors, targets = problem(dtype=torch.float32, device=device)
    upstream = torch.ones(13, device=device)
    expected = gradients(reference, *tensors, targets, upstream)[2]
    for tensor, want in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(want)
    losses = linear_cross_entropy(*tensors, targets, impl=impl, chunk_elements=chunk_rows * 29).losses_N
    losses.sum().backward()
    for tensor, want, gradient in zip(tensors, wanted, expected, strict=True):
        if want:
            torch.testing.assert_close(tensor.grad, gradient, rtol=1e-5, atol=1e-5)
        else:
            assert tensor.grad is None


@pytest.mark.parametrize("wanted", [(False, True, False), (False, False, True)])
def test_without_rows_what_is_asked_for_is_zero(wanted, impl, device):
    *tensors, targets = problem(0, dtype=torch.float32, device=device)
    for tensor, want in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(want)
    linear_cross_entropy(*tensors, targets, impl=impl).losses_N.sum().backward()
    for tensor, want in zip(tensors, wanted, strict=True):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor)) if want else tensor.grad is None


@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_second_backward_is_right(chunk_rows, impl, device):
    hidden, weight, bias, targets = problem(dtype=torch.float32, device=device)
    losses = linear_cross_entropy(hidden, weight, bias, targets, impl=impl, chunk_elements=chunk_rows * 29).losses_N
    first = torch.autograd.grad(losses.sum(), [hidden, weight, bias], retain_graph=True)
    second = torch.autograd.grad(losses.sum(), [hidden, weight, bias])
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("target", [-5, 29])
def test_a_target_outside_of_the_vocabulary_does_not_pass(target, impl, device):
    *tensors, targets = problem(dtype=torch.float32)
    targets[4] = target
    if impl == "torch":
        with pytest.raises((IndexError, RuntimeError)):
            linear_cross_entropy(*tensors, targets, impl=impl)
    else:
        tensors = [tensor.detach().to(device) for tensor in tensors]
        losses = linear_cross_entropy(*tensors, targets.to(device), impl=impl).losses_N
        assert losses.isnan().nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory_is_a_tenth_of_the_naive_form(dtype, impl, device):
    rows, vocab, chunk_rows = 192, 2048, 6
    tensors = problem(rows, 16, vocab, dtype=dtype, device=device)

    def step(function, **kwargs):
        losses, _ = function(*tensors, **kwargs)
        torch.autograd.grad(losses.sum(), tensors[:3])

    naive = peak_bytes(lambda: step(reference), device)
    chunk = {"impl": impl, "chunk_elements": chunk_rows * vocab}
    ours = peak_bytes(lambda: step(linear_cross_entropy, **chunk), device)
    assert naive >= 2 * rows * vocab * 4  # the measurement sees the naive form's logits and softmax
    assert ours <= naive / 10


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory_of_20k_rows_on_a_gpu(dtype, impl, device):
    tensors = problem(20_000, 768, 64_000, dtype=dtype, device=device, scale=0.02)

    def step(function, **kwargs):
        losses, _ = function(*tensors, **kwargs)
        torch.autograd.grad(losses.sum(), tensors[:3])

    naive = peak_bytes(lambda: step(reference), device)
    assert peak_bytes(lambda: step(linear_cross_entropy, impl=impl), device) <= naive / 10


@pytest.mark.cuda
def test_no_sync_on_a_gpu(impl, device):
    tensors = problem(130, 64, 1003, dtype=torch.bfloat16, device=device)
    upstream = torch.ones(130, device=device)
    for chunk_rows in (60, 1000):
        kwargs = {"impl": impl, "chunk_elements": chunk_rows * 1003}
        gradients(linear_cross_entropy, *tensors, upstream, **kwargs)  # kernels are compiled
        torch.cuda.set_sync_debug_mode("error")
        try:
            gradients(linear_cross_entropy, *tensors, upstream, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("gibibytes", "products"), [(80, 3), (16, 4)])
def test_a_large_gpu_computes_its_logits_once(gibibytes, products, monkeypatch):
    """Half of the tokens of 64 x 512 masked, V = 50k, half precision: 1.5 GiB of logits, the cap 5 GiB or 1."""
    properties = SimpleNamespace(total_memory=gibibytes << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    rows = pytest.importorskip("fairseq_masking.ops.linear_cross_entropy.triton_rows")
    on_gpu = SimpleNamespace(device=torch.device("cuda"), element_size=lambda: 2)
    chunk = rows.default_chunk_elements(on_gpu)
    assert chunk == gibibytes << 30 >> 5 and torch_rows.default_chunk_elements(on_gpu) == chunk // 2
    hidden, weight = (
        torch.empty(num, 64, dtype=torch.bfloat16, device="meta", requires_grad=True) for num in (16_384, 50_000)
    )
    with FlopCounterMode(display=False) as counter:
        targets = torch.empty(16_384, dtype=torch.int64, device="meta")
        linear_cross_entropy(hidden, weight, None, targets, chunk_elements=chunk).losses_N.sum().backward()
    assert counter.get_total_flops() == products * 2 * 16_384 * 50_000 * 64
