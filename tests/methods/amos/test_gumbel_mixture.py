"""gumbel_mixture: against PyTorch's gumbel_softmax, each implementation against the reference, its law."""

import importlib
import math
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from peak_memory import peak_bytes

from fairseq_masking.errors import UserError
from fairseq_masking.methods.amos.gumbel_mixture import gumbel_mixture, reference
from fairseq_masking.methods.amos.gumbel_mixture.chunks import Noise, Sample, row_keys
from fairseq_masking.methods.amos.gumbel_mixture.torch_rows import add_gumbel_noise_

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:overflow encountered")

SEED = 11
OPTIONS = {"temperature": 0.3, "scale": -1.0, "hidden_scale": 0.5}


def problem(rows=13, width=7, vocab=29, depths=3, *, dtype=torch.float64, device="cpu", bias=True, scale=1.0):
    """Features, the vector that weighs depths by them, hidden states, embedding, bias, upstream gradient."""
    generator = torch.Generator().manual_seed(rows * 1000 + vocab)

    def draw(*shape, scale=1.0, leaf=True):
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return values.to(device, dtype).requires_grad_(leaf)

    return SimpleNamespace(
        features=draw(depths, rows, width),
        vector=draw(width),
        hidden=draw(depths, rows, width, scale=scale),
        embedding=draw(vocab, width),
        bias=draw(vocab) if bias else None,
        upstream=draw(rows, width, leaf=False),
    )


def noise(rows, vocab, *, seed=SEED, dtype=torch.float64, device="cpu"):
    keys = row_keys(torch.tensor(seed), rows, torch.device(device))
    return add_gumbel_noise_(torch.zeros(rows, vocab, dtype=dtype, device=device), keys)


def noise_for(case):
    hidden = case.hidden
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return noise(hidden.shape[1], len(case.embedding), dtype=dtype, device=hidden.device)


class ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, scale):
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.scale, None


def naive(hidden, weights, embedding, bias, noise_NV, *, temperature, scale, hidden_scale):
    """Eq. 3 as one would write it, through PyTorch's own Gumbel-softmax with the given noise."""
    mixed = sum(
        weights[:, depth, None] * ScaledGradient.apply(states, hidden_scale) for depth, states in enumerate(hidden)
    )
    logits = mixed @ embedding.detach().t() + (0 if bias is None else bias.detach())
    logits = logits if logits.dtype == torch.float64 else logits.float()
    with patch.object(torch.Tensor, "exponential_", lambda values: values.copy_(torch.exp(-noise_NV))):
        sample = F.gumbel_softmax(logits, tau=temperature, hard=True)
    tokens = sample.argmax(-1)
    return tokens, ScaledGradient.apply(sample, scale).to(embedding.dtype) @ embedding


def results(function, case, *more, **options):
    """Tokens, embedded, and the gradients of vector, features, hidden and embedding."""
    weights = F.softmax(torch.einsum("knd,d->nk", case.features, case.vector), dim=-1)
    tokens, embedded = function(case.hidden, weights, case.embedding, case.bias, *more, **options)
    leaves = [case.vector, case.features, case.hidden, case.embedding]
    grads = torch.autograd.grad(embedded, leaves, case.upstream, allow_unused=True)
    return (
        tokens,
        embedded.detach(),
        *(torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)),
    )


def assert_equal(actual, expected, tolerance):
    assert torch.equal(actual[0], expected[0])
    torch.testing.assert_close(actual[1:], expected[1:], rtol=tolerance, atol=tolerance)


def test_reference_by_hand():
    hidden, weights = torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[0.75, 0.25]], requires_grad=True)
    embedding, bias = torch.tensor([[0.0], [1.0]], requires_grad=True), torch.tensor([0.5, 0.0])
    noise_NV = torch.tensor([[0.25, 0.0]])
    # h = 1.5, logits 0.5 and 1.5, with noise 0.75 and 1.5; y of token 1 is the logistic of 0.75 / 0.5
    options = {"temperature": 0.5, "scale": -1.0, "hidden_scale": 0.0}
    tokens, embedded = reference(hidden, weights, embedding, bias, noise_NV, **options)
    embedded.backward(torch.tensor([[2.0]]))
    assert tokens.tolist() == [1] and embedded.item() == 1.0
    y = 1 / (1 + math.exp(-1.5))
    pulled = -y * (1 - y) * 2.0 / 0.5
    torch.testing.assert_close(weights.grad, torch.tensor([[1.0 * pulled, 3.0 * pulled]]))
    assert embedding.grad.tolist() == [[0.0], [2.0]]


