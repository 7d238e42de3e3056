"""AdamW gives fairseq's numbers, at any scale of the gradient, on both kernels and in half precision."""

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from fairseq.optim.adam import Adam as FairseqAdam
from torch import Tensor, nn

from fairseq_masking.optim import AdamW, adamw

SHAPES = ((64, 32), (32,), (3, 5, 7), (1,), (1, 16), ())
LATE, UNUSED = 1, 3  # a parameter that gets its first gradient later, and one that never does
SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}


def test_its_defaults_are_fairseqs():
    ours, theirs = (make([nn.Parameter(torch.zeros(1))]).defaults for make in (AdamW, FairseqAdam))
    assert {key: ours[key] for key in SETTINGS} == {key: theirs[key] for key in SETTINGS}


def train(
    make: Callable[..., torch.optim.Optimizer],
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    num_updates: int = 50,
    replace_at: int | None = None,
    **settings: object,
) -> list[list[Tensor]]:
    """Return the parameters at the start and after every update, in fp64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter((0.05 * torch.randn(shape, generator=generator)).to(device, dtype)) for shape in SHAPES]
    settings = {**SETTINGS, **settings}
    optimizer = make(parameters, **settings)
    trace = [[parameter.detach().double().cpu() for parameter in parameters]]
    for update in range(num_updates):
        if update == replace_at:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = make(parameters, **settings)
            optimizer.load_state_dict(state)
        for group in optimizer.param_groups:
            group["lr"] = settings["lr"] * (1 - update / (2 * num_updates))
        for index, parameter in enumerate(parameters):
            gradient = scale * (1 + index) * torch.randn(parameter.shape, generator=generator)
            absent = index == UNUSED or (index == LATE and update < 10)
            parameter.grad = None if absent else gradient.to(device, dtype)
        optimizer.step()
        trace.append([parameter.detach().double().cpu() for parameter in parameters])
    return trace


class ByTheFormula(torch.optim.Optimizer):
    """fairseq's update written down in fp64, one number after the other."""

    def __init__(self, params: Sequence[Tensor], decay_vectors: bool = True, **defaults: object) -> None:
        super().__init__(params, {"decay_vectors": decay_vectors, **defaults})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                gradient = parameter.grad.double()
                t = state["t"] = state.get("t", 0) + 1
                w = state.get("w", parameter.double())
                m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * gradient
                v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * gradient**2
                if group["decay_vectors"] or parameter.dim() > 1:
                    w = w - lr * group["weight_decay"] * w
                step_size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
                state["w"] = w - step_size * m / (v.sqrt() + group["eps"])
                parameter.copy_(state["w"])


def assert_close(traces: list[list[Tensor]], expected: list[list[Tensor]], atol: float = 2e-7) -> None:
    """fp32 weights near 0.1 are rounded to 4e-9 fifty times; the weights themselves move by some 1e-2."""
    for update, (ours, theirs) in enumerate(zip(traces, expected, strict=True)):
        for index, (left, right) in enumerate(zip(ours, theirs, strict=True)):
            torch.testing.assert_close(
                left, right, rtol=0, atol=atol, msg=lambda m, u=update, i=index: f"{u}, {i}: {m}"
            )
    for index, (start, end) in enumerate(zip(expected[0], expected[-1], strict=True)):
        moved = (start - end).abs().max()
        assert index == UNUSED or moved > 500 * atol, "weights that stay would agree anyway"


@pytest.fixture(params=["fused", "foreach"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "foreach":
        monkeypatch.setattr(adamw, "_FUSED_DEVICES", frozenset())
    return request.param


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-6])  # 1e-6: as large as eps
@pytest.mark.parametrize("betas", [(0.9, 0.98), (0.8, 0.999), (0.0, 0.5)])
def test_fifty_updates_equal_fairseq_s_adam(
    kernel: str, scale: float, betas: tuple[float, float], device: torch.device
) -> None:
    ours = train(AdamW, device, scale=scale, betas=betas)
    assert_close(ours, train(FairseqAdam, device, scale=scale, betas=betas))


