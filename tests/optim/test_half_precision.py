"""fairseq's FP16Optimizer: the same numbers as one parameter at a time, in a few operators."""

from collections import Counter
from typing import Any

import pytest
import torch
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_masking.optim import FusedAdamWConfig, FusedAdamWOptimizer

SHAPES = [(5, 3), (5,), (2, 4), (3,)]
METHODS = ("_sync_fp16_grads_to_fp32", "_sync_fp32_params_to_fp16", "zero_grad")


class Mixed(_FP16OptimizerMixin):
    """FP16Optimizer without a configuration of everything, flat on the CPU, too."""

    def __init__(self, dtype: torch.dtype, flat: bool, scaler: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fp16_params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
        self.fp16_params[-1].requires_grad = flat
        self.fp32_params: Any = self.build_fp32_params(None, self.fp16_params, flatten=False)
        masters = self.fp32_params
        if flat:
            masters = [nn.Parameter(torch.cat([master.data.view(-1) for master in masters]))]
            masters[0].grad = torch.zeros_like(masters[0])
            self.fp32_params = {None: masters[0]}
        config = FusedAdamWConfig(lr=[0.1], weight_decay=0.1)
        self.fp32_optimizer = FusedAdamWOptimizer(config, [master for master in masters if master.requires_grad])
        self.scaler = DynamicLossScaler(init_scale=4.0) if scaler else None

    def train(self, updates: int) -> None:
        for _ in range(updates):
            self.zero_grad()
            used = [parameter for parameter in self.fp16_params if parameter.requires_grad][:-1]  # one gets nothing
            self.backward(sum((parameter * torch.randn(parameter.shape).to(parameter)).sum() for parameter in used))
            self.clip_grad_norm(1.0)
            self.step()


class Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("dtype", "scaler"), [(torch.bfloat16, False), (torch.float16, True)])
def test_its_numbers_are_fairseqs(dtype, scaler, flat, monkeypatch):
    found = []
    for fairseqs in (False, True):
        if fairseqs:
            for name in METHODS:
                monkeypatch.setattr(_FP16OptimizerMixin, name, getattr(_FP16OptimizerMixin, name).__wrapped__)
        mixed = Mixed(dtype, flat, scaler)
        with Count() as count:
            mixed.train(3)
        state = mixed.state_dict()["state"]
        found.append((mixed, state, count.found))
    (ours, ours_state, few), (theirs, theirs_state, many) = found
    for one, other in zip(ours.fp16_params, theirs.fp16_params, strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(ours_state[i]["exp_avg"], theirs_state[i]["exp_avg"]) for i in theirs_state)
    # clipping reads the norm of the scaled gradients once; the weights and gradients of an update are a copy each
    assert few["_foreach_copy_"] == 6 and few["copy_"] == 0 < 3 * len(SHAPES) <= many["copy_"]
    assert few["zero_"] + few["_foreach_zero_"] <= 7 - flat


def test_a_master_without_a_gradient_gets_one():
    mixed = Mixed(torch.bfloat16, flat=False, scaler=False)
    for parameter, master in zip(mixed.fp16_params, mixed.fp32_params, strict=True):
        parameter.grad, master.grad = torch.ones_like(parameter), None
    mixed._needs_sync = True
    mixed._sync_fp16_grads_to_fp32()
    assert all(torch.equal(master.grad, torch.ones_like(master)) for master in mixed.fp32_params[:-1])
