"""fairseq's ``FP16Optimizer`` in a few kernels: gradients to fp32 masters, masters to weights, zeroes.

fairseq copies and zeroes one parameter at a time, 459 of the 1,021 operators of an update of ``mlm_base`` in bf16.
The numbers are the same, for masters that are one flat vector (``--fp16``) as for one each.
"""

from collections.abc import Callable
from typing import Any

import torch
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from torch import Tensor

from fairseq_masking.compat.patching import replace

__all__ = ["copy_in_few_kernels"]


def copy_in_few_kernels() -> None:
    """Has every ``FP16Optimizer`` copy and zero all parameters at once."""
    replace(_FP16OptimizerMixin, "_sync_fp16_grads_to_fp32", _copy_gradients)
    replace(_FP16OptimizerMixin, "_sync_fp32_params_to_fp16", _copy_weights)
    replace(_FP16OptimizerMixin, "zero_grad", _zero_gradients)


def _copy_gradients(original: Callable[..., None], self: Any) -> None:
    if not self._needs_sync:
        return
    self._needs_sync = False
    if not self.has_flat_params:
        for parameter, master in zip(self.fp16_params, self.fp32_params, strict=True):
            if master.grad is None and parameter.requires_grad:
                master.grad = torch.zeros_like(master)
    found, targets, without = [], [], []
    for parameter, target in _pairs(self, "grad"):
        if parameter.grad is None:
            without.append(target)
        else:
            found.append(parameter.grad)
            targets.append(target)
    if found:
        torch._foreach_copy_(targets, found)
    if without:
        torch._foreach_zero_(without)


def _copy_weights(original: Callable[..., None], self: Any) -> None:
    pairs = _pairs(self, "data")
    if pairs:
        torch._foreach_copy_([parameter.data for parameter, _ in pairs], [master for _, master in pairs])


def _zero_gradients(original: Callable[..., None], self: Any) -> None:
    masters, flat = self.fp32_params, self.has_flat_params
    gradients = [] if flat else [master.grad for master in masters if master.grad is not None]
    if gradients:
        torch._foreach_zero_(gradients)
    try:
        self.fp32_params = masters if flat else []  # nothing is left to zero there
        original(self)
    finally:
        self.fp32_params = masters


def _pairs(self: Any, of: str) -> list[tuple[Tensor, Tensor]]:
    """Return each parameter in half precision with its master's ``data`` or ``grad``, a view of a flat one."""
    if not self.has_flat_params:
        pairs = zip(self.fp16_params, self.fp32_params, strict=True)
        return [(parameter, getattr(master, of)) for parameter, master in pairs if parameter.requires_grad]
    pairs = []
    for device, flat in self.fp32_params.items():
        own = [parameter for parameter in self.fp16_params if parameter.device.index == device]
        parts = getattr(flat, of).split([parameter.numel() for parameter in own])
        pairs += [(parameter, part.view_as(parameter)) for parameter, part in zip(own, parts, strict=True)]
    return pairs
