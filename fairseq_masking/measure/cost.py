"""What an update of a recipe costs, counted on a real batch: tokens, FLOPs, operators, seconds of this machine."""

import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import tasks
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fairseq_masking.compat.launch import prepare_start
from fairseq_masking.compat.recipes import composed

__all__ = ["Operators", "TrainingStep", "cost_of"]

_TIMED = 3  # updates


class TrainingStep:
    """Forward and backward of one real batch of a recipe, in the middle of the run's schedules.

    Args:
        options: Hydra's overrides, ``task.data`` among them.
    """

    def __init__(self, recipe: Path, options: Sequence[str]) -> None:
        cfg = composed(recipe.parent, recipe.stem, list(options))
        prepare_start(cfg)
        self._task = task = tasks.setup_task(cfg.task)
        self._model, self._criterion = task.build_model(cfg.model).train(), task.build_criterion(cfg.criterion)
        task.load_dataset("train", epoch=1, combine=True)
        sizes = {"max_tokens": cfg.dataset.max_tokens, "max_sentences": cfg.dataset.batch_size}
        batches = task.get_batch_iterator(task.dataset("train"), **sizes, max_positions=task.max_positions(), epoch=1)
        (self._sample,) = islice(batches.next_epoch_itr(shuffle=False), 1)
        self._half = cfg.optimization.max_update // 2
        self.passes = cfg.optimization.update_freq[-1] * cfg.distributed_training.distributed_world_size  # an update's
        self.tokens = self._sample["net_input"]["src_tokens"].numel()
        self.parameters = sum(parameter.numel() for parameter in self._model.parameters())

    def __call__(self) -> float:
        """Return the seconds that it took."""
        optimizer, start = SimpleNamespace(backward=Tensor.backward), time.perf_counter()
        self._task.train_step(self._sample, self._model, self._criterion, optimizer, self._half)
        return time.perf_counter() - start

    def flops(self) -> int:
        """Count the FLOPs of its matrix products."""
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_FLOPS) as counter:
            self()
        return counter.get_total_flops()


def cost_of(recipe: Path, options: Sequence[str]) -> dict[str, float]:
    """Return tokens, FLOPs (matrix products, forward and backward) and seconds of an update, and the parameters."""
    step = TrainingStep(recipe, options)
    return {
        "tokens": step.passes * step.tokens,
        "flops": step.passes * step.flops(),
        "seconds": step.passes * min(step() for _ in range(_TIMED)),
        "parameters": step.parameters,
    }


_NO_WORK = {"empty", "empty_like", "new_empty", "_unsafe_view", "_record_function_enter_new"}


class Operators(TorchDispatchMode):
    """Counts what a device is handed, by name: no views, no allocations. Dropout is five on a CPU, one on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func.overloadpacket.__name__
        self.found[name] += not func.is_view and name not in _NO_WORK
        return func(*args, **(kwargs or {}))


def _product(left: Sequence[int], right: Sequence[int]) -> int:
    """FLOPs of ``[..., N, D]`` with ``[V, D]``, or of ``[N, D]`` with ``[D, V]``."""
    return 2 * left[-2] * right[0] * right[1]


_MIXTURE = torch.ops.fairseq_masking
_FLOPS = {  # what PyTorch's counter does not know
    torch.ops.aten.addmm_: lambda _, left, right, **__: _product(left, right),
    _MIXTURE.gumbel_mixture: lambda *shapes, **_: _product(shapes[0], shapes[2]),
    _MIXTURE.gumbel_mixture_backward: lambda *shapes, **_: 2 * _product(shapes[1], shapes[3]),
}