@pytest.mark.parametrize("decay_vectors", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_fifty_updates_equal_the_formula(kernel: str, scale: float, decay_vectors: bool, device: torch.device) -> None:
    settings = {"scale": scale, "decay_vectors": decay_vectors}
    assert_close(train(AdamW, device, **settings), train(ByTheFormula, device, **settings))


def test_torch_s_own_eps_would_not_do(device: torch.device) -> None:
    """The tolerance above sees the difference that rescaling eps makes."""
    with pytest.raises(AssertionError):
        assert_close(train(torch.optim.AdamW, device, scale=1e-4, fused=True), train(FairseqAdam, device, scale=1e-4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_updated_in_fp32(dtype: torch.dtype, device: torch.device) -> None:
    """Rounded once an update: what differs from fairseq's differs by one unit in the last place."""
    ours = train(AdamW, device, dtype=dtype, scale=1e-3, lr=1e-2)
    theirs = train(FairseqAdam, device, dtype=dtype, scale=1e-3, lr=1e-2)
    different = total = 0
    for left, right in zip(ours[-1], theirs[-1], strict=True):
        torch.testing.assert_close(left, right, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
        different += int((left != right).sum())
        total += left.numel()
    assert different <= total // 100
    assert (ours[-1][0] - ours[0][0]).abs().max() > 0.05


def test_chunks_of_half_precision_change_nothing(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    whole = train(AdamW, device, dtype=torch.bfloat16, num_updates=5)
    monkeypatch.setattr(adamw, "_CHUNK_NUMEL", 100)
    parts = train(AdamW, device, dtype=torch.bfloat16, num_updates=5)
    assert all(torch.equal(*pair) for pair in zip(whole[-1], parts[-1], strict=True))
    sizes = [[t.numel() for t in chunk] for chunk in adamw.chunks([torch.zeros(n) for n in (60, 40, 1, 300, 7)])]
    assert sizes == [[60, 40], [1], [300], [7]]


def test_excluded_vectors_only_follow_their_gradient(device: torch.device) -> None:
    matrix, vector, row = (nn.Parameter(torch.ones(s, device=device)) for s in ((4, 4), (4,), (1, 4)))
    optimizer = AdamW([matrix, vector, row], lr=0.1, weight_decay=0.5, decay_vectors=False)
    for parameter in (matrix, vector, row):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(vector, torch.ones_like(vector))
    for decayed in (matrix, row):
        torch.testing.assert_close(decayed.detach(), torch.full_like(decayed, 0.95))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_goes_on_bit_by_bit(kernel: str, dtype: torch.dtype, device: torch.device) -> None:
    through = train(AdamW, device, dtype=dtype, scale=1e-3, num_updates=20)
    resumed = train(AdamW, device, dtype=dtype, scale=1e-3, num_updates=20, replace_at=13)
    for left, right in zip(through, resumed, strict=True):
        assert all(torch.equal(*pair) for pair in zip(left, right, strict=True))


def test_goes_on_from_a_state_of_fairseq_s_adam_and_back(device: torch.device) -> None:
    """With --bf16 both optimizers are saved under the wrapper's name, so fairseq lets them follow another."""
    made = iter([FairseqAdam, AdamW])
    switched = train(lambda *a, **k: next(made)(*a, **k), device, replace_at=25)
    assert_close(switched, train(FairseqAdam, device))
    made = iter([AdamW, FairseqAdam])
    back = train(lambda *a, **k: next(made)(*a, **k), device, replace_at=25)
    assert_close(back, train(FairseqAdam, device))


def test_moments_stay_fp32_when_loaded(device: torch.device) -> None:
    parameter = nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16, device=device))
    parameter.grad = torch.randn(8, 8, device=device).bfloat16()
    optimizer = AdamW([parameter])
    optimizer.step()
    other = AdamW([parameter])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for key in ("exp_avg", "exp_avg_sq"):
        assert other.state[parameter][key].dtype == torch.float32
        assert torch.equal(other.state[parameter][key], optimizer.state[parameter][key])


def test_a_closure_is_called_with_gradients(device: torch.device) -> None:
    parameter = nn.Parameter(torch.ones(3, device=device))
    optimizer = AdamW([parameter], lr=0.1)

    def closure() -> Tensor:
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert (parameter < 1).all()