# any two of these values meet in a case
@pytest.mark.parametrize(
    ("depths", "scale", "hidden_scale", "temperature"),
    [
        (depths, scale, (0.0, 0.5)[(row + column) % 2], (0.3, 1.7)[(row + column // 2) % 2])
        for row, depths in enumerate((1, 2, 3, 4))
        for column, scale in enumerate((-1.0, 0.0, 1.0, -0.7))
    ],
)
def test_equals_gumbel_softmax_in_fp64(depths, scale, hidden_scale, temperature, device):
    case = problem(depths=depths, device=device)
    options = {"temperature": temperature, "scale": scale, "hidden_scale": hidden_scale}
    noise_NV = noise_for(case)
    expected = results(naive, case, noise_NV, **options)
    assert_equal(results(reference, case, noise_NV, **options), expected, 1e-12)
    for given in (noise_NV, None):
        actual = results(gumbel_mixture, case, seed=SEED, noise_NV=given, chunk_elements=5 * 29, **options)
        assert_equal(actual, expected, 1e-12)


def test_only_sampled_rows_of_the_embedding_learn(impl, device):
    case = problem(dtype=torch.float32, device=device, vocab=101)
    tokens, *_, grad = results(gumbel_mixture, case, seed=SEED, impl=impl)
    expected = torch.zeros_like(case.embedding).index_add(0, tokens, case.upstream)
    torch.testing.assert_close(grad, expected)
    assert len(tokens.unique()) < len(tokens)  # one row is added to twice


def test_bias_gets_no_gradient(impl, device):
    case = problem(dtype=torch.float32, device=device)
    _, embedded = gumbel_mixture(
        case.hidden, case.features.sum(-1).t(), case.embedding, case.bias, seed=0, impl=impl, hidden_scale=1.0
    )
    assert torch.autograd.grad(embedded.sum(), [case.bias], allow_unused=True) == (None,)


@pytest.mark.parametrize("rows", [0, 1, 13, 64])
@pytest.mark.parametrize("chunk_rows", [1, 5, 13, 1000])
def test_chunked_equals_reference_in_fp64(rows, chunk_rows, device):
    case = problem(rows, device=device)
    expected = results(reference, case, noise_for(case), **OPTIONS)
    actual = results(gumbel_mixture, case, seed=SEED, chunk_elements=chunk_rows * 29, **OPTIONS)
    assert_equal(actual, expected, 1e-12)


# vocabularies: within one block of the kernels, a multiple of their blocks, several blocks and a rest;
# each with all rows, and with a bias and noise and without
@pytest.mark.parametrize(
    ("vocab", "rows", "chunk_rows", "given"),
    [
        (vocab, rows, chunk_rows, (column + row) % 2 == 0)
        for column, vocab in enumerate((1, 29, 64, 1003, 2048, 4501))
        for row, (rows, chunk_rows) in enumerate(((0, 4), (1, 4), (13, 5), (13, 1000)))
    ],
)
def test_fp32_parity(vocab, rows, chunk_rows, given, impl, device):
    case = problem(rows, 16, vocab, dtype=torch.float32, device=device, bias=given, scale=0.3)
    noise_NV = noise_for(case)
    expected = results(reference, case, noise_NV, **OPTIONS)
    actual = results(
        gumbel_mixture,
        case,
        seed=0 if given else SEED,
        noise_NV=noise_NV if given else None,
        impl=impl,
        chunk_elements=chunk_rows * vocab,
        **OPTIONS,
    )
    assert_equal(actual, expected, 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("chunk_rows", "vocab"), [(7, 1003), (1000, 2112)])
def test_half_precision_is_within_twice_plain_pytorch(dtype, chunk_rows, vocab, impl, device):
    exact = problem(24, 64, vocab, device=device, scale=0.3)
    winners = torch.arange(24, device=device)
    noise_NV = noise_for(exact).float()
    # the token that is ahead in fp64 is so by enough for every precision
    plain_tokens = results(naive, exact, noise_NV.double(), **OPTIONS)[0]
    noise_NV[winners, plain_tokens] += 0.5
    low = SimpleNamespace(**{name: tensor.detach().to(dtype).requires_grad_() for name, tensor in vars(exact).items()})
    low.upstream = low.upstream.detach()
    truth = results(naive, exact, noise_NV.double(), **OPTIONS)
    plain = results(naive, low, noise_NV, **OPTIONS)
    ours = results(
        gumbel_mixture, low, seed=0, noise_NV=noise_NV, impl=impl, chunk_elements=chunk_rows * vocab, **OPTIONS
    )
    assert torch.equal(ours[0], truth[0]) and torch.equal(plain[0], truth[0])
    for own, of_pytorch, exactly in zip(ours[1:], plain[1:], truth[1:], strict=True):
        assert own.dtype == dtype
        errors = [(values.double() - exactly).norm().item() for values in (own, of_pytorch)]
        assert errors[0] <= 2 * errors[1]


def test_weights_may_be_more_precise_than_hidden(impl, device):
    case = problem(dtype=torch.bfloat16, device=device)
    weights = torch.rand(13, 3, device=device).requires_grad_()
    _, embedded = gumbel_mixture(case.hidden, weights, case.embedding, case.bias, seed=0, impl=impl, hidden_scale=1.0)
    grads = torch.autograd.grad(embedded, [weights, case.hidden], case.upstream)
    assert [grad.dtype for grad in (*grads, embedded)] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert all(grad.any() for grad in grads)


def test_strided_tensors(impl, device):
    case = problem(12, 8, dtype=torch.float32, device=device)
    case.upstream = torch.ones((), device=device).expand(12, 8)
    expected = results(reference, case, noise_for(case), **OPTIONS)
    noise_NV = noise_for(case).t().contiguous().t()

    def strided(tensor):
        wide = torch.stack([tensor.detach(), -tensor.detach()], dim=-1)
        return wide.transpose(0, -2).contiguous().transpose(0, -2)[..., 0].requires_grad_()

    for name in ("features", "hidden", "embedding", "bias"):
        setattr(case, name, strided(getattr(case, name)))
    case.upstream = torch.ones(8, 24, device=device)[:, ::2].t()
    for given in (noise_NV, None):
        actual = results(gumbel_mixture, case, seed=SEED, noise_NV=given, impl=impl, chunk_elements=5 * 29, **OPTIONS)
        assert_equal(actual, expected, 2e-5)


@pytest.mark.parametrize("wanted", ["hidden", "weights", "embedding"])
def test_only_the_gradients_asked_for(wanted, impl, device):
    case = problem(dtype=torch.float32, device=device)
    tensors = {"hidden": case.hidden, "weights": torch.rand(13, 3), "embedding": case.embedding}
    tensors = {name: tensor.detach().to(device).requires_grad_() for name, tensor in tensors.items()}
    _, expected = reference(*tensors.values(), case.bias, noise_for(case), **OPTIONS)
    (gradient,) = torch.autograd.grad(expected, [tensors[wanted]], case.upstream)
    for name, tensor in tensors.items():
        tensor.requires_grad_(name == wanted)
    _, embedded = gumbel_mixture(*tensors.values(), case.bias, seed=SEED, impl=impl, **OPTIONS)
    embedded.backward(case.upstream)
    for name, tensor in tensors.items():
        if name == wanted:
            torch.testing.assert_close(tensor.grad, gradient, rtol=2e-5, atol=2e-5)
        else:
            assert tensor.grad is None


def test_scales_of_zero(impl, device):
    """No gradient of hidden, one of zeros for weights: they may belong to parameters that must have one."""
    case = problem(dtype=torch.float32, device=device)
    weights = torch.rand(13, 3, device=device).requires_grad_()
    arguments = (case.hidden, weights, case.embedding, case.bias)
    for scale, hidden_scale in ((0.0, 1.0), (1.0, 0.0)):
        _, embedded = gumbel_mixture(*arguments, seed=0, scale=scale, hidden_scale=hidden_scale, impl=impl)
        grads = torch.autograd.grad(embedded, arguments[:2], case.upstream, allow_unused=True)
        assert grads[1].any().item() == bool(scale)
        assert (grads[0] is None) == (hidden_scale == 0)
        assert grads[0] is None or not grads[0].any()


def test_the_defaults_are_the_papers(device):
    case = problem(10, 16, 29, dtype=torch.float32, device=device)
    expected = results(gumbel_mixture, case, seed=SEED, temperature=0.3, scale=-1.0, hidden_scale=0.0)
    assert_equal(results(gumbel_mixture, case, seed=SEED), expected, 0.0)


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_the_noise_does_not_depend_on_chunks_or_rows(chunk_rows, impl, device):
    case = problem(10, 16, 1003, dtype=torch.float32, device=device)
    weights = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)).to(device)
    arguments = (case.hidden, weights, case.embedding, case.bias)
    whole = gumbel_mixture(*arguments, seed=5).tokens_N
    settings = {"impl": impl, "chunk_elements": chunk_rows * 1003}
    for seed in (5, torch.tensor(5), torch.tensor(5, device=device)):
        assert torch.equal(gumbel_mixture(*arguments, seed=seed, **settings).tokens_N, whole)
    part = gumbel_mixture(case.hidden[:, :4], weights[:4], *arguments[2:], seed=5, **settings)
    assert torch.equal(part.tokens_N, whole[:4])
    other = gumbel_mixture(*arguments, seed=6, **settings)
    assert not torch.equal(other.tokens_N, whole)


@pytest.mark.parametrize("mixture", [[1.0, 0.0], [0.25, 0.75]])
def test_tokens_follow_the_softmax(mixture, device):
    """Chi-square over the vocabulary, and over pairs of tokens in neighbouring rows."""
    rows, vocab = 40_000, 13
    case = problem(1, 5, vocab, 2, dtype=torch.float32, device=device, scale=0.5)
    weights = torch.tensor([mixture], device=device)
    logits = torch.einsum("nk,knd,vd->v", weights, case.hidden, case.embedding) + case.bias
    probabilities = logits.double().softmax(0).detach()
    tokens, _ = gumbel_mixture(
        case.hidden.expand(-1, rows, -1), weights.expand(rows, -1), case.embedding, case.bias, seed=1
    )
    pairs = torch.outer(probabilities, probabilities).flatten()
    for drawn, expected in ((tokens, probabilities), (tokens[0::2] * vocab + tokens[1::2], pairs)):
        expected = expected * len(drawn)
        counts = torch.bincount(drawn, minlength=len(expected))
        common = expected > 5
        chi_square = ((counts - expected) ** 2 / expected)[common].sum().item()
        degrees = common.sum().item() - 1
        assert abs(chi_square - degrees) < 4 * math.sqrt(2 * degrees)


def test_keys_of_rows_are_splitmix64s():
    """The first numbers of its reference implementation from the seed 1234567."""
    keys = row_keys(torch.tensor(1234567), 5, torch.device("cpu"))
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    expected += [4593380528125082431, 16408922859458223821]
    assert [number % 2**64 for number in keys.view(torch.int64).flatten().tolist()] == expected


def unmixed(bits):
    """What lowbias32 turns into ``bits``."""
    bits ^= bits >> 16
    bits = bits * pow(0x846CA68B, -1, 2**32) % 2**32
    bits ^= (bits >> 15) ^ (bits >> 30)
    bits = bits * pow(0x7FEB352D, -1, 2**32) % 2**32
    return bits ^ (bits >> 16)


def test_the_ends_of_the_noise(impl, device):
    """The lowest and the highest uniform number, and those beside a seam of the kernel's logarithm."""
    rows = importlib.import_module(f"fairseq_masking.methods.amos.gumbel_mixture.{impl}_rows")
    bits = [0, 1, 2, 1000, 2**25 - 1, 2**25, 2**25 + 1, 2**30, 2**31 - 2**20, 2**31 - 1]
    first = torch.tensor([unmixed(unmixed(value)) for value in bits])
    keys = torch.stack([first, torch.zeros_like(first)], dim=1).to(device, torch.int32)
    hidden = torch.zeros(1, len(bits), 1, device=device)
    logits = rows.allocate(hidden, len(bits), 1)[:, :1].zero_()
    sample = Sample.empty(hidden)
    rows.sample_(sample, logits, None, Noise(keys, None), 0.3)
    uniform = [min((value + 0.5) / 2**31, 1 - 2**-24) for value in bits]
    expected = torch.tensor([-math.log(-math.log1p(-value)) for value in uniform], device=device)
    torch.testing.assert_close(sample.highest_N, expected, rtol=1e-5, atol=2e-6)


def test_what_is_impossible_is_never_drawn(impl, device):
    case = problem(12, 16, 4501, dtype=torch.float32, device=device)
    case.bias = torch.full_like(case.bias, -math.inf)
    case.bias[[7, 3000]] = 0.0  # whole blocks of the kernels hold nothing else
    expected = results(reference, case, noise_for(case), **OPTIONS)
    actual = results(gumbel_mixture, case, seed=SEED, impl=impl, **OPTIONS)
    assert set(actual[0].tolist()) == {7, 3000}
    assert_equal(actual, expected, 2e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_logits_give_a_token_and_a_broken_gradient(value, impl, device):
    """The token must be one that there is; that something is wrong must be seen."""
    case = problem(5, 16, 4501, dtype=torch.float32, device=device)
    case.hidden = case.hidden.detach().fill_(value).requires_grad_()
    tokens, _, _, features, *_ = results(gumbel_mixture, case, seed=SEED, impl=impl)
    assert ((tokens >= 0) & (tokens < 4501)).all()
    assert features.isnan().all()


def test_the_first_of_equals_is_taken(impl, device):
    case = problem(2, 16, 4501, dtype=torch.float32, device=device)
    noise_NV = torch.zeros(2, 4501, device=device)
    noise_NV[0, [2047, 2048, 4500]] = 9.0
    noise_NV[1, [952, 3000, 3001]] = 9.0  # the first two share a lane of the kernel
    tokens, _ = gumbel_mixture(
        torch.zeros_like(case.hidden), torch.ones(2, 3, device=device), case.embedding, None,
        seed=0, noise_NV=noise_NV, impl=impl,
    )  # fmt: skip
    assert tokens.tolist() == [2047, 952]


def test_very_large_logits(impl, device):
    case = problem(13, 16, 4501, dtype=torch.float32, device=device, scale=3000.0)
    expected = results(reference, case, noise_for(case), **OPTIONS)
    actual = results(gumbel_mixture, case, seed=SEED, impl=impl, chunk_elements=5 * 4501, **OPTIONS)
    assert_equal(actual, expected, 2e-5)


def test_three_numbers_a_row_are_kept(impl, device):
    case = problem(40, 16, 501, dtype=torch.float32, device=device)
    weights = torch.rand(40, 3, device=device).requires_grad_()
    arguments = (case.hidden, weights, case.embedding, case.bias)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        gumbel_mixture(*arguments, seed=0, impl=impl)
    inputs = {tensor.data_ptr() for tensor in arguments}
    assert sum(tensor.numel() for tensor in kept if tensor.data_ptr() not in inputs) == 3 * 40 + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory_is_a_twentieth_of_the_naive_form(dtype, impl, device):
    rows, vocab, chunk_rows = 64, 2048, 1
    case = problem(rows, 16, vocab, dtype=dtype, device=device)
    noise_NV = noise_for(case)
    plain = peak_bytes(lambda: results(naive, case, noise_NV, **OPTIONS), device)
    chunk = {"impl": impl, "chunk_elements": chunk_rows * vocab}
    ours = peak_bytes(lambda: results(gumbel_mixture, case, seed=0, **chunk, **OPTIONS), device)
    assert plain >= 3 * rows * vocab * 4  # the measurement sees the naive form's logits and samples
    gradients = sum(tensor.nbytes for tensor in (case.features, case.hidden, case.embedding))
    assert ours - 2 * gradients <= plain / 20


def test_bad_values(device):
    case = problem(dtype=torch.float64, device=device)
    weights = case.features.sum(-1).t()
    arguments = (case.hidden, weights, case.embedding, case.bias)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match=rf"temperature {temperature} .* above 0"):
            gumbel_mixture(*arguments, seed=0, temperature=temperature)
    with pytest.raises(UserError, match=r"gumbel_mixture: .* choose --ops-impl auto or torch"):
        gumbel_mixture(*arguments, seed=0, impl="triton")  # float64
    with pytest.raises(RuntimeError):  # not broadcast
        gumbel_mixture(case.hidden, weights[:, :1].expand(-1, 2), *arguments[2:], seed=0)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory_of_10k_rows_on_a_gpu(dtype, impl, device):
    case = problem(10_000, 768, 32_768, dtype=dtype, device=device, scale=0.02)
    noise_NV = noise_for(case)
    plain = peak_bytes(lambda: results(naive, case, noise_NV, **OPTIONS), device)
    assert peak_bytes(lambda: results(gumbel_mixture, case, seed=0, impl=impl, **OPTIONS), device) <= plain / 10


@pytest.mark.cuda
def test_no_sync_on_a_gpu(impl, device):
    case = problem(130, 64, 1003, dtype=torch.bfloat16, device=device)
    for chunk_rows in (60, 1000):
        settings = {"impl": impl, "chunk_elements": chunk_rows * 1003, "seed": 3, **OPTIONS}
        results(gumbel_mixture, case, **settings)  # kernels are compiled
        torch.cuda.set_sync_debug_mode("error")
        try:
            results(gumbel_mixture, case, **settings)
        finally:
            torch.cuda.set_sync_debug_mode("default")
